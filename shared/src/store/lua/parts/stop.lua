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

-- The last member first, so that each has this reason and not that of the one before it; gives how many more may be
-- stopped.
local function stop_group(id, reason, retention_ms, left)
  redis.call('HSET', key.record(id), F.cancel, '1', F.cancel_reason, reason, F.reason, reason)
  local members = lines(redis.call('HGET', key.record(id), F.members) or '')
  for n = #members, 1, -1 do
    local member = members[n]
    local known = redis.call('HMGET', key.record(member), F.state, F.cancel)
    local is_asked = known[1] == 'running' and known[2] == '1' and not is_group(member)
    if known[1] and not is_over(known[1]) and not is_asked then
      if left <= 0 then
        redis.call('ZADD', key.todo, whole(now_ms), 'cancel:' .. id)
        return 0
      end
      if is_group(member) then
        left = stop_group(member, reason, retention_ms, left)
      else
        left = left - 1
        stop_task(member, reason, retention_ms)
      end
    end
  end
  return left
end

-- What a script before had no room for.
local function do_todo(retention_ms)
  for _, what in ipairs(redis.call('ZRANGE', key.todo, 0, 9)) do
    redis.call('ZREM', key.todo, what)
    local verb, id = string.match(what, '^(%a+):(%S+)$')
    if verb == 'release' then
      release(id, retention_ms)
    elseif verb == 'cancel' and redis.call('EXISTS', key.record(id)) == 1 then
      stop_group(id, redis.call('HGET', key.record(id), F.cancel_reason) or '', retention_ms, STOPPED_AT_ONCE)
    end
  end
end
