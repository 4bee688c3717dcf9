//! What a receipt has to know of the control planes that share the database: how far their nodes are, and who of them may have told a node before the
//! change that its state is fresh without being heard now.
//!
//! The registry is read after the change was committed. Whoever is in it then is asked, and answers for every node that it told; whoever comes later
//! begins with a state that has the change; of one that is gone, the moment is known after which it told nobody. So all nodes are counted when
//! all that are there have answered, and those that are gone left word of their nodes or went longer ago than the key's bound. If not, the receipt names
//! those that are missing, and its bound counts from the moment until which they may have told a node.

use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::{Clock, Timestamp};

use super::AdminError;
use crate::publish::progress::Progress;
use crate::registry::{Census, Departed, Other, Registry};
use crate::store::receipt_parts::{self, Part, Question};
use crate::store::{Store, StoreError};

/// A control plane that was asked, and what it has answered so far.
struct Asked {
    other: Other,
    writes: u32,
    progress: Option<Progress>,
}

/// What the others say of a revision.
pub(super) struct Inquiry {
    store: Store,
    clock: Arc<dyn Clock>,
    /// `None` when nobody was asked.
    question: Option<[u8; 16]>,
    asked: Vec<Asked>,
    /// What those left word of that are gone.
    left: Vec<Progress>,
    /// How long a node may serve the key.
    pub(super) bound: Duration,
    /// Those that are gone and left no word, and until when they may have told a node that its state is fresh.
    lost: Vec<(String, Timestamp)>,
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
        let mut this = Self::of(store, clock, census);
        // Nobody can answer a question that is not waited for.
        if !wait.is_zero() && this.asked.iter().any(|asked| asked.other.is_heard) {
            let mut id = [0; 16];
            getrandom::fill(&mut id).map_err(|_| AdminError::Random)?;
            let question = Question { id, revision, max_staleness: this.bound, wait };
            let mut tx = this.store.write().await?;
            receipt_parts::ask(&mut tx, &question, registry.id(), at).await?;
            tx.commit().await.map_err(StoreError::from)?;
            this.question = Some(id);
        }
        Ok(this)
    }

    fn of(store: Store, clock: Arc<dyn Clock>, census: Census) -> Self {
        let Census { bound, there, gone, is_complete, .. } = census;
        let now = clock.now();
        let (mut left, mut lost) = (Vec::new(), Vec::new());
        for Departed { name, age, nodes } in gone {
            match nodes {
                Some(nodes) => {
                    let ages = nodes.into_iter().map(|(node, known)| (node, age.saturating_add(known)));
                    let serving = ages.filter(|(_, age)| *age <= bound).map(|(node, age)| (node, before(now, age)));
                    left.push(Progress { pending: serving.collect(), ..Progress::default() });
                }
                None => lost.push((name, before(now, age))),
            }
        }
        let asked = there.into_iter().map(|other| Asked { other, writes: 0, progress: None }).collect();
        Self { store, clock, question: None, asked, left, bound, lost, is_complete }
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
        let Some(question) = self.question else { return Ok(()) };
        if self.asked.iter().all(Asked::has_nothing_to_add) {
            return Ok(());
        }
        let mut read = self.store.read().await?;
        for asked in self.asked.iter_mut().filter(|asked| !asked.has_nothing_to_add()) {
            if let Some(part) = receipt_parts::part(&mut read, &question, &asked.other.id, asked.writes).await? {
                asked.take(part, &*self.clock);
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
        let is_missing = !self.is_complete || self.asked.iter().any(|asked| asked.progress.is_none());
        let lost = self.lost.iter().map(|(_, until)| (*until).min(committed));
        lost.chain(is_missing.then_some(committed)).max()
    }

    /// Control planes whose nodes are not counted: those that have not answered, and those that are gone without a word.
    pub(super) fn missing(&self) -> Vec<String> {
        let silent = self.asked.iter().filter(|asked| asked.progress.is_none()).map(|asked| &asked.other.name);
        silent.chain(self.lost.iter().map(|(name, _)| name)).cloned().collect()
    }

    /// Lets the others forget the question.
    pub(super) async fn end(self) {
        let Some(question) = self.question else { return };
        let forgotten = async {
            let mut tx = self.store.write().await?;
            receipt_parts::forget(&mut tx, &question).await?;
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

    fn take(&mut self, part: Part, clock: &dyn Clock) {
        let Part { writes, is_settled, acked, pending, streams_cut } = part;
        let (now, now_nanos) = (clock.now(), clock.monotonic_nanos());
        let before_that = self.progress.as_ref().map_or((0, 0), |known| (known.acked.len(), known.last_ack_nanos));
        let (acked_before, last_ack_nanos) = before_that;
        // It was acknowledged before it was read here, and by this control plane's clock nobody knows more.
        let last_ack_nanos = if acked.len() > acked_before { now_nanos } else { last_ack_nanos };
        let pending = pending.into_iter().map(|(node, age)| (node, before(now, age))).collect();
        self.writes = writes;
        self.progress = Some(Progress { acked, pending, streams_cut, last_ack_nanos, is_settled });
    }
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    Timestamp::from_nanos(now.nanos().saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use keyforge_shared::clock::ManualClock;
    use keyforge_shared::id::NodeId;

    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    async fn inquiry(directory: &std::path::Path, there: &[&str], gone: Vec<Departed>) -> Inquiry {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000_000)));
        let store = Store::open(&directory.join("data"), Arc::clone(&clock)).await.unwrap();
        let other = |name: &&str| Other { id: [1; 16], name: (*name).to_owned(), is_heard: true };
        let there = there.iter().map(other).collect();
        let census = Census { at: clock.now(), bound: BOUND, there, gone, is_complete: true };
        Inquiry { question: Some([7; 16]), ..Inquiry::of(store, clock, census) }
    }

    fn departed(name: &str, age: u64, nodes: Option<Vec<(NodeId, Duration)>>) -> Departed {
        Departed { name: name.to_owned(), age: Duration::from_secs(age), nodes }
    }

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    #[tokio::test]
    async fn i_13_nodes_that_were_left_behind_count_as_long_as_they_may_serve_and_who_left_no_word_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let left = vec![(node(1), Duration::from_secs(5)), (node(2), Duration::from_secs(20))];
        let gone = vec![departed("left", 12, Some(left)), departed("died", 9, None), departed("died later", 2, None)];
        let inquiry = inquiry(directory.path(), &[], gone).await;
        let now = inquiry.clock.now();
        let progress = inquiry.with(&Progress::default());
        assert_eq!(progress.pending, [(node(1), before(now, Duration::from_secs(17)))], "the other one has stopped");
        assert!(inquiry.with(&Progress { acked: vec![node(1)], ..Progress::default() }).is_done());
        assert_eq!(inquiry.missing(), ["died", "died later"]);
        assert_eq!(inquiry.unknown_until(now), Some(before(now, Duration::from_secs(2))));
        let committed = before(now, Duration::from_secs(5));
        assert_eq!(inquiry.unknown_until(committed), Some(committed), "nobody was told of an older state after that");
    }

    #[tokio::test]
    async fn i_13_one_that_has_not_answered_is_waited_for_and_missing_and_its_last_answer_counts() {
        let directory = tempfile::tempdir().unwrap();
        let mut inquiry = inquiry(directory.path(), &["other"], Vec::new()).await;
        let now = inquiry.clock.now();
        assert!(!inquiry.is_answered() && inquiry.missing() == ["other"] && inquiry.unknown_until(now) == Some(now));
        let mut answer = async |writes, acked: &[NodeId], pending: &[NodeId]| {
            let age = |node: &NodeId| (*node, Duration::from_secs(3));
            let pending = pending.iter().map(age).collect();
            let part = Part { writes, is_settled: true, acked: acked.to_vec(), pending, streams_cut: writes.into() };
            let mut tx = inquiry.store.write().await.unwrap();
            receipt_parts::answer(&mut tx, &[7; 16], &[1; 16], &part).await.unwrap();
            tx.commit().await.unwrap();
            inquiry.look().await.unwrap();
            (inquiry.with(&Progress::default()), inquiry.is_answered(), inquiry.unknown_until(now))
        };
        let (some, is_answered, unknown) = answer(1, &[node(1)], &[node(2)]).await;
        assert_eq!(
            (some.pending.as_slice(), some.streams_cut),
            (&[(node(2), before(now, Duration::from_secs(3)))][..], 1)
        );
        assert!(is_answered && !some.is_done() && unknown.is_none());
        let (all, ..) = answer(2, &[node(1), node(2)], &[]).await;
        assert!(all.is_done() && all.streams_cut == 2);
        let (late, ..) = answer(3, &[node(1)], &[node(2)]).await;
        assert_eq!(late, all, "it has nothing to add after that");
    }
}
