//! Settles what earlier lives of this node left behind, in the background.
//!
//! Attempts whose end nobody saw are charged at their bound: their records get the next numbers of that life and are
//! durable before anything else is done, so a crash at any moment leads to the same numbers. Then the life's records are
//! shipped, and it leaves the ledger's epochs. Meanwhile the counter store, if it outlived that life, is told how its
//! attempts ended. Neither waits for the other; when both are done, the folder goes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use keyforge_counters::Counters;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::Clock;
use keyforge_shared::id::{BootId, DeploymentId, NodeId, RequestId};
use tokio::task::spawn_blocking;

use crate::audit::Identity;
use crate::audit::courier::{BATCH_BYTES, BATCH_RECORDS, Courier};
use crate::audit::holds;
use crate::audit::leftover::{self, Leftover};
use crate::audit::read::{self, Position, Want};
use crate::audit::scan::{self, Scan};
use crate::audit::settle;
use crate::audit::sink::{AuditSink, Begin, SinkError};
use crate::audit::spool::SpoolError;

/// Whom recovery tells what earlier lives did.
pub struct Told<S> {
    /// Where their records go.
    pub sink: Arc<S>,
    /// The counter store, if it outlives a life.
    pub counters: Option<Arc<Counters>>,
}

/// Recovers all leftovers, one after the other, until they are gone or the drain starts; what is not done then is done
/// after the next start.
pub async fn recover<S: AuditSink>(leftovers: Vec<Leftover>, told: Told<S>, clock: Arc<dyn Clock>, shutdown: Shutdown) {
    let leftovers: Vec<_> = leftovers.into_iter().map(Arc::new).collect();
    let parts = 1 + u8::from(told.counters.is_some());
    let ledger = async {
        for leftover in &leftovers {
            let (leftover, sink) = (Arc::clone(leftover), Arc::clone(&told.sink));
            Recovery::new(leftover, sink, Arc::clone(&clock), parts).run().await;
        }
    };
    let store = async {
        let Some(counters) = &told.counters else { return };
        for leftover in &leftovers {
            holds::let_go(counters, leftover).await;
            let recovery = Recovery::new(Arc::clone(leftover), Arc::clone(&told.sink), Arc::clone(&clock), parts);
            recovery.part_done().await;
        }
    };
    let both = async {
        let ((), ()) = futures_util::future::join(ledger, store).await;
    };
    shutdown.until_drain(both).await;
}

/// Tells the counter store what earlier lives held as long as nothing else can be done about them, because nobody has said yet which installation
/// this is. Nothing is changed on disk; [`recover`] tells it once more. Holds the directory until it is dropped.
pub async fn tell_ahead(dir: &Path, (node, boot): (NodeId, BootId), counters: &Counters) {
    // Reading needs no more of it than the boot.
    let identity = Identity { deployment: DeploymentId::from_bytes([0; 16]), node, boot };
    let found = leftover::lock(dir).and_then(|lock| Ok((leftover::peek(dir, &identity)?, lock)));
    let (leftovers, _lock) = match found {
        Ok(found) => found,
        // Whoever opens the spool will hear it, too.
        Err(error) => return tracing::debug!(%error, "what earlier lives held cannot be read yet"),
    };
    for leftover in leftovers {
        holds::let_go(counters, &Arc::new(leftover)).await;
    }
}

struct Recovery<S> {
    leftover: Arc<Leftover>,
    clock: Arc<dyn Clock>,
    courier: Courier<S>,
    /// Parts that must be done with the folder before it goes.
    parts: u8,
}

impl<S: AuditSink> Recovery<S> {
    fn new(leftover: Arc<Leftover>, sink: Arc<S>, clock: Arc<dyn Clock>, parts: u8) -> Self {
        let courier = Courier::new(sink, leftover.identity);
        Self { leftover, clock, courier, parts }
    }

    async fn run(mut self) {
        let scan = self.settled().await;
        let mut last = self.ship(&scan, scan.acked, scan.last_seq).await;
        while let Err(watermark) = self.courier.close_boot(last).await {
            last = self.ship(&scan, watermark, scan.last_seq).await;
        }
        let boot = self.leftover.identity.boot;
        tracing::info!(%boot, last_seq = last, "an earlier life of this node is settled");
        self.part_done().await;
    }

    /// The last part takes the folder with it.
    async fn part_done(mut self) {
        if self.leftover.is_done_with(self.parts) {
            self.blocking(Leftover::remove).await;
        }
    }

    /// The folder, once it is whole and nothing in it is open.
    async fn settled(&mut self) -> Scan {
        loop {
            let scan = self.blocking(scan::scan).await;
            if scan.damaged {
                self.save(scan).await;
            } else if scan.open.is_empty() {
                return scan;
            } else {
                tracing::warn!(boot = %scan.identity.boot, attempts = scan.open.len(), "attempts are charged at their bounds");
                let now = self.clock.now();
                let scan = Arc::new(scan);
                self.blocking(move |leftover| settle::resolve(leftover, &scan, now)).await;
            }
        }
    }

    /// Saves what can be read of a damaged folder. The control plane may have more of it than this disk knows, so it is
    /// asked first; what it lacks is numbered anew behind what it has, and the gap is reported.
    async fn save(&mut self, scan: Scan) {
        tracing::error!(boot = %scan.identity.boot, whole_through = scan.whole_through, last_seq = scan.last_seq,
            "an audit spool is damaged; what can be read is saved and the gap reported");
        let known = if scan.whole_through > scan.acked {
            self.ship(&scan, scan.acked, scan.whole_through).await
        } else {
            self.courier.ship(Begin::at(scan.acked + 1), &[]).await.max(scan.acked)
        };
        let requests: Vec<RequestId> = scan.open.iter().map(|intent| intent.request).collect();
        self.courier.report_gap(known, &requests).await;
        let now = self.clock.now();
        let scan = Arc::new(scan);
        self.blocking(move |leftover| settle::rebase(leftover, &scan, known, now)).await;
    }

    /// Ships what comes after `known`, up to `through`. Returns how far the control plane's records reach.
    async fn ship(&mut self, scan: &Scan, mut known: u64, through: u64) -> u64 {
        let (mut acknowledged, mut position) = (scan.acked, Position::default());
        while known < through {
            let want = Want { from: known + 1, through, max_records: BATCH_RECORDS, max_bytes: BATCH_BYTES };
            let segments = scan.segments.clone();
            let start = position;
            let read = move |leftover: &Leftover| {
                let mut position = start;
                match read::kept(&segments, &mut position, want, acknowledged) {
                    Ok((begin, records)) => Ok((begin, records, position)),
                    Err(source) => Err(SpoolError::disk("read", &leftover.dir, source)),
                }
            };
            let (begin, records, reached) = self.blocking(read).await;
            position = reached;
            known = self.courier.ship(begin, &records).await;
            if known < begin.seq - 1 + records.len() as u64 {
                position = Position::default();
            }
            acknowledged = acknowledged.max(known);
        }
        known
    }

    /// Does disk work until it succeeds.
    async fn blocking<T, F>(&mut self, work: F) -> T
    where
        T: Send + 'static,
        F: Fn(&Leftover) -> Result<T, SpoolError> + Clone + Send + 'static,
    {
        loop {
            let (leftover, work) = (Arc::clone(&self.leftover), work.clone());
            let done = spawn_blocking(move || work(&leftover)).await;
            let error = match done {
                Ok(Ok(value)) => return value,
                Ok(Err(error)) => error,
                Err(error) => SpoolError::disk("work on", &self.leftover.dir, io::Error::other(error)),
            };
            self.courier.pause(&SinkError { retryable: true, message: error.to_string() }).await;
        }
    }
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;
