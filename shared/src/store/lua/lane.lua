#!lua flags=no-writes
-- lane: how much waits in a lane, and since when the oldest of it.
-- uses:    names text
-- args:    1 lane   2 priority
-- replies: ok count, ready (ms since 1970; 0: nothing waits)
-- events:  none
local stream = key.lane(ARGV[1], ARGV[2])
local length = redis.call('XLEN', stream)
if length == 0 then return { 'ok', '0', '0' } end
local pending = redis.pcall('XPENDING', stream, 'workers')
local delivered = pending.err and 0 or pending[1]
local groups = redis.pcall('XINFO', 'GROUPS', stream)
local last = '-'
if not groups.err then
  for _, group in ipairs(groups) do
    for i = 1, #group, 2 do
      if group[i] == 'last-delivered-id' then last = '(' .. group[i + 1] end
    end
  end
end
local ready = '0'
local first = redis.call('XRANGE', stream, last, '+', 'COUNT', 1)[1]
if first then ready = redis.call('HGET', key.task(first[2][2]), F.ready) or '0' end
return { 'ok', whole(length - delivered), ready }
