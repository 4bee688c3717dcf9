//! What scripts answer, read back.
//!
//! Each script answers a flat list whose first number says what it is. Anything else than what a script can say is an unavailable store: nobody
//! may act on it.

use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::LifeId;
use redis::Value;

use crate::reserve::{Admission, Rate, RateLeft, RateLimited, RatesLeft, Standing, Verdict};
use crate::settle::Settled;
use crate::store::{CounterError, Outage};

/// One script's answer.
pub(super) struct Reply(Vec<Value>);

impl Reply {
    pub(super) fn new(value: Value) -> Result<Self, CounterError> {
        match value {
            Value::Array(items) => Ok(Self(items)),
            _ => Err(nonsense("an answer that is no list")),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A number that is never negative.
    pub(super) fn number(&self, index: usize) -> Result<u64, CounterError> {
        self.optional(index)?.ok_or_else(|| nonsense("a negative number"))
    }

    /// A number, for which -1 stands when there is none. Numbers that were stored come back as texts.
    fn optional(&self, index: usize) -> Result<Option<u64>, CounterError> {
        match self.0.get(index) {
            Some(Value::Int(-1)) => Ok(None),
            Some(Value::Int(number)) => u64::try_from(*number).map(Some).map_err(|_| nonsense("a negative number")),
            Some(_) => self.text(index)?.parse().map(Some).map_err(|_| nonsense("a text for a number")),
            None => Err(nonsense("an answer that is too short")),
        }
    }

    pub(super) fn text(&self, index: usize) -> Result<&str, CounterError> {
        match self.0.get(index) {
            Some(Value::BulkString(bytes)) => std::str::from_utf8(bytes).map_err(|_| nonsense("a text that is none")),
            Some(Value::SimpleString(text)) => Ok(text),
            _ => Err(nonsense("an answer without a text where one belongs")),
        }
    }

    pub(super) fn life(&self, index: usize) -> Result<LifeId, CounterError> {
        life(self.text(index)?)
    }

    fn millis(&self, index: usize) -> Result<Timestamp, CounterError> {
        Ok(Timestamp::from_millis(i64::try_from(self.number(index)?).unwrap_or(i64::MAX)))
    }

    fn standing(&self, from: usize) -> Result<Standing, CounterError> {
        Ok(Standing {
            free: self.number(from)?,
            used: self.number(from + 1)?,
            held: self.number(from + 2)?,
            orphaned: self.number(from + 3)?,
            elsewhere: self.number(from + 4)?,
        })
    }

    fn rate_left(&self, from: usize) -> Result<Option<RateLeft>, CounterError> {
        let (remaining, reset) = (self.optional(from)?, self.optional(from + 1)?);
        Ok(remaining.zip(reset).map(|(remaining, reset)| RateLeft { remaining, reset: Duration::from_millis(reset) }))
    }

    fn rates_left(&self, from: usize) -> Result<RatesLeft, CounterError> {
        Ok(RatesLeft { requests: self.rate_left(from)?, tokens: self.rate_left(from + 2)? })
    }

    fn index(&self, at: usize) -> Result<usize, CounterError> {
        usize::try_from(self.number(at)?).map_err(|_| nonsense("an index that is none"))
    }
}

/// What `reserve` said.
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    /// The server's clock.
    pub(super) clock: Timestamp,
    /// The key's own time, if it is later than the question allowed.
    pub(super) late_at: Option<Timestamp>,
}

/// Fields of a [`Standing`].
const STANDING: usize = 5;

pub(super) fn answer(reply: &Reply) -> Result<Answer, CounterError> {
    let mut late_at = None;
    let verdict = match reply.number(0)? {
        1 => {
            let standings = (6..reply.len()).step_by(STANDING).map(|from| reply.standing(from));
            Verdict::Admitted(Admission { counters: standings.collect::<Result<_, _>>()?, rates: reply.rates_left(2)? })
        }
        2 => Verdict::NotJoined(reply.life(2)?),
        3 => Verdict::NoBooks((2..reply.len()).map(|at| reply.index(at)).collect::<Result<_, _>>()?),
        4 => {
            let short = (2..reply.len()).step_by(1 + STANDING);
            let short = short.map(|at| Ok((reply.index(at)?, reply.standing(at + 1)?)));
            Verdict::Short(short.collect::<Result<_, CounterError>>()?)
        }
        5 => Verdict::RateLimited(RateLimited {
            rate: match reply.number(2)? {
                1 => Rate::Requests,
                2 => Rate::Tokens,
                3 => Rate::Concurrency,
                _ => return Err(nonsense("a rate that there is not")),
            },
            retry_after: reply.optional(3)?.map(Duration::from_millis),
            left: reply.rates_left(4)?,
        }),
        6 => Verdict::Frozen,
        7 => Verdict::Duplicate,
        8 => {
            late_at = Some(reply.millis(2)?);
            Verdict::Late
        }
        9 => Verdict::OutsidePeriod { now: reply.millis(2)? },
        _ => return Err(nonsense("a verdict that there is not")),
    };
    Ok(Answer { verdict, clock: reply.millis(1)?, late_at })
}

/// What `settle` said, or the epoch of the books if it is another.
pub(super) fn settled(reply: &Reply) -> Result<Result<Settled, u32>, CounterError> {
    let over_bound = reply.number(1)? == 1;
    Ok(Ok(match reply.number(0)? {
        1 => Settled::Done { over_bound },
        2 => Settled::AfterExpiry { over_bound },
        3 => Settled::Duplicate,
        4 => Settled::Unknown,
        5 => return Ok(Err(epoch(reply, 1)?)),
        _ => return Err(nonsense("a settlement that there is not")),
    }))
}

pub(super) fn epoch(reply: &Reply, index: usize) -> Result<u32, CounterError> {
    u32::try_from(reply.number(index)?).map_err(|_| nonsense("an epoch that is none"))
}

pub(super) fn life(text: &str) -> Result<LifeId, CounterError> {
    text.parse().map_err(|_| nonsense("a life that is none"))
}

pub(super) fn nonsense(what: &str) -> CounterError {
    CounterError::Unavailable(Outage::unanswered(format!("redis gave {what}; were its keys changed by hand?")))
}
