-- settle 1: replaces what a reservation holds, or was charged when it expired, by what it cost.
--
-- ARGV: run, epoch (0: any), id, cost, 1 if it counts as a request else 0, tokens (-1: as reserved)
-- Gives {what, 1 if the cost was above its bound} or, when the books are of another epoch, {5, their epoch}.
local DONE, LATE, DUPLICATE, UNKNOWN, OTHER_EPOCH = 1, 2, 3, 4, 5

local EPOCH, ID = ARGV[2], ARGV[3]
local COST, COUNTED, TOKENS = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local run, epoch = unpack(call('HMGET', BOOKS, 'run', 'epoch'))
local alive = run == RUN
epoch = alive and epoch or '0'

-- Whatever becomes of its reservation, the request no longer runs. This is the first write wherever it stands, and as it needs no memory, the
-- ones after it are let through when memory is short.
local function end_lease()
  call('ZREM', LEASES, ID)
end

if EPOCH ~= '0' and EPOCH ~= epoch then
  end_lease()
  return { OTHER_EPOCH, tonumber(epoch) }
end
local seen = is_remembered(MARKER)
local reserved = alive and not seen and call('HGET', OPEN, ID)
local charged = alive and not seen and not reserved and call('HGET', ORPHANS, ID)
local record = reserved or charged
if not record then
  end_lease()
  if seen then return { DUPLICATE, 0 } end
  remember()
  return { UNKNOWN, 0 }
end

local fields, amounts, second, tokens = {}, {}, nil, 0
for field, amount in string.gmatch(record, '([%w.]+)=(%d+)') do
  if string.sub(field, 1, 2) == 't.' then
    second, tokens = string.sub(field, 3), tonumber(amount)
  else
    fields[#fields + 1] = field
    amounts[#amounts + 1] = tonumber(amount)
  end
end

local over_bound, changes = 0, {}
local counters = #fields > 0 and call('HMGET', BOOKS, unpack(fields)) or {}
for i, field in ipairs(fields) do
  local amount, actual = amounts[i], COUNTED
  if string.sub(field, 2, 2) == 's' then
    actual = COST
    if actual > amount then over_bound = 1 end
  end
  if counters[i] then
    local counter = counter_of(counters[i])
    if charged then
      counter.orphaned = less(counter.orphaned, amount)
      counter.used = less(counter.used, amount)
    else
      counter.held = less(counter.held, amount)
    end
    counter.used = add(counter.used, actual)
    changes[#changes + 1] = field
    changes[#changes + 1] = text_of(counter)
  end
end

-- A second that is no longer kept counts no more.
local minute
if second and TOKENS >= 0 and TOKENS ~= tokens then
  local kept = call('HMGET', TPM, second, 'total')
  if kept[1] then
    local corrected = add(less(kept[1] + 0, tokens), TOKENS)
    minute = { second, corrected, 'total', add(less(kept[2] + 0, kept[1] + 0), corrected) }
  end
end

end_lease()
if reserved then
  call('HDEL', OPEN, ID)
  call('ZREM', EXPIRY, ID)
else
  call('HDEL', ORPHANS, ID)
  call('ZREM', ORPHANED, ID)
end
if #changes > 0 then call('HSET', BOOKS, unpack(changes)) end
if minute then call('HSET', TPM, unpack(minute)) end
remember()
return { reserved and DONE or LATE, over_bound }
