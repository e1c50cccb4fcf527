#!lua
-- submit: makes tasks: key, bounds, record, lane, wake, event.
-- uses:    names clock text schema pool event lane
-- args:    1 pool id, if it has none   2 lease (ms), if it has none   3 most tasks that may wait   4 count, then for
--          each: key, spec (JSON), lane, priority, max_attempts, if_lost, coordinator, tags (lines)
-- replies: ok (id, fresh or again)… | full waiting | memory | schema found
-- events:  submit
local pool_id, lease_ms, max_waiting, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local WIDTH = 8

local refusal = refuse_schema()
if refusal then return refusal end

local known, fresh = {}, 0
for i = 0, count - 1 do
  local once = ARGV[5 + i * WIDTH]
  if known[once] == nil then
    known[once] = redis.call('GET', key.once(once)) or false
    if not known[once] then fresh = fresh + 1 end
  end
end
if fresh > 0 then
  local waiting = 0
  for _, state in ipairs({ 'waiting', 'delayed', 'pending', 'held' }) do
    waiting = waiting + redis.call('ZCARD', key.index('state', state))
  end
  if waiting + fresh > max_waiting then return { 'full', whole(waiting) } end
  if redis.call('HGET', key.meta, F.full) == '1' then return { 'memory' } end
end

local reply = { 'ok' }
if fresh == 0 then
  for i = 0, count - 1 do
    reply[#reply + 1] = known[ARGV[5 + i * WIDTH]]
    reply[#reply + 1] = 'again'
  end
  return reply
end

-- writes from here
open_pool(pool_id, lease_ms)
for i = 0, count - 1 do
  local at = 5 + i * WIDTH
  local once, spec, lane, priority = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local id = known[once]
  if id then
    reply[#reply + 1] = id
    reply[#reply + 1] = 'again'
  else
    id = 't' .. whole(redis.call('HINCRBY', key.seq, 'task', 1))
    known[once] = id
    local coordinator, tags = ARGV[at + 6], ARGV[at + 7]
    redis.call('HSET', key.task(id), F.spec, spec, F.lane, lane, F.priority, priority, F.max_attempts, ARGV[at + 4],
      F.if_lost, ARGV[at + 5], F.coordinator, coordinator, F.tags, tags, F.once, once, F.run, '0', F.attempt, '0',
      F.round, '1', F.cost, '0', F.created, whole(now_ms))
    redis.call('SET', key.once(once), id)
    redis.call('ZADD', key.index('all', 'tasks'), number_of(id), id)
    if coordinator ~= '' then redis.call('ZADD', key.index('coordinator', coordinator), number_of(id), id) end
    for _, tag in ipairs(lines(tags)) do
      redis.call('ZADD', key.index('tag', tag), number_of(id), id)
    end
    enter_lane(id, lane, priority)
    move(id, '-', 'pending', 'submit', '0')
    reply[#reply + 1] = id
    reply[#reply + 1] = 'fresh'
  end
end
publish()
return reply
