-- settle: carries out the verdict on a running task; the fence has been passed.
-- uses: names clock text event lane books
-- What belongs to a chain or batch goes with it.
local function retain(id, retention_ms)
  local group = redis.call('HGET', key.record(id), F.group) or ''
  if group ~= '' and redis.call('EXISTS', key.record(group)) == 1 then return end
  redis.call('ZADD', key.retain, whole(now_ms + tonumber(retention_ms)), id)
end

local function finish_terminal(id, retention_ms)
  local task = key.task(id)
  redis.call('HSET', task, F.ended, whole(now_ms))
  redis.call('HDEL', task, F.entry, F.worker, F.tool, F.heard)
  redis.call('ZREM', key.due, 'queue:' .. id)
  retain(id, retention_ms)
end

local function back_to_lane(id, lane, priority, delay_ms)
  redis.call('HDEL', key.task(id), F.entry, F.worker, F.tool, F.heard)
  if delay_ms > 0 then
    redis.call('ZADD', key.due, whole(now_ms + delay_ms), 'task:' .. id)
    return 'delayed'
  end
  enter_lane(id, lane, priority)
  return 'pending'
end

-- verdict: verb, delay_ms, counted, unspoken, reason, class, message, session, cost, estimated, retention_ms, fields
local function settle(id, verdict)
  local task = key.task(id)
  local known = redis.call('HMGET', task, F.lane, F.priority, F.entry, F.run, F.cancel, F.cancel_reason)
  local lane, priority, run = known[1], known[2], known[4]
  local verb, reason = verdict.verb, verdict.reason
  -- One of the two rules that are the scripts' own: stopped on request, whatever else happened meanwhile. A result that
  -- is yet to be judged is no end.
  if known[5] == '1' and verb ~= 'complete' then
    verb, reason = 'cancel', known[6] or reason
  end
  leave_lane(lane, priority, known[3])

  local mark = 'run:' .. run .. ':'
  book(id, run, verdict.cost)
  if verdict.session ~= '' then redis.call('HSET', task, mark .. 'session', verdict.session) end
  redis.call('HSET', task, mark .. 'ended', whole(now_ms), mark .. 'class', verb == 'cancel' and 'cancelled' or verdict.class,
    mark .. 'message', verdict.message, mark .. 'charged', verb == 'give_back' and '0' or '1')
  if verdict.estimated == '1' then redis.call('HSET', task, F.estimated, '1') end
  for field, value in pairs(verdict.fields) do
    local error_of_cancelled = verb == 'cancel' and string.sub(field, 1, 6) == 'error_'
    if not error_of_cancelled then redis.call('HSET', task, field, value) end
  end
  if reason ~= '' then redis.call('HSET', task, F.reason, reason) else redis.call('HDEL', task, F.reason) end

  local to
  if verb == 'complete' then
    to = 'completed'
  elseif verb == 'review' then
    to = 'pending_review'
    redis.call('HDEL', task, F.entry, F.worker, F.tool, F.heard)
  elseif verb == 'fail' then
    to = 'failed'
  elseif verb == 'cancel' then
    to = 'cancelled'
  else
    if verb == 'give_back' then redis.call('HINCRBY', task, F.attempt, -1) end
    if verdict.counted == '1' then
      redis.call('HINCRBY', task, F.uncharged, 1)
    end
    if verb == 'give_back' then redis.call('HSETNX', task, F.back_since, whole(now_ms)) end
    if verdict.unspoken == '1' then
      redis.call('HINCRBY', task, F.unspoken, 1)
    else
      redis.call('HSET', task, F.unspoken, '0')
    end
    to = back_to_lane(id, verdict.fields[F.lane] or lane, priority, tonumber(verdict.delay_ms))
  end
  if to == 'completed' or to == 'failed' or to == 'cancelled' then finish_terminal(id, verdict.retention_ms) end
  move(id, 'running', to, verb, run)
  return to
end

-- Reads a verdict from ARGV, from `at` on; gives it and the index behind it.
local function verdict_at(at)
  local verdict = {
    verb = ARGV[at], delay_ms = ARGV[at + 1], counted = ARGV[at + 2], unspoken = ARGV[at + 3],
    reason = ARGV[at + 4], class = ARGV[at + 5], message = ARGV[at + 6], session = ARGV[at + 7],
    cost = ARGV[at + 8], estimated = ARGV[at + 9], retention_ms = ARGV[at + 10], fields = {},
  }
  local count = tonumber(ARGV[at + 11])
  for i = 0, count - 1 do
    verdict.fields[ARGV[at + 12 + 2 * i]] = ARGV[at + 13 + 2 * i]
  end
  return verdict, at + 12 + 2 * count
end

-- What an end that comes too late may still change: the books of its own run.
local function book_late(id, run, worker, cost)
  if redis.call('HGET', key.task(id), 'run:' .. run .. ':worker') == worker then book(id, run, cost) end
end
