#!lua flags=allow-oom
-- host: a host reports how it is, or leaves; it hears how many workers it is to keep.
-- uses:    names clock text schema pool
-- args:    1 host's name   2 report or leave   3 its start   4 its place   5 pool id, if it has none
--          6 lease (ms), if it has none   7 count, then field and value of what is known of it
-- replies: ok pool id, lease (ms), target or empty, how often it was scaled | taken start | schema found
-- events:  none
local host, verb, instance, place, pool_id, lease_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local refusal = refuse_schema()
if refusal then return refusal end
local known = redis.call('HMGET', key.host(host), F.instance, F.place)
local heard = tonumber(redis.call('ZSCORE', key.hosts, host) or '0')
-- Of one place the newest start is right: it has that place's lock.
if known[1] and known[1] ~= instance and known[2] ~= place and heard > now_ms - pool_lease_ms() then
  return { 'taken', known[1] }
end

-- writes from here
open_pool(pool_id, lease_ms)
note_call()
if verb == 'leave' then
  -- One that was followed by another of its place leaves nothing.
  if known[1] == instance and heard > 0 then forget_host(host) end
else
  for i = 0, tonumber(ARGV[7]) - 1 do
    redis.call('HSET', key.host(host), ARGV[8 + 2 * i], ARGV[9 + 2 * i])
  end
  redis.call('HSET', key.host(host), F.instance, instance, F.place, place)
  redis.call('PERSIST', key.host(host))
  redis.call('ZADD', key.hosts, whole(now_ms), host)
end
local told = redis.call('HMGET', key.host(host), F.target, F.scaled)
return { 'ok', redis.call('HGET', key.meta, F.pool_id), whole(pool_lease_ms()), told[1] or '', told[2] or '0' }
