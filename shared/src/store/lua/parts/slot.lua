-- slot: the execution unit that outlives its worker, and what hosts leave behind.
-- uses: names clock text pool
-- The live worker of a slot.
local function worker_of(slot)
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', key.workers, whole(now_ms - pool_lease_ms()), '+inf')) do
    if redis.call('HGET', key.worker(worker), F.slot) == slot then return worker end
  end
end
