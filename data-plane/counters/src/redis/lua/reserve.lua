-- reserve 1: takes every need and each rate, or nothing.
--
-- ARGV: next life, epoch, id, ms until it expires, not after (ms, -1: none), limit of requests per minute (-1: none), limit of tokens per
-- minute (-1: none), tokens, limit of requests at the same time (-1: none), their lease in ms, what it takes, as text, number of
-- needs, then for each need: counter, start and end of its period in ms, limit, amount; no counter twice
-- Gives the verdict, the server's clock in ms, and what the verdict needs: see reply.rs.
local ADMITTED, NOT_JOINED, NO_BOOKS, SHORT, RATE_LIMITED, FROZEN, DUPLICATE, LATE, OUTSIDE = 1, 2, 3, 4, 5, 6, 7, 8, 9
local REQUESTS, TOKENS_RATE, CONCURRENCY = 1, 2, 3
local MINUTE, SWEEP, NEVER = 60000, 8, -1
-- Tokens count in the second in which they were taken and in so many after it.
local TOKEN_SECONDS = 60

local NEXT_LIFE, EPOCH, ID = ARGV[1], ARGV[2], ARGV[3]
local EXPIRES_AFTER, NOT_AFTER = ARGV[4] + 0, ARGV[5] + 0
local RPM_LIMIT, TPM_LIMIT, TOKENS = ARGV[6] + 0, ARGV[7] + 0, ARGV[8] + 0
local RUNNING_LIMIT, LEASE = ARGV[9] + 0, ARGV[10] + 0

local TAKES, NEEDS = ARGV[11], ARGV[12] + 0
local fields, limits, amounts = {}, {}, {}
for i = 1, NEEDS do
  local at = 8 + 5 * i
  fields[i], limits[i], amounts[i] = ARGV[at], ARGV[at + 3] + 0, ARGV[at + 4] + 0
end

local books = call('HMGET', BOOKS, 'life', 'run', 'epoch', 'tm', 'frozen', unpack(fields))
local life, epoch, frozen = books[1], books[3], books[5]
local tm = tonumber(books[4] or 0)
local server = clock()
local now = max(server, tm)
local NOW = digits(now)
local vacant = books[2] ~= RUN
if vacant then
  life, epoch = NEXT_LIFE, '0'
  begin_life(life, books[4], frozen)
end

local counters = {}
for i = 1, NEEDS do
  local field, text = fields[i], not vacant and books[5 + i]
  if text then counters[field] = counter_of(text) end
end

-- ---- How things stand ----

local function free(counter, limit)
  return less(min(counter.granted, less(limit, counter.elsewhere)), add(counter.used, counter.held))
end

local function put_standing(answer, i)
  local counter, n = counters[fields[i]], #answer
  if counter then
    answer[n + 1], answer[n + 2], answer[n + 3] = free(counter, limits[i]), counter.used, counter.held
    answer[n + 4], answer[n + 5] = counter.orphaned, counter.elsewhere
  else
    for at = n + 1, n + 5 do answer[at] = 0 end
  end
end

-- The minute's requests, newest first: how many of the entries count, and how many there are. What counts no more is looked for from the old
-- end, in steps that double: each admission cuts it off, so there is little of it.
local function logged()
  local all = call('LLEN', RPM)
  local function is_past(back)
    return now - call('LINDEX', RPM, digits(-back)) >= MINUTE
  end
  local past, present = 0, 1
  while present <= all and is_past(present) do past, present = present, 2 * present end
  present = min(present, all + 1)
  while present - past > 1 do
    local middle = floor((past + present) / 2)
    if is_past(middle) then past = middle else present = middle end
  end
  return all - past, all
end

local SECOND = floor(now / 1000)
local function token_leaves(second)
  return (second + TOKEN_SECONDS + 1) * 1000 - now
end

-- The minute's tokens second by second: those that count, oldest first, their sum, and the names of those that do not.
local function token_seconds()
  local fields = call('HGETALL', TPM)
  local seconds, past, total = {}, {}, 0
  for i = 1, #fields, 2 do
    local second, amount = tonumber(fields[i]), tonumber(fields[i + 1])
    if second and second >= SECOND - TOKEN_SECONDS then
      seconds[#seconds + 1] = { second, amount }
      total = add(total, amount)
    elseif second then
      past[#past + 1] = fields[i]
    end
  end
  table.sort(seconds, function(a, b) return a[1] < b[1] end)
  return seconds, total, past
end

-- Remaining and reset of requests, then of tokens: -1 for a rate that the key does not have.
local function put_rates(answer, requests)
  local n = #answer
  local reset, remaining = NEVER, NEVER
  if RPM_LIMIT >= 0 then
    remaining, reset = less(RPM_LIMIT, requests), 0
    if requests > 0 then reset = call('LINDEX', RPM, '0') + MINUTE - now end
  end
  answer[n + 1], answer[n + 2] = remaining, reset
  remaining, reset = NEVER, NEVER
  if TPM_LIMIT >= 0 then
    local seconds, total = token_seconds()
    remaining, reset = less(TPM_LIMIT, total), 0
    for _, second in ipairs(seconds) do
      if second[2] > 0 then reset = token_leaves(second[1]) end
    end
  end
  answer[n + 3], answer[n + 4] = remaining, reset
end

-- ---- Ids that are known, and questions that come at the wrong time ----

-- Mostly there is neither, which one question tells.
local over = call('EXISTS', MARKER, ORPHANS) > 0
local orphans = over and call('EXISTS', ORPHANS) == 1
if over and is_remembered(MARKER) or orphans and call('HEXISTS', ORPHANS, ID) == 1 then return { DUPLICATE, server } end
-- Also if it is open: whoever is told of it in another epoch would have its cost looked for there.
if NEEDS > 0 and (epoch == '0' or epoch ~= EPOCH) then return { NOT_JOINED, server, life } end
if call('HEXISTS', OPEN, ID) == 1 then
  local answer = { ADMITTED, server }
  put_rates(answer, RPM_LIMIT >= 0 and logged() or 0)
  for i = 1, NEEDS do put_standing(answer, i) end
  return answer
end
if frozen then return { FROZEN, server } end

-- From here on the key's own time moves on, whatever the verdict.
local changed, due, records, old = {}, {}, {}, {}
local function keep()
  local changes, n = { 'tm', NOW }, 2
  for field in pairs(changed) do
    changes[n + 1], changes[n + 2] = field, text_of(counters[field])
    n = n + 2
  end
  if now > tm or n > 2 then call('HSET', BOOKS, unpack(changes)) end
  for i, id in ipairs(due) do
    call('HDEL', OPEN, id)
    call('ZREM', EXPIRY, id)
    call('HSET', ORPHANS, id, records[i])
    call('ZADD', ORPHANED, NOW, id)
  end
  if #old > 0 then
    call('HDEL', ORPHANS, unpack(old))
    call('ZREM', ORPHANED, unpack(old))
  end
  if #due > 0 or floor(now / DAY) ~= floor(tm / DAY) then
    for _, key in ipairs({ BOOKS, OPEN, EXPIRY, ORPHANS, ORPHANED, RPM, TPM, LEASES }) do
      call('PEXPIRE', key, KEPT)
    end
  end
end

if NOT_AFTER >= 0 and now > NOT_AFTER then
  keep()
  return { LATE, server, now }
end
for i = 1, NEEDS do
  if now < ARGV[9 + 5 * i] + 0 or now >= ARGV[10 + 5 * i] + 0 then
    keep()
    return { OUTSIDE, server, now }
  end
end

-- ---- What expired is charged in full. A day later its record goes, and its charge stays orphaned: it was never settled here ----

local first = call('ZRANGE', EXPIRY, '0', '0', 'WITHSCORES')
if first[2] and first[2] + 0 <= now then
  due = call('ZRANGEBYSCORE', EXPIRY, '-inf', NOW, 'LIMIT', 0, SWEEP)
  for i, id in ipairs(due) do
    records[i] = call('HGET', OPEN, id) or ''
    for field, amount in string.gmatch(records[i], '([kw][%w.]+)=(%d+)') do
      if not counters[field] then
        local text = call('HGET', BOOKS, field)
        counters[field] = text and counter_of(text) or nil
      end
      local counter = counters[field]
      if counter then
        counter.held = less(counter.held, amount + 0)
        counter.used = add(counter.used, amount + 0)
        counter.orphaned = add(counter.orphaned, amount + 0)
        changed[field] = true
      end
    end
  end
end
if orphans then old = call('ZRANGEBYSCORE', ORPHANED, '-inf', digits(now - DAY), 'LIMIT', 0, SWEEP) end

-- ---- Counters ----

local missing, short = { NO_BOOKS, server }, { SHORT, server }
for i = 1, NEEDS do
  local counter = counters[fields[i]]
  if not counter then
    missing[#missing + 1] = i - 1
  elseif free(counter, limits[i]) < amounts[i] then
    short[#short + 1] = i - 1
    put_standing(short, i)
  end
end
if #missing > 2 or #short > 2 then
  keep()
  return #missing > 2 and missing or short
end

-- ---- Rates ----

-- The full rate that has to be waited for longest, and for how long. What never fits is waited for longer than anything; a place among what runs
-- has no time, so it is told only when nothing else is full.
local full, wait
local function is_full(rate, needed)
  if not full or wait ~= NEVER and (needed == NEVER or needed > wait) then full, wait = rate, needed end
end

local requests, entries = 0, 0
if RPM_LIMIT >= 0 then
  requests, entries = logged()
  if requests >= RPM_LIMIT then
    -- The newest admission that must have left before there is room for one more.
    is_full(REQUESTS, RPM_LIMIT > 0 and call('LINDEX', RPM, digits(RPM_LIMIT - 1)) + MINUTE - now or NEVER)
  end
end

local taken, total, oldest, past, started = 0, 0, SECOND, {}, false
if TPM_LIMIT >= 0 then
  local kept = call('HMGET', TPM, 'total', 'oldest', digits(SECOND))
  started = kept[1] and true
  total, oldest, taken = tonumber(kept[1] or 0), tonumber(kept[2] or SECOND), tonumber(kept[3] or 0)
  local seconds
  if oldest < SECOND - TOKEN_SECONDS then
    seconds, total, past = token_seconds()
    oldest = seconds[1] and seconds[1][1] or SECOND
  end
  if total + TOKENS > TPM_LIMIT then
    local needed, left = NEVER, total
    if TOKENS <= TPM_LIMIT then
      for _, second in ipairs(seconds or token_seconds()) do
        left = left - second[2]
        needed = token_leaves(second[1])
        if left + TOKENS <= TPM_LIMIT then break end
      end
    end
    is_full(TOKENS_RATE, needed)
  end
end

local running = 0
if RUNNING_LIMIT >= 0 and not full then
  running = call('ZCOUNT', LEASES, '(' .. NOW, '+inf')
  if running >= RUNNING_LIMIT then is_full(CONCURRENCY, NEVER) end
end

if full then
  local answer = { RATE_LIMITED, server, full, wait }
  put_rates(answer, requests)
  keep()
  return answer
end

-- ---- It fits: only writes from here on, but for the reset of a minute's tokens to which nothing is added ----

for i = 1, NEEDS do
  local field = fields[i]
  local counter = counters[field]
  counter.held = add(counter.held, amounts[i])
  changed[field] = true
end
local record = TPM_LIMIT >= 0 and format('%s t.%d=%d', TAKES, SECOND, TOKENS) or TAKES
local expires = digits(min(now + EXPIRES_AFTER, MOST))

keep()
call('HSET', OPEN, ID, record)
call('ZADD', EXPIRY, expires, ID)
if not first[1] then
  call('PEXPIRE', OPEN, KEPT)
  call('PEXPIRE', EXPIRY, KEPT)
end
local answer = { ADMITTED, server, NEVER, NEVER, NEVER, NEVER }
if RPM_LIMIT >= 0 then
  if call('LPUSH', RPM, NOW) == 1 then call('PEXPIRE', RPM, KEPT) end
  if entries > requests then call('LTRIM', RPM, '0', digits(requests)) end
  answer[3], answer[4] = RPM_LIMIT - requests - 1, MINUTE
end
if TPM_LIMIT >= 0 then
  call('HSET', TPM, digits(SECOND), digits(taken + TOKENS), 'total', digits(total + TOKENS), 'oldest', digits(oldest))
  if #past > 0 then call('HDEL', TPM, unpack(past)) end
  if not started then call('PEXPIRE', TPM, KEPT) end
  answer[5], answer[6] = TPM_LIMIT - total - TOKENS, token_leaves(SECOND)
  if TOKENS == 0 and taken == 0 then
    answer[6] = 0
    for _, second in ipairs(token_seconds()) do
      if second[2] > 0 then answer[6] = token_leaves(second[1]) end
    end
  end
end
if RUNNING_LIMIT >= 0 then
  call('ZREMRANGEBYSCORE', LEASES, '-inf', NOW)
  call('ZADD', LEASES, digits(now + LEASE), ID)
  if running == 0 then call('PEXPIRE', LEASES, KEPT) end
end
for i = 1, NEEDS do put_standing(answer, i) end
return answer
