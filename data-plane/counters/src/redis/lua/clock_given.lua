-- A clock for tests: the last argument, in whole milliseconds.
local function clock()
  return tonumber(ARGV[#ARGV])
end

-- An id that is over is remembered for a minute of that clock, by the key's own time.
local function present()
  return max(clock(), tonumber(call('HGET', BOOKS, 'tm') or 0))
end

local function remember()
  call('SET', MARKER, present(), 'PX', KEPT)
end

local function is_remembered(marker)
  local since = call('GET', marker)
  return since and present() - tonumber(since) < 60000
end
