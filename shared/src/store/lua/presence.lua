#!lua flags=allow-oom
-- presence: a worker joins, reports how it is, or leaves.
-- uses:    names clock text schema pool account
-- args:    1 worker   2 join, report or leave   3 pool id, if it has none   4 lease (ms), if it has none
--          5 count, then field and value of what is known of it
-- replies: ok pool id, lease (ms), sweep | unknown worker | schema found
-- events:  none
local worker, verb, pool_id, lease_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local refusal = refuse_schema()
if refusal then return refusal end
if verb == 'report' and redis.call('EXISTS', key.worker(worker)) == 0 then return { 'unknown', worker } end

-- writes from here
open_pool(pool_id, lease_ms)
note_call()
if verb == 'leave' then
  redis.call('ZREM', key.workers, worker)
  redis.call('PEXPIRE', key.worker(worker), WORKER_TTL_MS, 'NX')
else
  redis.call('HSETNX', key.worker(worker), F.call, '0')
  redis.call('HSETNX', key.worker(worker), F.joined, whole(now_ms))
  for i = 0, tonumber(ARGV[5]) - 1 do
    redis.call('HSET', key.worker(worker), ARGV[6 + 2 * i], ARGV[7 + 2 * i])
  end
  redis.call('PERSIST', key.worker(worker))
  redis.call('ZADD', key.workers, whole(now_ms), worker)
  note_limit(worker, tonumber(redis.call('HGET', key.worker(worker), F.limit_ms) or '0'))
end
-- One that cannot work can still sweep: without it a pool of unfit workers would stand still altogether.
local sweep = '0'
if verb == 'report' then sweep = offer_sweep(worker) end
return { 'ok', redis.call('HGET', key.meta, F.pool_id), whole(pool_lease_ms()), sweep }
