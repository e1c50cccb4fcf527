#!lua flags=allow-oom
-- cancel: ends a task that does not run; asks the worker of one that does. Of a chain or batch every member.
-- uses:    names clock text schema event lane books settle after stop
-- args:    1 task, chain or batch   2 reason   3 retention (ms)
-- replies: ok state (running: asked for; a terminal one: as it was found) | unknown id | schema found
-- events:  cancel, after
local id, reason, retention_ms = ARGV[1], ARGV[2], ARGV[3]

local refusal = refuse_schema()
if refusal then return refusal end
local known = redis.call('HMGET', key.record(id), F.state, F.cancel)
local state = known[1]
if not state then return { 'unknown', id } end
if is_over(state) or known[2] == '1' then return { 'ok', state } end

-- writes from here
if is_group(id) then
  stop_group(id, reason, retention_ms, STOPPED_AT_ONCE)
else
  stop_task(id, reason, retention_ms)
end
publish()
return { 'ok', redis.call('HGET', key.record(id), F.state) }
