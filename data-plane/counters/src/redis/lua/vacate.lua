-- vacate 1: ends the life of the books if it is the one named.
--
-- ARGV: next life, life
-- Gives {life of the books afterwards}.
local life, run, tm, frozen = unpack(call('HMGET', BOOKS, 'life', 'run', 'tm', 'frozen'))
if run == RUN and life ~= ARGV[2] then return { life } end
begin_life(ARGV[1], tm, frozen)
return { ARGV[1] }
