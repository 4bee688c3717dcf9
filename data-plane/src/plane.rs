//! What every request of a node shares: state, counters, spool, client, limits. Built once, by [`crate::app`].

use std::sync::Arc;
use std::time::Duration;

use keyforge_counters::Counters;
use keyforge_runtime::readiness::Readiness;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::Clock;
use keyforge_shared::network::Networks;
use tokio::sync::{Semaphore, watch};

use crate::audit::{Identity, Spool};
use crate::config::{Limits, UpstreamTimes};
use crate::grants::Grants;
use crate::leases::Leases;
use crate::memberships::Memberships;
use crate::metrics::Metrics;
use crate::pool::Pools;
use crate::replica::Replica;
use crate::request::refuse::Refusals;
use crate::settlements::Settlements;
use crate::upstream::Upstream;

/// What every request of a node shares.
pub struct Plane {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Which node this is.
    pub identity: Identity,
    /// Keys, models, credentials.
    pub replica: Arc<Replica>,
    /// Where reservations are made.
    pub counters: Arc<Counters>,
    /// Whether the counter store can be reached.
    pub store_up: watch::Receiver<bool>,
    /// How long an agent waits for an answer of the counter store, second attempt included.
    pub store_patience: Duration,
    /// Where counters get more from.
    pub grants: Grants,
    /// The epochs that reservations are made in.
    pub memberships: Memberships,
    /// What the counter store is told after the fact.
    pub settlements: Settlements,
    /// What runs under a limit of concurrency.
    pub leases: Leases,
    /// Where attempts are written down.
    pub spool: Spool,
    /// Which credential serves which request.
    pub pools: Pools,
    /// The way to providers.
    pub upstream: Upstream,
    /// What is counted.
    pub metrics: Metrics,
    /// Which refusals are recorded.
    pub refusals: Refusals,
    /// What one request may take.
    pub limits: Limits,
    /// Proxies whose `x-forwarded-for` is believed.
    pub trusted_proxies: Networks,
    /// How long the provider may take.
    pub times: UpstreamTimes,
    /// Room for request bodies, in bytes.
    pub body_room: Arc<Semaphore>,
    /// Whether entries carry digests of bodies.
    pub body_digests: bool,
    /// Owns the tasks that outlive a client.
    pub shutdown: Shutdown,
    /// Whether the node can serve.
    pub readiness: Readiness,
}

impl Plane {
    /// Whether the counter store could be reached a moment ago.
    #[must_use]
    pub fn store_is_up(&self) -> bool {
        *self.store_up.borrow()
    }
}
