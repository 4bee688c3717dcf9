-- settle 1: replaces what a reservation holds, or was charged when it expired, by what it cost.
--
-- ARGV: epoch (0: any), id, cost, 1 if it counts as a request else 0, tokens (-1: as reserved)
-- Gives {what, 1 if the cost was above its bound} or, when the books are of another epoch, {5, their epoch}.
local DONE, AFTER_EXPIRY, DUPLICATE, UNKNOWN, OTHER_EPOCH = 1, 2, 3, 4, 5

local EPOCH, ID = ARGV[1], ARGV[2]
local COST, COUNTED, TOKENS = ARGV[3] + 0, ARGV[4] + 0, ARGV[5] + 0

-- What a record says that was taken: counters and how much of each, and the second of the minute's tokens and how many. Then the run and the
-- epoch of the books, and these counters.
local fields, amounts, second, tokens, books
local function read(record)
  fields, amounts, second, tokens = {}, {}, nil, 0
  local n = 0
  for field, amount in string.gmatch(record, '([%w.]+)=(%d+)') do
    local taken = match(field, '^t%.(%d+)')
    if taken then
      second, tokens = taken, amount + 0
    else
      n = n + 1
      fields[n], amounts[n] = field, amount + 0
    end
  end
  books = call('HMGET', BOOKS, 'run', 'epoch', unpack(fields))
end

local record = call('HGET', OPEN, ID)
read(record or '')
local run, epoch = books[1], books[2]
local alive = run == RUN
epoch = alive and epoch or '0'

-- Whatever becomes of its reservation, the request no longer runs.
local function end_lease()
  call('ZREM', LEASES, ID)
end

if EPOCH ~= '0' and EPOCH ~= epoch then
  end_lease()
  return { OTHER_EPOCH, tonumber(epoch) }
end
-- What is open is not over: only the others have to be looked for among what is.
local charged = false
if not (alive and record) then
  local seen = is_remembered(MARKER)
  charged = alive and not seen and call('HGET', ORPHANS, ID)
  if not charged then
    end_lease()
    if seen then return { DUPLICATE, 0 } end
    remember()
    return { UNKNOWN, 0 }
  end
  read(charged)
end

local over_bound, changes, n = 0, {}, 0
for i, field in ipairs(fields) do
  local amount, actual = amounts[i], COUNTED
  if match(field, '^.s') then
    actual = COST
    if actual > amount then over_bound = 1 end
  end
  local text = books[2 + i]
  if text then
    local counter = counter_of(text)
    if charged then
      counter.orphaned = less(counter.orphaned, amount)
      counter.used = less(counter.used, amount)
    else
      counter.held = less(counter.held, amount)
    end
    counter.used = add(counter.used, actual)
    changes[n + 1], changes[n + 2] = field, text_of(counter)
    n = n + 2
  end
end

-- A second that is no longer kept counts no more.
local minute
if second and TOKENS >= 0 and TOKENS ~= tokens then
  local kept = call('HMGET', TPM, second, 'total')
  if kept[1] then
    local corrected = add(less(kept[1] + 0, tokens), TOKENS)
    minute = { second, digits(corrected), 'total', digits(add(less(kept[2] + 0, kept[1] + 0), corrected)) }
  end
end

end_lease()
if charged then
  call('HDEL', ORPHANS, ID)
  call('ZREM', ORPHANED, ID)
else
  call('HDEL', OPEN, ID)
  call('ZREM', EXPIRY, ID)
end
if n > 0 then call('HSET', BOOKS, unpack(changes)) end
if minute then call('HSET', TPM, unpack(minute)) end
remember()
return { charged and AFTER_EXPIRY or DONE, over_bound }
