//! The list of checks that every store passes, on one server and on a cluster.

use std::sync::Arc;

use keyforge_counters::{Counters, RedisCounters};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::{Clock, ManualClock, Timestamp};

use super::{PATIENT, settings};
use crate::conformance::{Harness, START, suite};
use crate::redis_server::{RedisCluster, RedisServer};

/// A store in Redis on a clock that the test holds.
pub struct OnRedis {
    store: Counters,
    clock: Arc<ManualClock>,
}

impl OnRedis {
    pub async fn new(urls: Vec<String>) -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let store = RedisCounters::start_on_clock(settings(urls, PATIENT), &Shutdown::new(), shared).await.unwrap();
        Self::of(store, clock)
    }

    /// A store that was started on this clock.
    pub fn of(store: RedisCounters, clock: Arc<ManualClock>) -> Self {
        Self { store: Counters::Redis(store), clock }
    }
}

impl Harness for OnRedis {
    type Store = Counters;

    fn store(&self) -> &Counters {
        &self.store
    }

    fn set_clock(&self, now: Timestamp) {
        self.clock.set(now);
    }
}

#[tokio::test]
async fn the_store_on_one_server_conforms() {
    let server = RedisServer::start();
    suite(&OnRedis::new(vec![server.url()]).await).await;
}

#[tokio::test]
async fn the_store_on_a_cluster_conforms() {
    let cluster = RedisCluster::start();
    suite(&OnRedis::new(cluster.urls()).await).await;
}
