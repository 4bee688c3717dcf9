-- probe 1: lets one of all who ask within a while probe a gate.
--
-- KEYS: the hash of probes, each `until whom`, in ms
-- ARGV: the time in ms or '' for the server's, gate, for how long in ms, who asks; who has it may have it again
-- Gives 1 or 0.
local PROBES, GATE, WHO = KEYS[1], ARGV[2], ARGV[4]

local all = redis.call('HGETALL', PROBES)
for at = 1, #all, 2 do
  local ends, who = string.match(all[at + 1], '^(%d+) (.*)$')
  if ends and tonumber(ends) > now then
    if all[at] == GATE and who ~= WHO then return 0 end
  else
    redis.call('HDEL', PROBES, all[at])
  end
end
redis.call('HSET', PROBES, GATE, string.format('%.0f %s', now + ARGV[3], WHO))
redis.call('PEXPIRE', PROBES, string.format('%.0f', 3600 * 1000))
return 1
