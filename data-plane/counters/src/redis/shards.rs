//! Which server decides about which key: the only one, or in a Redis Cluster the primary of the key's slot.
//!
//! The map of slots is asked for when the store starts, when a server says that a slot has moved, when a link comes or goes, and every few seconds.
//! Nothing is ever sent that concerns two slots.

use std::sync::Arc;
use std::time::Duration;

use keyforge_runtime::shutdown::Shutdown;
use redis::{ConnectionAddr, ConnectionInfo, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::key_names::SLOTS;
use super::link::{Fault, Link};
use super::node::Node;
use super::scripts::Scripts;
use super::settings::{Connector, RedisStartError};

/// How often the map is asked for when nothing seems to have changed.
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// The map is asked for at most this often, whatever happens.
const REFRESH_AT_MOST: Duration = Duration::from_millis(100);
/// A slot that no server is responsible for.
const NOBODY: u16 = u16::MAX;

/// Servers, and what each is responsible for.
struct Map {
    nodes: Vec<Arc<Kept>>,
    /// For each slot the place of its server in `nodes`.
    owners: Box<[u16]>,
}

impl Map {
    fn owner(&self, slot: u16) -> Option<&Arc<Kept>> {
        let place = self.owners.get(usize::from(slot)).copied()?;
        self.nodes.get(usize::from(place))
    }

    fn is_available(&self) -> bool {
        !self.owners.contains(&NOBODY) && self.nodes.iter().all(|kept| kept.node.is_up())
    }
}

/// A server and its keeper, who goes when the server is no longer in any map.
struct Kept {
    node: Arc<Node>,
    keeper: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// All servers of the store.
pub(super) struct Shards {
    connector: Connector,
    scripts: Arc<Scripts>,
    cluster: bool,
    /// Servers to ask for the map when none of those in it answers.
    seeds: Vec<Arc<Node>>,
    map: watch::Sender<Arc<Map>>,
    available: watch::Sender<bool>,
    /// Told when a link comes or goes, or the map is wrong.
    changed: Arc<Notify>,
    shutdown: Shutdown,
}

/// The task that looks after the shards ends with this.
pub(super) struct Overseer(JoinHandle<()>);

impl Drop for Overseer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shards {
    /// Finds the servers. One that cannot be reached is looked for from here on.
    pub(super) async fn start(
        connector: Connector,
        addresses: Vec<ConnectionInfo>,
        cluster: bool,
        scripts: Arc<Scripts>,
        shutdown: &Shutdown,
    ) -> Result<(Arc<Self>, Overseer), RedisStartError> {
        let changed = Arc::new(Notify::new());
        let seeds = addresses.into_iter().map(|address| Node::new(&connector, address, cluster, &scripts, &changed));
        let seeds = seeds.collect::<Result<Vec<_>, _>>()?;
        let nobody = Map { nodes: Vec::new(), owners: vec![NOBODY; usize::from(SLOTS)].into() };
        let shards = Arc::new(Self {
            connector,
            scripts,
            cluster,
            seeds,
            map: watch::Sender::new(Arc::new(nobody)),
            available: watch::Sender::new(false),
            changed,
            shutdown: shutdown.clone(),
        });
        let found = if cluster { shards.refresh(true).await } else { shards.take_only_one().await };
        let found = match found {
            Err(Fault::Lasting(error)) => return Err(error),
            found => found,
        };
        shards.judge();
        let overseer = shutdown.spawn_background("redis shards", Arc::clone(&shards).oversee(found));
        Ok((shards, Overseer(overseer)))
    }

    pub(super) fn availability(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }

    pub(super) fn timeout(&self) -> Duration {
        self.connector.timeout()
    }

    /// The server for a slot, and the link to it.
    pub(super) fn link(&self, slot: u16) -> Result<(Arc<Node>, Arc<Link>), String> {
        let map = self.map.borrow();
        let node = &map.owner(slot).ok_or("no server is known for the key's slot")?.node;
        let link = node.link().ok_or_else(|| format!("the link to redis at {} is down", node.name()))?;
        Ok((Arc::clone(node), link))
    }

    /// Lets the map be asked for, and waits until it has been.
    pub(super) async fn refreshed(&self, deadline: Instant) -> bool {
        let mut map = self.map.subscribe();
        map.mark_unchanged();
        self.changed.notify_one();
        timeout_at(deadline, map.changed()).await.is_ok_and(|changed| changed.is_ok())
    }

    /// Lets the map be asked for soon.
    pub(super) fn is_wrong(&self) {
        self.changed.notify_one();
    }

    /// Keeps the map and what is told of it. `found` is what the first attempt to get the map gave.
    async fn oversee(self: Arc<Self>, mut found: Result<(), Fault>) {
        let mut is_known = true;
        loop {
            match &found {
                Ok(()) if !is_known => tracing::info!("the servers of the counter store are known again"),
                Err(reason) if is_known => tracing::warn!(%reason, "the servers of the counter store are not known"),
                _ => {}
            }
            is_known = found.is_ok();
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(REFRESH_EVERY) => {}
            }
            self.judge();
            if self.cluster {
                found = self.refresh(false).await;
                self.judge();
                sleep(REFRESH_AT_MOST).await;
            }
        }
    }

    /// Makes the only server responsible for all slots.
    async fn take_only_one(&self) -> Result<(), Fault> {
        let mut nodes = Vec::new();
        for seed in &self.seeds {
            nodes.push(self.keep(Arc::clone(seed), true).await.map_err(Fault::Lasting)?);
        }
        self.map.send_replace(Arc::new(Map { nodes, owners: vec![0; usize::from(SLOTS)].into() }));
        Ok(())
    }

    fn judge(&self) {
        let available = self.map.borrow().is_available();
        self.available.send_if_modified(|before| std::mem::replace(before, available) != available);
    }

    /// Asks for the map and takes it over. If it is `strict`, each new server is connected to first, and one that somebody has to do something about
    /// is an error. Else the map waits for nobody: a server that stands still must not keep the slots of others from being found.
    async fn refresh(&self, strict: bool) -> Result<(), Fault> {
        let (answered_by, slots) = self.slots().await?;
        let known = Arc::clone(&self.map.borrow());
        let mut nodes: Vec<Arc<Kept>> = Vec::new();
        let mut owners = vec![NOBODY; usize::from(SLOTS)];
        for range in slots {
            let address = range.address(&self.connector, &answered_by).map_err(Fault::Lasting)?;
            let place = match nodes.iter().position(|kept| kept.node.address().addr() == address.addr()) {
                Some(place) => place,
                None => {
                    let kept = known.nodes.iter().find(|kept| kept.node.address().addr() == address.addr());
                    nodes.push(match kept {
                        Some(kept) => Arc::clone(kept),
                        None => self.found(address, strict).await.map_err(Fault::Lasting)?,
                    });
                    nodes.len() - 1
                }
            };
            let place = u16::try_from(place).unwrap_or(NOBODY);
            let range = usize::from(range.first)..=usize::from(range.last.min(SLOTS - 1));
            owners.get_mut(range).unwrap_or_default().fill(place);
        }
        self.map.send_replace(Arc::new(Map { nodes, owners: owners.into() }));
        Ok(())
    }

    async fn found(&self, address: ConnectionInfo, strict: bool) -> Result<Arc<Kept>, RedisStartError> {
        self.keep(Node::new(&self.connector, address, self.cluster, &self.scripts, &self.changed)?, strict).await
    }

    /// Looks after the link to a server from here on; if it is `strict`, connects to it first.
    async fn keep(&self, node: Arc<Node>, strict: bool) -> Result<Arc<Kept>, RedisStartError> {
        let first = match strict {
            true => match node.connect().await {
                Err(Fault::Lasting(error)) => return Err(error),
                first => Some(first),
            },
            false => None,
        };
        let keeper = self.shutdown.spawn_background("redis keeper", Arc::clone(&node).keep(first));
        Ok(Arc::new(Kept { node, keeper }))
    }

    /// The map, as the first server tells it that answers.
    async fn slots(&self) -> Result<(Arc<Node>, Vec<Slots>), Fault> {
        let mut question = redis::cmd("CLUSTER");
        question.arg("SLOTS");
        let known = Arc::clone(&self.map.borrow());
        let mut last = Fault::Passing("no server of the cluster answers".to_owned());
        for node in known.nodes.iter().map(|kept| &kept.node).filter(|node| node.link().is_some()).chain(&self.seeds) {
            match node.ask(&question).await {
                Ok(answer) => match Slots::all(&answer) {
                    Some(slots) => return Ok((Arc::clone(node), slots)),
                    None => last = Fault::Passing(format!("redis at {} tells no map of slots", node.name())),
                },
                Err(Fault::Passing(reason)) if reason.contains("cluster support disabled") => {
                    let address = node.name().to_owned();
                    last = Fault::Lasting(RedisStartError::Cluster { address, is_cluster: false });
                }
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }
}

/// A range of slots and the primary that is responsible for it, as `CLUSTER SLOTS` tells them.
struct Slots {
    first: u16,
    last: u16,
    /// Empty when the server that answers does not know its own name.
    host: String,
    port: u16,
}

impl Slots {
    fn all(answer: &Value) -> Option<Vec<Self>> {
        let Value::Array(ranges) = answer else { return None };
        ranges.iter().map(Self::one).collect()
    }

    fn one(range: &Value) -> Option<Self> {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = range.as_slice() else { return None };
        let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
        let host = match host {
            Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
            Value::SimpleString(host) => host.clone(),
            Value::Nil => String::new(),
            _ => return None,
        };
        Some(Self {
            first: u16::try_from(*first).ok()?,
            last: u16::try_from(*last).ok()?,
            host,
            port: u16::try_from(*port).ok()?,
        })
    }

    fn address(&self, connector: &Connector, answered_by: &Node) -> Result<ConnectionInfo, RedisStartError> {
        let own = match answered_by.address().addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
            _ => "",
        };
        connector.neighbour(if matches!(self.host.as_str(), "" | "?") { own } else { &self.host }, self.port)
    }
}
