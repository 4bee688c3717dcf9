//! What this control plane tells another one that makes a receipt: how far the nodes here are.
//!
//! A question is answered once the revision that it asks about is published here, so that no node can be told afterwards that an older state is fresh
//! without being counted. The answer is written as soon as no connected node has still to say something, and anew when a node that was out of reach
//! comes back; of a node that is slow it tells a few times that it is. Nothing of this is on the way of a request or of an order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::Clock as _;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::progress::Progress;
use super::session::Publisher;
use super::told::ToldLife;
use crate::registry::{Registry, seals};
use crate::store::receipt_parts::{self, Part, Question};
use crate::store::{Store, StoreError};

/// Questions that are answered at the same time; others wait for their turn.
const AT_ONCE: usize = 256;
/// Times between two looks at how far nodes are: the shortest and the longest.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));

/// Answers for the nodes of this control plane. Clones share it.
#[derive(Clone)]
pub struct Responder {
    store: Store,
    publisher: Publisher,
    registry: Registry,
    shutdown: Shutdown,
    free: Arc<Semaphore>,
}

impl Responder {
    /// Answers what is asked in `store`.
    #[must_use]
    pub fn new(store: Store, publisher: Publisher, registry: Registry, shutdown: Shutdown) -> Self {
        Self { store, publisher, registry, shutdown, free: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Answers questions, after each look at what others committed. Ends at once where nobody else is.
    pub async fn answer_all(self) {
        let Some(mut looks) = self.publisher.horizon.looks() else { return };
        let mut begun: HashMap<[u8; 16], JoinHandle<()>> = HashMap::new();
        while looks.changed().await.is_ok() {
            let asked = match self.questions().await {
                Ok(asked) => asked,
                Err(error) => {
                    tracing::debug!(%error, "what other control planes ask could not be read");
                    continue;
                }
            };
            begun.retain(|id, answering| {
                let is_open = asked.iter().any(|question| question.id == *id);
                if !is_open {
                    // Nobody waits for the answer any more, and others wait for its place.
                    answering.abort();
                }
                is_open
            });
            for question in asked {
                let is_published = question.revision <= self.publisher.hub.revision();
                if is_published && !begun.contains_key(&question.id) {
                    let Ok(turn) = Arc::clone(&self.free).try_acquire_owned() else { break };
                    let (this, id) = (self.clone(), question.id);
                    let answering = self.shutdown.until_drain(async move {
                        this.answer(question).await;
                        drop(turn);
                    });
                    begun.insert(id, self.shutdown.spawn("receipt part", answering));
                }
            }
        }
    }

    async fn questions(&self) -> Result<Vec<Question>, StoreError> {
        receipt_parts::questions(&mut *self.store.read().await?, self.registry.id()).await
    }

    async fn answer(&self, question: Question) {
        if let Err(error) = self.try_answer(&question).await {
            tracing::warn!(%error, "another control plane could not be told how far the nodes of this one are");
        }
    }

    async fn try_answer(&self, question: &Question) -> Result<(), StoreError> {
        let collection = self.publisher.collect(question.revision, question.max_staleness);
        let began = Instant::now();
        let (mut written, mut writes) = (None, 0);
        // What is slow is told in time for who waits so long.
        let mut due = question.wait / 4;
        loop {
            let progress = collection.progress();
            let waited = began.elapsed();
            let is_due = waited >= due;
            let told = Told::of(&progress);
            if (progress.is_settled || is_due) && written.as_ref() != Some(&told) {
                writes += 1;
                self.write(question, &progress, writes).await?;
                written = Some(told);
            }
            if progress.is_done() || waited >= question.wait {
                return Ok(());
            }
            if is_due {
                due = due.saturating_add((question.wait / 4).max(LOOK_AGAIN.1));
            }
            tokio::select! {
                () = collection.done() => {}
                () = tokio::time::sleep(pause(waited)) => {}
            }
        }
    }

    async fn write(&self, question: &Question, progress: &Progress, writes: u32) -> Result<(), StoreError> {
        let now = self.publisher.fleet.clock().now();
        let aged = |lives: &[ToldLife]| lives.iter().map(|life| life.aged(now)).collect();
        let part = Part {
            writes,
            is_settled: progress.is_settled,
            acked: aged(&progress.acked),
            pending: aged(&progress.pending),
            streams_cut: progress.streams_cut,
        };
        let by = self.registry.id();
        let seal = seals::of_part(self.registry.key(), &part, question, by);
        let mut tx = self.store.write().await?;
        receipt_parts::answer(&mut tx, &question.id, by, (&part, &seal)).await?;
        Ok(tx.commit().await?)
    }
}

/// What a part says, but for the ages of what nodes know: these pass by themselves.
#[derive(PartialEq, Eq)]
struct Told {
    is_settled: bool,
    acked: usize,
    pending: usize,
    streams_cut: u64,
}

impl Told {
    const fn of(progress: &Progress) -> Self {
        Self {
            is_settled: progress.is_settled,
            acked: progress.acked.len(),
            pending: progress.pending.len(),
            streams_cut: progress.streams_cut,
        }
    }
}

/// How long to wait for the next look, an eighth of what was waited already.
#[must_use]
pub fn pause(waited: Duration) -> Duration {
    (waited / 8).clamp(LOOK_AGAIN.0, LOOK_AGAIN.1)
}
