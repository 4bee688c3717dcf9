-- What goes before the scripts of cooldowns: the time in ms, their first argument or, where that is '', the server's.
local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
else
  now = ARGV[1] + 0
end

