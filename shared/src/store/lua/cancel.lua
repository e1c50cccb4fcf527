#!lua flags=allow-oom
-- cancel: ends a task that does not run; asks the worker of one that does.
-- uses:    names clock text schema event lane books settle after
-- args:    1 task   2 reason   3 retention (ms)
-- replies: ok state (running: asked for; a terminal one: as it was found) | unknown id | schema found
-- events:  cancel, after
local id, reason, retention_ms = ARGV[1], ARGV[2], ARGV[3]

local refusal = refuse_schema()
if refusal then return refusal end
local known = redis.call('HMGET', key.task(id), F.state, F.lane, F.priority, F.entry, F.worker, F.run, F.cancel)
local state = known[1]
if not state then return { 'unknown', id } end
if state == 'completed' or state == 'failed' or state == 'cancelled' then return { 'ok', state } end
if state == 'running' and known[7] == '1' then return { 'ok', state } end

-- writes from here
if state == 'running' then
  redis.call('HSET', key.task(id), F.cancel, '1', F.cancel_reason, reason)
  tell(key.ctl(known[5]), 'cancel ' .. id)
else
  if known[4] then
    leave_lane(known[2], known[3], known[4])
    forget_age(known[2], known[3])
  end
  redis.call('ZREM', key.due, 'task:' .. id)
  wait_no_more(id)
  redis.call('HSET', key.task(id), F.reason, reason)
  finish_terminal(id, retention_ms)
  move(id, state, 'cancelled', 'cancel', known[6])
  release(id, retention_ms)
  state = 'cancelled'
end
publish()
return { 'ok', state }
