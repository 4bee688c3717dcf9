//! The ports of a local cluster: free ones, below those that the system lends to outgoing connections, so that a process that was killed finds its
//! port free when it comes back; and the same ones again at the next start, because a Redis Cluster remembers its members by port.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::errors::Failure;

/// Linux lends ports from 32,768 on, others from 49,152.
const OURS: Range<u16> = 10_000..22_000;
/// Members of a Redis Cluster talk to each other on a second port, so far above the first.
const BUS: u16 = 10_000;

/// Where a keyforge process listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pair {
    /// Agents of a node, operators and nodes of the control plane.
    pub(super) main: u16,
    /// Health and metrics.
    pub(super) ops: u16,
}

/// Every port of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) control_plane: Pair,
    pub(super) nodes: Vec<Pair>,
    /// One server, or the members of a Redis Cluster, by their number.
    pub(super) redis: Vec<u16>,
    pub(super) redis_cluster: Vec<u16>,
}

impl Ports {
    /// The ports of the last start, where they are still free, and new ones where not.
    pub(super) fn take(layout: &Layout, nodes: usize, redis: usize) -> Result<Self, Failure> {
        let known = std::fs::read(layout.ports()).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let mut ports: Self = known.unwrap_or_default();
        ports.nodes.resize(nodes, Pair::default());
        let servers = if redis == 1 { &mut ports.redis } else { &mut ports.redis_cluster };
        servers.resize(redis, 0);
        let mut search = Search::new();
        for port in servers {
            if redis > 1 && *port != 0 && !is_free(*port) {
                return Err(Failure::refused(format!(
                    "port {port} of this cluster's Redis is taken by another process"
                ))
                .hint("stop that process, or name another directory with --data DIR"));
            }
            search.keep_or_find(port)?;
        }
        for pair in std::iter::once(&mut ports.control_plane).chain(&mut ports.nodes) {
            search.keep_or_find(&mut pair.main)?;
            search.keep_or_find(&mut pair.ops)?;
        }
        let text = serde_json::to_string(&ports).map_err(Failure::refused)?;
        layout.write("ports.json", &text)?;
        Ok(ports)
    }

    /// The ports of the Redis servers that run: one, or the members of a cluster.
    pub(super) fn servers(&self, redis: usize) -> &[u16] {
        if redis == 1 { &self.redis } else { &self.redis_cluster }
    }
}

/// On loopback.
pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn is_free(port: u16) -> bool {
    let bus = port.checked_add(BUS);
    TcpListener::bind(local(port)).is_ok() && bus.is_some_and(|bus| TcpListener::bind(local(bus)).is_ok())
}

/// Goes through the ports once, from one that is different each time, so that clusters that start together hardly meet.
struct Search {
    next: u16,
    left: usize,
    taken: Vec<u16>,
}

impl Search {
    fn new() -> Self {
        let chance = RandomState::new().build_hasher().finish();
        let offset = u16::try_from(chance % u64::from(OURS.end - OURS.start)).unwrap_or_default();
        Self { next: OURS.start + offset, left: OURS.len(), taken: Vec::new() }
    }

    fn keep_or_find(&mut self, port: &mut u16) -> Result<(), Failure> {
        if *port == 0 || self.taken.contains(port) || !is_free(*port) {
            *port = self.find()?;
        }
        self.taken.push(*port);
        Ok(())
    }

    fn find(&mut self) -> Result<u16, Failure> {
        while self.left > 0 {
            let port = self.next;
            self.left -= 1;
            self.next = if port + 1 == OURS.end { OURS.start } else { port + 1 };
            if !self.taken.contains(&port) && is_free(port) {
                return Ok(port);
            }
        }
        Err(Failure::refused(format!("no port from {} to {} is free", OURS.start, OURS.end - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_the_same_again_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::make(&directory.path().join("cluster")).unwrap();
        let ports = Ports::take(&layout, 3, 3).unwrap();
        let pairs = ports.nodes.iter().chain([&ports.control_plane]).flat_map(|pair| [pair.main, pair.ops]);
        let mut all: Vec<u16> = pairs.chain(ports.servers(3).iter().copied()).collect();
        assert!(all.iter().all(|port| OURS.contains(port)), "{all:?}");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2 * 4 + 3);
        assert_eq!(Ports::take(&layout, 3, 3).unwrap(), ports);
    }

    #[test]
    fn a_port_that_somebody_took_is_exchanged_but_not_that_of_a_redis_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::make(&directory.path().join("cluster")).unwrap();
        let ports = Ports::take(&layout, 1, 3).unwrap();
        let stranger = TcpListener::bind(local(ports.nodes[0].main)).unwrap();
        let again = Ports::take(&layout, 1, 3).unwrap();
        assert_ne!(again.nodes[0].main, ports.nodes[0].main);
        assert_eq!(again.redis_cluster, ports.redis_cluster);
        drop(stranger);
        let _stranger = TcpListener::bind(local(ports.redis_cluster[1])).unwrap();
        let error = Ports::take(&layout, 1, 3).unwrap_err().to_string();
        assert!(error.contains(&ports.redis_cluster[1].to_string()), "{error}");
    }
}
