-- begin: takes the first fitting entry of a worker's lanes and starts a run of its task.
-- uses: names clock text event lane pool
local function read_entry(lane, priority)
  local answer = redis.pcall('XREADGROUP', 'GROUP', 'workers', 'w', 'COUNT', 1, 'STREAMS', key.lane(lane, priority), '>')
  -- No stream or no group: nothing was ever queued there.
  if not answer or answer.err then return end
  local entry = answer[1][2][1]
  return entry[1], entry[2][2]
end

local function begin(id, entry, worker)
  local task = key.task(id)
  local run = whole(redis.call('HINCRBY', task, F.run, 1))
  redis.call('HINCRBY', task, F.attempt, 1)
  local mark = 'run:' .. run .. ':'
  redis.call('HSET', task, F.worker, worker, F.started, whole(now_ms), F.lease_ms, whole(pool_lease_ms()),
    mark .. 'worker', worker, mark .. 'host', redis.call('HGET', key.worker(worker), F.host) or '',
    mark .. 'started', whole(now_ms))
  redis.call('HDEL', task, F.tool, F.heard, F.reason)
  redis.call('ZREM', key.due, 'queue:' .. id)
  local output = key.output(id, run)
  redis.call('XADD', output, '*', 'k', 'start', 'v', worker)
  redis.call('PEXPIRE', output, OUTPUT_TTL_MS)
  redis.call('HSET', key.worker(worker), F.task, id)
  move(id, 'pending', 'running', 'claim', run)
  return run
end

-- What the worker needs to know of a run: read from the record, so a repeated call gives it again. The entry is the one
-- that was taken: the record may name another's by then.
local function described(id, run, entry)
  local known = redis.call('HMGET', key.task(id), F.spec, F.attempt, F.max_attempts, F.uncharged,
    F.unspoken, F.back_since, F.lane, F.round, F.lease_ms, F.group, F.failures, F.recovering, F.last_error)
  local since = tonumber(known[6] or '0')
  local since_ms = since > 0 and math.max(now_ms - since, 0) or 0
  return { id, run, entry, known[1] or '', known[2] or '0', known[3] or '0', known[4] or '0', known[5] or '0',
    whole(since_ms), known[7] or '', known[8] or '1', known[9] or '0', known[10] or '', known[11] or '0',
    known[12] or '0', known[13] or '' }
end

-- Where to look, in this order: by class, then by the worker's order of lanes. Who has aged into a class has waited
-- longest.
local function places(lanes, aged)
  local list = {}
  for class = 1, #PRIORITIES do
    for _, lane in ipairs(lanes) do
      for rank = #PRIORITIES, class, -1 do
        local place = lane .. ' ' .. PRIORITIES[rank]
        if rank - (aged[place] or 0) == class then list[#list + 1] = { lane, PRIORITIES[rank], place } end
      end
    end
  end
  return list
end

local function take(worker, token_lane, lanes)
  local task, run, taken_lane, taken_entry
  local aged = read_aged()
  for _, place in ipairs(places(lanes, aged)) do
    local lane, priority = place[1], place[2]
    -- An entry whose record does not name it is a ghost: dropped, and the next one is looked at.
    local looks = 0
    while not task and looks < 16 do
      looks = looks + 1
      local entry, id = read_entry(lane, priority)
      if not entry then break end
      local named = redis.call('HMGET', key.task(id), F.state, F.entry)
      if named[1] == 'pending' and named[2] == entry then
        task, run, taken_lane, taken_entry = id, begin(id, entry, worker), lane, entry
      else
        leave_lane(lane, priority, entry)
      end
    end
    if task then
      -- Whether the next one is as old is for the sweep to say.
      if aged[place[3]] then
        aged[place[3]] = nil
        write_aged(aged)
      end
      break
    end
  end
  if task then
    redis.call('ZADD', key.lanes, whole(now_ms), taken_lane)
    wake_if_waiting(taken_lane)
    if token_lane ~= taken_lane then wake_if_waiting(token_lane) end
  end
  return task, run, taken_entry
end

local function seen(worker)
  redis.call('ZADD', key.workers, whole(now_ms), worker)
  redis.call('PERSIST', key.worker(worker))
end

-- The pool's defaults and, behind a line end, the settings of the worker's slot, where either is newer than what it
-- knows.
local function news(worker, known)
  local version = redis.call('HGET', key.config, F.version) or '0'
  local of_slot = redis.call('HMGET', key.slot(redis.call('HGET', key.worker(worker), F.slot) or ''), F.version, F.options)
  if of_slot[1] then version = version .. ':' .. of_slot[1] end
  local options = ''
  if version ~= known then
    options = redis.call('HGET', key.config, F.options) or ''
    if of_slot[1] or string.find(known, ':', 1, true) then options = options .. '\n' .. (of_slot[2] or '') end
  end
  return version, options, redis.call('HGET', key.meta, F.lanes_version) or '0'
end
