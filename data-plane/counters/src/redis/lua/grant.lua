-- grant 1: applies an answer of the ledger.
--
-- ARGV: next life, life, epoch, serial, number of grants, then for each: counter, end of its period, granted, elsewhere
-- Gives {1} when it was applied, {2, life} when the books are of that one, {3, epoch} when their life has that one.
local NEXT_LIFE, LIFE, EPOCH, SERIAL, GRANTS = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local fields = call('HGETALL', BOOKS)
local books = {}
for i = 1, #fields, 2 do books[fields[i]] = fields[i + 1] end
if books.run ~= RUN then
  begin_life(NEXT_LIFE, books.tm, books.frozen)
  return { 2, NEXT_LIFE }
end
if books.life ~= LIFE then return { 2, books.life } end
if EPOCH == '0' or books.epoch ~= '0' and books.epoch ~= EPOCH then return { 3, tonumber(books.epoch) } end

local above_floor = SERIAL > tonumber(books.floor or 0)
local counters = {}
for field, text in pairs(books) do
  if string.find(field, '.', 1, true) then
    local counter = counter_of(text)
    local known, ends = match(counter.grant, '(%d+) (%d+)$')
    counter.serial, counter.ends = tonumber(known), tonumber(ends)
    counters[field] = counter
  end
end
local changed = {}
for i = 6, 5 + 4 * GRANTS, 4 do
  local field = ARGV[i]
  local counter = counters[field] or { used = 0, held = 0, orphaned = 0, serial = 0, ends = tonumber(ARGV[i + 1]) }
  if above_floor and SERIAL > counter.serial then
    counter.grant = format('%s %s %d %d', ARGV[i + 2], ARGV[i + 3], SERIAL, counter.ends)
    counter.serial = SERIAL
    counters[field] = counter
    changed[field] = true
  end
end
-- What ended long ago and holds nothing goes; `forever` is the end of a period without one.
local forever, tm = 9223372036854, tonumber(books.tm or 0)
local past = {}
for field, counter in pairs(counters) do
  if counter.held == 0 and counter.ends ~= forever and counter.ends + DAY <= tm then
    changed[field] = nil
    past[#past + 1] = field
  end
end
local changes = { 'epoch', EPOCH, 'serial', digits(max(SERIAL, tonumber(books.serial or 0))) }
for field in pairs(changed) do
  changes[#changes + 1] = field
  changes[#changes + 1] = text_of(counters[field])
end

call('HSET', BOOKS, unpack(changes))
if #past > 0 then call('HDEL', BOOKS, unpack(past)) end
if not books.frozen then call('PEXPIRE', BOOKS, KEPT) end
for _, key in ipairs({ OPEN, EXPIRY, ORPHANS, ORPHANED, RPM, TPM, LEASES }) do
  call('PEXPIRE', key, KEPT)
end
return { 1 }
