-- What every script begins with. How the keys and their fields read is told in docs/redis.md.
--
-- Numbers are doubles: integers are exact up to 2^53 - 1, where sums stop. They are written by '%d', which is also what makes them cheap, and
-- never concatenated.
-- A script reads, then decides, then writes; nothing can fail after its first write. Only a life begins before anything is decided, as whatever
-- is decided needs one: also a question that is then refused, even as late, leaves a new life where there was none.
local BOOKS, OPEN, EXPIRY, ORPHANS, ORPHANED, RPM, TPM, LEASES, MARKER = unpack(KEYS, 1, 9)
local call, format, match = redis.call, string.format, string.match
local max, min, floor = math.max, math.min, math.floor

-- Which run this is of which server, asked in the same step as everything else: books of another run are a past life. A server that follows
-- another has its run and not always its data, so it decides nothing, whether or not it takes writes.
local ROLE, RUN = match(call('INFO', 'replication'), 'role:(%w+).-master_replid:(%w+)')
if ROLE ~= 'master' then
  return redis.error_reply('READONLY this server does not say that it is a primary, and decides nothing')
end

local MOST = 9007199254740991
local DAY = 86400000
-- Keys that nobody asks about for 35 days go: books that are gone begin a new life, which gives nothing back. In ms.
local KEPT = '3024000000'

local function add(a, b)
  return min(a + b, MOST)
end

local function less(a, b)
  return max(a - b, 0)
end

-- A number as it is stored.
local function digits(number)
  return format('%d', number)
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
  return format('%d %d %d %s', counter.used, counter.held, counter.orphaned, counter.grant)
end
