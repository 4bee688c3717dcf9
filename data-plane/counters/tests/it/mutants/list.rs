//! The mistakes, one at a time.

use crate::property::Rules;

/// A text of a script, and what it becomes.
pub struct Mistake {
    pub name: &'static str,
    pub script: &'static str,
    pub right: &'static str,
    pub wrong: &'static str,
}

/// Rules that nodes and the ledger break, with right scripts.
pub const BROKEN_RULES: &[(&str, Rules)] = &[
    ("nobody cancels after a refusal that followed a lost answer", Rules { cancel_after_doubt: false, ..Rules::KEPT }),
    ("the ledger forgets what it granted to lives that are over", Rules { remember_outstanding: false, ..Rules::KEPT }),
    ("the ledger takes back by whatever claw-back arrives", Rules { compare_serials: false, ..Rules::KEPT }),
    ("a node leaves an epoch with requests open in it", Rules { leave_when_done: false, ..Rules::KEPT }),
];

macro_rules! mistakes {
    ($($name:literal in $script:ident: $right:literal => $wrong:literal;)+) => {
        /// Scripts with one mistake each.
        pub const MISTAKES: &[Mistake] = &[$(
            Mistake { name: $name, script: stringify!($script), right: $right, wrong: $wrong },
        )+];
    };
}

mistakes! {
    // ---- Lives and epochs ----
    "a new life keeps the reservations of the old one" in life:
        "call('UNLINK', BOOKS, OPEN, EXPIRY, ORPHANS, ORPHANED)" => "call('UNLINK', BOOKS)";
    "anybody reserves in any epoch" in reserve:
        "(epoch == '0' or epoch ~= EPOCH)" => "epoch == '0'";
    "an open reservation is answered to another epoch" in reserve:
        "if NEEDS > 0 and (epoch" => "if NEEDS > 0 and call('HEXISTS', OPEN, ID) == 0 and (epoch";
    "all runs are one" in prelude:
        "if ROLE ~= 'master' then" => "RUN = 'run'\nif ROLE ~= 'master' then";
    "the run is that of the server's past" in prelude:
        "master_replid:(%w+)" => "master_replid2:(%w+)";
    "a replica decides" in prelude:
        "if ROLE ~= 'master' then" => "if not ROLE then";
    "a new life belongs to no run" in life:
        "'run', RUN, 'epoch'" => "'run', '', 'epoch'";
    "books of another run are believed in reserve" in reserve:
        "local vacant = books[2] ~= RUN" => "local vacant = not books[2]";
    "books of another run are believed in settle" in settle:
        "local alive = run == RUN" => "local alive = run and true";
    "books of another run are believed in shrink" in shrink:
        "local alive = run == RUN" => "local alive = run and true";
    "books of another run are believed in grant" in grant:
        "if books.run ~= RUN then" => "if not books.run then";
    "books of another run are believed in claw_back" in claw_back:
        "if books.run ~= RUN or books.epoch" => "if not books.run or books.epoch";
    "books of another run are believed in look" in look:
        "if books.run ~= RUN or books.epoch" => "if not books.run or books.epoch";
    "books of another run are not given up" in vacate:
        "if run == RUN and life ~= ARGV[2]" => "if life ~= ARGV[2]";
    "any life is given up" in vacate:
        "if run == RUN and life ~= ARGV[2] then return { life } end" => "";
    "a grant for another life is applied" in grant:
        "if books.life ~= LIFE then return { 2, books.life } end" => "";
    "a grant for another epoch is applied" in grant:
        "books.epoch ~= '0' and books.epoch ~= EPOCH" => "false";
    "a settlement of another epoch is not refused" in settle:
        "if EPOCH ~= '0' and EPOCH ~= epoch then" => "if false then";
    "a shrink of another epoch is not refused" in shrink:
        "if EPOCH ~= '0' and EPOCH ~= epoch then" => "if false then";

    // ---- The ledger's answers ----
    "a grant ignores the serials of its counters" in grant:
        "if above_floor and SERIAL > counter.serial then" => "if above_floor then";
    "a grant ignores the floor" in grant:
        "if above_floor and SERIAL > counter.serial then" => "if SERIAL > counter.serial then";
    "a grant is not remembered" in grant:
        "'serial', digits(max(SERIAL, tonumber(books.serial or 0)))" => "'serial', ARGV[4]";
    "a claw-back makes nothing void" in claw_back:
        "local changes = { 'floor', books.serial }" => "local changes = { 'floor', '0' }";
    "a claw-back lowers no ceiling" in claw_back:
        "counter.grant = string.gsub(counter.grant, '^%d+', digits(granted))" => "";
    "a claw-back gives up what is held" in claw_back:
        "add(counter.used, counter.held)" => "counter.used";
    "a claw-back raises ceilings that a cost went over" in claw_back:
        "min(counter.granted, add(counter.used, counter.held))" => "add(counter.used, counter.held)";
    "a counter is dropped while it holds" in grant:
        "if counter.held == 0 and counter.ends" => "if counter.ends";
    "a counter is dropped by a time that can go back" in grant:
        "counter.ends + DAY <= tm" => "counter.ends + DAY <= clock()";
    "a counter is dropped as its period ends" in grant:
        "counter.ends + DAY <= tm" => "counter.ends <= tm";

    // ---- Admission ----
    "only what is not yet over its limit is refused" in reserve:
        "elseif free(counter, limits[i]) < amounts[i] then" => "elseif free(counter, limits[i]) < 1 then";
    "one counter alone cannot refuse" in reserve:
        "if #missing > 2 or #short > 2 then" => "if #missing > 2 or #short > 8 then";
    "what is held does not count" in reserve:
        "add(counter.used, counter.held))" => "counter.used)";
    "the present limit is not looked at" in reserve:
        "less(min(counter.granted, less(limit, counter.elsewhere)), add(" => "less(counter.granted, add(";
    "what is elsewhere is not looked at" in reserve:
        "less(min(counter.granted, less(limit, counter.elsewhere)), add(" => "less(min(counter.granted, limit), add(";
    "a frozen key reserves" in reserve:
        "if frozen then return { FROZEN, server } end" => "";
    "a new life thaws" in life:
        "    call('HSET', BOOKS, 'frozen', frozen)" => "";
    "delayed questions are admitted" in reserve:
        "if NOT_AFTER >= 0 and now > NOT_AFTER then" => "if false then";
    "a period contains its end" in reserve:
        "now >= ARGV[10 + 5 * i] + 0" => "now > ARGV[10 + 5 * i] + 0";
    "a period begins late" in reserve:
        "if now < ARGV[9 + 5 * i] + 0" => "if now <= ARGV[9 + 5 * i] + 0";
    "time goes back" in reserve:
        "local now = max(server, tm)" => "local now = server";
    "refusals move no time" in reserve:
        "if now > tm or n > 2 then" => "if n > 2 then";

    // ---- Each id once ----
    "a question that is asked again takes again" in reserve:
        "if call('HEXISTS', OPEN, ID) == 1 then" => "if false then";
    "what expired can be admitted again" in reserve:
        "is_remembered(MARKER) or orphans and call('HEXISTS', ORPHANS, ID) == 1" => "is_remembered(MARKER)";
    "what is over can be admitted again" in reserve:
        "over and is_remembered(MARKER) or orphans" => "orphans";
    "a settlement of what is over looks at nothing but what is open" in settle:
        "local seen = is_remembered(MARKER)" => "local seen = false";
    "what was charged in full is never settled" in settle:
        "charged = alive and not seen and call('HGET', ORPHANS, ID)" => "charged = false";
    "a cancellation keeps no delayed question out" in settle:
        "    if seen then return { DUPLICATE, 0 } end\n    remember()\n" => "    if seen then return { DUPLICATE, 0 } end\n";
    "a settlement is not remembered" in settle:
        "remember()\nreturn { charged and" => "return { charged and";

    // ---- Expiry and settlement ----
    "what expired is given back" in reserve:
        "        counter.used = add(counter.used, amount + 0)\n        counter.orphaned = add(counter.orphaned, amount + 0)\n" => "";
    "what expired is not orphaned" in reserve:
        "        counter.orphaned = add(counter.orphaned, amount + 0)\n" => "";
    "nothing expires" in reserve:
        "if first[2] and first[2] + 0 <= now then" => "if false then";
    "a reservation expires a millisecond late" in reserve:
        "first[2] + 0 <= now" => "first[2] + 0 < now";
    "forgetting lowers what is orphaned" in reserve:
        "'-inf', digits(now - DAY), 'LIMIT', 0, SWEEP) end\n" => "'-inf', digits(now - DAY), 'LIMIT', 0, SWEEP) end
for _, id in ipairs(old) do
  for field, amount in string.gmatch(call('HGET', ORPHANS, id), '([kw][%w.]+)=(%d+)') do
    local text = call('HGET', BOOKS, field)
    counters[field] = counters[field] or text and counter_of(text) or nil
    if counters[field] then
      counters[field].orphaned = less(counters[field].orphaned, amount + 0)
      changed[field] = true
    end
  end
end
";
    "what is forgotten is given back" in reserve:
        "'-inf', digits(now - DAY), 'LIMIT', 0, SWEEP) end\n" => "'-inf', digits(now - DAY), 'LIMIT', 0, SWEEP) end
for _, id in ipairs(old) do
  for field, amount in string.gmatch(call('HGET', ORPHANS, id), '([kw][%w.]+)=(%d+)') do
    local text = call('HGET', BOOKS, field)
    counters[field] = counters[field] or text and counter_of(text) or nil
    if counters[field] then
      counters[field].used = less(counters[field].used, amount + 0)
      changed[field] = true
    end
  end
end
";
    "what expired is never forgotten" in reserve:
        "if orphans then old = call(" => "if false then old = call(";
    "what expired is forgotten at once" in reserve:
        "'-inf', digits(now - DAY), 'LIMIT'" => "'-inf', NOW, 'LIMIT'";
    "a settlement charges the bound" in settle:
        "counter.used = add(counter.used, actual)" => "counter.used = add(counter.used, amount)";
    "a settlement leaves the hold" in settle:
        "      counter.held = less(counter.held, amount)\n" => "";
    "a late settlement comes on top of the full charge" in settle:
        "      counter.used = less(counter.used, amount)\n" => "";
    "a late settlement leaves its orphan" in settle:
        "  call('HDEL', ORPHANS, ID)\n" => "";
    "a settled reservation can still expire" in settle:
        "  call('HDEL', OPEN, ID)\n  call('ZREM', EXPIRY, ID)\n" => "";
    "a request that does not count counts" in settle:
        "local amount, actual = amounts[i], COUNTED" => "local amount, actual = amounts[i], 1";
    "a cost above its bound is not told" in settle:
        "if actual > amount then over_bound = 1 end" => "";
    "shrinking raises" in shrink:
        "if bound and amount > bound then" => "if bound and amount ~= bound then";
    "a shrunk reservation is settled at its old bound" in shrink:
        "call('HSET', OPEN, ID, table.concat(rest, ' '))" => "";
    "shrinking lowers no hold" in shrink:
        "counter.held = less(counter.held, amount - bound)" => "";

    // ---- Rates ----
    "one request too many a minute" in reserve:
        "if requests >= RPM_LIMIT then" => "if requests > RPM_LIMIT then";
    "the minute's requests are forgotten beyond the limit" in reserve:
        "if entries > requests then call('LTRIM', RPM, '0', digits(requests)) end" => "call('LTRIM', RPM, 0, max(RPM_LIMIT - 2, 0))";
    "of what is past the oldest alone is left out" in reserve:
        "while present <= all and is_past(present) do past, present = present, 2 * present end" => "if all > 0 and is_past(1) then past, present = 1, 2 end";
    "what is past is found in too large steps" in reserve:
        "while present - past > 1 do" => "while false do";
    "a minute of requests is a millisecond short" in reserve:
        "local MINUTE, SWEEP, NEVER = 60000, 8, -1" => "local MINUTE, SWEEP, NEVER = 59999, 8, -1";
    "a minute of tokens is 60 seconds long" in reserve:
        "local TOKEN_SECONDS = 60" => "local TOKEN_SECONDS = 59";
    "one token too many a minute" in reserve:
        "  if total + TOKENS > TPM_LIMIT then" => "  if total + TOKENS > TPM_LIMIT + 1 then";
    "of the rates that are full the first is waited for" in reserve:
        "if not full or wait ~= NEVER and (needed == NEVER or needed > wait) then" => "if not full then";
    "a settlement leaves its tokens" in settle:
        "if second and TOKENS >= 0 and TOKENS ~= tokens then" => "if false then";
    "a settlement gives its tokens back whole" in settle:
        "add(less(kept[1] + 0, tokens), TOKENS)" => "less(kept[1] + 0, tokens)";
    "a lease outlives its settlement" in settle:
        "call('ZREM', LEASES, ID)" => "";
    "a lease never ends" in reserve:
        "call('ZCOUNT', LEASES, '(' .. NOW, '+inf')" => "call('ZCARD', LEASES)";
    "one too many runs at the same time" in reserve:
        "if running >= RUNNING_LIMIT then" => "if running > RUNNING_LIMIT then";
    "a renewal lets run again what is over" in renew:
        "if not is_remembered(KEYS[6 + i]) then call(" => "if true then call(";
    "a forgotten lease stays forgotten" in renew:
        "call('ZADD', LEASES, ends, ARGV[i])" => "call('ZADD', LEASES, 'XX', ends, ARGV[i])";
}
