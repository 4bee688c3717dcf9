//! One server: the link that requests share, and the keeper that looks after it.
//!
//! The keeper holds one connection of the server's pool and shares clones of it. Giving it back and asking for one again makes the pool ping it, and
//! make a new one if it does not answer: that is how a link is looked at, when it was doubted and every few seconds. While a link is doubted or
//! there is none, questions are refused at once. A server that is out of memory is down and keeps its link, since it still settles.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_redis::{Connection, Pool, PoolError};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ConnectionInfo, Value};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::link::{Fault, Link, NoAnswer};
use super::scripts::Scripts;
use super::settings::{CONNECT_WITHIN, Connector, RedisStartError, shown};

/// How often a server is looked for after the first time it was not found; then twice as long each time, up to [`SLOWEST_LOOK`].
const FIRST_LOOK: Duration = Duration::from_millis(100);
const SLOWEST_LOOK: Duration = Duration::from_secs(1);
/// How often a link that works is looked at: whether its server still may not evict, which no script can ask for cheaply, and has memory. Only this
/// says that there is memory again: at the limit every other reservation fits, and each would be told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// One server.
pub(super) struct Node {
    address: ConnectionInfo,
    name: String,
    cluster: bool,
    pool: Pool,
    scripts: Arc<Scripts>,
    link: watch::Sender<Option<Arc<Link>>>,
    /// What the log says of it, and whether every question can be asked: so until something else was said.
    up: AtomicBool,
    /// Wakes the keeper.
    look: Arc<Notify>,
    /// Told when the link comes or goes, or what can be asked changes.
    changed: Arc<Notify>,
}

impl Node {
    pub(super) fn new(
        connector: &Connector,
        address: ConnectionInfo,
        cluster: bool,
        scripts: &Arc<Scripts>,
        changed: &Arc<Notify>,
    ) -> Result<Arc<Self>, RedisStartError> {
        let look = Arc::new(Notify::new());
        let pool = connector.pool(&address, Arc::clone(&look))?;
        Ok(Arc::new(Self {
            name: shown(&address),
            address,
            cluster,
            pool,
            scripts: Arc::clone(scripts),
            link: watch::Sender::new(None),
            up: AtomicBool::new(true),
            look,
            changed: Arc::clone(changed),
        }))
    }

    pub(super) fn address(&self) -> &ConnectionInfo {
        &self.address
    }

    /// Host and port, for logs.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The link, if there is one that nobody doubts.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.borrow().as_ref().filter(|link| !link.is_doubted()).map(Arc::clone)
    }

    /// Whether there is a link, and nothing that it cannot be asked.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire) && self.link().is_some()
    }

    /// The server said that its memory is full. What gives something back is still asked, until the keeper finds memory or nothing at all.
    pub(super) fn is_out_of_memory(&self, reason: &dyn Display) {
        self.goes_down(reason);
    }

    /// Nobody uses this link until the keeper has looked at it.
    pub(super) fn doubt(&self, link: &Arc<Link>, reason: &dyn Display) {
        let is_current = self.link.borrow().as_ref().is_some_and(|current| Arc::ptr_eq(current, link));
        if link.doubt() && is_current {
            self.goes_down(reason);
            self.changed.notify_one();
            self.look.notify_one();
        }
    }

    /// Asks this server something that no request waits for.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Fault> {
        let deadline = Instant::now() + CONNECT_WITHIN;
        let answer = match self.link() {
            Some(link) => link.ask(command, deadline).await,
            None => {
                let mut connection = self.connection().await?;
                let answer = timeout_at(deadline, command.query_async(&mut *connection)).await;
                answer.map_or(Err(NoAnswer::NotInTime), |answer| answer.map_err(NoAnswer::Said))
            }
        };
        answer.map_err(|error| match error {
            NoAnswer::NotInTime => Fault::Passing(format!("no answer within {CONNECT_WITHIN:?}")),
            NoAnswer::Said(error) => Fault::of(&self.name, &error),
        })
    }

    /// Gets a connection that works and shares it with the requests.
    pub(super) async fn connect(&self) -> Result<Connection, Fault> {
        let (link, found) = match self.inspected().await {
            Ok((link, held, full)) => (Some(link), Ok((held, full))),
            Err(fault) => (None, Err(fault)),
        };
        self.link.send_replace(link);
        self.changed.notify_one();
        let (held, full) = found?;
        match full {
            Some(reason) => self.goes_down(&reason),
            None => self.comes_up(),
        }
        Ok(held)
    }

    /// A link, what holds it, and the reason if the server is out of memory.
    async fn inspected(&self) -> Result<(Arc<Link>, Connection, Option<String>), Fault> {
        let held = self.connection().await?;
        let shared = MultiplexedConnection::clone(&held);
        let is_new = self.link.borrow().is_none();
        let link = Link::inspect(shared, &self.name, self.cluster, is_new.then_some(&*self.scripts)).await?;
        let full = link.out_of_memory(&self.name).await?;
        Ok((Arc::new(link), held, full))
    }

    /// Keeps the link, for as long as the node is used. `first` is what the first attempt gave, if there was one.
    pub(super) async fn keep(self: Arc<Self>, first: Option<Result<Connection, Fault>>) {
        let mut wait = FIRST_LOOK;
        let mut found = match first {
            Some(found) => found,
            None => self.connect().await,
        };
        loop {
            match found {
                Ok(held) => {
                    wait = FIRST_LOOK;
                    tokio::select! {
                        () = self.look.notified() => {}
                        () = sleep(LOOK_EVERY) => {}
                    }
                    // Back into the pool, which pings it before it is given out again.
                    drop(held);
                }
                Err(fault) => {
                    self.goes_down(&fault);
                    sleep(wait).await;
                    wait = wait.saturating_mul(2).min(SLOWEST_LOOK);
                }
            }
            found = self.connect().await;
        }
    }

    fn goes_down(&self, reason: &dyn Display) {
        if self.up.swap(false, Ordering::AcqRel) {
            tracing::warn!(redis = self.name, %reason, "the counter store is unavailable");
            self.changed.notify_one();
        }
    }

    fn comes_up(&self) {
        if !self.up.swap(true, Ordering::AcqRel) {
            tracing::info!(redis = self.name, "the counter store is available again");
            self.changed.notify_one();
        }
    }

    async fn connection(&self) -> Result<Connection, Fault> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => Fault::of(&self.name, &error),
            PoolError::Timeout(_) => Fault::Passing(format!("no connection within {CONNECT_WITHIN:?}")),
            other => Fault::Passing(other.to_string()),
        })
    }
}
