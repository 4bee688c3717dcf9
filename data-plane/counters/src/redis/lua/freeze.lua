-- freeze 1: sets or lifts the freeze, which outlives lives. It has the revision of the state that it comes from, and only a later one lifts it.
-- A lasting one does not go however long nobody asks for its books.
--
-- ARGV: what (0 lifts it, 1 freezes for good, 2 freezes what nodes refuse themselves), revision
-- Gives {1 if it was lifted or is frozen, else 0}.
local what, revision = ARGV[1], ARGV[2] + 0
local held = call('HGET', BOOKS, 'frozen')
held = held and held + 0
if what == '0' then
  if not held or held >= revision then return { 0 } end
  call('HDEL', BOOKS, 'frozen')
  call('PEXPIRE', BOOKS, KEPT)
  return { 1 }
end
if not held or held < revision then call('HSET', BOOKS, 'frozen', digits(revision)) end
if what == '1' then
  call('PERSIST', BOOKS)
elseif not held then
  call('PEXPIRE', BOOKS, KEPT)
end
return { 1 }
