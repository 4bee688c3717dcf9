-- cooldowns 1: takes changes in and gives every cooldown that stands.
--
-- KEYS: the hash of gates, each `end wait class` with both times in ms
-- ARGV: the time in ms or '' for the server's, most gates, ms that one is kept after its end;
--       then for each change four: 'c', gate, class, wait in ms; or 'l', gate, stamp, ''
-- Gives {now, gate, its text, ...}.
local GATES = KEYS[1]
local MOST, KEPT = ARGV[2] + 0, ARGV[3] + 0
local WEEKS = 35 * 24 * 3600 * 1000

local function digits(number)
  return string.format('%.0f', number)
end

local function end_of(text)
  return text and tonumber(string.match(text, '^%d+'))
end

for at = 4, #ARGV, 4 do
  local what, gate = ARGV[at], ARGV[at + 1]
  local stands = end_of(redis.call('HGET', GATES, gate))
  if what == 'c' then
    local ends = now + ARGV[at + 3]
    if (stands and ends > stands) or (not stands and redis.call('HLEN', GATES) < MOST) then
      redis.call('HSET', GATES, gate, string.format('%s %s %s', digits(ends), ARGV[at + 3], ARGV[at + 2]))
      redis.call('PEXPIRE', GATES, digits(WEEKS))
    end
  elseif stands == tonumber(ARGV[at + 2]) then
    redis.call('HDEL', GATES, gate)
  end
end

local all, standing = redis.call('HGETALL', GATES), { digits(now) }
for at = 1, #all, 2 do
  local ends = end_of(all[at + 1])
  if not ends or ends + KEPT < now then
    redis.call('HDEL', GATES, all[at])
  else
    standing[#standing + 1] = all[at]
    standing[#standing + 1] = all[at + 1]
  end
end
return standing
