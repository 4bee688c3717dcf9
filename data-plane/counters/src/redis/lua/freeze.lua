-- freeze 1: sets or lifts the freeze, which outlives lives. Frozen books do not go however long nobody asks for them.
--
-- ARGV: run, 1 to freeze or 0 to lift it
if ARGV[2] == '1' then
  -- PERSIST goes first: it needs no memory, and a script that has begun to write is let finish when memory is short.
  call('PERSIST', BOOKS)
  call('HSET', BOOKS, 'frozen', '1')
else
  call('HDEL', BOOKS, 'frozen')
  call('PEXPIRE', BOOKS, KEPT)
end
return { 1 }
