#!lua flags=allow-oom
-- finish: settles a run by its verdict.
-- uses:    names clock text schema again fence pool event lane books begin settle account after
-- args:    1 worker   2 call number   3 task   4 run   5 entry   6 round   then the verdict (parts/settle.lua)
-- replies: ok state | stale state (its books are kept) | moved round | unknown id or worker | superseded call
--          | schema found
-- events:  complete, review, fail, cancel, retry, give_back, after
local worker, call, id, run, entry, round = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local verdict = verdict_at(7)

local refusal = refuse_schema() or refuse_call(worker, call)
if refusal then return refusal end
local before = done_before(worker, call)
if before then return lines(before) end
local stream, stale = holds(id, entry, worker)
if stale and stale[1] == 'unknown' then return stale end
local now_round = redis.call('HGET', key.task(id), F.round)
if not stale and now_round ~= round then return { 'moved', now_round } end

-- writes from here
if stale then
  book_late(id, run, worker, verdict.cost)
  return stale
end
note_call()
seen(worker)
local state = settle(id, verdict)
if state == 'completed' or state == 'pending_review' then lift_limit(worker) end
if is_over(state) then release(id, verdict.retention_ms) end
redis.call('HSET', key.worker(worker), F.task, '')
redis.call('HINCRBY', key.worker(worker), F.done, 1)
remember(worker, call, 'ok\n' .. state)
publish()
return { 'ok', state }
