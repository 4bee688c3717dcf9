//! Nodes: who is one, what its certificate entitles it to, and when that ends.
//!
//! * [`authority`] certifies; [`server_certificate`] is what this control plane itself presents
//! * [`Nodes::admit`] is asked on every call, and looks into the store each time: a node that was removed a moment ago is refused
//! * [`Nodes::ended`] ends a stream that was admitted, as soon as its node is removed or its certificate has expired
//! * [`refusal`]: why a caller is no node, what it is told, and what is recorded
//!
//! On a connection in the clear, which the listener accepts on this host or by explicit leave only, the fleet token admits in place of a
//! certificate. Whoever presents it may speak for any node that never joined, and for none that did.

pub mod authority;
pub mod refusal;
pub(crate) mod seals;
pub mod server_certificate;
pub mod serves;

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyforge_runtime::accept::Transport;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_runtime::tls::peer::NamedCertificate;
use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::{BootId, NodeId};
use keyforge_shared::identity::Role;
use keyforge_shared::row_seal::RowSealKey;
use tokio::sync::broadcast;

use crate::publish::fleet_token::FleetToken;
use crate::store::{Store, StoreError, nodes};
use authority::Authority;
use refusal::Refusal;
use serves::Serves;

/// Removals that a stream may lag behind before it looks into the store itself.
const REMOVALS: usize = 64;
/// How often the store is asked for removals by other control planes.
const POLL: Duration = Duration::from_millis(500);
/// How far back it is asked: longer than clocks of control planes differ.
const LOOK_BACK: Duration = Duration::from_secs(3600);
/// How often a stream's certificate is compared with the clock.
const EXPIRY_LOOK: Duration = Duration::from_secs(1);
/// Boots remembered with their nodes.
const MAX_BOOTS: usize = 100_000;

/// A caller of the fleet's services that was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FleetCaller {
    /// Presented the fleet token on a connection in the clear: some node that has not joined.
    Token,
    /// Holds a certificate.
    Node {
        /// Which node.
        node: NodeId,
        /// Until when the certificate is good.
        expires_at: Timestamp,
    },
}

/// The nodes of a deployment. Clones share them.
#[derive(Clone)]
pub struct Nodes {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    authority: Arc<Authority>,
    seal: RowSealKey,
    fleet_token: FleetToken,
    clock: Arc<dyn Clock>,
    certificate_life: Duration,
    removals: broadcast::Sender<NodeId>,
    boots: Mutex<HashMap<BootId, NodeId>>,
}

/// What nodes are made of.
pub struct NodeParts {
    /// Where they are kept.
    pub store: Store,
    /// Who certifies them.
    pub authority: Arc<Authority>,
    /// Seals their rows.
    pub seal: RowSealKey,
    /// What admits without a certificate.
    pub fleet_token: FleetToken,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How long their certificates are good.
    pub certificate_life: Duration,
}

impl Nodes {
    /// The nodes in a store.
    #[must_use]
    pub fn new(parts: NodeParts) -> Self {
        let NodeParts { store, authority, seal, fleet_token, clock, certificate_life } = parts;
        let (removals, _) = broadcast::channel(REMOVALS);
        let boots = Mutex::default();
        Self {
            inner: Arc::new(Inner { store, authority, seal, fleet_token, clock, certificate_life, removals, boots }),
        }
    }

    /// Who certifies them.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    /// Seals their rows.
    #[must_use]
    pub fn seal(&self) -> &RowSealKey {
        &self.inner.seal
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// How long a certificate is good.
    #[must_use]
    pub fn certificate_life(&self) -> Duration {
        self.inner.certificate_life
    }

    /// Who a caller is: by its certificate on a connection over TLS, by `token` on one in the clear.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn admit(&self, transport: &Transport, token: Option<&[u8]>) -> Result<FleetCaller, Refusal> {
        let certificate = match transport {
            Transport::Cleartext => {
                let known = token.is_some_and(|token| self.inner.fleet_token.accepts(token));
                return if known { Ok(FleetCaller::Token) } else { Err(Refusal::NoToken) };
            }
            Transport::Tls { certificate } => certificate.as_ref().ok_or(Refusal::NoCertificate)?,
        };
        let named = NamedCertificate::parse(certificate).map_err(|_| Refusal::NoCertificate)?;
        let node = match named.identity.role {
            Role::Node(node) if named.identity.deployment == self.inner.authority.deployment() => node,
            Role::Node(_) | Role::ControlPlane => return Err(Refusal::NoCertificate),
        };
        // The handshake has looked at this, too; but a connection can outlive the certificate that it was made with.
        if named.not_after <= self.inner.clock.now() {
            return Err(Refusal::Expired(node));
        }
        match self.find(node).await? {
            None => Err(Refusal::Unknown(node)),
            Some(found) if found.removed_at.is_some() => Err(Refusal::Removed(node)),
            Some(found) => {
                if !found.certificate_used && found.certificate_serial == named.serial {
                    self.note_used(node, &named.serial).await?;
                }
                Ok(FleetCaller::Node { node, expires_at: named.not_after })
            }
        }
    }

    /// Notes that a node has presented its newest certificate: once for each.
    async fn note_used(&self, node: NodeId, serial: &[u8]) -> Result<(), StoreError> {
        let mut tx = self.inner.store.write().await?;
        let Some(found) = nodes::hold(&mut tx, node).await? else { return Ok(()) };
        let found = seals::open_node(&self.inner.seal, found)?;
        if found.certificate_serial == serial {
            let used = nodes::Node { certificate_used: true, ..found };
            nodes::update(&mut tx, &used, &seals::of_node(&self.inner.seal, &used)).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Refuses to renew a certificate when the one that took its place is in use, or another one was renewed since: then two hold this identity, and one
    /// of them has copied it. Gives its serial number.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn unless_replaced(&self, transport: &Transport, node: NodeId) -> Result<Vec<u8>, Refusal> {
        let Transport::Tls { certificate: Some(certificate) } = transport else { return Err(Refusal::NoCertificate) };
        let presented = NamedCertificate::parse(certificate).map_err(|_| Refusal::NoCertificate)?.serial;
        let found = self.find(node).await?.ok_or(Refusal::Unknown(node))?;
        if may_renew(&found, &presented) { Ok(presented) } else { Err(Refusal::Copied(node)) }
    }

    /// Which providers' secrets a caller is given.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn serves(&self, caller: &FleetCaller) -> Result<Serves, StoreError> {
        match caller {
            FleetCaller::Token => Ok(Serves::default()),
            // One that is gone is refused elsewhere, and given nothing that it did not have.
            FleetCaller::Node { node, .. } => {
                let found = self.find(*node).await?;
                found.map(|found| found.serves).ok_or(StoreError::Corrupt("nodes"))
            }
        }
    }

    /// Refuses a caller that speaks for another node than itself.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn speaks_for(&self, caller: &FleetCaller, claimed: NodeId) -> Result<(), Refusal> {
        match caller {
            FleetCaller::Node { node, .. } if *node == claimed => Ok(()),
            FleetCaller::Node { node, .. } => Err(Refusal::OtherNode { node: *node, claimed }),
            FleetCaller::Token if self.find(claimed).await?.is_some() => Err(Refusal::HasJoined(claimed)),
            FleetCaller::Token => Ok(()),
        }
    }

    /// Refuses a caller that speaks for a boot of another node. `node` is whose boot it is, where the message says so and
    /// [`Self::speaks_for`] has agreed: it is kept, and nobody else's word on that boot is taken from then on.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn speaks_for_boot(
        &self,
        caller: &FleetCaller,
        boot: BootId,
        node: Option<NodeId>,
    ) -> Result<(), Refusal> {
        let claimant = match caller {
            FleetCaller::Node { node, .. } => Some(*node),
            FleetCaller::Token => node,
        };
        let Some(owner) = self.boot_owner(boot, claimant).await? else { return Ok(()) };
        match (caller, claimant) {
            (_, Some(claimant)) if claimant == owner => Ok(()),
            (FleetCaller::Token, None) => self.speaks_for(caller, owner).await,
            (FleetCaller::Token | FleetCaller::Node { .. }, _) => Err(Refusal::OtherBoot { boot, owner }),
        }
    }

    /// Waits until a caller's stream must end, and says why.
    pub async fn ended(&self, caller: &FleetCaller) -> Refusal {
        let FleetCaller::Node { node, expires_at } = *caller else { return std::future::pending().await };
        let mut removals = self.inner.removals.subscribe();
        let mut look = tokio::time::interval(EXPIRY_LOOK);
        // Removed between its admission and the subscription above.
        let mut must_look = true;
        loop {
            if std::mem::take(&mut must_look) {
                match self.find(node).await {
                    Ok(Some(found)) if found.removed_at.is_none() => {}
                    Ok(_) => return Refusal::Removed(node),
                    Err(error) => return error.into(),
                }
            }
            tokio::select! {
                removed = removals.recv() => match removed {
                    Ok(removed) if removed == node => return Refusal::Removed(node),
                    Ok(_) => {}
                    Err(_) => must_look = true,
                },
                _ = look.tick() => {
                    if expires_at <= self.inner.clock.now() {
                        return Refusal::Expired(node);
                    }
                }
            }
        }
    }

    /// Cuts the streams of a node that was removed.
    pub fn tell_removed(&self, node: NodeId) {
        // Without streams nobody listens, which is as good.
        drop(self.inner.removals.send(node));
    }

    /// Cuts the streams of nodes that another control plane of the deployment has removed, until the process ends.
    pub fn follow_removals(&self, shutdown: &Shutdown) {
        let (nodes, drain) = (self.clone(), shutdown.drain_started());
        drop(shutdown.spawn("node_removals", async move {
            let (mut told, mut drain) = (HashSet::new(), pin!(drain));
            let mut looked = nodes.inner.clock.now();
            loop {
                tokio::select! {
                    () = &mut drain => return,
                    () = tokio::time::sleep(POLL) => {}
                }
                let now = nodes.inner.clock.now();
                if nodes.inner.removals.receiver_count() == 0 {
                    // Whoever comes is looked at as it comes.
                    looked = now;
                    continue;
                }
                match nodes.removed_since(looked).await {
                    Ok(removed) => {
                        looked = now;
                        for node in &removed {
                            if !told.contains(node) {
                                nodes.tell_removed(*node);
                            }
                        }
                        told = removed;
                    }
                    Err(error) => tracing::warn!(%error, "it cannot be seen which nodes were removed"),
                }
            }
        }));
    }

    /// Nodes that were removed since `looked`, and some from before: the clocks of those who remove them differ.
    async fn removed_since(&self, looked: Timestamp) -> Result<HashSet<NodeId>, StoreError> {
        let since = looked.nanos().saturating_sub(i64::try_from(LOOK_BACK.as_nanos()).unwrap_or(0));
        let mut read = self.inner.store.read().await?;
        Ok(nodes::removed_since(&mut read, Timestamp::from_nanos(since)).await?.into_iter().collect())
    }

    /// A node as it is stored, if its seal holds.
    async fn find(&self, node: NodeId) -> Result<Option<nodes::Node>, StoreError> {
        let found = nodes::get(&mut *self.inner.store.read().await?, node).await?;
        found.map(|found| seals::open_node(&self.inner.seal, found)).transpose()
    }

    /// Whose boot it is; `claimant`'s from now on, if nobody's so far.
    async fn boot_owner(&self, boot: BootId, claimant: Option<NodeId>) -> Result<Option<NodeId>, StoreError> {
        if let Some(owner) = self.boots(|boots| boots.get(&boot).copied()) {
            return Ok(Some(owner));
        }
        let mut owner = nodes::boot_owner(&mut *self.inner.store.read().await?, boot).await?;
        if let (None, Some(claimant)) = (owner, claimant) {
            let mut tx = self.inner.store.write().await?;
            nodes::claim_boot(&mut tx, boot, claimant).await?;
            owner = nodes::boot_owner(&mut tx, boot).await?;
            tx.commit().await?;
        }
        if let Some(owner) = owner {
            self.boots(|boots| {
                if boots.len() >= MAX_BOOTS {
                    boots.clear();
                }
                boots.insert(boot, owner);
            });
        }
        Ok(owner)
    }

    fn boots<T>(&self, with: impl FnOnce(&mut HashMap<BootId, NodeId>) -> T) -> T {
        with(&mut self.inner.boots.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
/// Whether a node may renew the certificate with this serial number: its newest, or the one that it presented for that. For the newest may have been lost
/// on its way to the node as long as nobody has used it.
pub(crate) fn may_renew(node: &nodes::Node, presented: &[u8]) -> bool {
    let newest = &node.certificate_serial;
    newest == presented || (!node.certificate_used && authority::takes_place_of(newest, presented))
}
