-- The server's clock, in whole milliseconds.
local function clock()
  local time = call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

-- An id that is over is remembered for a minute.
local function remember()
  call('SET', MARKER, '1', 'PX', 60000)
end

local function is_remembered(marker)
  return call('EXISTS', marker) == 1
end
