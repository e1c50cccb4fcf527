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

-- Streams that this script has made ready: a submit of 1,000 tasks does it once a lane.
local made_ready = {}

local function enter_lane(id, lane, priority)
  local stream = key.lane(lane, priority)
  if not made_ready[stream] then
    made_ready[stream] = true
    if redis.call('ZADD', key.lanes, whole(now_ms), lane) == 1 then
      -- For workers whose labels it asks for.
      redis.call('HINCRBY', key.meta, F.lanes_version, 1)
    end
    -- Fails where the group stands already, which is all it is for.
    redis.pcall('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
    wake(lane)
  end
  local entry = redis.call('XADD', stream, '*', 'id', id)
  redis.call('HSET', key.task(id), F.entry, entry, F.ready, whole(now_ms))
  redis.call('HSETNX', key.task(id), F.first_ready, whole(now_ms))
end

local function leave_lane(lane, priority, entry)
  local stream = key.lane(lane, priority)
  -- There is no group to acknowledge to where an operator destroyed it.
  redis.pcall('XACK', stream, 'workers', entry)
  redis.call('XDEL', stream, entry)
end
