//! Which nodes are connected to which control plane: each says it for whoever lists nodes at another one. For operators' eyes
//! only; nothing is decided by it.

use std::collections::{BTreeSet, HashMap};
use std::sync::PoisonError;
use std::time::Duration;

use keyforge_shared::audit::canonical::{DecodeError, Reader, Writer};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, NodeId};

use tokio::time::MissedTickBehavior;

use super::doubles::{Double, Doubles};
use super::{AWAITED_FOR, Registry, before, seals};
use crate::publish::fleet::Fleet;
use crate::store::connected_nodes::{self, Published};
use crate::store::{StoreError, control_planes};

/// How often a control plane looks whether there is something new to say.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After so many looks it says the same again, and looks what the others say.
const SAID_AGAIN_AFTER: u32 = 5;

/// A life of a node that is connected to a control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Whose life.
    pub node: NodeId,
    /// Which.
    pub boot: BootId,
    /// The last revision that it applied; 0 for none.
    pub acked_revision: u64,
    /// Since when it was not heard of.
    pub heard: Duration,
    /// The version that it runs.
    pub version: String,
    /// The region that it says it is in.
    pub region: String,
}

/// One that is connected to another control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Which control plane, as operators know it.
    pub control_plane: String,
    /// What that one knows of it, with the time that has passed since.
    pub life: Connected,
}

impl Registry {
    /// Says again and again which nodes of `fleet` are connected to this control plane, and looks whether any is at another one, too.
    pub async fn keep_published(self, fleet: Fleet) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut said, mut looks_since, mut looks_for_others) = (None, 0, 0_u32);
        loop {
            looks.tick().await;
            looks_since += 1;
            let connected = fleet.connected();
            let what: Vec<_> = connected.iter().map(|life| (life.node, life.boot, life.acked_revision)).collect();
            if said.as_ref() != Some(&what) || looks_since >= SAID_AGAIN_AFTER {
                match self.publish(&fleet).await {
                    Ok(()) => (said, looks_since) = (Some(what), 0),
                    Err(error) => tracing::debug!(%error, "it could not be said which nodes are connected"),
                }
            }
            looks_for_others = (looks_for_others + 1) % SAID_AGAIN_AFTER;
            if looks_for_others != 0 {
                continue;
            }
            if let Err(error) = self.look_for_doubles(&fleet).await {
                tracing::debug!(%error, "it could not be read which nodes are connected to other control planes");
            }
        }
    }

    async fn look_for_doubles(&self, fleet: &Fleet) -> Result<(), StoreError> {
        let (now, elsewhere) = self.lives_elsewhere().await?;
        // Asked after `now`, so that nobody seems to have been heard of later than he was.
        let connected = fleet.connected();
        let found = self.with_doubles(|doubles| doubles.look(now, &connected, &elsewhere));
        for Double { node, boot, other, control_plane } in found {
            tracing::warn!(%node, %boot, %other, control_plane, "one node is connected here and to another control plane: does a copy of its data directory run somewhere else? Receipts wait for both");
        }
        Ok(())
    }

    /// The nodes that are connected here and to another control plane at the same time.
    #[must_use]
    pub fn doubled(&self) -> BTreeSet<NodeId> {
        self.with_doubles(|doubles| doubles.nodes())
    }

    fn with_doubles<T>(&self, work: impl FnOnce(&mut Doubles) -> T) -> T {
        work(&mut self.inner.doubles.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says which nodes are connected to this control plane.
    async fn publish(&self, fleet: &Fleet) -> Result<(), StoreError> {
        let mut tx = self.inner.store.write().await?;
        let written_at = control_planes::now(&mut tx).await?;
        // Asked after that moment, so that nobody seems to have been heard of later than he was.
        let published = Published { by: self.inner.id, written_at, nodes: encode(&fleet.connected()) };
        connected_nodes::put(&mut tx, &published, &seals::of_published(&self.inner.key, &published)).await?;
        Ok(tx.commit().await?)
    }

    /// The nodes that are connected to other control planes, as these said lately; of several lives the one that is behind most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn elsewhere(&self) -> Result<HashMap<NodeId, Elsewhere>, StoreError> {
        let (_, lives) = self.lives_elsewhere().await?;
        let mut found: HashMap<NodeId, Elsewhere> = HashMap::new();
        for elsewhere in lives {
            let (node, acked_revision) = (elsewhere.life.node, elsewhere.life.acked_revision);
            let is_further = found.get(&node).is_some_and(|known| known.life.acked_revision <= acked_revision);
            if !is_further {
                found.insert(node, elsewhere);
            }
        }
        Ok(found)
    }

    /// Every life that is connected to another control plane, as these said lately, and the moment of the look.
    async fn lives_elsewhere(&self) -> Result<(Timestamp, Vec<Elsewhere>), StoreError> {
        let mut read = self.inner.store.read().await?;
        let look = self.look(&mut read, Some(Duration::ZERO)).await?;
        let there = look.trusted.into_iter().filter(|plane| plane.gone.is_none());
        let names: HashMap<[u8; 16], String> = there.map(|plane| (plane.id, plane.name)).collect();
        let mut found = Vec::new();
        for (published, seal) in
            connected_nodes::since(&mut read, &self.inner.id, before(look.now, AWAITED_FOR)).await?
        {
            let Some(control_plane) = names.get(&published.by) else { continue };
            let lives = match decode(&published.nodes) {
                Ok(lives) if seals::published_holds(&self.inner.key, &published, &seal) => lives,
                _ => {
                    tracing::warn!(
                        control_plane,
                        "what this control plane said of its nodes was changed by somebody else; it is not shown"
                    );
                    continue;
                }
            };
            let passed = look.now.since(published.written_at);
            found.extend(lives.into_iter().map(|mut life| {
                life.heard = life.heard.saturating_add(passed);
                Elsewhere { control_plane: control_plane.clone(), life }
            }));
        }
        Ok((look.now, found))
    }
}

const MAGIC: &[u8; 4] = b"KFCN";

fn encode(connected: &[Connected]) -> Vec<u8> {
    let mut writer = Writer::with_magic(MAGIC);
    writer.u32(u32::try_from(connected.len()).unwrap_or(u32::MAX));
    for Connected { node, boot, acked_revision, heard, version, region } in connected {
        writer.raw(node.as_bytes()).raw(boot.as_bytes()).u64(*acked_revision);
        writer.u64(u64::try_from(heard.as_nanos()).unwrap_or(u64::MAX)).str(version).str(region);
    }
    writer.finish()
}

fn decode(bytes: &[u8]) -> Result<Vec<Connected>, DecodeError> {
    let mut reader = Reader::after_magic(bytes, MAGIC)?;
    let mut connected = Vec::new();
    for _ in 0..reader.u32()? {
        connected.push(Connected {
            node: NodeId::from_bytes(reader.array()?),
            boot: BootId::from_bytes(reader.array()?),
            acked_revision: reader.u64()?,
            heard: Duration::from_nanos(reader.u64()?),
            version: reader.str("version")?,
            region: reader.str("region")?,
        });
    }
    reader.finish()?;
    Ok(connected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connected_nodes_come_back_as_they_were_and_a_torn_list_is_refused() {
        let life = |number: u8| Connected {
            node: NodeId::from_bytes([number; 16]),
            boot: BootId::from_bytes([9; 16]),
            acked_revision: 7,
            heard: Duration::from_millis(3),
            version: "0.1.0".to_owned(),
            region: "eu".to_owned(),
        };
        let bytes = encode(&[life(1), life(2)]);
        assert_eq!(decode(&bytes).unwrap(), [life(1), life(2)]);
        assert!(decode(&bytes[..bytes.len() - 1]).is_err() && decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}
