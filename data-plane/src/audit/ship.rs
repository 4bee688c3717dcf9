//! The task that ships this life's records: in order, at least once, and never before they are durable here.
//!
//! A record that the control plane has but a power cut took from the disk would give its number to another record after
//! the restart. So only what is synced is shipped; what was acknowledged is never shipped again in this life.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keyforge_runtime::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::audit::courier::{BATCH_BYTES, BATCH_RECORDS, Courier};
use crate::audit::journal::Journal;
use crate::audit::leftover;
use crate::audit::read::{self, Position, Want};
use crate::audit::sink::{AuditSink, Begin, SinkError};
use crate::audit::spool::{Progress, Spool, SpoolError};

/// How long a batch that is not full waits for more records.
const LINGER: Duration = Duration::from_millis(50);

/// Ships the records of one spool to one sink. Each spool has one shipper.
pub struct Shipper<S> {
    spool: Spool,
    courier: Courier<S>,
    progress: watch::Receiver<Progress>,
    next: u64,
    /// The highest number that was acknowledged ever.
    acknowledged: u64,
    position: Position,
}

impl<S: AuditSink> Shipper<S> {
    /// A shipper that has shipped nothing.
    #[must_use]
    pub fn new(spool: Spool, sink: Arc<S>) -> Self {
        let identity = spool.core().journal.lock().identity;
        let progress = spool.core().progress.subscribe();
        let courier = Courier::new(sink, identity);
        Self { spool, courier, progress, next: 1, acknowledged: 0, position: Position::default() }
    }

    /// Starts shipping. The task outlives the drain, because attempts end while it lasts; [`Spool::close`] ends it.
    pub fn spawn(self, shutdown: &Shutdown) -> JoinHandle<()> {
        shutdown.spawn_critical_background("audit-ship", self.run())
    }

    /// Ships until the spool is closed and everything is shipped; then closes this life and removes its files.
    pub async fn run(mut self) {
        loop {
            while let Some(through) = self.wait().await {
                self.step(through).await;
            }
            if self.spool.core().with_journal(Journal::end) {
                break self.finish().await;
            }
            // A refusal came in at the last moment: the end is further away than was published.
            if self.progress.changed().await.is_err() {
                break;
            }
        }
    }

    /// Ships a batch of the records up to `through`.
    async fn step(&mut self, through: u64) {
        let (begin, batch) = self.batch(through).await;
        self.next = begin.seq;
        let watermark = self.courier.ship(begin, &batch).await;
        self.advance(watermark, batch.len() as u64);
    }

    /// Waits for durable records, and a little longer for a fuller batch. The last of them, or `None` at the end.
    async fn wait(&mut self) -> Option<u64> {
        let next = self.next;
        let some = |progress: &Progress| progress.durable_seq >= next || progress.finished;
        let full = |progress: &Progress| progress.durable_seq >= next + (BATCH_RECORDS as u64 - 1) || progress.finished;
        let progress = *self.progress.wait_for(some).await.ok()?;
        if progress.durable_seq < next {
            return None;
        }
        // Whether it filled or time was up does not matter.
        drop(tokio::time::timeout(LINGER, self.progress.wait_for(full)).await);
        Some(self.progress.borrow().durable_seq)
    }

    async fn batch(&mut self, through: u64) -> (Begin, Vec<Bytes>) {
        loop {
            let recent = self.spool.core().journal.lock().recent(self.next, BATCH_RECORDS, BATCH_BYTES);
            if let Some(records) = recent {
                return (Begin::at(self.next), records);
            }
            match self.read(through).await {
                Ok(read) => return read,
                Err(error) => {
                    let error = SinkError { retryable: false, message: error.to_string() };
                    self.courier.pause(&error).await;
                }
            }
        }
    }

    /// Reads what memory no longer holds.
    async fn read(&mut self, through: u64) -> io::Result<(Begin, Vec<Bytes>)> {
        let segments = self.spool.core().journal.lock().segments();
        let want = Want { from: self.next, through, max_records: BATCH_RECORDS, max_bytes: BATCH_BYTES };
        let (mut position, acknowledged) = (self.position, self.acknowledged);
        let reading = spawn_blocking(move || {
            read::kept(&segments, &mut position, want, acknowledged).map(|read| (read, position))
        });
        let (read, position) = reading.await.map_err(io::Error::other)??;
        self.position = position;
        Ok(read)
    }

    fn advance(&mut self, watermark: u64, shipped: u64) {
        let went_back = watermark < self.next - 1;
        let last = self.spool.core().with_journal(|journal| {
            if went_back {
                journal.put_back(watermark);
            }
            journal.acknowledge(watermark);
            journal.last_seq()
        });
        if watermark > last {
            tracing::warn!(watermark, last, "records were acknowledged that were never written");
        }
        if watermark < self.next - 1 + shipped {
            // The rest of the batch is read again, from before where reading stands.
            self.position = Position::default();
        }
        self.next = watermark.min(last) + 1;
        self.acknowledged = self.acknowledged.max(self.next - 1);
    }

    async fn finish(&mut self) {
        let (folder, last_seq) = {
            let journal = self.spool.core().journal.lock();
            (journal.folder.clone(), journal.last_seq())
        };
        while let Err(watermark) = self.courier.close_boot(last_seq).await {
            self.advance(watermark, 0);
            while self.next <= last_seq {
                self.step(last_seq).await;
            }
        }
        let removed = spawn_blocking(move || leftover::remove_folder(&folder)).await;
        let removed = removed.unwrap_or(Err(SpoolError::Failed));
        if let Err(error) = removed {
            tracing::warn!(%error, "a finished audit spool could not be removed; the next start does it");
        }
        self.spool.core().with_journal(Journal::mark_removed);
    }
}

#[cfg(test)]
#[path = "ship_tests.rs"]
mod tests;
