-- What every script begins with. How the keys and their fields read is told in docs/redis.md.
--
-- Numbers are doubles: integers are exact up to 2^53 - 1, where sums stop. They are written by commands or by '%.0f', never concatenated.
-- A script reads, then decides, then writes; nothing can fail after its first write. Only a life begins before anything is decided, as whatever
-- is decided needs one: also a question that is then refused, even as late, leaves a new life where there was none.
--
-- A script that has to work without memory begins with a write that needs none: the ones after it are then let through.
local BOOKS, OPEN, EXPIRY, ORPHANS, ORPHANED, RPM, TPM, LEASES, MARKER = unpack(KEYS, 1, 9)
local RUN = ARGV[1]
local call, format, match = redis.call, string.format, string.match
local max, min, floor = math.max, math.min, math.floor

local MOST = 9007199254740991
local DAY = 86400000
-- Keys that nobody asks about for 35 days go: books that are gone begin a new life, which gives nothing back.
local KEPT = 35 * DAY

local function add(a, b)
  return min(a + b, MOST)
end

local function less(a, b)
  return max(a - b, 0)
end

-- A counter is 'used held orphaned granted elsewhere serial end': what requests change comes first, and what only grants change is not
-- taken apart to be written back.
local function counter_of(text)
  local used, held, orphaned, grant, granted, elsewhere = match(text, '^(%d+) (%d+) (%d+) ((%d+) (%d+) .+)$')
  return {
    used = used + 0, held = held + 0, orphaned = orphaned + 0, granted = granted + 0, elsewhere = elsewhere + 0,
    grant = grant,
  }
end

local function text_of(counter)
  return format('%.0f %.0f %.0f %s', counter.used, counter.held, counter.orphaned, counter.grant)
end
