//! The registry of the control planes that share a database: whose nodes a receipt has to count.
//!
//! Each says when it starts and every ten seconds that it is there; one that is silent for two minutes is marked as gone by the others. Being marked has
//! force: before it lets anybody learn that its state is fresh, a control plane looks into the database, and finds there whether it is marked
//! ([`Registry::stand`]). So whoever reads the registry after a change was committed finds everybody who may have told a node since then that an older
//! state is fresh; and of one that is gone, the moment after which it told nobody. It does not matter whether the silent one was dead, stopped or cut off.
//!
//! Its moments are those of the database server's clock; what they mean here is told by how long ago they are.

use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::NodeId;
use keyforge_shared::policy::MAX_STALENESS_SECONDS;

use crate::custody::holders::Holder;
use crate::store::control_planes::{self, Gone, KnownPlane};
use crate::store::sql::Conn;
use crate::store::{Store, StoreError, receipt_parts};

/// How often a control plane says that it is there.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// One that has missed two of these is not waited for.
const AWAITED_FOR: Duration = Duration::from_secs(25);
/// One that has said nothing for so long is marked as gone.
const SILENCE: Duration = Duration::from_mins(2);
/// What a transaction can take, and what the clock of a database server that takes over may be behind.
const SLACK: Duration = Duration::from_secs(10);
/// Questions for receipts are forgotten after this.
const QUESTIONS_KEPT: Duration = Duration::from_mins(1);
/// The longest that a node may serve a key without its control plane.
pub const LONGEST_STALENESS: Duration = Duration::from_secs(MAX_STALENESS_SECONDS as u64);

/// A control plane's place in the registry. Clones share it.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    id: [u8; 16],
    name: String,
    max_staleness: Duration,
    /// Whether the deployment was made by this process: nobody was there before.
    is_first: bool,
}

/// The others as of one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// The database server's clock then.
    pub at: Timestamp,
    /// How long a node may serve the key without its control plane, whichever that is.
    pub bound: Duration,
    /// Those that are there.
    pub there: Vec<Other>,
    /// Those that are gone and whose nodes may be serving.
    pub gone: Vec<Departed>,
    /// Whether nobody else can have told a node within the bound that its state is fresh.
    pub is_complete: bool,
}

/// Another control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Which process.
    pub id: [u8; 16],
    /// How operators know it.
    pub name: String,
    /// Whether it has said lately that it is there.
    pub is_heard: bool,
}

/// One that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// How operators know it.
    pub name: String,
    /// How long ago at least it told a node for the last time that its state is fresh.
    pub age: Duration,
    /// Its nodes, with the age of what each knew when it left, if it left by itself.
    pub nodes: Option<Vec<(NodeId, Duration)>>,
}

impl Registry {
    /// The place of `holder` among those that share `store`. `is_first` says that it made the deployment.
    #[must_use]
    pub fn new(store: Store, holder: &Holder, max_staleness: Duration, is_first: bool) -> Self {
        let (id, name) = (*holder.id(), holder.name().to_owned());
        Self { inner: Arc::new(Inner { store, id, name, max_staleness, is_first }) }
    }

    /// Which process this is.
    #[must_use]
    pub fn id(&self) -> &[u8; 16] {
        &self.inner.id
    }

    /// Says for the first time that this control plane is there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn enter(&self) -> Result<(), StoreError> {
        self.say().await?;
        let mut tx = self.inner.store.write().await?;
        let now = control_planes::now(&mut tx).await?;
        // A data directory has one process at a time. Were it another one of the same name, it would be here again at its next look.
        control_planes::mark_replaced(&mut tx, &self.inner.name, &self.inner.id, now).await?;
        Ok(tx.commit().await?)
    }

    /// Says it again and again, and marks those as gone that do not.
    pub async fn attend(self) {
        let mut often = tokio::time::interval(SAY_EVERY);
        loop {
            often.tick().await;
            let said = async {
                self.say().await?;
                self.tidy().await
            };
            if let Err(error) = said.await {
                tracing::warn!(%error, "the other control planes could not be told that this one is there");
            }
        }
    }

    async fn say(&self) -> Result<(), StoreError> {
        let Inner { store, id, name, max_staleness, is_first } = &*self.inner;
        let mut tx = store.write().await?;
        let now = control_planes::now(&mut tx).await?;
        let known_since = match is_first {
            true => Timestamp::from_nanos(0),
            // Those that are there know it. After a restart of all, a move or a restored backup nobody does.
            false => control_planes::known_since(&mut tx, before(now, SILENCE)).await?.unwrap_or(now),
        };
        let (max_staleness, name) = (*max_staleness, name.clone());
        let plane = KnownPlane { id: *id, name, known_since, max_staleness, seen_at: now, gone: None };
        control_planes::say(&mut tx, &plane).await?;
        Ok(tx.commit().await?)
    }

    /// Apart from saying, so that no two wait for each other's rows.
    async fn tidy(&self) -> Result<(), StoreError> {
        let mut tx = self.inner.store.write().await?;
        let now = control_planes::now(&mut tx).await?;
        for name in control_planes::mark_silent(&mut tx, before(now, SILENCE), now).await? {
            tracing::warn!(name, "another control plane has said nothing for two minutes and is taken for gone");
        }
        control_planes::forget_before(&mut tx, before(now, LONGEST_STALENESS + 2 * SLACK)).await?;
        receipt_parts::forget_before(&mut tx, before(now, QUESTIONS_KEPT)).await?;
        Ok(tx.commit().await?)
    }

    /// Makes sure that the others know of this control plane. What it reads from the database after this it may hand on as fresh.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn stand(&self) -> Result<(), StoreError> {
        let is_there = control_planes::is_there(&mut *self.inner.store.read().await?, &self.inner.id).await?;
        if !is_there {
            tracing::warn!("the other control planes took this one for gone; it was silent for too long");
            self.say().await?;
        }
        Ok(())
    }

    /// Says that this control plane leaves, and which nodes it had told that their state is fresh, with the age of what each knows.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leave(&self, nodes: &[(NodeId, Duration)]) -> Result<(), StoreError> {
        let mut tx = self.inner.store.write().await?;
        let now = control_planes::now(&mut tx).await?;
        control_planes::leave(&mut tx, &self.inner.id, nodes, now).await?;
        Ok(tx.commit().await?)
    }

    /// Who has nodes that may be serving a key with this bound of its own. What is counted is right for changes that were committed before the call.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn census(&self, bound: Option<Duration>) -> Result<Census, StoreError> {
        let mut read = self.inner.store.read().await?;
        self.census_in(&mut read, bound).await
    }

    async fn census_in(&self, conn: &mut Conn, own: Option<Duration>) -> Result<Census, StoreError> {
        let now = control_planes::now(conn).await?;
        let known = control_planes::that_count(conn, own, before(now, SLACK)).await?;
        Ok(self.count(known, own, now))
    }

    fn count(&self, known: Vec<KnownPlane>, own: Option<Duration>, now: Timestamp) -> Census {
        let configured = known.iter().map(|plane| plane.max_staleness).fold(self.inner.max_staleness, Duration::max);
        let bound = own.unwrap_or(configured);
        let mut census = Census { at: now, bound, there: Vec::new(), gone: Vec::new(), is_complete: false };
        for KnownPlane { id, name, known_since, seen_at, gone, .. } in known {
            match gone {
                Some(Gone { at, left }) => {
                    let age = now.since(at).saturating_sub(SLACK);
                    census.gone.push(Departed { name, age, nodes: left });
                }
                None if id == self.inner.id => {
                    census.is_complete = known_since.saturating_add(bound).saturating_add(SLACK) < now;
                }
                None => census.there.push(Other { id, name, is_heard: now.since(seen_at) <= AWAITED_FOR }),
            }
        }
        census
    }
}

fn before(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_nanos(now.nanos().saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use keyforge_shared::clock::SystemClock;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const BOUND: Duration = Duration::from_secs(30);

    fn ago(seconds: u64) -> Timestamp {
        before(NOW, Duration::from_secs(seconds))
    }

    fn plane(id: [u8; 16], seen_at: Timestamp, gone: Option<Gone>) -> KnownPlane {
        let (name, known_since) = (format!("host:{}", id[0]), Timestamp::from_nanos(0));
        KnownPlane { id, name, known_since, max_staleness: BOUND, seen_at, gone }
    }

    async fn registry(directory: &std::path::Path) -> Registry {
        let store = Store::open(&directory.join("data"), Arc::new(SystemClock)).await.unwrap();
        Registry::new(store, &Holder::new(directory).unwrap(), BOUND, false)
    }

    #[tokio::test]
    async fn who_is_there_is_heard_or_silent_and_who_is_gone_counts_with_the_age_of_its_last_word() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path()).await;
        let gone = Gone { at: ago(40), left: None };
        let own = plane(*registry.id(), NOW, None);
        let known =
            vec![own, plane([1; 16], ago(5), None), plane([2; 16], ago(60), None), plane([3; 16], NOW, Some(gone))];
        let census = registry.count(known, Some(BOUND), NOW);
        assert!(census.is_complete);
        let there: Vec<_> = census.there.iter().map(|other| (other.name.as_str(), other.is_heard)).collect();
        assert_eq!(there, [("host:1", true), ("host:2", false)]);
        assert_eq!(census.gone, [Departed { name: "host:3".to_owned(), age: BOUND, nodes: None }]);
    }

    #[tokio::test]
    async fn i_13_a_registry_that_is_younger_than_the_bound_or_has_lost_the_asker_is_not_complete() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path()).await;
        let since = |seconds| KnownPlane { known_since: ago(seconds), ..plane(*registry.id(), NOW, None) };
        for (known, bound, is_complete) in [
            (vec![since(41)], Some(BOUND), true),
            (vec![since(39)], Some(BOUND), false),
            (vec![since(41)], Some(BOUND * 2), false),
            (vec![], Some(BOUND), false),
            (vec![plane(*registry.id(), NOW, Some(Gone { at: NOW, left: None }))], Some(BOUND), false),
        ] {
            assert_eq!(registry.count(known, bound, NOW).is_complete, is_complete, "{bound:?}");
        }
        // The longest of the configured bounds holds for keys without one of their own.
        let patient = KnownPlane { max_staleness: BOUND * 10, ..plane([1; 16], NOW, None) };
        let census = registry.count(vec![since(41), patient], None, NOW);
        assert_eq!((census.bound, census.is_complete), (BOUND * 10, false));
    }

    #[tokio::test]
    async fn i_13_one_that_was_taken_for_gone_knows_it_at_its_next_look_and_is_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path()).await;
        let store = registry.inner.store.clone();
        registry.enter().await.unwrap();
        let mut tx = store.write().await.unwrap();
        let now = control_planes::now(&mut tx).await.unwrap();
        let named = control_planes::mark_silent(&mut tx, now.saturating_add(BOUND), now).await.unwrap();
        assert_eq!(named.as_slice(), std::slice::from_ref(&registry.inner.name));
        tx.commit().await.unwrap();
        assert!(!registry.census(None).await.unwrap().is_complete);
        registry.stand().await.unwrap();
        let mut read = store.read().await.unwrap();
        assert!(control_planes::is_there(&mut read, registry.id()).await.unwrap());
    }

    #[tokio::test]
    async fn one_that_left_counts_with_its_nodes_until_the_bound_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let registry = registry(directory.path()).await;
        let store = registry.inner.store.clone();
        let other = Registry::new(store.clone(), &Holder::new(&directory.path().join("other")).unwrap(), BOUND, true);
        other.enter().await.unwrap();
        registry.enter().await.unwrap();
        let nodes = vec![(NodeId::from_bytes([7; 16]), Duration::from_secs(3))];
        other.leave(&nodes).await.unwrap();
        let census = registry.census(None).await.unwrap();
        assert_eq!(census.gone[0].nodes.as_ref(), Some(&nodes));
        assert!(census.there.is_empty() && census.is_complete, "it knows what the other one knew: {census:?}");
        let mut read = store.read().await.unwrap();
        let later = census.at.saturating_add(BOUND + Duration::from_secs(1));
        assert_eq!(control_planes::that_count(&mut read, None, later).await.unwrap().len(), 1);
    }
}
