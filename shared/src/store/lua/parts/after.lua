-- after: tasks that wait on others: who is listed under whom, and what follows when one of those is over. A chain or
-- batch waits on its members.
-- uses: names clock text event lane settle
local function is_over(state)
  return state == 'completed' or state == 'failed' or state == 'cancelled'
end

-- Lists a task under those of these that are not over, and as waiting on them; gives how many there are.
local function wait_on(id, others)
  local left = 0
  for _, other in ipairs(others) do
    if not is_over(redis.call('HGET', key.record(other), F.state)) then
      redis.call('ZADD', key.after(other), number_of(id), id)
      left = left + redis.call('SADD', key.needs(id), other)
    end
  end
  return left
end

-- One that will never start is listed nowhere any more.
local function wait_no_more(id)
  local others = redis.call('SMEMBERS', key.needs(id))
  for _, other in ipairs(others) do
    redis.call('ZREM', key.after(other), id)
  end
  redis.call('DEL', key.needs(id))
  return #others
end

-- What it waited for is over: it can start, unless it is not to yet.
local function start_after(id)
  local known = redis.call('HMGET', key.task(id), F.lane, F.priority, F.not_before)
  local to = 'pending'
  redis.call('HDEL', key.task(id), F.reason)
  if tonumber(known[3] or '0') > now_ms then
    to = 'delayed'
    touch_lane(known[1])
    redis.call('ZADD', key.due, known[3], 'task:' .. id)
  else
    enter_lane(id, known[1], known[2])
    start_waiting(id)
  end
  move(id, 'waiting', to, 'after', '0')
end

-- Why a task does not start that waits on one which ended so; nothing where it does not mind.
local function spoils(id, over, state)
  if state == 'completed' then return end
  local after_failure = redis.call('HGET', key.task(id), F.after_failure)
  if after_failure == 'run' or after_failure == 'gather' then return end
  return over .. ', which it was to follow, ' .. (state == 'failed' and 'failed' or 'was cancelled')
end

-- Why a task does not start that gathers what these gave; nothing where there is something to gather.
local function gathers_nothing(id, others)
  if #others == 0 or redis.call('HGET', key.task(id), F.after_failure) ~= 'gather' then return end
  for _, other in ipairs(others) do
    if other ~= id and redis.call('HGET', key.record(other), F.state) ~= 'cancelled' then return end
  end
  return 'there is nothing to gather: every item was cancelled'
end

local function members_beside(id)
  local group = redis.call('HGET', key.task(id), F.group)
  return group and lines(redis.call('HGET', key.record(group), F.members) or '') or {}
end

local function is_group(id)
  local first = string.sub(id, 1, 1)
  return first == 'c' or first == 'b'
end

-- All of its members are over, and so is it: completed if all of them are, failed if one did, else cancelled.
local function close_group(id, retention_ms)
  local record, to = key.record(id), 'completed'
  for _, member in ipairs(lines(redis.call('HGET', record, F.members) or '')) do
    local state = redis.call('HGET', key.record(member), F.state)
    if state == 'failed' then
      to = 'failed'
      break
    end
    if state ~= 'completed' then to = 'cancelled' end
  end
  redis.call('HSET', record, F.state, to, F.ended, whole(now_ms))
  retain(id, retention_ms)
  note_news(id, to)
end

-- Most tasks that one script sets free or cancels; the sweep does the rest.
local RELEASED_AT_ONCE = 500

-- What waits on a task that is over, and on what is cancelled for that.
local function release(id, retention_ms)
  local line, at, left = { id }, 1, RELEASED_AT_ONCE
  while line[at] do
    local over = line[at]
    -- An opening that is no more has opened.
    local state = redis.call('HGET', key.record(over), F.state) or 'completed'
    while left > 0 do
      -- In the order in which they were submitted.
      local next_id = redis.call('ZPOPMIN', key.after(over))[1]
      if not next_id then break end
      left = left - 1
      redis.call('SREM', key.needs(next_id), over)
      if is_group(next_id) then
        if redis.call('EXISTS', key.needs(next_id)) == 0 and redis.call('HGET', key.record(next_id), F.state) == 'running' then
          close_group(next_id, retention_ms)
          line[#line + 1] = next_id
        end
      elseif redis.call('HGET', key.task(next_id), F.state) == 'waiting' then
        local why = spoils(next_id, over, state)
        local is_next = redis.call('EXISTS', key.needs(next_id)) == 0
        if not why and is_next then why = gathers_nothing(next_id, members_beside(next_id)) end
        if why then
          left = left - wait_no_more(next_id)
          redis.call('HSET', key.task(next_id), F.reason, why)
          finish_terminal(next_id, retention_ms)
          move(next_id, 'waiting', 'cancelled', 'after', '0')
          line[#line + 1] = next_id
        elseif is_next then
          start_after(next_id)
        end
      end
    end
    if redis.call('EXISTS', key.after(over)) == 1 then redis.call('ZADD', key.todo, whole(now_ms), 'release:' .. over) end
    at = at + 1
  end
end
