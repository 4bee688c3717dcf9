//! The store in Redis, against real servers.

mod cluster;
mod conformance;
mod cost;
mod loss;
mod outage;
mod rights;
mod scripts;
mod start;
mod tls;

use std::time::Duration;

use keyforge_counters::redis::{RedisSettings, RedisStartError};
use keyforge_counters::{
    CounterStore, Grant, GrantSet, Need, Rates, RedisCounters, ReservationId, Reserve, Settled, Settlement, Verdict,
};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::{Clock, SystemClock};
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::{Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Window;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::conformance::{TTL, counter_at, reservation};
use crate::redis_server::{PATIENCE, RedisServer};

/// Long enough for a machine that has other things to do.
pub const PATIENT: Duration = Duration::from_secs(5);

pub fn settings(urls: Vec<String>, timeout: Duration) -> RedisSettings {
    RedisSettings { cluster: urls.len() > 1, urls, username: None, password: None, timeout }
}

async fn start(server: &RedisServer, timeout: Duration) -> Result<RedisCounters, RedisStartError> {
    RedisCounters::start(settings(vec![server.url()], timeout), &Shutdown::new()).await
}

/// Waits until the store can be asked.
async fn comes(available: &mut watch::Receiver<bool>) {
    timeout(PATIENCE, available.wait_for(|available| *available)).await.expect("the store comes back").unwrap();
}

/// Waits until the store knows that it cannot be asked.
async fn goes(available: &mut watch::Receiver<bool>) {
    timeout(PATIENCE, available.wait_for(|available| !available)).await.expect("the store is missed").unwrap();
}

/// A key with one request counter and one spend counter, on the server's own clock.
struct Account<'a> {
    store: &'a RedisCounters,
    key: KeyId,
    needs: Vec<Need>,
}

impl<'a> Account<'a> {
    fn new(store: &'a RedisCounters, key: &str) -> Self {
        let key = KeyId::from_ascii(key.as_bytes()).unwrap();
        let names = [(Dimension::Requests, Window::Total, 1), (Dimension::Spend, Window::Month, 25)];
        let now = SystemClock.now();
        let need = |(dimension, window, amount)| {
            let (counter, period) = counter_at(key, Scope::Key, (dimension, window), now);
            Need { counter, period, limit: 1_000_000, amount }
        };
        Self { store, key, needs: names.map(need).to_vec() }
    }

    /// One who can spend `granted` requests and 25 times that.
    async fn open(store: &'a RedisCounters, key: &str, granted: u64) -> Self {
        let account = Self::new(store, key);
        account.grant(account.life().await, granted).await;
        account
    }

    async fn life(&self) -> LifeId {
        match self.reserve_in(0, 0).await {
            Verdict::NotJoined(life) => life,
            other => panic!("{other:?}"),
        }
    }

    /// Opens epoch 1 of a life.
    async fn grant(&self, life: LifeId, granted: u64) {
        let grant = |need: &Need| Grant {
            counter: need.counter,
            period: need.period,
            granted: granted * need.amount,
            elsewhere: 0,
        };
        let grants = GrantSet { life, epoch: 1, serial: 1, grants: self.needs.iter().map(grant).collect() };
        self.store.grant(self.key, &grants).await.unwrap();
    }

    fn ask(&self, epoch: u32, number: u32) -> Reserve<'_> {
        Reserve {
            id: reservation(number),
            key: self.key,
            epoch,
            needs: &self.needs,
            rates: Rates { requests_per_minute: Some(100_000), ..Rates::default() },
            expires_after: TTL,
            not_after: None,
        }
    }

    async fn reserve_in(&self, epoch: u32, number: u32) -> Verdict {
        self.store.reserve(self.ask(epoch, number)).await.unwrap()
    }

    async fn reserve(&self, number: u32) -> Verdict {
        self.reserve_in(1, number).await
    }

    async fn is_admitted(&self, number: u32) -> bool {
        match self.reserve(number).await {
            Verdict::Admitted(_) => true,
            Verdict::Short(_) => false,
            other => panic!("{other:?}"),
        }
    }

    async fn settle(&self, epoch: u32, id: ReservationId) -> Settled {
        let settlement = Settlement { cost: NanoUsd::new(10), counted: true, tokens: None };
        self.store.settle(self.key, epoch, id, settlement).await.unwrap()
    }

    /// Used and held requests.
    async fn requests(&self) -> (u64, u64) {
        let books = self.store.books(self.key).await.unwrap();
        let requests = books.iter().find(|books| books.counter.dimension == Dimension::Requests);
        requests.map_or((0, 0), |books| (books.used, books.held))
    }

    fn name(&self, suffix: &str) -> String {
        format!("kf1:{{{}}}:{suffix}", self.key.as_str())
    }
}
