#!lua flags=allow-oom
-- sweep: what is due: timers, lost leases, lost places, dead presence, retention; at most 100 of each.
-- uses:    names clock text schema pool ids event lane books settle after opening stop lost repair retire
-- args:    1 sweeper's process   2 retention (ms)   3 how long it keeps its place (ms)
-- replies: ok due lost repaired removed dead lease (ms) | not_sweeper | schema found
-- events:  due, expire, lost, cancel, repair, after
local process, retention_ms, keeps_ms = ARGV[1], ARGV[2], ARGV[3]

local refusal = refuse_schema()
if refusal then return refusal end
-- One that stood still for longer than its place is kept, and finds that nobody took it, goes on.
local sweeper = redis.call('GET', key.sweeper)
if sweeper and sweeper ~= process then return { 'not_sweeper' } end
local run_id, full = server_told()

-- writes from here
redis.call('SET', key.sweeper, process, 'PX', keeps_ms)
note_call()
note_server(run_id, full)
skip_forgotten(run_id)
local due, removed = do_due(retention_ms)
local lost, dead = 0, 0
if now_ms >= tonumber(redis.call('HGET', key.meta, F.grace) or '0') then
  lost = do_lost(retention_ms)
  dead = do_dead()
end
local repaired = do_repair(retention_ms)
do_todo(retention_ms)
do_lanes()
do_ageing()
publish()
return { 'ok', whole(due), whole(lost), whole(repaired), whole(removed), whole(dead), whole(pool_lease_ms()) }
