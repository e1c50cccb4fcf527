-- schema: a pool written by an incompatible version is left alone.
-- uses: names
local function refuse_schema()
  local found = redis.call('HGET', key.meta, F.schema)
  if found and found ~= SCHEMA then return { 'schema', found } end
end
