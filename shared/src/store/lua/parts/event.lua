-- event: moves a record to a state, keeps the indexes, writes the log; the notices go out last.
-- uses: names clock text
local notices = {}

local function number_of(id)
  return string.sub(id, 2)
end

-- What its coordinator wants to hear of: it is over, or up for review.
local function note_news(id, to)
  if to ~= 'completed' and to ~= 'failed' and to ~= 'cancelled' and to ~= 'pending_review' then return end
  local known = redis.call('HMGET', key.record(id), F.coordinator, F.group)
  local coordinator = known[1]
  if not coordinator or coordinator == '' then return end
  -- Of a chain or batch the whole is news, but for what it is to be judged by.
  if (known[2] or '') ~= '' and to ~= 'pending_review' then return end
  local number = whole(redis.call('HINCRBY', key.seq, 'news', 1))
  redis.call('HSET', key.record(id), F.news, number)
  redis.call('ZADD', key.unseen_of(coordinator), number, id)
  -- What was told of it before, that it is up for review, is not how it stands any more.
  redis.call('ZREM', key.told(coordinator), id)
end

-- Who decided it and why, where somebody did.
local function move(id, from, to, cause, run, who, why)
  local task = key.task(id)
  if from ~= '-' then redis.call('ZREM', key.index('state', from), id) end
  redis.call('ZADD', key.index('state', to), number_of(id), id)
  redis.call('HSET', task, F.state, to)
  local n = redis.call('HINCRBY', task, F.n, 1)
  local notice = table.concat({ id, whole(n), from, to, cause, run }, ' ')
  local entry = { 'e', notice, 't', whole(now_ms) }
  if who then
    entry = { 'e', notice, 't', whole(now_ms), 'by', who, 'why', why }
  end
  redis.call('XADD', key.events, 'MAXLEN', '~', EVENTS_KEPT, '*', unpack(entry))
  notices[#notices + 1] = { key.feed, notice }
  note_news(id, to)
end

local function tell(channel, text)
  notices[#notices + 1] = { channel, text }
end

local function publish()
  for _, notice in ipairs(notices) do
    redis.pcall('PUBLISH', notice[1], notice[2])
  end
end
