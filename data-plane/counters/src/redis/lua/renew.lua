-- renew 1: lets requests count as running for another lease.
--
-- ARGV: lease in ms, number of ids, the ids; their markers are the last KEYS, in the same order
local now = max(clock(), tonumber(call('HGET', BOOKS, 'tm') or 0))
local ends = digits(now + ARGV[1])
for i = 3, 2 + ARGV[2] do
  -- One that is over does not run again, however late this arrives.
  if not is_remembered(KEYS[6 + i]) then call('ZADD', LEASES, ends, ARGV[i]) end
end
call('PEXPIRE', LEASES, KEPT)
return { 1 }
