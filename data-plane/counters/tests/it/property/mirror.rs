//! What the books of one key must be, derived anew from the list of its reservations each time.
//!
//! It hears every answer that a store gives, also those that the network then loses. It knows nothing of how a store keeps its books.

use std::collections::BTreeMap;

use keyforge_counters::{
    CounterState, Grant, GrantSet, Need, Rate, RateLimited, ReservationId, Reserve, Settled, Verdict,
};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::LifeId;
use keyforge_shared::limit::{CounterId, Dimension};

const MINUTE: i64 = 60_000;
pub const DAY: i64 = 24 * 60 * MINUTE;

/// A reservation as the store must know it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub takes: Vec<(CounterId, u64)>,
    /// When it expires, while it is neither settled nor cancelled.
    pub expires: Option<i64>,
    /// When it was settled or cancelled.
    over: i64,
    /// Whether the books had forgotten it by then: they never saw what it cost.
    missed: bool,
}

impl Entry {
    /// Whether it is charged or held for want of a settlement.
    pub fn is_unsettled(&self) -> bool {
        self.expires.is_some() || self.missed
    }
}

/// One admission that counts for the rates of its key.
#[derive(Clone, Debug)]
struct Pace {
    id: ReservationId,
    at: i64,
    tokens: u64,
    /// Until when it counts as running; none once it has ended.
    runs_until: Option<i64>,
    /// When the store last wrote down that it is over.
    over: Option<i64>,
}

/// One key.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// The present life of the books, once anybody was told.
    pub life: Option<LifeId>,
    pub epoch: u32,
    pub frozen: bool,
    /// The key's own time in milliseconds.
    pub latest: i64,
    grants: BTreeMap<CounterId, (u64, Grant)>,
    serial: u64,
    floor: u64,
    pub entries: BTreeMap<ReservationId, Entry>,
    /// All limited admissions there ever were.
    pace: Vec<Pace>,
    /// How many of them the store may have lost.
    lost: usize,
    /// Until when the store may still know what was over: it has old data.
    uncertain_until: i64,
}

macro_rules! hold {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}
pub(super) use hold;

fn millis(time: Timestamp) -> i64 {
    time.millis()
}

fn count<'a>(pace: impl Iterator<Item = &'a Pace>) -> u64 {
    u64::try_from(pace.count()).unwrap()
}

fn in_a_minute(pace: &[Pace], now: i64) -> u64 {
    count(pace.iter().filter(|pace| now - pace.at < MINUTE))
}

fn running(pace: &[Pace], now: i64) -> u64 {
    count(pace.iter().filter(|pace| pace.runs_until.is_some_and(|until| until > now)))
}

impl Mirror {
    pub fn new() -> Self {
        Self {
            life: None,
            epoch: 0,
            frozen: false,
            latest: i64::MIN,
            grants: BTreeMap::new(),
            serial: 0,
            floor: 0,
            entries: BTreeMap::new(),
            pace: Vec::new(),
            lost: 0,
            uncertain_until: i64::MIN,
        }
    }

    /// The books begin a new life, whose name is not known yet.
    pub fn begin(&mut self) {
        (self.life, self.epoch, self.serial, self.floor) = (None, 0, 0, 0);
        self.grants.clear();
        self.entries.clear();
    }

    /// The store lost what it knew of the rates or of the time, or knows what it knew long ago.
    pub fn forget_pace(&mut self, has_old_data: bool) {
        self.lost = self.pace.len();
        if has_old_data {
            let newest = self.pace.iter().map(|pace| pace.at.max(pace.runs_until.unwrap_or(0))).max();
            self.uncertain_until = newest.map_or(i64::MIN, |newest| newest + 3 * MINUTE);
        }
    }

    pub fn now(&self, clock: Timestamp) -> i64 {
        millis(clock).max(self.latest)
    }

    /// All who ask are told of one life.
    pub fn hear(&mut self, life: LifeId) -> Result<(), String> {
        hold!(
            self.life.is_none_or(|known| known == life),
            "I-6: {life} was told, and the books are of {:?}",
            self.life
        );
        self.life = Some(life);
        Ok(())
    }

    pub fn charge(&self, counter: &CounterId) -> u64 {
        let takes = self.entries.values().flat_map(|entry| &entry.takes);
        takes.filter(|(of, _)| of == counter).map(|(_, amount)| amount).sum()
    }

    fn free(&self, need: &Need) -> Option<u64> {
        let (_, grant) = self.grants.get(&need.counter)?;
        let ceiling = grant.granted.min(need.limit.saturating_sub(grant.elsewhere));
        Some(ceiling.saturating_sub(self.charge(&need.counter)))
    }

    pub fn granted(&mut self, set: &GrantSet) -> Result<(), String> {
        self.hear(set.life)?;
        hold!(self.epoch == 0 || self.epoch == set.epoch, "I-6: epoch {} opened in books of {}", set.epoch, self.epoch);
        self.epoch = set.epoch;
        self.serial = self.serial.max(set.serial);
        for grant in set.grants.iter().filter(|_| set.serial > self.floor) {
            let known = self.grants.entry(grant.counter).or_insert((0, *grant));
            if set.serial > known.0 {
                *known = (set.serial, *grant);
            }
        }
        Ok(())
    }

    /// Counters that the books no longer have were dropped: long past, and with nothing held.
    fn dropped(&mut self, books: &[CounterState]) -> Result<(), String> {
        let gone: Vec<_> = self
            .grants
            .keys()
            .filter(|counter| !books.iter().any(|books| books.counter == **counter))
            .copied()
            .collect();
        for counter in gone {
            let (_, grant) = self.grants[&counter];
            hold!(millis(grant.period.end).saturating_add(DAY) <= self.latest, "{counter:?} was dropped too early");
            self.grants.remove(&counter);
            for entry in self.entries.values_mut() {
                entry.takes.retain(|(of, _)| *of != counter);
            }
        }
        Ok(())
    }

    pub fn clawed_back(&mut self, epoch: u32, serial: u64, holdings: &[(CounterId, u64)]) -> Result<(), String> {
        hold!(
            (epoch, serial) == (self.epoch, self.serial),
            "claw-back of {epoch}.{serial} in {}.{}",
            self.epoch,
            self.serial
        );
        self.floor = serial;
        for (counter, holding) in holdings {
            let charge = self.charge(counter);
            let (_, grant) = self.grants.get_mut(counter).ok_or_else(|| format!("{counter:?} was never granted"))?;
            grant.granted = grant.granted.min(charge);
            hold!(*holding == grant.granted, "I-2: {holding} are held of {counter:?}, and not {}", grant.granted);
        }
        Ok(())
    }

    /// Hears a verdict; answers whether the reservation was taken by it.
    pub fn reserved(&mut self, ask: &Reserve<'_>, verdict: &Verdict, clock: Timestamp) -> Result<bool, String> {
        let now = self.now(clock);
        let moment = Timestamp::from_millis(now);
        let known = self.entries.get(&ask.id).cloned();
        let moves_time = match verdict {
            Verdict::Duplicate | Verdict::NotJoined(_) | Verdict::Frozen => false,
            Verdict::Admitted(_) => known.is_none(),
            _ => true,
        };
        if moves_time {
            self.latest = now;
        }
        match verdict {
            Verdict::Admitted(_) => {
                if let Some(entry) = known {
                    hold!(entry.expires.is_some(), "I-5: {:?} is over and was admitted again", ask.id);
                    let named = ask.needs.is_empty() || ask.epoch == self.epoch;
                    hold!(named, "I-6: whoever is in epoch {} was admitted in {}", ask.epoch, self.epoch);
                    return Ok(false);
                }
                self.admitted(ask, now)?;
                return Ok(true);
            }
            Verdict::NotJoined(life) => {
                hold!(self.epoch == 0 || ask.epoch != self.epoch, "epoch {} is joined", self.epoch);
                self.hear(*life)?;
            }
            Verdict::NoBooks(needs) => {
                for index in needs {
                    let counter = ask.needs[*index].counter;
                    hold!(!self.grants.contains_key(&counter), "I-8: {counter:?} is there");
                }
            }
            Verdict::Short(needs) => {
                for (index, standing) in needs {
                    let need = &ask.needs[*index];
                    let free = self.free(need);
                    hold!(free == Some(standing.free), "I-8: {free:?} are free, and not {standing:?}");
                    hold!(free < Some(need.amount), "I-8: {need:?} fits in {free:?}");
                }
            }
            Verdict::RateLimited(limited) => self.limited(ask, limited, now)?,
            Verdict::Frozen => hold!(self.frozen, "it is not frozen"),
            Verdict::Duplicate => {
                let over = known.is_none_or(|entry| entry.expires.is_none_or(|expires| expires <= now));
                hold!(over, "I-5: {:?} is open", ask.id);
            }
            Verdict::Late => hold!(ask.not_after.is_some_and(|last| moment > last), "it is not late"),
            Verdict::OutsidePeriod { now: told } => {
                hold!(*told == moment, "it is {moment:?}, and {told:?} was told");
                hold!(ask.needs.iter().any(|need| !need.period.contains(moment)), "it is in its periods");
            }
        }
        Ok(false)
    }

    fn admitted(&mut self, ask: &Reserve<'_>, now: i64) -> Result<(), String> {
        hold!(
            ask.needs.is_empty() || self.epoch != 0 && ask.epoch == self.epoch,
            "I-6: admitted in epoch {}",
            ask.epoch
        );
        hold!(!self.frozen, "a frozen key was admitted");
        let moment = Timestamp::from_millis(now);
        hold!(ask.not_after.is_none_or(|last| moment <= last), "a late question was admitted");
        for need in ask.needs {
            hold!(self.free(need) >= Some(need.amount), "I-1: {need:?} does not fit in {:?}", self.free(need));
            hold!(need.period.contains(moment), "I-11: {need:?} at {now}");
        }
        let takes = ask.needs.iter().map(|need| (need.counter, need.amount)).collect();
        let life = i64::try_from(ask.expires_after.as_millis()).unwrap();
        self.entries.insert(ask.id, Entry { takes, expires: Some(now + life), over: 0, missed: false });
        let tokens = ask.rates.tokens.map_or(0, |tokens| tokens.amount);
        let lease = ask.rates.concurrency.map(|concurrency| i64::try_from(concurrency.lease.as_millis()).unwrap());
        // Only who is limited is counted.
        if ask.rates.requests_per_minute.is_some() {
            self.pace.push(Pace {
                id: ask.id,
                at: now,
                tokens,
                runs_until: lease.map(|lease| now + lease),
                over: None,
            });
        }
        self.check_pace(ask, now)
    }

    /// I-10: what the store cannot have lost stays within the limits.
    fn check_pace(&self, ask: &Reserve<'_>, now: i64) -> Result<(), String> {
        let known = &self.pace[self.lost..];
        let (admitted, running) = (in_a_minute(known, now), running(known, now));
        if let Some(limit) = ask.rates.requests_per_minute {
            hold!(admitted <= u64::from(limit), "I-10: {admitted} admissions in 60 s of {limit}");
        }
        if let Some(tokens) = ask.rates.tokens {
            let minute = known.iter().filter(|pace| now - pace.at < MINUTE);
            let taken: u64 = minute.map(|pace| pace.tokens).sum();
            hold!(taken <= tokens.per_minute, "I-10: {taken} tokens in 60 s of {}", tokens.per_minute);
        }
        if let Some(concurrency) = ask.rates.concurrency {
            hold!(running <= u64::from(concurrency.limit), "{running} run at the same time of {}", concurrency.limit);
        }
        Ok(())
    }

    /// I-8 for rates, with all that the store can know.
    fn limited(&self, ask: &Reserve<'_>, limited: &RateLimited, now: i64) -> Result<(), String> {
        if now < self.uncertain_until {
            return Ok(());
        }
        let (rates, known) = (&ask.rates, &self.pace);
        match limited.rate {
            Rate::Requests => {
                let admitted = in_a_minute(known, now);
                let limit = rates.requests_per_minute.map(u64::from);
                hold!(Some(admitted) >= limit, "I-8: {admitted} of {limit:?} were admitted");
            }
            Rate::Tokens => {
                let counted = known.iter().filter(|pace| (now / 1_000) - (pace.at / 1_000) <= 60);
                let taken: u64 = counted.map(|pace| pace.tokens).sum();
                let fits = rates.tokens.is_none_or(|tokens| taken + tokens.amount <= tokens.per_minute);
                hold!(!fits, "I-8: {taken} tokens count: {:?}", rates.tokens);
            }
            Rate::Concurrency => {
                let running = running(known, now);
                let limit = rates.concurrency.map(|concurrency| u64::from(concurrency.limit));
                hold!(Some(running) >= limit, "I-8: {running} of {limit:?} run");
            }
        }
        Ok(())
    }

    pub fn settled(
        &mut self,
        id: ReservationId,
        actual: (u64, bool, Option<u64>),
        answer: Settled,
        clock: Timestamp,
    ) -> Result<(), String> {
        let now = self.now(clock);
        let (cost, counted, tokens) = actual;
        let Some(entry) = self.entries.get_mut(&id) else {
            // It may be remembered from an earlier life.
            hold!(matches!(answer, Settled::Unknown | Settled::Duplicate), "I-5: {answer:?} of an id that is unknown");
            self.entries.insert(id, Entry { takes: Vec::new(), expires: None, over: now, missed: false });
            if answer == Settled::Unknown {
                self.pace.iter_mut().filter(|pace| pace.id == id).for_each(|pace| pace.over = Some(now));
            }
            return Ok(());
        };
        let (done, late) = (Settled::Done { over_bound: false }, Settled::AfterExpiry { over_bound: false });
        let allowed = match entry.expires {
            None if now - entry.over < MINUTE => vec![Settled::Duplicate],
            None => vec![Settled::Duplicate, Settled::Unknown],
            Some(expires) if expires > now => vec![done],
            Some(expires) if expires + DAY > now => vec![done, late],
            Some(_) => vec![done, late, Settled::Unknown],
        };
        hold!(allowed.contains(&answer), "I-5: {answer:?} is not one of {allowed:?}");
        if answer == done || answer == late {
            for (counter, amount) in &mut entry.takes {
                *amount = if counter.dimension == Dimension::Requests { u64::from(counted) } else { cost };
            }
            if let (Some(pace), Some(tokens)) = (self.pace.iter_mut().rfind(|pace| pace.id == id), tokens) {
                pace.tokens = tokens;
            }
        }
        if answer != Settled::Duplicate {
            self.pace.iter_mut().filter(|pace| pace.id == id).for_each(|pace| pace.over = Some(now));
        }
        let was_unsettled = entry.expires.take().is_some();
        entry.missed |= was_unsettled && answer == Settled::Unknown;
        if was_unsettled || answer == Settled::Unknown {
            entry.over = now;
        }
        Ok(())
    }

    /// Whatever a settlement answers, its request no longer runs.
    pub fn ended(&mut self, id: ReservationId) {
        for pace in self.pace.iter_mut().filter(|pace| pace.id == id) {
            pace.runs_until = None;
        }
    }

    pub fn shrunk(
        &mut self,
        id: ReservationId,
        bound: u64,
        tokens: Option<u64>,
        lowered: bool,
        clock: Timestamp,
    ) -> Result<(), String> {
        let now = self.now(clock);
        let Some(entry) = self.entries.get_mut(&id) else {
            hold!(!lowered, "{id:?} was lowered, and it is unknown");
            return Ok(());
        };
        let spend = |counter: &CounterId| counter.dimension == Dimension::Spend;
        let higher = entry.takes.iter().any(|(counter, amount)| spend(counter) && *amount > bound);
        let is_open = entry.expires.is_some_and(|expires| expires > now);
        hold!(lowered || !higher || !is_open, "{id:?} was not lowered");
        if lowered {
            hold!(entry.expires.is_some(), "{id:?} is over, and was lowered");
            for (_, amount) in entry.takes.iter_mut().filter(|(counter, _)| spend(counter)) {
                *amount = (*amount).min(bound);
            }
            if let (Some(pace), Some(tokens)) = (self.pace.iter_mut().rfind(|pace| pace.id == id), tokens) {
                pace.tokens = pace.tokens.min(tokens);
            }
        }
        Ok(())
    }

    pub fn renewed(&mut self, ids: &[ReservationId], lease_millis: i64, clock: Timestamp) {
        let now = self.now(clock);
        let lost = self.lost;
        for (at, pace) in self.pace.iter_mut().enumerate().filter(|(_, pace)| ids.contains(&pace.id)) {
            // Of what it may have lost, the store may also have lost that it is over.
            if at < lost || pace.over.is_none_or(|over| now - over >= MINUTE) {
                pace.runs_until = Some(now + lease_millis);
            }
        }
    }

    /// I-2 and I-5: the books are what the reservations make them.
    pub fn check(&mut self, books: &[CounterState], clock: Timestamp) -> Result<(), String> {
        self.dropped(books)?;
        let now = self.now(clock);
        for books in books {
            let charge = self.charge(&books.counter);
            hold!(books.used + books.held == charge, "I-5: {charge} are charged, and the books say {books:?}");
            hold!(charge <= books.granted, "I-2: {books:?}");
            hold!(books.orphaned <= books.used, "I-2: {books:?}");
            let granted = self.grants.get(&books.counter).map(|(_, grant)| (grant.granted, grant.elsewhere));
            hold!(granted == Some((books.granted, books.elsewhere)), "granted was {granted:?}: {books:?}");
            let sum = |suits: &dyn Fn(&Entry) -> bool| -> u64 {
                let suited = self.entries.values().filter(|entry| suits(entry)).flat_map(|entry| &entry.takes);
                suited.filter(|(of, _)| *of == books.counter).map(|(_, amount)| amount).sum()
            };
            let open = sum(&|entry| entry.expires.is_some_and(|expires| expires > now));
            let unsettled = sum(&Entry::is_unsettled);
            hold!(open <= books.held, "I-2: {open} are open: {books:?}");
            // Also of those that a store has forgotten: this list keeps them.
            let unexplained = books.held + books.orphaned;
            hold!(unexplained == unsettled, "I-2: {unsettled} have no settlement: {books:?}");
        }
        Ok(())
    }
}
