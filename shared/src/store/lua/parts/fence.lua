-- fence: who may write to a running task: the worker in its record, with the entry in its record, still pending.
-- uses: names
local function holds(id, entry, worker)
  local held = redis.call('HMGET', key.task(id), F.state, F.entry, F.worker, F.lane, F.priority)
  if not held[1] then return nil, { 'unknown', id } end
  if held[1] ~= 'running' or held[2] ~= entry or held[3] ~= worker then return nil, { 'stale', held[1] } end
  local stream = key.lane(held[4], held[5])
  local pending = redis.pcall('XPENDING', stream, 'workers', entry, entry, 1)
  if pending.err or #pending == 0 then return nil, { 'stale', held[1] } end
  return stream
end
