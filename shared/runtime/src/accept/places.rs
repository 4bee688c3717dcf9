//! How many connections one address may hold without having shown a certificate, so that one host cannot take all that there are.
//!
//! The table has a place for each address that holds a connection and none besides, so it is bounded by the connections. A flood of refusals is told in
//! the log once a minute, with how many there were.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyforge_shared::network;
use tokio::time::Instant;

/// How often a refusal is told in the log at most.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Hears that a connection was refused for its address. It is called where connections are accepted and must not wait.
pub type OnRefusedAddress = Arc<dyn Fn() + Send + Sync>;

/// The most connections that each address may hold.
#[derive(Clone)]
pub struct PerAddress {
    /// So many at the same time, of an IPv4 address or a /64 network of IPv6. Those that showed a certificate do not count.
    pub most: usize,
    /// Hears of each that is refused.
    pub on_refused: OnRefusedAddress,
}

/// What each address holds.
pub(super) struct Places {
    limit: PerAddress,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    held: HashMap<IpAddr, usize>,
    warned: Option<Instant>,
    /// Refused since then.
    refused: u64,
}

/// A connection's share of what its address may hold. It ends with it.
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Places {
    pub(super) fn new(limit: PerAddress) -> Arc<Self> {
        Arc::new(Self { limit, table: Mutex::default() })
    }

    /// A place for a connection of `peer`; `None` when its address holds all that it may.
    pub(super) fn take(self: &Arc<Self>, peer: SocketAddr) -> Option<Place> {
        let address = network::place(peer.ip());
        {
            let mut table = self.table();
            let held = table.held.get(&address).copied().unwrap_or(0);
            if held < self.limit.most {
                table.held.insert(address, held + 1);
                return Some(Place { places: Arc::clone(self), address });
            }
            table.warn(address, held);
        }
        (self.limit.on_refused)();
        None
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn warn(&mut self, address: IpAddr, held: usize) {
        self.refused = self.refused.saturating_add(1);
        let now = Instant::now();
        if self.warned.is_some_and(|at| now.duration_since(at) < WARN_EVERY) {
            return;
        }
        let refused = std::mem::take(&mut self.refused);
        self.warned = Some(now);
        tracing::warn!(%address, held, refused, "an address holds as many connections as it may; further ones are closed at once");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.table();
        match table.held.get_mut(&self.address) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(table.held.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn an_address_that_holds_all_it_may_keeps_no_other_out_and_leaves_nothing_behind() {
        let refused = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&refused);
        let on_refused: OnRefusedAddress = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let places = Places::new(PerAddress { most: 2, on_refused });
        let take = |peer: &str| places.take(peer.parse().unwrap());
        let (first, second) = (take("192.0.2.1:1").unwrap(), take("[::ffff:192.0.2.1]:2"));
        assert!(second.is_some() && take("192.0.2.1:3").is_none() && take("192.0.2.2:3").is_some());
        let networks = [take("[2001:db8::1]:1"), take("[2001:db8::2]:1")];
        assert!(take("[2001:db8::3]:1").is_none() && take("[2001:db8:0:1::3]:1").is_some());
        drop(first);
        assert!(take("192.0.2.1:4").is_some(), "what has ended is free again");
        drop((second, networks));
        assert!(places.table().held.is_empty());
        let said = places.table().refused;
        assert_eq!((refused.load(Ordering::Relaxed), said), (2, 1), "the first was told in the log");
    }
}
