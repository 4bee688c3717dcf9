-- vacate 1: ends the life of the books if it is the one named.
--
-- ARGV: run, next life, life
-- Gives {life of the books afterwards}.
local life, run, tm, frozen = unpack(call('HMGET', BOOKS, 'life', 'run', 'tm', 'frozen'))
if run == RUN and life ~= ARGV[3] then return { life } end
begin_life(ARGV[2], tm, frozen)
return { ARGV[2] }
