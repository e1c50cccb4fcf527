-- lost: a run whose lease ran out follows its record's `if_lost` list; nothing is decided here.
-- uses: names clock text event lane books settle pool ids after
local function lose(id, retention_ms)
  local task = key.task(id)
  local known = redis.call('HMGET', task, F.lane, F.priority, F.entry, F.run, F.cancel, F.cancel_reason, F.attempt,
    F.if_lost, F.worker)
  local lane, priority, run = known[1], known[2], known[4]
  if known[3] then leave_lane(lane, priority, known[3]) end
  local mark = 'run:' .. run .. ':'
  local message = 'worker ' .. (known[9] or '?') .. ' was not heard for longer than the lease'
  redis.call('HSET', task, mark .. 'ended', whole(now_ms), mark .. 'class', 'lost', mark .. 'message', message,
    mark .. 'charged', '1')
  -- It may have taken another task meanwhile; one that the pool has forgotten is not brought back.
  if known[9] and redis.call('HGET', key.worker(known[9]), F.task) == id then
    redis.call('HSET', key.worker(known[9]), F.task, '')
  end
  if known[5] == '1' then
    redis.call('HSET', task, F.reason, (known[6] or 'cancelled') .. ' (tree: unverified)')
    finish_terminal(id, retention_ms)
    move(id, 'running', 'cancelled', 'cancel', run)
    return release(id, retention_ms)
  end
  local rungs = {}
  for rung in string.gmatch(known[8] or '', '[^,]+') do
    rungs[#rungs + 1] = tonumber(rung)
  end
  redis.call('HSET', task, F.reason, message)
  local delay_ms = rungs[tonumber(known[7])]
  if delay_ms then return move(id, 'running', back_to_lane(id, lane, priority, delay_ms), 'lost', run) end
  redis.call('HSET', task, F.error_class, 'lost', F.error_message, message,
    F.error_hint, 'its attempts are used up; look for what ends the workers, then submit it again')
  finish_terminal(id, retention_ms)
  move(id, 'running', 'failed', 'lost', run)
  release(id, retention_ms)
end

local function do_lost(retention_ms)
  local count, looked = 0, 0
  local lease_ms = pool_lease_ms()
  for _, lane in ipairs(redis.call('ZRANGE', key.lanes, 0, -1)) do
    for _, priority in ipairs(PRIORITIES) do
      if looked >= 100 then return count end
      local stream = key.lane(lane, priority)
      local idle = redis.pcall('XPENDING', stream, 'workers', 'IDLE', whole(lease_ms), '-', '+', 100 - looked)
      for _, pending in ipairs(idle.err and {} or idle) do
        looked = looked + 1
        local entry = redis.call('XRANGE', stream, pending[1], pending[1])[1]
        local id = entry and entry[2][2]
        local named = id and redis.call('HMGET', key.task(id), F.state, F.entry)
        if named and named[1] == 'running' and named[2] == pending[1] then
          lose(id, retention_ms)
          count = count + 1
        else
          leave_lane(lane, priority, pending[1])
        end
      end
    end
  end
  return count
end

local function do_dead()
  local dead = redis.call('ZRANGEBYSCORE', key.workers, '-inf', whole(now_ms - pool_lease_ms()), 'LIMIT', 0, 100)
  for _, worker in ipairs(dead) do
    redis.call('ZREM', key.workers, worker)
    redis.call('PEXPIRE', key.worker(worker), WORKER_TTL_MS)
  end
  local silent = redis.call('ZRANGEBYSCORE', key.hosts, '-inf', whole(now_ms - pool_lease_ms()), 'LIMIT', 0, 100)
  for _, host in ipairs(silent) do
    forget_host(host)
  end
  return #dead + #silent
end

-- Every idle time starts anew: one that was set before time went back would stay 0 until that time has come again.
local function reset_idle_times()
  for _, lane in ipairs(redis.call('ZRANGE', key.lanes, 0, -1)) do
    for _, priority in ipairs(PRIORITIES) do
      local stream, from = key.lane(lane, priority), '-'
      repeat
        local page = redis.pcall('XPENDING', stream, 'workers', from, '+', 1000)
        if page.err then page = {} end
        for _, pending in ipairs(page) do
          redis.call('XCLAIM', stream, 'workers', 'w', 0, pending[1], 'IDLE', 0, 'JUSTID')
          from = '(' .. pending[1]
        end
      until #page < 1000
    end
  end
end

-- What the server tells of itself: its run id, and whether it has little memory left.
local function server_told()
  local run_id = server_run_id()
  local memory = redis.call('INFO', 'memory')
  local used = tonumber(string.match(memory, 'used_memory:(%d+)') or '0')
  local most = tonumber(string.match(memory, 'maxmemory:(%d+)') or '0')
  return run_id, most > 0 and used > most * 0.8
end

-- A new run id: the server was away, whatever our clock says. Time that went back is mended once.
local function note_server(run_id, full)
  local before = redis.call('HGET', key.meta, F.run_id)
  if before and before ~= run_id then
    redis.call('HSET', key.meta, F.grace, whole(now_ms + math.floor(pool_lease_ms() * 2 / 3)))
  end
  redis.call('HSET', key.meta, F.run_id, run_id, F.full, full and '1' or '0')
  if redis.call('HGET', key.meta, F.rewound) == '1' then
    reset_idle_times()
    redis.call('HDEL', key.meta, F.rewound)
  end
end
