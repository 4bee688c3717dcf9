//! Brings the records of one life to a sink, however often the sink fails. It gives up never: its caller decides when.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keyforge_runtime::backoff::Backoff;
use keyforge_shared::id::RequestId;

use crate::audit::Identity;
use crate::audit::sink::{AuditSink, Begin, SinkError};

/// Records in one batch at most.
pub(super) const BATCH_RECORDS: usize = 500;
/// Bytes in one batch, after which no more records are added to it.
pub(super) const BATCH_BYTES: usize = 1 << 20;

const BACKOFF_BASE: Duration = Duration::from_millis(100);
const BACKOFF_CAP: Duration = Duration::from_secs(10);
/// How long to wait after a refusal that only an operator can lift.
const REFUSED: Duration = Duration::from_secs(30);

pub(super) struct Courier<S> {
    sink: Arc<S>,
    identity: Identity,
    backoff: Backoff,
    failing: bool,
}

impl<S: AuditSink> Courier<S> {
    pub fn new(sink: Arc<S>, identity: Identity) -> Self {
        Self { sink, identity, backoff: Backoff::new(BACKOFF_BASE, BACKOFF_CAP), failing: false }
    }

    /// Ships a batch until at least its first record is chained, and returns the last number that is. An empty batch only
    /// asks for that number. A lower number than the batch begins after says that what was acknowledged is gone: the control plane was put back
    /// to an earlier state, and is shipped the rest once more, as far as it is kept.
    pub async fn ship(&mut self, begin: Begin, records: &[Bytes]) -> u64 {
        let first_seq = begin.seq;
        loop {
            match self.sink.ship(self.identity.node, self.identity.boot, begin, records).await {
                Ok(watermark) if watermark >= first_seq || records.is_empty() => {
                    self.well();
                    return watermark;
                }
                Ok(watermark) => self.pause(&behind(watermark, first_seq)).await,
                Err(error) => {
                    let before = first_seq.saturating_sub(1);
                    // When nothing earlier is kept, going back would lead here again.
                    if !(error.retryable || begin.earlier_gone)
                        && let Some(watermark) = self.watermark().await.filter(|known| *known < before)
                    {
                        tracing::warn!(boot = %self.identity.boot, watermark, "records that were acknowledged are gone there; they are sent again");
                        return watermark;
                    }
                    self.pause(&error).await;
                }
            }
        }
    }

    /// The last number that is chained, if it is told.
    async fn watermark(&self) -> Option<u64> {
        self.sink.ship(self.identity.node, self.identity.boot, Begin::at(1), &[]).await.ok()
    }

    /// Reports until it is taken that records after `last_seq` are lost.
    pub async fn report_gap(&mut self, last_seq: u64, requests: &[RequestId]) {
        while let Err(error) = self.sink.report_gap(self.identity.node, self.identity.boot, last_seq, requests).await {
            self.pause(&error).await;
        }
        self.well();
    }

    /// Says until it is taken that this life is over.
    ///
    /// # Errors
    /// The last number that is chained, if that is an earlier one: the control plane was put back since.
    pub async fn close_boot(&mut self, last_seq: u64) -> Result<(), u64> {
        while let Err(error) = self.sink.close_boot(self.identity.boot, last_seq).await {
            if !error.retryable
                && let Some(watermark) = self.watermark().await.filter(|known| *known < last_seq)
            {
                tracing::warn!(boot = %self.identity.boot, watermark, last_seq, "records that were acknowledged are gone there; they are sent again");
                return Err(watermark);
            }
            self.pause(&error).await;
        }
        self.well();
        Ok(())
    }

    /// Waits after a failure, longer after each; logs the first of a row.
    pub async fn pause(&mut self, error: &SinkError) {
        if !self.failing {
            let boot = self.identity.boot;
            tracing::warn!(%boot, %error, error.retryable, "audit records do not arrive; they are kept and sent again");
            self.failing = true;
        }
        let delay = if error.retryable { self.backoff.next_delay() } else { REFUSED };
        tokio::time::sleep(delay).await;
    }

    fn well(&mut self) {
        if self.failing {
            tracing::info!(boot = %self.identity.boot, "audit records arrive again");
            self.failing = false;
        }
        self.backoff.reset();
    }
}

fn behind(watermark: u64, first_seq: u64) -> SinkError {
    let message =
        format!("the answer acknowledges records up to {watermark}, although the batch begins at {first_seq}");
    SinkError { retryable: true, message }
}
