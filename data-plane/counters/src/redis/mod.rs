//! Counters in Redis, for as many nodes as share it.
//!
//! Every decision is one script on the one server that has the key, in one round trip on a connection that all requests share. Redis is trusted to
//! decide one thing at a time and to keep nothing: what is lost begins a new life, whose epoch the ledger numbers, and gives nothing back.
//!
//! * `key_names`: how keys, fields and ids are spelled; `scripts`: what is called; `reply`: what it answers
//! * `settings`: addresses and accounts; `link`: a connection; `node`: a server; `shards`: all of them
//! * `call`: one question, asked until there is an answer or the time is up; `store`: the questions; `cooldowns`: those about providers

mod call;
mod cooldowns;
mod key_names;
mod link;
mod lives;
mod node;
mod reply;
mod scripts;
mod settings;
mod shards;
mod store;

use std::fmt;
use std::sync::Arc;

use keyforge_runtime::shutdown::Shutdown;
#[cfg(feature = "given-clock")]
use keyforge_shared::clock::Clock;
use redis::Cmd;
use tokio::sync::watch;

use self::lives::Lives;
use self::scripts::Scripts;
use self::settings::Connector;
pub use self::settings::{RedisSettings, RedisStartError};
use self::shards::{Overseer, Shards};

/// The counter store in Redis. Its tasks end when it is dropped.
pub struct RedisCounters {
    shards: Arc<Shards>,
    scripts: Arc<Scripts>,
    lives: Lives,
    time: Time,
    _overseer: Overseer,
}

/// Where scripts take the time from.
enum Time {
    /// The server.
    Server,
    /// A clock of this process.
    #[cfg(feature = "given-clock")]
    Given(Arc<dyn Clock>),
}

impl Time {
    /// Adds the time to a call that brings its own.
    fn put(&self, command: &mut Cmd) {
        match self {
            Self::Server => {
                let _nothing_to_add = command;
            }
            #[cfg(feature = "given-clock")]
            Self::Given(clock) => {
                command.arg(clock.now().millis());
            }
        }
    }

    fn is_server(&self) -> bool {
        matches!(self, Self::Server)
    }
}

impl RedisCounters {
    /// A store on the Redis that the settings lead to. A server that cannot be reached is no error: the store is unavailable until it is, and one
    /// warning says so.
    ///
    /// # Errors
    /// [`RedisStartError`] for what no waiting mends.
    pub async fn start(settings: RedisSettings, shutdown: &Shutdown) -> Result<Self, RedisStartError> {
        Self::begin(settings, shutdown, Scripts::on_server_clock(), Time::Server).await
    }

    /// A store that tells the time by `clock` and not by the server's, for tests: all that share a key need the same clock.
    ///
    /// # Errors
    /// As [`Self::start`].
    #[cfg(feature = "given-clock")]
    pub async fn start_on_clock(
        settings: RedisSettings,
        shutdown: &Shutdown,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RedisStartError> {
        Self::begin(settings, shutdown, Scripts::on_given_clock(), Time::Given(clock)).await
    }

    /// Whether every key can be decided about, as far as is known.
    #[must_use]
    pub fn availability(&self) -> watch::Receiver<bool> {
        self.shards.availability()
    }

    async fn begin(
        settings: RedisSettings,
        shutdown: &Shutdown,
        scripts: Scripts,
        time: Time,
    ) -> Result<Self, RedisStartError> {
        let lives = Lives::new().map_err(RedisStartError::Randomness)?;
        let scripts = Arc::new(scripts);
        let cluster = settings.cluster;
        let (connector, addresses) = Connector::new(settings)?;
        let (shards, overseer) = Shards::start(connector, addresses, cluster, Arc::clone(&scripts), shutdown).await?;
        Ok(Self { shards, scripts, lives, time, _overseer: overseer })
    }
}

impl fmt::Debug for RedisCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCounters").finish_non_exhaustive()
    }
}
