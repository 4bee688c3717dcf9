//! The scripts as a counter store: how a question is put, and an answer read.

use std::time::Duration;

use keyforge_counters::{
    Admission, ClawBack, CounterError, CounterState, CounterStore, Freeze, GrantSet, Rate, RateLeft, RateLimited,
    RatesLeft, ReservationId, Reserve, Settled, Settlement, Standing, Verdict,
};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{CivilDay, Window};

use super::{Reply, Scripts, name_of};

fn field(key: KeyId, counter: &CounterId) -> String {
    if counter.key != key {
        return "-".to_owned();
    }
    let scope = if counter.scope == Scope::Key { 'k' } else { 'w' };
    let dimension = if counter.dimension == Dimension::Requests { 'r' } else { 's' };
    let window = ['d', 'w', 'm', 't'][Window::ALL.iter().position(|window| *window == counter.window).unwrap()];
    format!("{scope}{dimension}{window}.{}", counter.first_day.number())
}

fn counter(key: KeyId, field: &str) -> Option<CounterId> {
    let (letters, day) = field.split_once('.')?;
    let letters = letters.as_bytes();
    Some(CounterId {
        key,
        scope: if letters[0] == b'k' { Scope::Key } else { Scope::Workspace },
        dimension: if letters[1] == b'r' { Dimension::Requests } else { Dimension::Spend },
        window: Window::ALL[b"dwmt".iter().position(|letter| *letter == letters[2]).unwrap()],
        first_day: CivilDay::from_number(day.parse().unwrap()),
    })
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn or_none(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "-1".to_owned(), |number| number.to_string())
}

fn rate_left(remaining: &Reply, reset: &Reply) -> Option<RateLeft> {
    let reset = Duration::from_millis(u64::try_from(reset.number()).ok()?);
    Some(RateLeft { remaining: remaining.amount(), reset })
}

fn rates_left(reply: &[Reply]) -> RatesLeft {
    RatesLeft { requests: rate_left(&reply[0], &reply[1]), tokens: rate_left(&reply[2], &reply[3]) }
}

fn standing(reply: &[Reply]) -> Standing {
    Standing {
        free: reply[0].amount(),
        used: reply[1].amount(),
        held: reply[2].amount(),
        orphaned: reply[3].amount(),
        elsewhere: reply[4].amount(),
    }
}

fn verdict(reply: &[Reply]) -> Verdict {
    let index = |reply: &Reply| usize::try_from(reply.number()).unwrap();
    match reply[0].number() {
        1 => Verdict::Admitted(Admission {
            counters: reply[6..].chunks(5).map(standing).collect(),
            rates: rates_left(&reply[2..]),
        }),
        2 => Verdict::NotJoined(reply[2].life()),
        3 => Verdict::NoBooks(reply[2..].iter().map(index).collect()),
        4 => Verdict::Short(reply[2..].chunks(6).map(|need| (index(&need[0]), standing(&need[1..]))).collect()),
        5 => Verdict::RateLimited(RateLimited {
            rate: [Rate::Requests, Rate::Tokens, Rate::Concurrency][index(&reply[2]) - 1],
            retry_after: u64::try_from(reply[3].number()).ok().map(Duration::from_millis),
            left: rates_left(&reply[4..]),
        }),
        6 => Verdict::Frozen,
        7 => Verdict::Duplicate,
        8 => Verdict::Late,
        9 => Verdict::OutsidePeriod { now: Timestamp::from_millis(reply[2].number()) },
        other => panic!("no verdict: {other}"),
    }
}

impl CounterStore for Scripts {
    async fn reserve(&self, ask: Reserve<'_>) -> Result<Verdict, CounterError> {
        let takes = ask.needs.iter().map(|need| format!("{}={}", field(ask.key, &need.counter), need.amount));
        let mut arguments = vec![
            self.next_life(),
            ask.epoch.to_string(),
            name_of(ask.id),
            millis(ask.expires_after),
            or_none(ask.not_after.map(Timestamp::millis)),
            or_none(ask.rates.requests_per_minute),
            or_none(ask.rates.tokens.map(|tokens| tokens.per_minute)),
            ask.rates.tokens.map_or(0, |tokens| tokens.amount).to_string(),
            or_none(ask.rates.concurrency.map(|concurrency| concurrency.limit)),
            millis(ask.rates.concurrency.map_or(Duration::ZERO, |concurrency| concurrency.lease)),
            takes.collect::<Vec<_>>().join(" "),
            ask.needs.len().to_string(),
        ];
        for need in ask.needs {
            arguments.extend([
                field(ask.key, &need.counter),
                need.period.start.millis().to_string(),
                need.period.end.millis().to_string(),
                need.limit.to_string(),
                need.amount.to_string(),
            ]);
        }
        Ok(verdict(&self.run("reserve", ask.key, Some(ask.id), arguments)?.list()))
    }

    async fn settle(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        settlement: Settlement,
    ) -> Result<Settled, CounterError> {
        let arguments = vec![
            epoch.to_string(),
            name_of(id),
            settlement.cost.nanos().to_string(),
            u8::from(settlement.counted).to_string(),
            or_none(settlement.tokens),
            "60000".to_owned(),
        ];
        let reply = self.run("settle", key, Some(id), arguments)?.list();
        let over_bound = reply[1].number() == 1;
        match reply[0].number() {
            1 => Ok(Settled::Done { over_bound }),
            2 => Ok(Settled::AfterExpiry { over_bound }),
            3 => Ok(Settled::Duplicate),
            4 => Ok(Settled::Unknown),
            5 => Err(CounterError::Epoch { key, given: epoch, current: u32::try_from(reply[1].number()).unwrap() }),
            other => panic!("no settlement: {other}"),
        }
    }

    async fn shrink(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        bound: NanoUsd,
        tokens: Option<u64>,
    ) -> Result<bool, CounterError> {
        let arguments = vec![epoch.to_string(), name_of(id), bound.nanos().to_string(), or_none(tokens)];
        let reply = self.run("shrink", key, Some(id), arguments)?.list();
        match reply[0].number() {
            2 => Err(CounterError::Epoch { key, given: epoch, current: u32::try_from(reply[1].number()).unwrap() }),
            lowered => Ok(lowered == 1),
        }
    }

    async fn renew(&self, key: KeyId, ids: &[ReservationId], lease: Duration) -> Result<(), CounterError> {
        let mut arguments = vec![millis(lease), ids.len().to_string()];
        arguments.extend(ids.iter().map(|id| name_of(*id)));
        self.run("renew", key, ids.iter().copied(), arguments).map(drop)
    }

    async fn grant(&self, key: KeyId, set: &GrantSet) -> Result<(), CounterError> {
        if let Some(foreign) = set.grants.iter().find(|grant| grant.counter.key != key) {
            return Err(CounterError::ForeignCounter { key, owner: foreign.counter.key });
        }
        let mut arguments = vec![
            self.next_life(),
            set.life.to_string(),
            set.epoch.to_string(),
            set.serial.to_string(),
            set.grants.len().to_string(),
        ];
        for grant in &set.grants {
            arguments.extend([
                field(key, &grant.counter),
                grant.period.end.millis().to_string(),
                grant.granted.to_string(),
                grant.elsewhere.to_string(),
            ]);
        }
        let reply = self.run("grant", key, None, arguments)?.list();
        match reply[0].number() {
            1 => Ok(()),
            2 => Err(CounterError::Life { key, current: reply[1].life() }),
            3 => {
                let current = u32::try_from(reply[1].number()).unwrap();
                Err(CounterError::Epoch { key, given: set.epoch, current })
            }
            other => panic!("no answer to a grant: {other}"),
        }
    }

    async fn claw_back(&self, key: KeyId) -> Result<Option<ClawBack>, CounterError> {
        let reply = self.run("claw_back", key, None, Vec::new())?.list();
        let [life, epoch, serial, holdings @ ..] = &reply[..] else { return Ok(None) };
        Ok(Some(ClawBack {
            life: life.life(),
            epoch: u32::try_from(epoch.number()).unwrap(),
            serial: serial.amount(),
            holdings: holdings
                .chunks(2)
                .map(|pair| (counter(key, pair[0].text()).unwrap(), pair[1].amount()))
                .collect(),
        }))
    }

    async fn vacate(&self, key: KeyId, life: LifeId) -> Result<LifeId, CounterError> {
        Ok(self.run("vacate", key, None, vec![self.next_life(), life.to_string()])?.list()[0].life())
    }

    async fn freeze(&self, key: KeyId, freeze: Freeze) -> Result<(), CounterError> {
        let what = if freeze.lasting { "1" } else { "2" };
        self.run("freeze", key, None, vec![what.to_owned(), freeze.revision.to_string()]).map(drop)
    }

    async fn unfreeze(&self, key: KeyId, revision: u64) -> Result<bool, CounterError> {
        let answer = self.run("freeze", key, None, vec!["0".to_owned(), revision.to_string()])?.list();
        Ok(answer[0].amount() == 1)
    }

    async fn life(&self, key: KeyId) -> Result<Option<LifeId>, CounterError> {
        let seen = self.run("look", key, None, Vec::new())?.list();
        Ok(seen.first().map(Reply::life))
    }

    async fn books(&self, key: KeyId) -> Result<Vec<CounterState>, CounterError> {
        let seen = self.run("look", key, None, Vec::new())?.list();
        let read = |pair: &[Reply]| {
            let text = pair[1].text();
            let numbers: Vec<_> = text.split(' ').map(|number| number.parse::<u64>().unwrap()).collect();
            let [used, held, orphaned, granted, elsewhere, ..] = numbers[..] else { panic!("no counter: {text}") };
            CounterState { counter: counter(key, pair[0].text()).unwrap(), granted, used, held, orphaned, elsewhere }
        };
        Ok(seen.get(1..).unwrap_or_default().chunks(2).map(read).collect())
    }
}
