-- account: a sign-in that many workers may share, and the limit that it has reached.
-- uses: names clock text
-- A limit may be lifted early, or be told wrongly: so often one worker of the account may try all the same.
local TRIAL_MS = 30 * 60 * 1000
-- No window of an account is longer: 8 days.
local LONGEST_MS = 8 * 24 * 3600 * 1000

local function account_of(worker)
  local account = redis.call('HGET', key.worker(worker), F.account)
  if account and account ~= '' then return key.account(account) end
end

-- What is left of it, in milliseconds, with the words of who met it.
local function limit_of(worker)
  local account = account_of(worker)
  if not account then return end
  local known = redis.call('HMGET', account, F.limited_until, F.message, F.hint, F.trial_at)
  local left_ms = tonumber(known[1] or '0') - now_ms
  if left_ms <= 0 then return end
  return { whole(left_ms), known[2] or '', known[3] or '', now_ms >= tonumber(known[4] or '0') }
end

-- Told once by the worker that met it, as a time that it lasts; gone by itself when it is over. Of two the longer one.
local function note_limit(worker, lasts_ms)
  local account = account_of(worker)
  if not account or lasts_ms <= 0 then return end
  local until_ms = now_ms + math.min(lasts_ms, LONGEST_MS)
  local told = redis.call('HMGET', key.worker(worker), F.unfit_message, F.unfit_hint)
  redis.call('HSET', account, F.trial_at, whole(now_ms + TRIAL_MS))
  if tonumber(redis.call('HGET', account, F.limited_until) or '0') >= until_ms then return end
  redis.call('HSET', account, F.limited_until, whole(until_ms), F.message, told[1] or '', F.hint, told[2] or '')
  redis.call('PEXPIRE', account, whole(until_ms - now_ms))
end

local function note_trial(worker)
  redis.call('HSET', account_of(worker), F.trial_at, whole(now_ms + TRIAL_MS))
end

-- A run of the account that succeeded: there is no limit, whatever was told.
local function lift_limit(worker)
  local account = account_of(worker)
  if account then redis.call('DEL', account) end
end
