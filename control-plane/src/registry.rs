//! The registry of the control planes that share a database: whose nodes a receipt has to count.
//!
//! Each says when it starts and every ten seconds that it is there; one that is silent for two minutes is marked as gone by the others. Being marked has
//! force: before it lets anybody learn that its state is fresh, a control plane looks into the database, and finds there whether it is marked
//! ([`Registry::stand`]). So whoever reads the registry after a change was committed finds everybody who may have told a node since then that an older
//! state is fresh; and of one that is gone, the moment after which it told nobody. It does not matter whether the silent one was dead, stopped or cut off.
//!
//! Each row is under a seal. One whose seal does not hold, that is older than what was read before, or that is missing says nothing: who it was about is
//! taken to be there and not to answer, until it says itself again that it is there, or was marked as gone for long enough ([`acquaintance`]).
//!
//! Its moments are those of the database server's clock; what they mean here is told by how long ago they are.

mod acquaintance;
pub mod connected;
mod doubles;
pub(crate) mod seals;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use acquaintance::{Acquaintance, Doubtful};
use doubles::Doubles;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::policy::MAX_STALENESS_SECONDS;
use keyforge_shared::row_seal::RowSealKey;

use crate::instance::Instance;
use crate::store::control_planes::{self, Gone, KnownPlane};
use crate::store::node_lists::AgedLife;
use crate::store::sql::Conn;
use crate::store::{Store, StoreError, connected_nodes, receipt_parts};

/// How often a control plane says that it is there.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// One that has missed two of these is not waited for.
const AWAITED_FOR: Duration = Duration::from_secs(25);
/// One that has said nothing for so long is marked as gone.
const SILENCE: Duration = Duration::from_mins(2);
/// What a transaction can take, and what the clock of a database server that takes over may be behind.
const SLACK: Duration = Duration::from_secs(10);
/// Questions for receipts are forgotten after this, and lists of connected nodes.
const KEPT: Duration = Duration::from_mins(1);
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
    key: RowSealKey,
    acquaintance: Mutex<Acquaintance>,
    doubles: Mutex<Doubles>,
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
    /// Those whose rows are not what a control plane wrote last: nothing is known of their nodes.
    pub doubtful: Vec<String>,
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
    /// How long ago at most it left.
    pub oldest: Duration,
    /// Its nodes' lives, as it knew them when it left, if it left by itself.
    pub nodes: Option<Vec<AgedLife>>,
}

/// The rows of one look, by whether they are what was written last.
struct Look {
    now: Timestamp,
    trusted: Vec<KnownPlane>,
    doubtful: Vec<Doubtful>,
}

impl Registry {
    /// The place of `instance` among those that share `store` and seal with `key`. `is_first` says that it made the deployment.
    #[must_use]
    pub fn new(store: Store, instance: &Instance, max_staleness: Duration, is_first: bool, key: RowSealKey) -> Self {
        let (id, name) = (*instance.id(), instance.name().to_owned());
        let (acquaintance, doubles) = (Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { store, id, name, max_staleness, is_first, key, acquaintance, doubles }) }
    }

    /// Which process this is.
    #[must_use]
    pub fn id(&self) -> &[u8; 16] {
        &self.inner.id
    }

    /// Seals what control planes write for one another.
    #[must_use]
    pub fn key(&self) -> &RowSealKey {
        &self.inner.key
    }

    /// Says for the first time that this control plane is there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn enter(&self) -> Result<(), StoreError> {
        self.say().await?;
        let mut tx = self.inner.store.write().await?;
        let look = self.look(&mut tx, Some(Duration::ZERO)).await?;
        // A data directory has one process at a time. Were it another one of the same name, it would be here again at its next look.
        let former = look.trusted.iter().filter(|plane| plane.name == self.inner.name && plane.id != self.inner.id);
        let mut former: Vec<_> = former.filter(|plane| plane.gone.is_none()).map(|plane| plane.id).collect();
        former.sort_unstable();
        for id in former {
            self.mark_gone(&mut tx, &id, |_| true).await?;
        }
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
        let Inner { store, id, name, max_staleness, is_first, key, .. } = &*self.inner;
        let mut tx = store.write().await?;
        let own = control_planes::hold(&mut tx, id).await?;
        let now = control_planes::now(&mut tx).await?;
        let own = own.filter(|(plane, seal)| seals::plane_holds(key, plane, seal));
        let known_since = match (own, is_first) {
            (Some((plane, _)), _) => plane.known_since,
            (None, true) => Timestamp::from_nanos(0),
            // Those that are there know it. After a restart of all, a move or a restored backup nobody does.
            (None, false) => {
                let look = self.look(&mut tx, Some(Duration::ZERO)).await?;
                let said = |plane: &&KnownPlane| plane.gone.is_none() && plane.seen_at >= before(now, SILENCE);
                look.trusted.iter().filter(said).map(|plane| plane.known_since).min().unwrap_or(now)
            }
        };
        let known_since = self.remembered(|memory| {
            let known_since = memory.known_since.map_or(known_since, |known| known.max(known_since));
            *memory.known_since.insert(known_since)
        });
        let (max_staleness, name) = (*max_staleness, name.clone());
        let plane = KnownPlane { id: *id, name, known_since, max_staleness, seen_at: now, gone: None };
        control_planes::put(&mut tx, &plane, &seals::of_plane(key, &plane)).await?;
        Ok(tx.commit().await?)
    }

    /// Apart from saying, so that no two wait for each other's rows.
    async fn tidy(&self) -> Result<(), StoreError> {
        let mut tx = self.inner.store.write().await?;
        let look = self.look(&mut tx, Some(Duration::ZERO)).await?;
        let (now, since) = (look.now, before(look.now, SILENCE));
        let is_silent = |plane: &KnownPlane| plane.gone.is_none() && plane.seen_at < since;
        let mut silent: Vec<_> = look.trusted.iter().filter(|plane| is_silent(plane)).map(|plane| plane.id).collect();
        silent.sort_unstable();
        for id in silent {
            if let Some(name) = self.mark_gone(&mut tx, &id, is_silent).await? {
                tracing::warn!(name, "another control plane has said nothing for two minutes and is taken for gone");
            }
        }
        let marked = |plane: &KnownPlane| plane.gone.as_ref().is_some_and(|gone| gone.at == Gone::NOT_YET_KNOWN);
        let mut marks: Vec<_> = look.trusted.iter().filter(|plane| marked(plane)).map(|plane| plane.id).collect();
        marks.sort_unstable();
        for id in marks {
            // The mark was there when this transaction read it.
            self.write_gone(&mut tx, &id, now, marked).await?;
        }
        for doubtful in self.remembered(|memory| memory.doubtful()) {
            self.mend(&mut tx, &doubtful, now).await?;
        }
        control_planes::forget_before(&mut tx, before(now, LONGEST_STALENESS + 2 * SLACK)).await?;
        receipt_parts::forget_before(&mut tx, before(now, KEPT)).await?;
        connected_nodes::forget_before(&mut tx, before(now, KEPT)).await?;
        self.remembered(|memory| memory.forget_old(now));
        Ok(tx.commit().await?)
    }

    /// Marks a control plane as gone whose row is what was written last and still `is_so`, and gives its name. Since when, the next look tells: until the
    /// mark is committed, its owner finds itself standing.
    async fn mark_gone(
        &self,
        tx: &mut Conn,
        id: &[u8; 16],
        is_so: impl Fn(&KnownPlane) -> bool,
    ) -> Result<Option<String>, StoreError> {
        self.write_gone(tx, id, Gone::NOT_YET_KNOWN, is_so).await
    }

    async fn write_gone(
        &self,
        tx: &mut Conn,
        id: &[u8; 16],
        at: Timestamp,
        is_so: impl Fn(&KnownPlane) -> bool,
    ) -> Result<Option<String>, StoreError> {
        let Some((plane, seal)) = control_planes::hold(tx, id).await? else { return Ok(None) };
        if !self.remembered(|memory| memory.accepts(&self.inner.key, &plane, &seal)) || !is_so(&plane) {
            return Ok(None);
        }
        let gone = KnownPlane { gone: Some(Gone { at, left: None }), ..plane };
        control_planes::put(tx, &gone, &seals::of_plane(&self.inner.key, &gone)).await?;
        Ok(Some(gone.name))
    }

    /// Puts right a row that is not what was written last: it says from now on that its control plane is gone. That holds whoever it is
    /// about: one that is there finds itself marked before it tells anybody anything, and says itself that it is there. A row that may be
    /// its own writer's in a moment, or of an earlier version, is left to that one until it is silent.
    async fn mend(&self, tx: &mut Conn, doubtful: &Doubtful, now: Timestamp) -> Result<(), StoreError> {
        let found = control_planes::hold(tx, &doubtful.id).await?;
        if let Some((plane, seal)) = &found {
            let is_mended = self.remembered(|memory| memory.accepts(&self.inner.key, plane, seal));
            let may_be_written = before(now, SILENCE) <= plane.seen_at && plane.seen_at <= now.saturating_add(SLACK);
            if is_mended || (plane.gone.is_none() && may_be_written) {
                return Ok(());
            }
        }
        let Doubtful { id, name, max_staleness, .. } = doubtful.clone();
        let gone = Some(Gone { at: Gone::NOT_YET_KNOWN, left: None });
        let max_staleness = max_staleness.max(self.inner.max_staleness);
        let plane = KnownPlane { id, name, known_since: now, max_staleness, seen_at: now, gone };
        let seal = seals::of_plane(&self.inner.key, &plane);
        control_planes::put(tx, &plane, &seal).await?;
        self.remembered(|memory| memory.accepts(&self.inner.key, &plane, &seal));
        tracing::warn!(name = plane.name, "its row of the registry was put right: it is taken for gone");
        Ok(())
    }

    /// Makes sure that the others know of this control plane. What it reads from the database after this it may hand on as fresh.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn stand(&self) -> Result<(), StoreError> {
        let own = control_planes::get(&mut *self.inner.store.read().await?, &self.inner.id).await?;
        match own {
            Some((plane, seal)) if !seals::plane_holds(&self.inner.key, &plane, &seal) => {
                tracing::warn!(
                    "somebody else than a control plane has written to the row of this one in control_planes; it is written anew"
                );
            }
            Some((KnownPlane { gone: None, .. }, _)) => return Ok(()),
            _ => tracing::warn!("the other control planes took this one for gone; it was silent for too long"),
        }
        self.say().await
    }

    /// Says that this control plane leaves, and which lives of nodes it had told that their state is fresh, by how long ago things were.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leave(&self, nodes: Vec<AgedLife>) -> Result<(), StoreError> {
        let Inner { store, id, name, max_staleness, key, .. } = &*self.inner;
        let mut tx = store.write().await?;
        let now = control_planes::now(&mut tx).await?;
        let known_since = self.remembered(|memory| memory.known_since).unwrap_or(now);
        let gone = Some(Gone { at: now, left: Some(nodes) });
        let (name, max_staleness) = (name.clone(), *max_staleness);
        let plane = KnownPlane { id: *id, name, known_since, max_staleness, seen_at: now, gone };
        control_planes::put(&mut tx, &plane, &seals::of_plane(key, &plane)).await?;
        Ok(tx.commit().await?)
    }

    /// Who has nodes that may be serving a key with this bound of its own. What is counted is right for changes that were committed before the call.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn census(&self, bound: Option<Duration>) -> Result<Census, StoreError> {
        let mut read = self.inner.store.read().await?;
        let look = self.look(&mut read, bound).await?;
        Ok(self.count(look, bound))
    }

    /// Reads the rows that count for a key with this bound of its own, and looks for those that are remembered and missing.
    async fn look(&self, conn: &mut Conn, own_bound: Option<Duration>) -> Result<Look, StoreError> {
        let now = control_planes::now(conn).await?;
        let mut look = Look { now, trusted: Vec::new(), doubtful: Vec::new() };
        let mut found = Vec::new();
        for row in control_planes::that_count(conn, own_bound, before(now, SLACK)).await? {
            found.push(row.0.id);
            self.judge(&mut look, row.0.id, Some(row));
        }
        let counts = |plane: &KnownPlane| {
            let bound = own_bound.unwrap_or(plane.max_staleness).saturating_add(SLACK);
            plane.gone.as_ref().is_none_or(|gone| now.since(gone.at) <= bound)
        };
        for id in self.remembered(|memory| memory.besides(&found, counts)) {
            let row = control_planes::get(conn, &id).await?;
            self.judge(&mut look, id, row);
        }
        // It may have gone since, and that so long ago that it does not count.
        look.trusted.retain(counts);
        Ok(look)
    }

    fn judge(&self, look: &mut Look, id: [u8; 16], row: Option<(KnownPlane, Vec<u8>)>) {
        let accepts = |(plane, seal): &(KnownPlane, Vec<u8>)| {
            self.remembered(|memory| memory.accepts(&self.inner.key, plane, seal))
        };
        match row {
            Some(row) if accepts(&row) => look.trusted.push(row.0),
            row => {
                let doubtful = self.remembered(|memory| memory.doubts(id, row.as_ref().map(|(plane, _)| plane)));
                if !doubtful.is_told {
                    let name = doubtful.name.as_str();
                    tracing::warn!(
                        name,
                        "a row of control_planes is missing, or is not what a control plane of this version wrote: receipts take its nodes to serve \
                         until their bound"
                    );
                }
                look.doubtful.push(doubtful);
            }
        }
    }

    fn count(&self, look: Look, own: Option<Duration>) -> Census {
        let Look { now, trusted, doubtful } = look;
        let configured = trusted.iter().map(|plane| plane.max_staleness);
        let configured = configured.chain(doubtful.iter().map(|doubtful| doubtful.max_staleness));
        let bound = own.unwrap_or(configured.fold(self.inner.max_staleness, Duration::max));
        let mut census = Census {
            at: now,
            bound,
            there: Vec::new(),
            gone: Vec::new(),
            doubtful: doubtful.into_iter().filter(|other| other.id != self.inner.id).map(|other| other.name).collect(),
            is_complete: false,
        };
        for KnownPlane { id, name, known_since, seen_at, gone, .. } in trusted {
            match gone {
                Some(Gone { at, left }) => {
                    let passed = now.since(at);
                    let (age, oldest) = (passed.saturating_sub(SLACK), passed.saturating_add(SLACK));
                    census.gone.push(Departed { name, age, oldest, nodes: left });
                }
                None if id == self.inner.id => {
                    census.is_complete = known_since.saturating_add(bound).saturating_add(SLACK) < now;
                }
                None => census.there.push(Other { id, name, is_heard: now.since(seen_at) <= AWAITED_FOR }),
            }
        }
        census
    }

    fn remembered<T>(&self, with: impl FnOnce(&mut Acquaintance) -> T) -> T {
        with(&mut self.inner.acquaintance.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The moment so long before another one.
pub(crate) fn before(now: Timestamp, by: Duration) -> Timestamp {
    Timestamp::from_nanos(now.nanos().saturating_sub(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests;
