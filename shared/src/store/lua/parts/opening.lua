-- opening: a submission in parts: what came so far waits for the last part, or goes again.
-- uses: names clock text event lane settle after
-- Ten minutes.
local OPENING_MS = 10 * 60 * 1000

local function begin_opening(id, once)
  redis.call('HSET', key.record(id), F.state, 'running', F.once, once)
  redis.call('ZADD', key.due, whole(now_ms + OPENING_MS), 'open:' .. id)
end

-- It is no more; what follows it is set free, or is cancelled where it says so.
local function forget_opening(id)
  local once = redis.call('HGET', key.record(id), F.once)
  if once then redis.call('DEL', key.once(once)) end
  redis.call('DEL', key.record(id))
  redis.call('ZREM', key.due, 'open:' .. id)
end

local function end_opening(id, retention_ms)
  if redis.call('EXISTS', key.record(id)) == 0 then return end
  forget_opening(id)
  release(id, retention_ms)
end

-- The rest does not come: so many of what waits for it are cancelled at once; gives whether all are. No key of it is
-- left, so that the same submission can be made again: those of its tasks hold the id of this opening.
local CANCELLED_AT_ONCE = 300
local function give_up_opening(id, retention_ms, reason)
  if redis.call('EXISTS', key.record(id)) == 0 then return true end
  for _ = 1, CANCELLED_AT_ONCE do
    local task = redis.call('ZPOPMIN', key.after(id))[1]
    if not task then
      -- Chains and batches have ids before they are made, and those that were made are cancelled with their members.
      for _, once in ipairs(lines(redis.call('HGET', key.record(id), F.members) or '')) do
        local group = string.match(redis.call('GET', key.once(once)) or '', '^(%S+)')
        if group then
          redis.call('HDEL', key.record(group), F.once)
          redis.call('DEL', key.once(once))
        end
      end
      forget_opening(id)
      return true
    end
    if redis.call('HGET', key.task(task), F.state) == 'waiting' then
      wait_no_more(task)
      redis.call('HDEL', key.task(task), F.group)
      redis.call('HSET', key.task(task), F.reason, reason)
      finish_terminal(task, retention_ms)
      move(task, 'waiting', 'cancelled', 'after', '0')
      release(task, retention_ms)
    end
  end
  return false
end
