-- again: a worker numbers its calls; the same number again changes nothing and gives the stored outcome.
-- uses: names
local function refuse_call(worker, call)
  local last = redis.call('HGET', key.worker(worker), F.call)
  if not last then return { 'unknown', worker } end
  if tonumber(call) < tonumber(last) then return { 'superseded', last } end
end

local function done_before(worker, call)
  local stored = redis.call('HMGET', key.worker(worker), F.call, F.did)
  if stored[1] == call then return stored[2] end
end

local function remember(worker, call, did)
  redis.call('HSET', key.worker(worker), F.call, call, F.did, did)
end
