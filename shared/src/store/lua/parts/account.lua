-- account: a sign-in that many workers may share, and the limit that it has reached.
-- uses: names clock text
local function limit_of(worker)
  local account = redis.call('HGET', key.worker(worker), F.account)
  if not account or account == '' then return end
  local known = redis.call('HMGET', key.account(account), F.limited_until, F.message, F.hint)
  if tonumber(known[1] or '0') > now_ms then return { known[1], known[2] or '', known[3] or '' } end
end

-- Told by the worker that met it; gone by itself when it is over.
local function note_limit(worker)
  local known = redis.call('HMGET', key.worker(worker), F.account, F.limits_account, F.unfit_until, F.unfit_message,
    F.unfit_hint)
  local until_ms = tonumber(known[3] or '') or 0
  if (known[1] or '') == '' or known[2] ~= '1' or until_ms <= now_ms then return end
  local account = key.account(known[1])
  if redis.call('HGET', account, F.limited_until) == whole(until_ms) then return end
  redis.call('HSET', account, F.limited_until, whole(until_ms), F.message, known[4] or '', F.hint, known[5] or '')
  redis.call('PEXPIRE', account, whole(until_ms - now_ms))
end
