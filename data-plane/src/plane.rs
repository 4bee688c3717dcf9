//! What every request of a node shares: state, counters, spool, client, limits. Built once, by [`crate::app`].

use std::sync::Arc;

use keyforge_runtime::readiness::Readiness;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::Clock;
use tokio::sync::Semaphore;

use crate::audit::{Identity, Spool};
use crate::config::{Limits, UpstreamTimes};
use crate::counters::Counters;
use crate::grants::Grants;
use crate::metrics::Metrics;
use crate::replica::Replica;
use crate::request::refuse::Refusals;
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
    /// Where counters get more from.
    pub grants: Grants,
    /// Where attempts are written down.
    pub spool: Spool,
    /// The way to providers.
    pub upstream: Upstream,
    /// What is counted.
    pub metrics: Metrics,
    /// Which refusals are recorded.
    pub refusals: Refusals,
    /// What one request may take.
    pub limits: Limits,
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
