-- lane: a task's place in the queue, and the token that wakes one idle worker of the lane.
-- uses: names clock text
local PRIORITIES = { 'high', 'normal', 'low' }

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
    redis.call('ZADD', key.lanes, whole(now_ms), lane)
    -- Fails where the group stands already, which is all it is for.
    redis.pcall('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
    wake(lane)
  end
  local entry = redis.call('XADD', stream, '*', 'id', id)
  redis.call('HSET', key.task(id), F.entry, entry, F.ready, whole(now_ms))
end

local function leave_lane(lane, priority, entry)
  local stream = key.lane(lane, priority)
  -- There is no group to acknowledge to where an operator destroyed it.
  redis.pcall('XACK', stream, 'workers', entry)
  redis.call('XDEL', stream, entry)
end
