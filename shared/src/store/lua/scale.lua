#!lua
-- scale: how many workers a host is to keep; also wakes its slots that were given up.
-- uses:    names clock text schema event
-- args:    1 host's name   2 target   3 the target that the caller saw, or empty: whatever it is
-- replies: ok target | moved target | no_host name | schema found
-- events:  none
local host, target, from = ARGV[1], ARGV[2], ARGV[3]

local refusal = refuse_schema()
if refusal then return refusal end
if not redis.call('ZSCORE', key.hosts, host) then return { 'no_host', host } end
local known = redis.call('HMGET', key.host(host), F.target, F.wanted)
local now = known[1] or known[2] or ''
-- The same call again finds its own target.
if from ~= '' and now ~= from and now ~= target then return { 'moved', now } end

-- writes from here
redis.call('HSET', key.host(host), F.target, target)
redis.call('HINCRBY', key.host(host), F.scaled, 1)
tell(key.ctl('host:' .. host), 'scale ' .. target)
publish()
return { 'ok', target }
