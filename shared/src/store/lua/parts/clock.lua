-- clock: Redis's time, read once a script. The only user of TIME.
local now_ms = (function()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end)()
