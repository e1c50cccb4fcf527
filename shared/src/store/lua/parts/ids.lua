-- ids: no id is given twice, whatever Redis has forgotten.
-- uses: names
-- More than anyone gives within the second that may be forgotten.
local SKIPPED = 1000

-- A server's own mark, new at each of its starts.
local function server_run_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
end

-- One that was a replica may never have seen the last writes of the server that it follows.
local function was_replica()
  return not string.find(redis.call('INFO', 'replication'), 'second_repl_offset:-1', 1, true)
end

-- Behind another server than the one that gave the last ids, or behind its restart, ids that were told may be
-- forgotten: the counters move on. Not where each write was synced before it was answered.
local function skip_forgotten(run_id)
  local before = redis.call('HGET', key.seq, F.run_id)
  if not before or before == run_id then return end
  if redis.call('HGET', key.seq, F.kept) ~= '1' or was_replica() then
    for _, kind in ipairs({ 'task', 'chain', 'batch', 'opening', 'news' }) do
      redis.call('HINCRBY', key.seq, kind, SKIPPED)
    end
  end
  redis.call('HSET', key.seq, F.run_id, run_id)
end
