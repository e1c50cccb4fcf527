#!lua flags=allow-oom
-- step: finish and claim in one trip, for a worker that is ready for the next.
-- uses:    names clock text schema again fence pool event lane books begin settle account after
-- args:    1 worker   2 call number   3 task   4 run   5 entry   6 round   then the verdict (parts/settle.lua)
--          then: config version it knows, count of lanes, the lanes in its order
-- replies: (finish's word and its value) then claim's reply | unknown worker | superseded call | schema found
-- events:  those of finish and claim
local worker, call, id, run, entry, round = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local verdict, at = verdict_at(7)
local config_version = ARGV[at]
local lanes = {}
for i = 1, tonumber(ARGV[at + 1]) do
  lanes[i] = ARGV[at + 1 + i]
end

local refusal = refuse_schema() or refuse_call(worker, call)
if refusal then return refusal end

local function answer(word, value, sweep, next_id, next_run, next_entry)
  local version, options, lanes_version = news(worker, config_version)
  local reply = { word, value, next_id and 'ok' or 'idle', sweep, version, options, lanes_version }
  if next_id then
    for _, one in ipairs(described(next_id, next_run, next_entry)) do
      reply[#reply + 1] = one
    end
  end
  return reply
end

local before = done_before(worker, call)
if before then
  local did = lines(before)
  return answer(did[1], did[2], '0', did[3], did[4], did[5])
end
local stream, stale = holds(id, entry, worker)
local word, value = 'ok', ''
if stale then
  word, value = stale[1], stale[2]
else
  local now_round = redis.call('HGET', key.task(id), F.round)
  if now_round ~= round then word, value = 'moved', now_round end
end

-- writes from here
note_call()
seen(worker)
if word == 'ok' then
  value = settle(id, verdict)
  if value == 'completed' or value == 'pending_review' then lift_limit(worker) end
  if is_over(value) then release(id, verdict.retention_ms) end
  redis.call('HSET', key.worker(worker), F.task, '')
  redis.call('HINCRBY', key.worker(worker), F.done, 1)
elseif word == 'stale' then
  book_late(id, run, worker, verdict.cost)
end
local next_id, next_run, next_entry
-- A worker whose account is at its limit hears of it at its next claim.
if not limit_of(worker) then next_id, next_run, next_entry = take(worker, '', lanes) end
local did = { word, value }
if next_id then
  did[3], did[4], did[5] = next_id, next_run, next_entry
end
remember(worker, call, table.concat(did, '\n'))
local sweep = offer_sweep(worker)
publish()
return answer(word, value, sweep, next_id, next_run, next_entry)
