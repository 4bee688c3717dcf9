-- grant 1: applies an answer of the ledger.
--
-- ARGV: run, next life, life, epoch, serial, number of grants, then for each: counter, end of its period, granted, elsewhere
-- Gives {1} when it was applied, {2, life} when the books are of that one, {3, epoch} when their life has that one.
local fields = call('HGETALL', BOOKS)
local books = {}
for i = 1, #fields, 2 do books[fields[i]] = fields[i + 1] end
if books.run ~= RUN then
  begin_life(ARGV[2], books.tm, books.frozen)
  return { 2, ARGV[2] }
end
if books.life ~= ARGV[3] then return { 2, books.life } end
if ARGV[4] == '0' or books.epoch ~= '0' and books.epoch ~= ARGV[4] then return { 3, tonumber(books.epoch) } end

local serial = tonumber(ARGV[5])
local above_floor = serial > tonumber(books.floor or 0)
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
for i = 7, 6 + 4 * tonumber(ARGV[6]), 4 do
  local field = ARGV[i]
  local counter = counters[field] or { used = 0, held = 0, orphaned = 0, serial = 0, ends = tonumber(ARGV[i + 1]) }
  if above_floor and serial > counter.serial then
    counter.grant = format('%s %s %.0f %.0f', ARGV[i + 2], ARGV[i + 3], serial, counter.ends)
    counter.serial = serial
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
local changes = { 'epoch', ARGV[4], 'serial', max(serial, tonumber(books.serial or 0)) }
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
