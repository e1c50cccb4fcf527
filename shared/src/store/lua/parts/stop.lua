-- stop: ends what does not run, and asks the workers of what does.
-- uses: names clock text event lane settle after
local function stop_task(id, reason, retention_ms)
  local known = redis.call('HMGET', key.task(id), F.state, F.lane, F.priority, F.entry, F.worker, F.run, F.cancel)
  local state = known[1]
  if not state or is_over(state) then return end
  if state == 'running' then
    if known[7] == '1' then return end
    redis.call('HSET', key.task(id), F.cancel, '1', F.cancel_reason, reason)
    return tell(key.ctl(known[5]), 'cancel ' .. id)
  end
  if known[4] then
    leave_lane(known[2], known[3], known[4])
    forget_age(known[2], known[3])
  end
  redis.call('ZREM', key.due, 'task:' .. id)
  wait_no_more(id)
  redis.call('HSET', key.task(id), F.reason, reason)
  finish_terminal(id, retention_ms)
  move(id, state, 'cancelled', 'cancel', known[6])
  release(id, retention_ms)
end

-- Most members of a chain or batch that one script stops; the sweep does the rest.
local STOPPED_AT_ONCE = 300

-- The last member first, so that each has this reason and not that of the one before it.
local function stop_group(id, reason, retention_ms)
  redis.call('HSET', key.record(id), F.cancel, '1', F.cancel_reason, reason, F.reason, reason)
  local left = STOPPED_AT_ONCE
  local members = lines(redis.call('HGET', key.record(id), F.members) or '')
  for n = #members, 1, -1 do
    local member = members[n]
    local state = redis.call('HGET', key.record(member), F.state)
    if state and not is_over(state) then
      if left <= 0 then return redis.call('ZADD', key.todo, whole(now_ms), 'cancel:' .. id) end
      left = left - 1
      if is_group(member) then
        redis.call('HSET', key.record(member), F.cancel, '1', F.cancel_reason, reason, F.reason, reason)
        redis.call('ZADD', key.todo, whole(now_ms), 'cancel:' .. member)
      else
        stop_task(member, reason, retention_ms)
      end
    end
  end
end

-- What a script before had no room for.
local function do_todo(retention_ms)
  for _, what in ipairs(redis.call('ZRANGE', key.todo, 0, 9)) do
    redis.call('ZREM', key.todo, what)
    local verb, id = string.match(what, '^(%a+):(%S+)$')
    if verb == 'release' then
      release(id, retention_ms)
    elseif verb == 'cancel' and redis.call('EXISTS', key.record(id)) == 1 then
      stop_group(id, redis.call('HGET', key.record(id), F.cancel_reason) or '', retention_ms)
    end
  end
end
