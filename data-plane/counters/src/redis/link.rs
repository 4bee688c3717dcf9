//! One connection to one server, and what was found out about that server before it was used.
//!
//! A server that forgets keys, or follows another, is not used at all. Whose data it has is not asked here: that can change between two questions,
//! so every script looks at it for itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, Value};
use tokio::time::{Instant, timeout_at};

use super::scripts::Scripts;
use super::settings::{CONNECT_WITHIN, RedisStartError};

/// A script that does nothing, refused by a server that would refuse to reserve.
const TAKES_NOTHING: &str = "#!lua\nreturn 1";

/// The oldest major version whose scripts behave as ours need.
const OLDEST_VERSION: u32 = 7;

/// Why a server cannot be used now.
#[derive(Debug)]
pub(super) enum Fault {
    /// Somebody has to change something.
    Lasting(RedisStartError),
    /// It may pass by itself.
    Passing(String),
}

impl Fault {
    pub(super) fn of(address: &str, error: &RedisError) -> Self {
        let refused = matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"));
        if refused || error.kind() == ErrorKind::AuthenticationFailed {
            let (address, cause) = (address.to_owned(), error.to_string());
            return Self::Lasting(RedisStartError::Credentials { address, cause });
        }
        Self::Passing(error.to_string())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lasting(error) => error.fmt(f),
            Self::Passing(reason) => f.write_str(reason),
        }
    }
}

/// Why a call has no answer.
pub(super) enum NoAnswer {
    /// It did not come in time; the call may have been done.
    NotInTime,
    /// The server, or the connection, said why.
    Said(RedisError),
}

/// A connection that requests share, each with one round trip.
pub(super) struct Link {
    connection: MultiplexedConnection,
    /// Set once an answer did not come or the connection failed: until it was looked at, nobody waits for it.
    doubted: AtomicBool,
    made: Instant,
    /// When the first question was asked that came after the latest answer, in microseconds since the link was made; 0 when there is none.
    waiting_since: AtomicU64,
    /// The server's clock when the link was made, in milliseconds, as far as its answers tell.
    clock_at_start: AtomicI64,
}

impl Link {
    /// Looks at the server behind a connection, which is not used for anything else before, and gives it the scripts that it may not know.
    pub(super) async fn inspect(
        mut connection: MultiplexedConnection,
        address: &str,
        cluster: bool,
        unknown: Option<&Scripts>,
    ) -> Result<Self, Fault> {
        let mut questions = redis::pipe();
        questions.cmd("INFO").cmd("TIME");
        let asking = async {
            let facts = questions.query_async::<(String, (i64, i64))>(&mut connection).await?;
            if let Some(scripts) = unknown {
                let mut loading = redis::pipe();
                for script in scripts.all() {
                    loading.add_command(script.load()).ignore();
                }
                loading.query_async::<()>(&mut connection).await?;
            }
            Ok(facts)
        };
        let (info, (seconds, micros)) = match timeout_at(Instant::now() + CONNECT_WITHIN, asking).await {
            Ok(Ok(facts)) => facts,
            Ok(Err(error)) => return Err(Fault::of(address, &error)),
            Err(_elapsed) => return Err(Fault::Passing(format!("no answer within {CONNECT_WITHIN:?}"))),
        };
        check(&info, address, cluster)?;
        let clock = seconds.saturating_mul(1_000).saturating_add(micros / 1_000);
        Ok(Self {
            connection,
            doubted: AtomicBool::new(false),
            made: Instant::now(),
            waiting_since: AtomicU64::new(0),
            clock_at_start: AtomicI64::new(clock),
        })
    }

    /// Asks whether the server would reserve: nothing when it does, its own words when it has no memory left, in which it still settles.
    pub(super) async fn out_of_memory(&self, address: &str) -> Result<Option<String>, Fault> {
        let mut question = redis::cmd("EVAL");
        question.arg(TAKES_NOTHING).arg(0);
        match self.ask(&question, Instant::now() + CONNECT_WITHIN).await {
            Ok(_) => Ok(None),
            Err(NoAnswer::Said(error)) if is_out_of_memory(&error) => Ok(Some(error.to_string())),
            Err(NoAnswer::Said(error)) => Err(Fault::of(address, &error)),
            Err(NoAnswer::NotInTime) => Err(Fault::Passing(format!("no answer within {CONNECT_WITHIN:?}"))),
        }
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    /// Answers whether nobody doubted it before.
    pub(super) fn doubt(&self) -> bool {
        !self.doubted.swap(true, Ordering::AcqRel)
    }

    /// Sends a command and waits for its answer, at most until `deadline`.
    pub(super) async fn ask(&self, command: &Cmd, deadline: Instant) -> Result<Value, NoAnswer> {
        let mut connection = self.connection.clone();
        // Whoever finds another's moment leaves it: a server that stands still is known by the first that it did not answer.
        let asked = self.micros().max(1);
        let _earlier = self.waiting_since.compare_exchange(0, asked, Ordering::AcqRel, Ordering::Acquire);
        match timeout_at(deadline, command.query_async(&mut connection)).await {
            Ok(answer) => {
                self.waiting_since.store(0, Ordering::Release);
                answer.map_err(NoAnswer::Said)
            }
            Err(_elapsed) => Err(NoAnswer::NotInTime),
        }
    }

    /// For how long the server has been asked and has answered nobody.
    pub(super) fn silent_for(&self) -> Duration {
        match self.waiting_since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => Duration::from_micros(self.micros().saturating_sub(since)),
        }
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Learns what the server's clock showed when it gave an answer that has just arrived. Taking it for the present makes it seem earlier than it
    /// is, by no more than an answer may take.
    pub(super) fn learn_clock(&self, shown: Timestamp) {
        let elapsed = i64::try_from(self.made.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.clock_at_start.store(shown.millis().saturating_sub(elapsed), Ordering::Relaxed);
    }

    /// What the server's clock shows now, as far as its last answer tells.
    pub(super) fn clock(&self) -> Timestamp {
        let elapsed: Duration = self.made.elapsed();
        Timestamp::from_millis(self.clock_at_start.load(Ordering::Relaxed)).saturating_add(elapsed)
    }
}

/// Whether the server refused because its memory is full. What gives something back still works on it.
pub(super) fn is_out_of_memory(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

/// Whether a connection that failed in this way is to be looked at.
pub(super) fn is_broken(error: &RedisError) -> bool {
    use redis::ServerErrorKind::{BusyLoading, MasterDown, ReadOnly};
    error.is_unrecoverable_error()
        || error.is_io_error()
        || matches!(error.kind(), ErrorKind::Server(BusyLoading | MasterDown | ReadOnly))
}

/// What `INFO` has to say before a server is used.
fn check(info: &str, address: &str, cluster: bool) -> Result<(), Fault> {
    let facts: HashMap<_, _> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    let fact = |name| facts.get(name).copied().unwrap_or_default();
    let address = || address.to_owned();
    let unsupported = |cause: String| Fault::Lasting(RedisStartError::Unsupported { address: address(), cause });

    let version = fact("redis_version");
    if version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_none_or(|major| major < OLDEST_VERSION)
    {
        return Err(unsupported(format!(
            "its version is {version:?}, and {OLDEST_VERSION}.0 is the oldest that can be used"
        )));
    }
    if fact("master_replid").is_empty() {
        return Err(unsupported("it tells no master_replid, so a loss of its data would not be noticed".to_owned()));
    }
    let is_cluster = fact("cluster_enabled") == "1";
    if is_cluster != cluster {
        return Err(Fault::Lasting(RedisStartError::Cluster { address: address(), is_cluster }));
    }
    if fact("role") != "master" {
        return Err(Fault::Lasting(RedisStartError::Replica { address: address() }));
    }
    let policy = fact("maxmemory_policy");
    if policy != "noeviction" {
        return Err(Fault::Lasting(RedisStartError::Eviction { address: address(), policy: policy.to_owned() }));
    }
    if fact("loading") == "1" {
        return Err(Fault::Passing("it is loading its data".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(changes: &[(&str, &str)]) -> String {
        let facts = [
            ("redis_version", "7.0.15"),
            ("master_replid", "0123456789abcdef"),
            ("role", "master"),
            ("maxmemory_policy", "noeviction"),
            ("cluster_enabled", "0"),
            ("loading", "0"),
        ];
        let changed = |name| changes.iter().find(|(changed, _)| *changed == name).map(|(_, value)| *value);
        facts.map(|(name, value)| format!("{name}:{}\r\n", changed(name).unwrap_or(value))).concat()
    }

    #[test]
    fn a_primary_that_keeps_what_it_has_is_used() {
        assert!(check(&info(&[]), "a:1", false).is_ok());
        assert!(check(&info(&[("cluster_enabled", "1")]), "a:1", true).is_ok());
    }

    #[test]
    fn a_server_that_could_forget_is_refused_by_name() {
        for (fact, value, words) in [
            ("maxmemory_policy", "allkeys-lru", "a:1 has maxmemory-policy allkeys-lru: set it to noeviction"),
            ("role", "slave", "a:1 is a replica"),
            ("redis_version", "6.2.1", "7.0 is the oldest"),
            ("redis_version", "", "7.0 is the oldest"),
            ("master_replid", "", "master_replid"),
            ("cluster_enabled", "1", "is a node of a cluster: set cluster to true"),
        ] {
            let fault = check(&info(&[(fact, value)]), "a:1", false).unwrap_err();
            assert!(matches!(fault, Fault::Lasting(_)) && fault.to_string().contains(words), "{fault}");
        }
        assert!(matches!(check(&info(&[("loading", "1")]), "a:1", false), Err(Fault::Passing(_))));
    }
}
