-- probe 1: lets one of all who ask within a while probe a gate.
--
-- KEYS: the hash of probes, each until when in ms
-- ARGV: the time in ms or '' for the server's, gate, for how long in ms
-- Gives 1 or 0.
local PROBES, GATE = KEYS[1], ARGV[2]

local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
else
  now = ARGV[1] + 0
end

local all = redis.call('HGETALL', PROBES)
for at = 1, #all, 2 do
  if tonumber(all[at + 1]) > now then
    if all[at] == GATE then return 0 end
  else
    redis.call('HDEL', PROBES, all[at])
  end
end
redis.call('HSET', PROBES, GATE, string.format('%.0f', now + ARGV[3]))
redis.call('PEXPIRE', PROBES, string.format('%.0f', 3600 * 1000))
return 1
