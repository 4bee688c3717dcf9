-- look 1: what the books say, which changes nothing.
--
-- ARGV: none
-- Gives {} without an epoch, else {life, counter, its text, ...}.
local fields = call('HGETALL', BOOKS)
local books = {}
for i = 1, #fields, 2 do books[fields[i]] = fields[i + 1] end
if books.run ~= RUN or books.epoch == '0' then return {} end

local answer = { books.life }
for field, text in pairs(books) do
  if string.find(field, '.', 1, true) then
    answer[#answer + 1] = field
    answer[#answer + 1] = text
  end
end
return answer
