-- freeze 1: sets or lifts the freeze, which outlives lives. Frozen books do not go however long nobody asks for them.
--
-- ARGV: 1 to freeze or 0 to lift it
if ARGV[1] == '1' then
  call('HSET', BOOKS, 'frozen', '1')
  call('PERSIST', BOOKS)
else
  call('HDEL', BOOKS, 'frozen')
  call('PEXPIRE', BOOKS, KEPT)
end
return { 1 }
