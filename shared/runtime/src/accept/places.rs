//! How many connections one peer may hold, so that nobody can take all that there are: an address those that showed no certificate, and whoever has a
//! certificate those that showed it, which may be somebody who was shut out since.
//!
//! The table has a place for each peer that holds a connection and none besides, so it is bounded by the connections. A flood of refusals is told in
//! the log once a minute, with how many there were.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyforge_shared::identity::Identity;
use keyforge_shared::network;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use crate::tls::peer::NamedCertificate;

/// How often a refusal is told in the log at most.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Hears that a connection was refused because its peer holds enough. It is called where connections are accepted and must not wait.
pub type OnRefusedPeer = Arc<dyn Fn() + Send + Sync>;

/// The most connections that each peer may hold at the same time.
#[derive(Clone)]
pub struct PerPeer {
    /// Of an IPv4 address or a /64 network of IPv6. Those that showed a certificate do not count.
    pub of_address: usize,
    /// That showed a certificate of the same process, of which there is another one after each renewal.
    pub of_certificate: usize,
    /// Hears of each that is refused.
    pub on_refused: OnRefusedPeer,
}

/// Who connections are counted for.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Holder {
    Address(IpAddr),
    Process(Identity),
    /// A certificate that names no process.
    Certificate(CertificateDer<'static>),
}

/// What each peer holds.
pub(super) struct Places {
    limit: PerPeer,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    held: HashMap<Holder, usize>,
    warned: Option<Instant>,
    /// Refused since then.
    refused: u64,
}

/// A connection's share of what its peer may hold. It ends with it.
pub(super) struct Place {
    places: Arc<Places>,
    holder: Holder,
}

impl Places {
    pub(super) fn new(limit: PerPeer) -> Arc<Self> {
        Arc::new(Self { limit, table: Mutex::default() })
    }

    /// A place for a connection of `peer`; `None` when its address holds all that it may.
    pub(super) fn take(self: &Arc<Self>, peer: SocketAddr) -> Option<Place> {
        self.take_for(Holder::Address(network::place(peer.ip())), peer, self.limit.of_address)
    }

    fn take_for(self: &Arc<Self>, holder: Holder, peer: SocketAddr, most: usize) -> Option<Place> {
        {
            let mut table = self.table();
            let held = table.held.get(&holder).copied().unwrap_or(0);
            if held < most {
                table.held.insert(holder.clone(), held + 1);
                return Some(Place { places: Arc::clone(self), holder });
            }
            table.warn(peer.ip(), held);
        }
        (self.limit.on_refused)();
        None
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The place of the certificate that was shown on this connection, in place of its address's; `None` when that holds all that it may.
    pub(super) fn of_certificate(&self, certificate: CertificateDer<'static>, peer: SocketAddr) -> Option<Self> {
        let named = NamedCertificate::parse(&certificate);
        let holder = named.map_or(Holder::Certificate(certificate), |named| Holder::Process(named.identity));
        self.places.take_for(holder, peer, self.places.limit.of_certificate)
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
        tracing::warn!(%address, held, refused, "an address, or a certificate that is shown from there, holds as many connections as it may; further ones are closed at once");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.table();
        match table.held.get_mut(&self.holder) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(table.held.remove(&self.holder)),
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
        let on_refused: OnRefusedPeer = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let places = Places::new(PerPeer { of_address: 2, of_certificate: 1, on_refused });
        let take = |peer: &str| places.take(peer.parse().unwrap());
        let (first, second) = (take("192.0.2.1:1").unwrap(), take("[::ffff:192.0.2.1]:2"));
        assert!(second.is_some() && take("192.0.2.1:3").is_none() && take("192.0.2.2:3").is_some());
        let networks = [take("[2001:db8::1]:1"), take("[2001:db8::2]:1")];
        assert!(take("[2001:db8::3]:1").is_none() && take("[2001:db8:0:1::3]:1").is_some());
        drop(first);
        let kept = take("192.0.2.1:4").expect("what has ended is free again");
        let (peer, certificate) = ("192.0.2.1:4".parse().unwrap(), CertificateDer::from(vec![1]));
        let known = kept.of_certificate(certificate.clone(), peer).unwrap();
        assert!(kept.of_certificate(certificate.clone(), peer).is_none());
        assert!(kept.of_certificate(CertificateDer::from(vec![2]), peer).is_some());
        drop(known);
        assert!(kept.of_certificate(certificate, peer).is_some());
        drop((second, kept, networks));
        assert!(places.table().held.is_empty());
        let said = places.table().refused;
        assert_eq!((refused.load(Ordering::Relaxed), said), (3, 2), "the first was told in the log");
    }
}
