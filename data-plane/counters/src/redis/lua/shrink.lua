-- shrink 1: lowers what an open reservation holds; never raises it.
--
-- ARGV: epoch (0: any), id, bound of spend counters, tokens (-1: as reserved)
-- Gives {1} if any amount was lowered, {0} if not, or, when the books are of another epoch, {2, their epoch}.
local EPOCH, ID, BOUND, TOKENS = ARGV[1], ARGV[2], ARGV[3] + 0, ARGV[4] + 0

local run, epoch = unpack(call('HMGET', BOOKS, 'run', 'epoch'))
local alive = run == RUN
epoch = alive and epoch or '0'
if EPOCH ~= '0' and EPOCH ~= epoch then return { 2, tonumber(epoch) } end
local record = alive and call('HGET', OPEN, ID)
if not record then return { 0 } end

local lowered, changes, minute, rest = 0, {}, nil, {}
for field, text in string.gmatch(record, '([%w.]+)=(%d+)') do
  local amount, bound = tonumber(text), nil
  local second = match(field, '^t%.(%d+)')
  if match(field, '^.s') then
    bound = BOUND
  elseif second and TOKENS >= 0 then
    bound = TOKENS
  end
  if bound and amount > bound then
    lowered = 1
    if second then
      local kept = call('HMGET', TPM, second, 'total')
      if kept[1] then
        local surplus = min(amount - bound, kept[1] + 0)
        minute = { second, digits(kept[1] - surplus), 'total', digits(less(kept[2] + 0, surplus)) }
      end
    else
      local kept = call('HGET', BOOKS, field)
      if kept then
        local counter = counter_of(kept)
        counter.held = less(counter.held, amount - bound)
        changes[#changes + 1] = field
        changes[#changes + 1] = text_of(counter)
      end
    end
    amount = bound
  end
  rest[#rest + 1] = format('%s=%d', field, amount)
end
if lowered == 1 then
  call('HSET', OPEN, ID, table.concat(rest, ' '))
  if #changes > 0 then call('HSET', BOOKS, unpack(changes)) end
  if minute then call('HSET', TPM, unpack(minute)) end
end
return { lowered }
