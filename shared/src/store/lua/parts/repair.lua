-- repair: every pending or running record has its entry, else it gets a new one. An operator's XGROUP DELCONSUMER or
-- XTRIM loses entries that no scan of the pending list finds.
-- uses: names clock text event lane lost after
local function is_after(entry, other)
  local ms, seq = string.match(entry, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  if ms ~= other_ms then return ms > other_ms end
  return tonumber(seq) > tonumber(other_seq)
end

local function has_place(state, stream, entry)
  if not entry or #redis.call('XRANGE', stream, entry, entry) == 0 then return false end
  local pending = redis.pcall('XPENDING', stream, 'workers', entry, entry, 1)
  local is_pending = not pending.err and #pending > 0
  if state == 'running' then return is_pending end
  local last = last_delivered(stream)
  return not is_pending and last ~= nil and is_after(entry, last)
end

-- What waits for something that is over was not set free by whoever ended that.
local function do_repair_waiting()
  local cursor = F.repaired .. ':waiting'
  local after = redis.call('HGET', key.meta, cursor) or '0'
  local ids = redis.call('ZRANGEBYSCORE', key.index('state', 'waiting'), '(' .. after, '+inf', 'LIMIT', 0, 20)
  redis.call('HSET', key.meta, cursor, #ids == 20 and number_of(ids[20]) or '0')
  for _, id in ipairs(ids) do
    for _, other in ipairs(redis.call('SRANDMEMBER', key.needs(id), 20)) do
      local state = redis.call('HGET', key.record(other), F.state)
      if not state or is_over(state) then
        redis.call('ZADD', key.after(other), number_of(id), id)
        redis.call('ZADD', key.todo, whole(now_ms), 'release:' .. other)
      end
    end
  end
end

local function do_repair(retention_ms)
  local count = 0
  do_repair_waiting()
  for _, state in ipairs({ 'pending', 'running' }) do
    local index = key.index('state', state)
    local cursor = F.repaired .. ':' .. state
    local after = redis.call('HGET', key.meta, cursor) or '0'
    local ids = redis.call('ZRANGEBYSCORE', index, '(' .. after, '+inf', 'LIMIT', 0, 50)
    redis.call('HSET', key.meta, cursor, #ids == 50 and number_of(ids[50]) or '0')
    for _, id in ipairs(ids) do
      local known = redis.call('HMGET', key.task(id), F.lane, F.priority, F.entry, F.run)
      if known[1] and not has_place(state, key.lane(known[1], known[2]), known[3]) then
        count = count + 1
        if state == 'running' then
          lose(id, retention_ms)
        else
          if known[3] then leave_lane(known[1], known[2], known[3]) end
          enter_lane(id, known[1], known[2])
          move(id, 'pending', 'pending', 'repair', known[4])
        end
      end
    end
  end
  return count
end
