#!lua
-- set: the defaults of the pool, or the settings of a slot, where they are as the caller saw them.
-- uses:    names clock text schema slot pool
-- args:    1 slot, or empty: the pool   2 version that the caller saw, 0: there was none   3 JSON, or empty: none any more
-- replies: ok version, kept or written | in_use worker | slots most | schema found
-- events:  none
local slot, from, options = ARGV[1], ARGV[2], ARGV[3]

local refusal = refuse_schema()
if refusal then return refusal end
local place = slot == '' and key.config or key.slot(slot)
local version = redis.call('HGET', place, F.version) or '0'
if version ~= from then return { 'ok', version, 'kept' } end
if slot ~= '' and options == '' then
  local worker = worker_of(slot)
  if worker then return { 'in_use', worker } end
end
if slot ~= '' and version == '0' and redis.call('ZCARD', key.slots) >= MOST_SLOTS then
  return { 'slots', whole(MOST_SLOTS) }
end

-- writes from here
if slot ~= '' and options == '' then
  redis.call('DEL', place)
  redis.call('ZREM', key.slots, slot)
  return { 'ok', '0', 'written' }
end
redis.call('HSET', place, F.version, whole(tonumber(version) + 1), F.options, options)
if slot ~= '' then redis.call('ZADD', key.slots, whole(now_ms), slot) end
return { 'ok', whole(tonumber(version) + 1), 'written' }
