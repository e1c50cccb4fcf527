-- retire: timers that came due, records that have had their time, lanes that nobody uses.
-- uses: names clock text event lane settle after opening
local function remove(id)
  local task = key.task(id)
  local known = redis.call('HMGET', task, F.state, F.coordinator, F.tags, F.once, F.run)
  if not known[1] then return end
  redis.call('ZREM', key.index('state', known[1]), id)
  redis.call('ZREM', key.index('all', 'tasks'), id)
  if known[2] and known[2] ~= '' then
    redis.call('ZREM', key.index('coordinator', known[2]), id)
    redis.call('ZREM', key.unseen_of(known[2]), id)
    redis.call('ZREM', key.told(known[2]), id)
  end
  for _, tag in ipairs(lines(known[3] or '')) do
    redis.call('ZREM', key.index('tag', tag), id)
  end
  if known[4] then redis.call('DEL', key.once(known[4])) end
  for run = 1, tonumber(known[5] or '0') do
    redis.call('DEL', key.output(id, whole(run)))
  end
  redis.call('DEL', task)
end

-- A chain or batch goes with its members, at most so many records at once; gives how many more may go, nothing where
-- some are left. What a later chain goes on with is handed to it.
local function remove_group(id, most)
  local record, left = key.record(id), {}
  local known = redis.call('HMGET', record, F.coordinator, F.once, F.members)
  for _, member in ipairs(lines(known[3] or '')) do
    local held = redis.call('HMGET', key.record(member), F.group, F.kept_by)
    if most <= 0 then
      left[#left + 1] = member
    elseif held[1] == id then
      if held[2] and redis.call('EXISTS', key.record(held[2])) == 1 then
        redis.call('HSET', key.record(member), F.group, held[2])
        redis.call('HDEL', key.record(member), F.kept_by)
      elseif is_group(member) then
        most = remove_group(member, most)
        if not most then
          left[#left + 1], most = member, 0
        end
      else
        remove(member)
        most = most - 1
      end
    end
  end
  if #left > 0 then
    redis.call('HSET', record, F.members, table.concat(left, '\n'))
    return
  end
  if known[1] and known[1] ~= '' then
    redis.call('ZREM', key.unseen_of(known[1]), id)
    redis.call('ZREM', key.told(known[1]), id)
  end
  redis.call('ZREM', key.index('all', string.sub(id, 1, 1) == 'c' and 'chains' or 'batches'), id)
  if known[2] then redis.call('DEL', key.once(known[2])) end
  redis.call('DEL', record)
  return most - 1
end

-- One that has waited for longer than it was to. Who was not there could not begin it: that time does not count, and
-- after it there is the grace.
local function expire(id, retention_ms)
  local known = redis.call('HMGET', key.task(id), F.state, F.lane, F.priority, F.entry, F.run, F.waits_since, F.wait_ms,
    F.away_then)
  if known[1] ~= 'pending' or known[5] ~= '0' then return end
  local meta = redis.call('HMGET', key.meta, F.away_ms, F.grace)
  local away_ms = tonumber(meta[1] or '0') - tonumber(known[8] or '0')
  local until_ms = tonumber(known[6] or '0') + tonumber(known[7] or '0') + math.max(away_ms, 0)
  until_ms = math.max(until_ms, tonumber(meta[2] or '0'))
  if now_ms < until_ms then return redis.call('ZADD', key.due, whole(until_ms), 'queue:' .. id) end
  forget_age(known[2], known[3])
  if known[4] then leave_lane(known[2], known[3], known[4]) end
  redis.call('HSET', key.task(id), F.error_class, 'timeout',
    F.error_message, 'no run began within its queue_timeout_s', F.error_hint,
    'see what the lane ' .. known[2] .. ' waits for, raise queue_timeout_s or add workers')
  finish_terminal(id, retention_ms)
  move(id, 'pending', 'failed', 'expire', known[5])
  release(id, retention_ms)
end

-- Notes whose turn comes earlier, since they have waited for so long.
local function do_ageing()
  local aged = {}
  for _, lane in ipairs(redis.call('ZRANGE', key.lanes, 0, -1)) do
    for rank = 2, #PRIORITIES do
      local id = head_of(lane, PRIORITIES[rank])
      local since = id and tonumber(redis.call('HGET', key.task(id), F.first_ready) or '')
      local classes = since and math.min(math.floor((now_ms - since) / AGE_MS), rank - 1) or 0
      if classes > 0 then aged[lane .. ' ' .. PRIORITIES[rank]] = classes end
    end
  end
  write_aged(aged)
end

local function do_due(retention_ms)
  local due, removed = 0, 0
  for _, timer in ipairs(redis.call('ZRANGEBYSCORE', key.due, '-inf', whole(now_ms), 'LIMIT', 0, 100)) do
    redis.call('ZREM', key.due, timer)
    local kind, id = string.match(timer, '^(%a+):(%S+)$')
    if kind == 'open' then
      if not give_up_opening(id, retention_ms, 'the rest of its submission never came') then redis.call('ZADD', key.due, whole(now_ms), timer) end
    elseif kind == 'queue' then
      expire(id, retention_ms)
    elseif kind == 'task' then
      local known = redis.call('HMGET', key.task(id), F.state, F.lane, F.priority, F.run)
      if known[1] == 'delayed' then
        enter_lane(id, known[2], known[3])
        if known[4] == '0' then start_waiting(id) end
        move(id, 'delayed', 'pending', 'due', known[4])
        due = due + 1
      end
    end
  end
  -- By themselves: what ended a week ago does not hold up what is due now.
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key.retain, '-inf', whole(now_ms), 'LIMIT', 0, 100)) do
    redis.call('ZREM', key.retain, id)
    if redis.call('EXISTS', key.after(id)) == 1 then
      -- What follows it is still to be set free.
      redis.call('ZADD', key.retain, whole(now_ms + 60000), id)
    elseif is_group(id) then
      local most = remove_group(id, 100)
      removed = removed + 100 - (most or 0)
      -- The rest at the next sweep.
      if not most then redis.call('ZADD', key.retain, whole(now_ms), id) end
      if (most or 0) <= 0 then break end
    else
      remove(id)
      removed = removed + 1
    end
  end
  return due, removed
end

local function do_lanes()
  for _, lane in ipairs(redis.call('ZRANGE', key.lanes, 0, -1)) do
    -- A frozen worker may have taken the last token.
    wake_if_waiting(lane)
  end
  for _, lane in ipairs(redis.call('ZRANGEBYSCORE', key.lanes, '-inf', whole(now_ms - LANE_UNUSED_MS), 'LIMIT', 0, 100)) do
    local length = 0
    for _, priority in ipairs(PRIORITIES) do
      length = length + redis.call('XLEN', key.lane(lane, priority))
    end
    if length == 0 then
      for _, priority in ipairs(PRIORITIES) do
        redis.call('DEL', key.lane(lane, priority))
      end
      redis.call('DEL', key.wake(lane))
      redis.call('ZREM', key.lanes, lane)
      lanes_changed()
    end
  end
end
