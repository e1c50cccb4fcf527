#!lua flags=allow-oom
-- beat: the holder of a run shows that it lives, tells the cost so far, and hears what is new.
-- uses:    names clock text schema again fence pool books begin event lane
-- args:    1 worker   2 call number   3 task   4 run   5 entry   6 cost so far (microdollars)   7 current tool, or empty
--          8 time since Claude was heard (ms)   9 session, or empty   10 config version it knows
-- replies: ok cancel sweep version config lanes | stale state | unknown id or worker | superseded call | schema found
-- events:  none
local worker, call, id, run, entry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local cost, tool, heard_ago_ms, session, config_version = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9], ARGV[10]

local refusal = refuse_schema() or refuse_call(worker, call)
if refusal then return refusal end
local stream, stale = holds(id, entry, worker)
if stale then return stale end

local function answer(sweep)
  local version, options, lanes_version = news(worker, config_version)
  return { 'ok', redis.call('HGET', key.task(id), F.cancel) or '0', sweep, version, options, lanes_version }
end
if done_before(worker, call) then return answer('0') end

-- writes from here
note_call()
seen(worker)
redis.call('XCLAIM', stream, 'workers', 'w', 0, entry, 'JUSTID')
redis.call('HSET', key.task(id), F.tool, tool, F.heard, whole(now_ms - heard_ago_ms))
if session ~= '' then redis.call('HSET', key.task(id), 'run:' .. run .. ':session', session) end
book(id, run, cost)
redis.call('PEXPIRE', key.output(id, run), OUTPUT_TTL_MS)
remember(worker, call, 'beat')
return answer(offer_sweep(worker))
