//! Settles what earlier lives of this node left behind, in the background.
//!
//! Attempts whose end nobody saw are charged at their bound: their records get the next numbers of that life and are
//! durable before anything else is done, so a crash at any moment leads to the same numbers. Then the life's records are
//! shipped, it leaves the ledger's epochs, and its folder goes.

use std::io;
use std::sync::Arc;

use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::Clock;
use keyforge_shared::id::RequestId;
use tokio::task::spawn_blocking;

use crate::audit::courier::{BATCH_BYTES, BATCH_RECORDS, Courier};
use crate::audit::leftover::Leftover;
use crate::audit::read::{self, Position, Want};
use crate::audit::scan::{self, Scan};
use crate::audit::settle;
use crate::audit::sink::{AuditSink, SinkError};
use crate::audit::spool::SpoolError;

/// Recovers all leftovers, one after the other, until they are gone or the drain starts; what is not done then is done
/// after the next start.
pub async fn recover<S: AuditSink>(leftovers: Vec<Leftover>, sink: Arc<S>, clock: Arc<dyn Clock>, shutdown: Shutdown) {
    let all = async {
        for leftover in leftovers {
            Recovery::new(leftover, Arc::clone(&sink), Arc::clone(&clock)).run().await;
        }
    };
    tokio::select! {
        () = all => {}
        () = shutdown.drain_started() => {}
    }
}

struct Recovery<S> {
    leftover: Arc<Leftover>,
    clock: Arc<dyn Clock>,
    courier: Courier<S>,
}

impl<S: AuditSink> Recovery<S> {
    fn new(leftover: Leftover, sink: Arc<S>, clock: Arc<dyn Clock>) -> Self {
        let courier = Courier::new(sink, leftover.identity);
        Self { leftover: Arc::new(leftover), clock, courier }
    }

    async fn run(&mut self) {
        let scan = self.settled().await;
        let last = self.ship(&scan, scan.last_seq).await;
        self.courier.close_boot(last).await;
        self.blocking(Leftover::remove).await;
        let boot = self.leftover.identity.boot;
        tracing::info!(%boot, last_seq = last, "an earlier life of this node is settled");
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
            self.ship(&scan, scan.whole_through).await
        } else {
            self.courier.ship(scan.acked + 1, &[]).await.max(scan.acked)
        };
        let requests: Vec<RequestId> = scan.open.iter().map(|intent| intent.request).collect();
        self.courier.report_gap(known, &requests).await;
        let now = self.clock.now();
        let scan = Arc::new(scan);
        self.blocking(move |leftover| settle::rebase(leftover, &scan, known, now)).await;
    }

    /// Ships what is not acknowledged, up to `through`. Returns how far the control plane's records reach.
    async fn ship(&mut self, scan: &Scan, through: u64) -> u64 {
        let (mut known, mut position) = (scan.acked, Position::default());
        while known < through {
            let want = Want { from: known + 1, through, max_records: BATCH_RECORDS, max_bytes: BATCH_BYTES };
            let segments = scan.segments.clone();
            let start = position;
            let read = move |leftover: &Leftover| {
                let mut position = start;
                match read::records(&segments, &mut position, want) {
                    Ok(records) => Ok((records, position)),
                    Err(source) => Err(SpoolError::disk("read", &leftover.dir, source)),
                }
            };
            let (records, reached) = self.blocking(read).await;
            position = reached;
            let watermark = self.courier.ship(known + 1, &records).await;
            if watermark < known + records.len() as u64 {
                position = Position::default();
            }
            known = watermark;
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
