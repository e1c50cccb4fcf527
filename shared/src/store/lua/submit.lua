#!lua
-- submit: makes tasks, chains and batches: key, bounds, record, lane, wake, event.
-- uses:    names clock text schema pool ids event lane settle after opening
-- args:    1 pool id, if it has none   2 lease (ms), if it has none   3 most tasks that may wait   4 this call's mark
--          5 whether this Redis forgets no write (0 or 1)   6 count, then for each: key, spec (JSON), lane, priority,
--          max_attempts, if_lost, coordinator, tags (lines), delay (ms), time that it may wait for a start (ms; 0: any),
--          title, what it follows (lines; @N: the N-th of this call, from 0), after_failure (cancel, run; gather:
--          run unless all of those were cancelled), kind, the chain or batch it belongs to (@N, or its id)
--          kind: task; chain or batch, behind its members, which are what it follows, or without a spec, to reserve its
--          id; opening, which tasks follow until the last part of a submission is here, and open, which ends that
-- replies: ok (id, fresh or again)… | full waiting | lanes count | memory | unknown id | schema found
-- events:  submit, after
local pool_id, lease_ms, max_waiting, mark, kept = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local count = tonumber(ARGV[6])
local retention_ms = RETENTION_MS
local FIRST, WIDTH = 7, 15
local KINDS = { task = 't', chain = 'c', batch = 'b', opening = 'o', open = '' }
local function kind_at(at)
  return ARGV[at + 13]
end

local refusal = refuse_schema()
if refusal then return refusal end

-- A key holds the id and the mark of the call that made it, so that a repeated call says `fresh` again.
local known, told, fresh = {}, {}, 0
for i = 0, count - 1 do
  local once = ARGV[FIRST + i * WIDTH]
  if known[once] == nil then
    local id, made_by = string.match(redis.call('GET', key.once(once)) or '', '^(%S+) ?(%S*)$')
    -- Its id was reserved.
    local is_reserved = id and kind_at(FIRST + i * WIDTH) ~= 'task' and ARGV[FIRST + i * WIDTH + 1] ~= ''
      and redis.call('EXISTS', key.record(id)) == 0
    known[once] = id or false
    told[once] = (not id or is_reserved or made_by == mark) and 'fresh' or 'again'
    if not id or is_reserved then fresh = fresh + 1 end
  end
end
-- What belongs to a chain or batch that its key has made before, though not with as many members.
for i = 0, count - 1 do
  local once, place = ARGV[FIRST + i * WIDTH], i
  while known[once] == false and place do
    place = tonumber(string.match(ARGV[FIRST + place * WIDTH + 14], '^@(%d+)$') or '')
    local whole_id = place and known[ARGV[FIRST + place * WIDTH]]
    if whole_id and redis.call('EXISTS', key.record(whole_id)) == 1 then
      known[once], told[once], fresh = whole_id, 'again', fresh - 1
    end
  end
end
if fresh > 0 then
  local waiting = 0
  for _, state in ipairs({ 'waiting', 'delayed', 'pending', 'held' }) do
    waiting = waiting + redis.call('ZCARD', key.index('state', state))
  end
  if waiting + fresh > max_waiting then return { 'full', whole(waiting) } end
  if redis.call('HGET', key.meta, F.full) == '1' then return { 'memory' } end
  local lanes, seen_lanes = redis.call('ZCARD', key.lanes), {}
  for i = 0, count - 1 do
    local lane = ARGV[FIRST + i * WIDTH + 2]
    if lane ~= '' and not seen_lanes[lane] then
      seen_lanes[lane] = true
      if not redis.call('ZSCORE', key.lanes, lane) then lanes = lanes + 1 end
    end
  end
  if lanes > MOST_LANES then return { 'lanes', whole(MOST_LANES) } end
  for i = 0, count - 1 do
    local at = FIRST + i * WIDTH
    if not known[ARGV[at]] and kind_at(at) ~= 'open' then
      for _, other in ipairs(lines(ARGV[at + 11])) do
        if string.sub(other, 1, 1) ~= '@' and redis.call('EXISTS', key.record(other)) == 0 then
          return { 'unknown', other }
        end
      end
    end
  end
end

local reply = { 'ok' }
local function tell_id(once)
  reply[#reply + 1] = known[once]
  reply[#reply + 1] = told[once]
  -- The same key again in the same call.
  told[once] = 'again'
end
if fresh == 0 then
  for i = 0, count - 1 do
    tell_id(ARGV[FIRST + i * WIDTH])
  end
  return reply
end
local run_id = server_run_id()

-- writes from here
skip_forgotten(run_id)
open_pool(pool_id, lease_ms)
redis.call('HSET', key.seq, F.run_id, run_id, F.kept, kept)

local reserved = {}
-- Ids first: a task names the chain that stands behind it.
local made = {}
for i = 0, count - 1 do
  local once, kind = ARGV[FIRST + i * WIDTH], ARGV[FIRST + i * WIDTH + 13]
  if kind == 'open' then
    known[once] = ARGV[FIRST + i * WIDTH + 11]
  elseif not known[once] then
    known[once] = KINDS[kind] .. whole(redis.call('HINCRBY', key.seq, kind, 1))
    made[once] = true
  elseif kind ~= 'task' and redis.call('EXISTS', key.record(known[once])) == 0 then
    made[once] = true
  end
end

local function named(ref)
  local place = string.match(ref, '^@(%d+)$')
  return place and known[ARGV[FIRST + tonumber(place) * WIDTH]] or ref
end

local function named_all(refs)
  local list = {}
  for n, ref in ipairs(lines(refs)) do
    list[n] = named(ref)
  end
  return list
end

-- Its members stand there by now; they may be over already.
local function make_group(id, at)
  local members = named_all(ARGV[at + 11])
  local kind, coordinator = ARGV[at + 13], ARGV[at + 6]
  redis.call('HSET', key.record(id), F.spec, ARGV[at + 1], F.state, 'running', F.coordinator, coordinator, F.tags,
    ARGV[at + 7], F.once, ARGV[at], F.title, ARGV[at + 10], F.created, whole(now_ms), F.group, named(ARGV[at + 14]),
    F.members, table.concat(members, '\n'))
  redis.call('ZADD', key.index('all', kind == 'chain' and 'chains' or 'batches'), number_of(id), id)
  for _, member in ipairs(members) do
    -- Those that an earlier chain has done are kept for this one.
    if redis.call('HGET', key.record(member), F.group) ~= id then redis.call('HSET', key.record(member), F.kept_by, id) end
  end
  if wait_on(id, members) == 0 then close_group(id, retention_ms) end
end

for i = 0, count - 1 do
  local at = FIRST + i * WIDTH
  local once, spec, lane, priority = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local id = known[once]
  local kind = kind_at(at)
  if made[once] and kind ~= 'open' then redis.call('SET', key.once(once), id .. ' ' .. mark) end
  if kind == 'open' then
    end_opening(id, retention_ms)
  elseif made[once] and kind == 'opening' then
    begin_opening(id, once)
  elseif made[once] and kind ~= 'task' then
    if spec == '' then
      reserved[#reserved + 1] = once
    else
      make_group(id, at)
    end
  elseif made[once] then
    local coordinator, tags = ARGV[at + 6], ARGV[at + 7]
    redis.call('HSET', key.task(id), F.spec, spec, F.lane, lane, F.priority, priority, F.max_attempts, ARGV[at + 4],
      F.if_lost, ARGV[at + 5], F.coordinator, coordinator, F.tags, tags, F.once, once, F.run, '0', F.attempt, '0',
      F.title, ARGV[at + 10], F.round, '1', F.cost, '0', F.created, whole(now_ms))
    if ARGV[at + 14] ~= '' then redis.call('HSET', key.task(id), F.group, named(ARGV[at + 14])) end
    redis.call('ZADD', key.index('all', 'tasks'), number_of(id), id)
    if coordinator ~= '' then redis.call('ZADD', key.index('coordinator', coordinator), number_of(id), id) end
    for _, tag in ipairs(lines(tags)) do
      redis.call('ZADD', key.index('tag', tag), number_of(id), id)
    end
    local delay_ms, wait_ms = tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9])
    if wait_ms > 0 then redis.call('HSET', key.task(id), F.wait_ms, whole(wait_ms)) end
    local others = named_all(ARGV[at + 11])
    if #others > 0 then
      redis.call('HSET', key.task(id), F.after_failure, ARGV[at + 12], F.not_before, whole(now_ms + delay_ms), F.reason,
        'follows ' .. table.concat(others, ', ', 1, math.min(#others, 20)) .. (#others > 20 and ' and others' or ''))
      touch_lane(lane)
      local left = wait_on(id, others)
      move(id, '-', 'waiting', 'submit', '0')
      local why
      for _, other in ipairs(others) do
        local state = redis.call('HGET', key.record(other), F.state)
        if is_over(state) then why = why or spoils(id, other, state) end
      end
      if left == 0 then why = why or gathers_nothing(id, others) end
      if why then
        wait_no_more(id)
        redis.call('HSET', key.task(id), F.reason, why)
        finish_terminal(id, retention_ms)
        move(id, 'waiting', 'cancelled', 'after', '0')
      elseif left == 0 then
        start_after(id)
      end
    elseif delay_ms > 0 then
      touch_lane(lane)
      redis.call('ZADD', key.due, whole(now_ms + delay_ms), 'task:' .. id)
      move(id, '-', 'delayed', 'submit', '0')
    else
      enter_lane(id, lane, priority)
      start_waiting(id)
      move(id, '-', 'pending', 'submit', '0')
    end
  end
  made[once] = nil
  tell_id(once)
end
-- With the opening, which stands first, they go again if the rest never comes.
if #reserved > 0 and string.sub(known[ARGV[FIRST]], 1, 1) == 'o' then
  redis.call('HSET', key.record(known[ARGV[FIRST]]), F.members, table.concat(reserved, '\n'))
end
publish()
return reply
