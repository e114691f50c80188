-- KEYS: the keys of a limit. ARGV: the microseconds from one request to the next, the burst, and of each key what is
-- charged and what is wanted. Answers with two values a key: what is granted, and its theoretical arrival time from now in
-- microseconds, as text, for a number would lose its fraction. A key has one value, that time, and lives as long as it lies
-- ahead: then it is as good as new. Times are since 2025, so that doubles have parts of microseconds.
local clock = redis.call('TIME')
local now = (clock[1] - 1735689600) * 1e6 + clock[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local told = {}
for index, key in ipairs(KEYS) do
  local charge, want = tonumber(ARGV[2 * index + 1]), tonumber(ARGV[2 * index + 2])
  local arrival = math.max(tonumber(redis.call('GET', key) or 0) or 0, now)
  arrival = math.max(arrival + charge * interval, now)
  local free = math.floor(burst - (arrival - now) / interval + 1e-6)
  local granted = math.max(0, math.min(want, free))
  arrival = arrival + granted * interval
  if arrival > now then
    redis.call('SET', key, string.format('%.17g', arrival), 'PX', math.ceil((arrival - now) / 1000))
  else
    redis.call('DEL', key)
  end
  told[2 * index - 1] = granted
  told[2 * index] = string.format('%.17g', arrival - now)
end
return told
