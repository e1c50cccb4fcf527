-- pool: what every call keeps up: the pool's own id and lease, and when somebody last called.
-- uses: names clock text
local function open_pool(pool_id, lease_ms)
  redis.call('HSETNX', key.meta, F.pool_id, pool_id)
  redis.call('HSETNX', key.meta, F.schema, SCHEMA)
  redis.call('HSETNX', key.meta, F.lease_ms, lease_ms)
end

local function pool_lease_ms()
  return tonumber(redis.call('HGET', key.meta, F.lease_ms) or '15000')
end

-- Idle times run on while Redis is away: after a silence of half a lease nothing is lost until the grace is over.
local function note_call()
  local last = tonumber(redis.call('HGET', key.meta, F.last) or '0')
  local lease_ms = pool_lease_ms()
  if last > 0 and now_ms - last > lease_ms / 2 then
    local away_ms = tonumber(redis.call('HGET', key.meta, F.away_ms) or '0')
    redis.call('HSET', key.meta, F.away_ms, whole(away_ms + now_ms - last))
  end
  if (last > 0 and now_ms - last > lease_ms / 2) or now_ms < last - 1000 then
    redis.call('HSET', key.meta, F.grace, whole(now_ms + math.floor(lease_ms * 2 / 3)))
  end
  if now_ms < last - 1000 then
    redis.call('HSET', key.meta, F.rewound, '1')
    -- The sweeper's place was kept until a time that has not come again: with its sweeper gone nobody would sweep.
    redis.call('DEL', key.sweeper)
  end
  redis.call('HSET', key.meta, F.last, whole(now_ms))
end

-- One sweeper at a time: whoever finds the place empty, or its own, is asked to take it.
local function offer_sweep(process)
  if redis.call('SET', key.sweeper, process, 'NX', 'PX', 2000) then return '1' end
  return redis.call('GET', key.sweeper) == process and '1' or '0'
end

-- Out of the list; what it was scaled to is kept for when it comes back, and nothing else for longer than a worker.
local function forget_host(host)
  redis.call('ZREM', key.hosts, host)
  local has_target = redis.call('HEXISTS', key.host(host), F.target) == 1
  redis.call('PEXPIRE', key.host(host), has_target and TARGET_TTL_MS or WORKER_TTL_MS)
end
