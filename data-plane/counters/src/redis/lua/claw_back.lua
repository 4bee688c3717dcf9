-- claw_back 1: lowers every ceiling to what is used or held, and makes void what the ledger answered so far.
--
-- ARGV: none
-- Gives {} without an epoch, else {life, epoch, serial, counter, ceiling, ...}.
local fields = call('HGETALL', BOOKS)
local books = {}
for i = 1, #fields, 2 do books[fields[i]] = fields[i + 1] end
if books.run ~= RUN or books.epoch == '0' then return {} end

local answer = { books.life, books.epoch, books.serial }
local changes = { 'floor', books.serial }
for field, text in pairs(books) do
  if string.find(field, '.', 1, true) then
    local counter = counter_of(text)
    local granted = min(counter.granted, add(counter.used, counter.held))
    counter.grant = string.gsub(counter.grant, '^%d+', digits(granted))
    changes[#changes + 1] = field
    changes[#changes + 1] = text_of(counter)
    answer[#answer + 1] = field
    answer[#answer + 1] = granted
  end
end
call('HSET', BOOKS, unpack(changes))
return answer
