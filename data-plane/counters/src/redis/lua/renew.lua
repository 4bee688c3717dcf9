-- renew 1: lets requests count as running for another lease.
--
-- ARGV: run, lease in ms, number of ids, the ids
local now = max(clock(), tonumber(call('HGET', BOOKS, 'tm') or 0))
local ends = now + tonumber(ARGV[2])
for i = 4, 3 + tonumber(ARGV[3]) do
  call('ZADD', LEASES, ends, ARGV[i])
end
call('PEXPIRE', LEASES, KEPT)
return { 1 }
