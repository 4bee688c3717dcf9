//! What a receipt has to know of the control planes that share the database: how far their nodes are, and who of them may have told a node before the
//! change that its state is fresh without being heard now.
//!
//! The registry is read after the change was committed. Whoever is in it then is asked, and answers for every node that it told; whoever comes later
//! begins with a state that has the change; of one that is gone, the moment is known after which it told nobody. So all nodes are counted when
//! all that are there have answered, and those that are gone left word of their nodes or went longer ago than the key's bound. If not, the receipt names
//! those that are missing, and its bound counts from the moment until which they may have told a node. An answer or a row whose seal does not hold is none.

use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::row_seal::RowSealKey;

use super::AdminError;
use crate::publish::progress::Progress;
use crate::publish::told::ToldLife;
use crate::registry::{Census, Departed, Other, Registry, before, seals};
use crate::store::node_lists::AgedLife;
use crate::store::receipt_parts::{self, Part, Question};
use crate::store::{Store, StoreError};

/// A control plane that was asked, and what it has answered so far.
struct Asked {
    other: Other,
    writes: u32,
    progress: Option<Progress>,
    /// Whether the log was told of an answer whose seal does not hold.
    is_warned: bool,
}

/// What the others say of a revision.
pub(super) struct Inquiry {
    store: Store,
    clock: Arc<dyn Clock>,
    key: RowSealKey,
    /// No answer was written before.
    asked_at: Timestamp,
    /// `None` when nobody was asked.
    question: Option<Question>,
    asked: Vec<Asked>,
    /// What those left word of that are gone.
    left: Vec<Progress>,
    /// How long a node may serve the key.
    pub(super) bound: Duration,
    /// Those that are gone and left no word, and until when they may have told a node that its state is fresh.
    lost: Vec<(String, Timestamp)>,
    /// Those of whose rows somebody else has made something.
    doubtful: Vec<String>,
    /// Whether nobody else can have.
    is_complete: bool,
}

impl Inquiry {
    /// Asks how far `revision` is, which is committed, of a key with this bound of its own; an answer is of use for `wait`.
    ///
    /// # Errors
    /// [`AdminError`].
    pub(super) async fn begin(
        (store, clock): (Store, Arc<dyn Clock>),
        registry: &Registry,
        revision: u64,
        own_bound: Option<Duration>,
        wait: Duration,
    ) -> Result<Self, AdminError> {
        let census = registry.census(own_bound).await?;
        let at = census.at;
        let mut this = Self::of(store, clock, registry, census);
        // Nobody can answer a question that is not waited for.
        if !wait.is_zero() && this.asked.iter().any(|asked| asked.other.is_heard) {
            let mut id = [0; 16];
            getrandom::fill(&mut id).map_err(|_| AdminError::Random)?;
            let question = Question { id, revision, max_staleness: this.bound, wait };
            let mut tx = this.store.write().await?;
            receipt_parts::ask(&mut tx, &question, registry.id(), at).await?;
            tx.commit().await.map_err(StoreError::from)?;
            this.question = Some(question);
        }
        Ok(this)
    }

    fn of(store: Store, clock: Arc<dyn Clock>, registry: &Registry, census: Census) -> Self {
        let Census { bound, there, gone, doubtful, is_complete, .. } = census;
        let now = clock.now();
        let (mut left, mut lost) = (Vec::new(), Vec::new());
        for Departed { name, age, oldest, nodes } in gone {
            match nodes {
                Some(nodes) => {
                    let serving = nodes.iter().filter(|life| age.saturating_add(life.assured) <= bound);
                    let told = serving.map(|life| ToldLife::told(life, before(now, oldest), before(now, age)));
                    let told = told.map(|life| ToldLife { is_connected: false, ..life });
                    left.push(Progress { pending: told.collect(), ..Progress::default() });
                }
                None => lost.push((name, before(now, age))),
            }
        }
        let asked = there.into_iter().map(|other| Asked { other, writes: 0, progress: None, is_warned: false });
        let (key, asked) = (registry.key().clone(), asked.collect());
        Self { store, clock, key, asked_at: now, question: None, asked, left, bound, lost, doubtful, is_complete }
    }

    /// Reads what was answered since the last time.
    ///
    /// # Errors
    /// [`StoreError`], unless the database may be back in a moment.
    pub(super) async fn look(&mut self) -> Result<(), StoreError> {
        match self.try_look().await {
            Err(error) if error.is_passing() => Ok(()),
            looked => looked,
        }
    }

    async fn try_look(&mut self) -> Result<(), StoreError> {
        let Some(question) = &self.question else { return Ok(()) };
        if self.asked.iter().all(Asked::has_nothing_to_add) {
            return Ok(());
        }
        let mut read = self.store.read().await?;
        for asked in self.asked.iter_mut().filter(|asked| !asked.has_nothing_to_add()) {
            match receipt_parts::part(&mut read, &question.id, &asked.other.id, asked.writes).await {
                Ok(None) => {}
                Ok(Some(answer)) if seals::part_holds(&self.key, &answer, question, &asked.other.id) => {
                    asked.take(answer.0, self.asked_at, &*self.clock);
                }
                Ok(Some(_)) | Err(StoreError::Corrupt(_)) => asked.warn(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How far the revision is with the nodes of all, of which this control plane's are as far as `own`.
    pub(super) fn with(&self, own: &Progress) -> Progress {
        let answered = self.asked.iter().filter_map(|asked| asked.progress.as_ref());
        Progress::merged(std::iter::once(own).chain(answered).chain(&self.left))
    }

    /// Whether nobody is waited for who has not answered.
    pub(super) fn is_answered(&self) -> bool {
        self.question.is_none() || self.asked.iter().all(|asked| asked.progress.is_some() || !asked.other.is_heard)
    }

    /// Until when somebody may have told a node that its state is fresh who is not counted; nobody can after `committed`.
    pub(super) fn unknown_until(&self, committed: Timestamp) -> Option<Timestamp> {
        let is_silent = |asked: &Asked| asked.progress.is_none();
        let is_missing = !self.is_complete || !self.doubtful.is_empty() || self.asked.iter().any(is_silent);
        let lost = self.lost.iter().map(|(_, until)| (*until).min(committed));
        lost.chain(is_missing.then_some(committed)).max()
    }

    /// Control planes whose nodes are not counted: those that have not answered, and those that are gone without a word.
    pub(super) fn missing(&self) -> Vec<String> {
        let silent = self.asked.iter().filter(|asked| asked.progress.is_none()).map(|asked| &asked.other.name);
        silent.chain(self.lost.iter().map(|(name, _)| name)).chain(&self.doubtful).cloned().collect()
    }

    /// Lets the others forget the question.
    pub(super) async fn end(self) {
        let Some(question) = self.question else { return };
        let forgotten = async {
            let mut tx = self.store.write().await?;
            receipt_parts::forget(&mut tx, &question.id).await?;
            Ok::<_, StoreError>(tx.commit().await?)
        };
        if let Err(error) = forgotten.await {
            tracing::debug!(%error, "a question to other control planes stays for a minute");
        }
    }
}

impl Asked {
    fn has_nothing_to_add(&self) -> bool {
        !self.other.is_heard || self.progress.as_ref().is_some_and(Progress::is_done)
    }

    fn take(&mut self, part: Part, asked_at: Timestamp, clock: &dyn Clock) {
        let Part { writes, is_settled, acked, pending, streams_cut } = part;
        let (now, now_nanos) = (clock.now(), clock.monotonic_nanos());
        let before_that = self.progress.as_ref().map_or((0, 0), |known| (known.acked.len(), known.last_ack_nanos));
        let (acked_before, last_ack_nanos) = before_that;
        // It was acknowledged before it was read here, and by this control plane's clock nobody knows more.
        let last_ack_nanos = if acked.len() > acked_before { now_nanos } else { last_ack_nanos };
        let told = |lives: &[AgedLife]| lives.iter().map(|life| ToldLife::told(life, asked_at, now)).collect();
        let (acked, pending) = (told(&acked), told(&pending));
        self.writes = writes;
        self.progress = Some(Progress { acked, pending, streams_cut, last_ack_nanos, is_settled });
    }

    fn warn(&mut self) {
        if !std::mem::replace(&mut self.is_warned, true) {
            let name = self.other.name.as_str();
            tracing::warn!(
                name,
                "an answer in receipt_answers is not what this control plane wrote to the question; it is not counted"
            );
        }
    }
}
