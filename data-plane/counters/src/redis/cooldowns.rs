//! Cooldowns in Redis: one hash for all gates, so that one round trip tells a node everything, and one for who probes.
//!
//! The scripts are sent whole, since they are short and asked some times a second, not with every request.

use std::time::Duration;

use redis::{Cmd, ErrorKind, FromRedisValue, ServerErrorKind, Value};

use super::reply::nonsense;
use super::{RedisCounters, Time, key_names};
use crate::cooldowns::{Cooldown, CooldownChange, CooldownClass, CooldownStore, KEPT_AFTER, MOST_GATES};
use crate::redis::link::{NoAnswer, is_out_of_memory};
use crate::store::{CounterError, Outage};

const EXCHANGE: &str = concat!(include_str!("lua/cooldown_clock.lua"), include_str!("lua/cooldowns.lua"));
const PROBE: &str = concat!(include_str!("lua/cooldown_clock.lua"), include_str!("lua/probe.lua"));

impl CooldownStore for RedisCounters {
    fn is_shared(&self) -> bool {
        true
    }

    async fn exchange(&self, changes: &[CooldownChange]) -> Result<Vec<Cooldown>, CounterError> {
        let mut command = self.eval(EXCHANGE, &key_names::pool("cooldowns"));
        command.arg(MOST_GATES).arg(millis(KEPT_AFTER));
        for change in changes {
            match change {
                CooldownChange::Cool { gate, class, wait } => {
                    command.arg("c").arg(gate).arg(class.as_str()).arg(millis(*wait));
                }
                CooldownChange::Lift { gate, stamp } => {
                    command.arg("l").arg(gate).arg(*stamp).arg("");
                }
            }
        }
        let answer = self.ask_about_pools(&command).await?;
        let words = Vec::<String>::from_redis_value(answer).map_err(|_| nonsense("cooldowns that are none"))?;
        standing(&words).ok_or_else(|| nonsense("cooldowns that are none"))
    }

    async fn claim_probe(&self, gate: &str, by: &str, lease: Duration) -> Result<bool, CounterError> {
        let mut command = self.eval(PROBE, &key_names::pool("probes"));
        command.arg(gate).arg(millis(lease)).arg(by);
        let answer = self.ask_about_pools(&command).await?;
        bool::from_redis_value(answer).map_err(|_| nonsense("a probe that is none"))
    }
}

impl RedisCounters {
    /// The beginning of a call, up to the time.
    fn eval(&self, script: &str, key: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(1).arg(key);
        match &self.time {
            Time::Server => command.arg(""),
            #[cfg(feature = "given-clock")]
            Time::Given(clock) => command.arg(clock.now().millis()),
        };
        command
    }

    async fn ask_about_pools(&self, command: &Cmd) -> Result<Value, CounterError> {
        let unanswered = |why: String| CounterError::Unavailable(Outage::unanswered(why));
        let linked = self.shards.link(key_names::pool_slot());
        let (node, link) = linked.map_err(|why| CounterError::Unavailable(Outage::not_asked(why)))?;
        match link.ask(command, self.deadline()).await {
            Ok(answer) => Ok(answer),
            Err(NoAnswer::NotInTime) => Err(unanswered("no answer in time".to_owned())),
            Err(NoAnswer::Said(error)) => {
                if let ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask) = error.kind() {
                    self.shards.is_wrong();
                }
                if is_out_of_memory(&error) {
                    node.is_out_of_memory(&error);
                }
                Err(unanswered(error.to_string()))
            }
        }
    }
}

/// Reads what the script gives: the time, then gate and text in turn. A gate whose text says what this version does not know is left out: the others
/// still hold.
fn standing(words: &[String]) -> Option<Vec<Cooldown>> {
    let (now, gates) = words.split_first()?;
    let now: u64 = now.parse().ok()?;
    let one = |pair: &[String]| {
        let [gate, text] = pair else { return None };
        let mut parts = text.split(' ');
        let stamp: u64 = parts.next()?.parse().ok()?;
        let wait = Duration::from_millis(parts.next()?.parse().ok()?);
        let class = CooldownClass::from_word(parts.next()?)?;
        Some(Cooldown {
            gate: gate.clone(),
            class,
            left: Duration::from_millis(stamp.saturating_sub(now)),
            wait,
            stamp,
        })
    };
    Some(gates.chunks(2).filter_map(one).collect())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(1 << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_this_version_does_not_know_hides_no_other_cooldown() {
        let words = ["1000", "one", "2500 2000 throttled", "two", "9000 8000 tired", "three", "900 100 dead"];
        let read = standing(&words.map(str::to_owned)).unwrap();
        let seen: Vec<_> = read.iter().map(|one| (one.gate.as_str(), one.class, one.left.as_millis())).collect();
        assert_eq!(seen, [("one", CooldownClass::Throttled, 1_500), ("three", CooldownClass::Dead, 0)]);
        assert_eq!(standing(&["soon".to_owned()]), None, "without the time nothing can be measured");
    }
}
