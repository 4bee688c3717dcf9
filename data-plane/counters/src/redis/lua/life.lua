-- Ends whatever life the books had and begins a new one. The freeze, the key's own time and its rates stay.
-- What it leaves is whole in itself, wherever the script stops afterwards.
local function begin_life(life, tm, frozen)
  call('UNLINK', BOOKS, OPEN, EXPIRY, ORPHANS, ORPHANED)
  call('HSET', BOOKS, 'life', life, 'run', RUN, 'epoch', '0')
  if tm then call('HSET', BOOKS, 'tm', tm) end
  if frozen then
    call('HSET', BOOKS, 'frozen', frozen)
  else
    call('PEXPIRE', BOOKS, KEPT)
  end
end
