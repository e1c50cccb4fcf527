#!lua flags=allow-oom
-- claim: an idle worker takes the first fitting entry of its lanes; also its sign of life.
-- uses:    names clock text schema again pool event lane begin account
-- args:    1 worker   2 call number   3 lane whose token woke it, or empty   4 config version it knows
--          5 count of lanes, then the lanes in its order
-- replies: ok sweep version config lanes id run entry spec attempt max_attempts uncharged unspoken uncharged_for (ms) lane
--          round lease (ms) group failures recovering last_error | idle sweep version config lanes
--          | limited left (ms), message, hint | unknown worker | superseded call | schema found
-- events:  claim
local worker, call, token_lane, config_version = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local lanes = {}
for i = 1, tonumber(ARGV[5]) do
  lanes[i] = ARGV[5 + i]
end

local refusal = refuse_schema() or refuse_call(worker, call)
if refusal then return refusal end

local function answer(sweep, id, run, entry)
  local version, options, lanes_version = news(worker, config_version)
  local reply = { id and 'ok' or 'idle', sweep, version, options, lanes_version }
  if id then
    for _, value in ipairs(described(id, run, entry)) do
      reply[#reply + 1] = value
    end
  end
  return reply
end

-- What the worker's account has reached; a repeated call gives the same word, whatever the time is by now.
local function refused(limit)
  return { 'limited', limit and limit[1] or '0', limit and limit[2] or '', limit and limit[3] or '' }
end

local before = done_before(worker, call)
local limit = limit_of(worker)
if before == 'limited' then return refused(limit) end
if before then
  local id, run, entry = string.match(before, '^claim (%S+) (%S+) (%S+)$')
  return answer('0', id, run, entry)
end

-- writes from here
note_call()
seen(worker)
if limit and not limit[4] then
  remember(worker, call, 'limited')
  return refused(limit)
end
if limit then note_trial(worker) end
local id, run, entry = take(worker, token_lane, lanes)
remember(worker, call, id and table.concat({ 'claim', id, run, entry }, ' ') or 'idle')
local sweep = offer_sweep(worker)
publish()
return answer(sweep, id, run, entry)
