-- books: what a run has cost, absolute for each run, so that a late figure replaces and never adds.
-- uses: names
local function book(id, run, cost)
  local task = key.task(id)
  local field = 'run:' .. run .. ':cost'
  local before = redis.call('HGET', task, field) or '0'
  if cost == before then return end
  redis.call('HSET', task, field, cost)
  -- Redis adds whole numbers; Lua's would be floats.
  redis.call('HINCRBY', task, F.cost, cost)
  if before ~= '0' then redis.call('HINCRBY', task, F.cost, '-' .. before) end
end
