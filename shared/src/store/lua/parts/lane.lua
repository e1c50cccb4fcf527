-- lane: a task's place in the queue, and the token that wakes one idle worker of the lane.
-- uses: names clock text
local PRIORITIES = { 'high', 'normal', 'low' }

-- Classes by which the oldest of a lane and priority is taken earlier, since it has waited for so long: noted by the
-- sweep, so that a claim has one field to read.
local function read_aged()
  local aged = {}
  for lane, priority, classes in string.gmatch(redis.call('HGET', key.meta, F.aged) or '', '(%S+) (%S+) (%d)') do
    aged[lane .. ' ' .. priority] = tonumber(classes)
  end
  return aged
end

local function write_aged(aged)
  local notes = {}
  for place, classes in pairs(aged) do
    notes[#notes + 1] = place .. ' ' .. classes
  end
  if #notes == 0 then return redis.call('HDEL', key.meta, F.aged) end
  table.sort(notes)
  redis.call('HSET', key.meta, F.aged, table.concat(notes, '\n'))
end

-- The oldest of this place has gone by another way than being taken: whether the next one is as old is not known.
local function forget_age(lane, priority)
  local aged = read_aged()
  if not aged[lane .. ' ' .. priority] then return end
  aged[lane .. ' ' .. priority] = nil
  write_aged(aged)
end

local function last_delivered(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err then return nil end
  for _, group in ipairs(groups) do
    local fields = {}
    for i = 1, #group, 2 do
      fields[group[i]] = group[i + 1]
    end
    if fields['name'] == 'workers' then return fields['last-delivered-id'] end
  end
end

-- The task that is to be taken next from a lane and priority.
local function head_of(lane, priority)
  local stream = key.lane(lane, priority)
  if redis.call('XLEN', stream) == 0 then return end
  local last = last_delivered(stream)
  local first = redis.call('XRANGE', stream, last and '(' .. last or '-', '+', 'COUNT', 1)[1]
  return first and first[2][2]
end

local function waiting_in(lane)
  local waiting = 0
  for _, priority in ipairs(PRIORITIES) do
    local stream = key.lane(lane, priority)
    local length = redis.call('XLEN', stream)
    if length > 0 then
      local pending = redis.pcall('XPENDING', stream, 'workers')
      waiting = waiting + length - (pending.err and 0 or pending[1])
    end
  end
  return waiting
end

local function wake(lane)
  if redis.call('LLEN', key.wake(lane)) == 0 then redis.call('RPUSH', key.wake(lane), '1') end
end

local function wake_if_waiting(lane)
  if lane ~= '' and waiting_in(lane) > 0 then wake(lane) end
end

-- For workers whose labels a new lane asks for. Never a number that was one before, whatever Redis has forgotten.
local function lanes_changed()
  redis.call('HSET', key.meta, F.lanes_version, whole(now_ms) .. '-' .. whole(redis.call('ZCARD', key.lanes)))
end

local function touch_lane(lane)
  if redis.call('ZADD', key.lanes, whole(now_ms), lane) == 1 then lanes_changed() end
end

-- Streams that this script has made ready: a submit of 1,000 tasks does it once a lane.
local made_ready = {}

local function enter_lane(id, lane, priority)
  local stream = key.lane(lane, priority)
  if not made_ready[stream] then
    made_ready[stream] = true
    touch_lane(lane)
    -- Fails where the group stands already, which is all it is for.
    redis.pcall('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
    wake(lane)
  end
  local entry = redis.call('XADD', stream, '*', 'id', id)
  redis.call('HSET', key.task(id), F.entry, entry, F.ready, whole(now_ms))
  redis.call('HSETNX', key.task(id), F.first_ready, whole(now_ms))
end

-- From now on the time counts that it may wait for its first start. Time in which nobody was there does not count.
local function start_waiting(id)
  local wait_ms = tonumber(redis.call('HGET', key.task(id), F.wait_ms) or '')
  if not wait_ms then return end
  -- A silence that lasts until now is no part of it: whoever calls next counts it as a whole.
  local meta = redis.call('HMGET', key.meta, F.away_ms, F.last, F.lease_ms)
  local last, away_ms = tonumber(meta[2] or '0'), tonumber(meta[1] or '0')
  if last > 0 and now_ms - last > tonumber(meta[3] or '15000') / 2 then away_ms = away_ms + now_ms - last end
  redis.call('HSET', key.task(id), F.waits_since, whole(now_ms), F.away_then, whole(away_ms))
  redis.call('ZADD', key.due, whole(now_ms + wait_ms), 'queue:' .. id)
end

local function leave_lane(lane, priority, entry)
  local stream = key.lane(lane, priority)
  -- There is no group to acknowledge to where an operator destroyed it.
  redis.pcall('XACK', stream, 'workers', entry)
  redis.call('XDEL', stream, entry)
end
