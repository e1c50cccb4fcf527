#!lua flags=allow-oom
-- cancel: ends a task that does not run; asks the worker of one that does. Of a chain or batch every member; of an
--          opening what came so far.
-- uses:    names clock text schema event lane books settle after opening stop
-- args:    1 task, chain, batch or opening   2 reason   3 retention (ms)
-- replies: ok state (running: asked for; a terminal one: as it was found) | unknown id | schema found
-- events:  cancel, after
local id, reason, retention_ms = ARGV[1], ARGV[2], ARGV[3]

local refusal = refuse_schema()
if refusal then return refusal end
local known = redis.call('HMGET', key.record(id), F.state, F.cancel)
local state = known[1]
-- An opening that is no more was given up before, or has opened.
if not state and string.sub(id, 1, 1) == 'o' then return { 'ok', 'cancelled' } end
if not state then return { 'unknown', id } end
if is_over(state) or known[2] == '1' then return { 'ok', state } end

-- writes from here
if string.sub(id, 1, 1) == 'o' then
  if not give_up_opening(id, retention_ms, reason) then redis.call('ZADD', key.due, whole(now_ms), 'open:' .. id) end
  publish()
  return { 'ok', 'cancelled' }
elseif is_group(id) then
  stop_group(id, reason, retention_ms, STOPPED_AT_ONCE)
else
  stop_task(id, reason, retention_ms)
end
publish()
return { 'ok', redis.call('HGET', key.record(id), F.state) }
