#!lua flags=no-writes
-- check: what stands about one task, at one moment, for the invariants.
-- uses:    names
-- args:    1 task
-- replies: ok state, entries of its own in its lane, pending ones among them, attempt, max_attempts, run, n | unknown id
-- events:  none
local id = ARGV[1]
local known = redis.call('HMGET', key.task(id), F.state, F.entry, F.lane, F.priority, F.attempt, F.max_attempts, F.run, F.n)
if not known[1] then return { 'unknown', id } end
local live, pending = 0, 0
if known[2] then
  local stream = key.lane(known[3], known[4])
  live = #redis.call('XRANGE', stream, known[2], known[2])
  local list = redis.pcall('XPENDING', stream, 'workers', known[2], known[2], 1)
  pending = list.err and 0 or #list
end
return { 'ok', known[1], tostring(live), tostring(pending), known[5] or '0', known[6] or '0', known[7] or '0', known[8] or '0' }
