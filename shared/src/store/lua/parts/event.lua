-- event: moves a record to a state, keeps the indexes, writes the log; the notices go out last.
-- uses: names clock text
local notices = {}

local function number_of(id)
  return string.sub(id, 2)
end

local function move(id, from, to, cause, run)
  local task = key.task(id)
  if from ~= '-' then redis.call('ZREM', key.index('state', from), id) end
  redis.call('ZADD', key.index('state', to), number_of(id), id)
  redis.call('HSET', task, F.state, to)
  local n = redis.call('HINCRBY', task, F.n, 1)
  local notice = table.concat({ id, whole(n), from, to, cause, run }, ' ')
  redis.call('XADD', key.events, 'MAXLEN', '~', EVENTS_KEPT, '*', 'e', notice, 't', whole(now_ms))
  notices[#notices + 1] = { key.feed, notice }
end

local function tell(channel, text)
  notices[#notices + 1] = { channel, text }
end

local function publish()
  for _, notice in ipairs(notices) do
    redis.pcall('PUBLISH', notice[1], notice[2])
  end
end
