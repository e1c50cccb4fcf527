#!lua flags=allow-oom
-- judge: somebody has looked at a result that is up for review.
-- uses:    names clock text schema event lane books settle after
-- args:    1 task   2 round that was judged   3 this call's mark   4 approve, reject (it is done anew) or fail (that was
--          the last rejection)   5 who   6 why   7 the same for the log, short
--          8 spec from now on, where it changes   9 retention (ms)
-- replies: ok state, and `again` where the same was said before by another call | already verdict, who (of this round) | moved round | state state (it is not up for review)
--          | unknown id | schema found
-- events:  approve, reject, after
local id, round, mark, verb, who, why, short, spec, retention_ms =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local task = key.task(id)
local field = 'round:' .. round .. ':'

local refusal = refuse_schema()
if refusal then return refusal end
local known = redis.call('HMGET', task, F.state, F.round, F.lane, F.priority, F.run, F.output)
if not known[1] then return { 'unknown', id } end
local cause = verb == 'approve' and 'approve' or 'reject'
local before = redis.call('HMGET', task, field .. 'mark', field .. 'verdict', field .. 'by', field .. 'to', field .. 'why')
if before[1] == mark then return { 'ok', before[4] } end
if before[2] == cause and (cause == 'approve' or (before[3] == who and before[5] == why)) then
  return { 'ok', before[4], 'again' }
end
if before[2] then return { 'already', before[2], before[3] } end
if known[2] ~= round then return { 'moved', known[2] } end
if known[1] ~= 'pending_review' then return { 'state', known[1] } end

-- writes from here
local to = verb == 'approve' and 'completed' or verb == 'reject' and 'pending' or 'failed'
redis.call('HSET', task, field .. 'mark', mark, field .. 'verdict', cause, field .. 'by', who, field .. 'why', why,
  field .. 'to', to, field .. 'run', known[5], field .. 'at', whole(now_ms))
if verb == 'reject' then
  if known[6] then redis.call('HSET', task, field .. 'output', known[6]) end
  if spec ~= '' then redis.call('HSET', task, F.spec, spec) end
  redis.call('HDEL', task, F.output, F.structured, F.usage, F.turns, F.denied, F.vars, F.back_since, F.recovering,
    F.last_error)
  redis.call('HSET', task, F.round, whole(tonumber(round) + 1), F.attempt, '0', F.uncharged, '0', F.unspoken, '0',
    F.failures, '0', F.reason, 'rejected by ' .. who .. ' in round ' .. round)
  enter_lane(id, known[3], known[4])
else
  if verb == 'fail' then
    redis.call('HSET', task, F.error_class, 'check', F.error_message, 'rejected ' .. round .. ' times, the last time by '
      .. who, F.error_hint, 'see the feedback of each round; submit it again with another prompt or model')
  end
  redis.call('HDEL', task, F.reason)
  finish_terminal(id, retention_ms)
end
move(id, 'pending_review', to, cause, known[5], who, short)
if is_over(to) then release(id, retention_ms) end
publish()
return { 'ok', to }
