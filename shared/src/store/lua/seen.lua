#!lua flags=allow-oom
-- seen: what a coordinator hears of: an answer names it (`offer`), and that answer arrived (`confirm`).
-- uses:    names schema text
-- args:    1 coordinator   2 offer or confirm   3 count, then for each: id, number of the news
-- replies: ok count (of those that still were as the caller saw them) | schema found
-- events:  none
local coordinator, verb = ARGV[1], ARGV[2]

local refusal = refuse_schema()
if refusal then return refusal end
-- Something newer about the same id is not what was answered.
local same = {}
for i = 0, tonumber(ARGV[3]) - 1 do
  local id, number = ARGV[4 + 2 * i], ARGV[5 + 2 * i]
  if redis.call('ZSCORE', key.unseen_of(coordinator), id) == number then same[#same + 1] = { id, number } end
end

-- writes from here
for _, news in ipairs(same) do
  if verb == 'offer' then
    redis.call('HSET', key.record(news[1]), F.offered, news[2])
  else
    redis.call('ZREM', key.unseen_of(coordinator), news[1])
    redis.call('ZADD', key.told(coordinator), news[2], news[1])
  end
end
if verb ~= 'offer' then redis.call('ZREMRANGEBYRANK', key.told(coordinator), 0, -TOLD_KEPT - 1) end
return { 'ok', whole(#same) }
