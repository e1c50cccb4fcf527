#!lua
-- set: the pool's defaults, where it has none.
-- uses:    names schema text
-- args:    1 options (JSON)
-- replies: ok version, kept or written | schema found
-- events:  none
local refusal = refuse_schema()
if refusal then return refusal end
local version = redis.call('HGET', key.config, F.version)
if version then return { 'ok', version, 'kept' } end

-- writes from here
redis.call('HSET', key.config, F.version, '1', F.options, ARGV[1])
return { 'ok', '1', 'written' }
