//! Tells the counter store how the attempts of an earlier life of this node ended, so that nothing of theirs stays held there.
//!
//! Told are: attempts without a record, which cost their bound; recorded ones that the store is not known to have heard of, which cost what
//! their record says; and questions that nothing was dispatched on, which cost nothing. The store changes nothing for what it heard before, for
//! what it does not know, and for what belongs to books that are gone, so all of it can be told again after any crash. It is told until it has
//! taken it: a store that is away keeps one batch in memory, and nobody waits for it but the removal of the folder.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use keyforge_counters::{CounterError, CounterStore, Counters, ReservationId, Settlement};
use keyforge_runtime::backoff::Backoff;
use keyforge_shared::audit::request::{Flags, RequestRecord};
use keyforge_shared::id::KeyId;
use tokio::task::spawn_blocking;

use crate::audit::Intent;
use crate::audit::leftover::Leftover;
use crate::audit::questions::Found;
use crate::audit::read::{self, Position};
use crate::audit::scan::{self, Scan};
use crate::audit::spool::SpoolError;

/// Messages on their way at the same time: requests that are served now go first.
const AT_ONCE: usize = 16;
/// Messages in memory at the same time, besides those of attempts without a record.
const BATCH: usize = 512;
/// Waits between two attempts at one message, or at the disk.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ended {
    key: KeyId,
    epoch: u32,
    id: ReservationId,
    settlement: Settlement,
}

/// Tells `store` everything that a life left to be told.
pub(super) async fn let_go(store: &Counters, leftover: &Arc<Leftover>) {
    let scan = Arc::new(blocking(leftover, scan::scan).await);
    let mut told = tell(store, scan.open.iter().filter(|intent| intent.holds).map(of_intent).collect()).await;
    told += tell(store, scan.questions.iter().map(of_question).collect()).await;
    let mut position = Position::default();
    loop {
        let (segments, start) = (Arc::clone(&scan), position);
        let next = move |leftover: &Leftover| {
            let mut position = start;
            let read = read::owned(&segments.segments, &mut position, segments.told, BATCH);
            let failed = |source| SpoolError::disk("read", &leftover.dir, source);
            read.map(|records| (records, position)).map_err(failed)
        };
        let (records, reached) = blocking(leftover, next).await;
        if records.is_empty() {
            break;
        }
        told += tell(store, records.iter().map(|(owner, record)| of_record(*owner, record)).collect()).await;
        position = reached;
    }
    log(&scan, told);
}

fn log(scan: &Scan, told: usize) {
    if told > 0 {
        let (boot, attempts) = (scan.identity.boot, scan.open.len());
        tracing::info!(%boot, told, attempts, "the counter store was told how the attempts of an earlier life ended");
    }
}

fn of_intent(intent: &Intent) -> Ended {
    let id = ReservationId { request: intent.request, attempt: intent.attempt };
    let settlement = Settlement { cost: intent.bound, counted: true, tokens: None };
    Ended { key: intent.key, epoch: intent.quota_epoch, id, settlement }
}

/// Whatever epoch it was asked in.
fn of_question(found: &Found) -> Ended {
    let (request, attempt) = found.attempt;
    let id = ReservationId { request, attempt };
    Ended { key: found.key, epoch: 0, id, settlement: Settlement::CANCELLED }
}

fn of_record(owner: KeyId, record: &RequestRecord) -> Ended {
    let id = ReservationId { request: record.request, attempt: record.attempt };
    Ended { key: owner, epoch: record.quota_epoch, id, settlement: settlement(record) }
}

/// What the store was told, or would have been, when the record was written.
fn settlement(record: &RequestRecord) -> Settlement {
    let taken = [record.input_tokens, record.output_tokens, record.cache_read_tokens, record.cache_write_tokens];
    let tokens = if record.flags.has(Flags::NOT_BILLED) {
        Some(0)
    } else {
        record.flags.has(Flags::USAGE_KNOWN).then(|| taken.into_iter().fold(0, u64::saturating_add))
    };
    Settlement { cost: record.cost, counted: !record.flags.has(Flags::NOT_COUNTED), tokens }
}

/// Tells each until the store has taken it. How many there were.
async fn tell(store: &Counters, all: Vec<Ended>) -> usize {
    let told = stream::iter(all).map(|ended| tell_one(store, ended)).buffer_unordered(AT_ONCE);
    told.count().await
}

async fn tell_one(store: &Counters, Ended { key, epoch, id, settlement }: Ended) {
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        match store.settle(key, epoch, id, settlement).await {
            Err(error @ CounterError::Unavailable(_)) => {
                tracing::trace!(request = %id.request, %error, "the counter store cannot be told yet");
                tokio::time::sleep(backoff.next_delay()).await;
            }
            // Books of another epoch learn it from the ledger, which learns it from the record.
            answer => return tracing::trace!(request = %id.request, ?answer, "settled for an earlier life"),
        }
    }
}

/// Does disk work until it succeeds.
async fn blocking<T, F>(leftover: &Arc<Leftover>, work: F) -> T
where
    T: Send + 'static,
    F: Fn(&Leftover) -> Result<T, SpoolError> + Clone + Send + 'static,
{
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    loop {
        let (folder, work) = (Arc::clone(leftover), work.clone());
        let error = match spawn_blocking(move || work(&folder)).await {
            Ok(Ok(value)) => return value,
            Ok(Err(error)) => error,
            Err(error) => SpoolError::disk("work on", &leftover.dir, io::Error::other(error)),
        };
        tracing::debug!(%error, "what an earlier life held cannot be read yet");
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

#[cfg(test)]
#[path = "holds_tests.rs"]
mod tests;
