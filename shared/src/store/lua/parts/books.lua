-- books: what a run has cost, absolute for each run, so that a late figure replaces and never adds.
-- uses: names text
local function book(id, run, cost)
  local task = key.task(id)
  local field = 'run:' .. run .. ':cost'
  local before = tonumber(redis.call('HGET', task, field) or '0')
  local difference = tonumber(cost) - before
  if difference ~= 0 then
    redis.call('HSET', task, field, cost)
    redis.call('HINCRBY', task, F.cost, whole(difference))
  end
end
