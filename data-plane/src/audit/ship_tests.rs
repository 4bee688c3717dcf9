//! Shipping: in order, at least once, and never before it is durable.

use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::id::{BootId, NodeId, RequestId};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::audit::SpoolLimits;
use crate::audit::fixture::{self, identity, intent, open, record, refusal};
use crate::audit::memory::{MemorySink, Mishap};
use crate::audit::spool::Closing;

const LONG: Duration = Duration::from_secs(30);
/// Segments of a few records.
const SMALL: SpoolLimits = SpoolLimits { max_bytes: 1 << 20, segment_bytes: 1000 };

fn boot() -> BootId {
    identity(1).boot
}

fn start(spool: &Spool, sink: &Arc<MemorySink>) -> Shutdown {
    let shutdown = Shutdown::new();
    drop(Shipper::new(spool.clone(), Arc::clone(sink)).spawn(&shutdown));
    shutdown
}

/// A life's spool whose shipper runs.
struct Shipping {
    spool: Spool,
    sink: Arc<MemorySink>,
    shutdown: Shutdown,
    dir: TempDir,
}

fn shipping(limits: SpoolLimits) -> Shipping {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = fixture::open_limited(dir.path(), 1, limits).unwrap();
    let sink = Arc::new(MemorySink::new());
    Shipping { shutdown: start(&spool, &sink), spool, sink, dir }
}

fn write(spool: &Spool, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        spool.intent(&intent(number)).unwrap();
        spool.record(record(number)).unwrap();
    }
}

fn assert_chained_once(sink: &MemorySink, count: u32) {
    let records = sink.records(boot());
    assert!(records.keys().copied().eq(1..=u64::from(count)));
    for (number, bytes) in (1..=count).zip(records.values()) {
        let chained = RequestRecord::decode(bytes).unwrap();
        assert_eq!((chained.request, chained.node_seq), (fixture::request(number), u64::from(number)));
    }
}

#[tokio::test]
async fn records_arrive_in_order_and_are_acknowledged() {
    let Shipping { spool, sink, .. } = &shipping(SpoolLimits::default());
    write(spool, 1..=1200);
    sink.wait_until(|sink| sink.records(boot()).len() == 1200).await;
    assert_chained_once(sink, 1200);
    assert!(sink.batches().iter().all(|(_, length)| (1..=BATCH_RECORDS).contains(length)));
    assert!(sink.batches().is_sorted());
}

#[tokio::test]
async fn i_17_lost_answers_and_partial_batches_lead_to_the_same_records() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), 1);
    let sink = Arc::new(MemorySink::new());
    sink.script([Mishap::AnswerLost, Mishap::OneTaken, Mishap::Refused { retryable: true }, Mishap::OneTaken]);
    write(&spool, 1..=700);
    let _shutdown = start(&spool, &sink);
    assert_eq!(spool.close(LONG).await, Closing::Clean);
    assert_chained_once(&sink, 700);
    assert!(sink.batches().len() > 4, "{:?}", sink.batches());
}

#[tokio::test]
async fn what_memory_no_longer_holds_is_shipped_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { max_bytes: 64 << 20, segment_bytes: 200 << 10 };
    let (spool, _) = fixture::open_limited(dir.path(), 1, limits).unwrap();
    for first in (1..9000).step_by(500) {
        write(&spool, first..=first + 499);
        spool.core().tick();
    }
    assert!(spool.core().journal.lock().recent(1, 1, 1).is_none(), "the test needs more records than memory holds");
    assert!(spool.core().journal.lock().segments().len() > 5);
    let sink = Arc::new(MemorySink::new());
    sink.script([Mishap::AnswerLost, Mishap::OneTaken]);
    let _shutdown = start(&spool, &sink);
    assert_eq!(spool.close(LONG).await, Closing::Clean);
    assert_chained_once(&sink, 9000);
}

#[test]
fn segment_that_is_removed_once_it_is_listed_is_not_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = fixture::open_limited(dir.path(), 1, SMALL).unwrap();
    for number in 1..=30 {
        write(&spool, number..=number);
        spool.core().tick();
    }
    let segments = spool.core().journal.lock().segments();
    let (from, through) = (1, 30);
    let want = |from| Want { from, through, max_records: 500, max_bytes: BATCH_BYTES };
    let all = read::records(&segments, &mut Position::default(), want(from)).unwrap();
    assert_eq!(all.len(), 30);
    // Reading stands at the end of the first segment, all of which is acknowledged and so removed.
    let mut position = Position::default();
    let first = read::records(&segments[..1], &mut position, want(from)).unwrap();
    std::fs::remove_file(&segments[0].1).unwrap();
    let rest = read::records(&segments, &mut position, want(1 + first.len() as u64)).unwrap();
    assert_eq!(first.len() + rest.len(), 30);
    assert!(read::records(&segments, &mut Position::default(), want(from)).is_err(), "record 1 is lost");
}

#[tokio::test]
async fn clean_end_closes_the_boot_and_leaves_nothing() {
    let Shipping { spool, sink, shutdown: _shutdown, dir } = shipping(SpoolLimits::default());
    write(&spool, 1..=3);
    spool.refusal(refusal(4)).unwrap();
    assert_eq!(spool.close(LONG).await, Closing::Clean);
    assert_eq!(sink.closed(), [(boot(), 4)]);
    assert!(matches!(spool.intent(&intent(5)), Err(SpoolError::Closed)));
    assert!(matches!(spool.record(record(5)), Err(SpoolError::Closed)));
    assert!(spool.refusal(refusal(5)).is_none());
    drop(spool);
    let (_spool, leftovers) = open(dir.path(), 2);
    assert!(leftovers.is_empty());
}

#[tokio::test]
async fn end_waits_for_attempts_that_run_and_refuses_new_ones() {
    let Shipping { spool, sink, .. } = &shipping(SpoolLimits::default());
    spool.intent(&intent(1)).unwrap();
    let closing = spool.close(LONG);
    tokio::pin!(closing);
    assert!(futures_util::poll!(&mut closing).is_pending());
    assert!(matches!(spool.intent(&intent(2)), Err(SpoolError::Closed)));
    assert!(sink.closed().is_empty());
    spool.record(record(1)).unwrap();
    assert_eq!(closing.await, Closing::Clean);
    assert_chained_once(sink, 1);
}

#[tokio::test]
async fn end_without_a_control_plane_leaves_the_records_for_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), 1);
    let sink = Arc::new(MemorySink::new());
    sink.set_reachable_for(Some(0));
    let shutdown = Shutdown::new();
    let task = Shipper::new(spool.clone(), Arc::clone(&sink)).spawn(&shutdown);
    write(&spool, 1..=3);
    sink.wait_until(|sink| sink.calls() > 0).await;
    assert_eq!(spool.close(Duration::from_millis(20)).await, Closing::Left { unshipped: 3, open: 0 });
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    drop(spool);
    let (_spool, leftovers) = open(dir.path(), 2);
    sink.set_reachable_for(None);
    let told = crate::audit::Told { sink: Arc::clone(&sink), counters: None };
    crate::audit::recover(leftovers, told, fixture::clock(), Shutdown::new()).await;
    assert_chained_once(&sink, 3);
    assert_eq!(sink.closed(), [(boot(), 3)]);
}

#[tokio::test]
async fn i_17_what_was_acknowledged_before_a_backup_was_restored_is_shipped_again() {
    let Shipping { spool, sink, .. } = &shipping(SpoolLimits::default());
    write(spool, 1..=10);
    sink.wait_until(|sink| sink.records(boot()).len() == 10).await;
    sink.put_back(boot(), 4);
    write(spool, 11..=12);
    sink.wait_until(|sink| sink.records(boot()).len() == 12).await;
    assert_chained_once(sink, 12);
    assert_eq!(spool.close(LONG).await, Closing::Clean);
}

/// Writes so many records in small segments, each acknowledged before the next, so that the oldest are removed.
async fn write_and_forget(spool: &Spool, sink: &MemorySink, count: u32) {
    for number in 1..=count {
        // Without a hold, nothing but the acknowledgement keeps a segment.
        spool.intent(&crate::audit::Intent { holds: false, ..intent(number) }).unwrap();
        spool.record(record(number)).unwrap();
        spool.core().tick();
        sink.wait_until(|sink| sink.records(boot()).len() == number as usize).await;
    }
    while spool.core().journal.lock().segments().first().is_some_and(|(number, _)| *number == 1) {
        spool.core().tick();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn i_17_what_is_gone_on_both_sides_after_a_restore_is_told_and_holds_up_nothing() {
    let Shipping { spool, sink, .. } = &shipping(SMALL);
    write_and_forget(spool, sink, 30).await;
    sink.put_back(boot(), 4);
    write(spool, 31..=32);
    sink.wait_until(|sink| sink.records(boot()).contains_key(&32)).await;
    let lost = sink.lost();
    assert_eq!((lost.len(), lost[0].1), (1, 5), "{lost:?}");
    assert!((5..31).contains(&lost[0].2), "{lost:?}");
    // All that is kept came again.
    let kept: Vec<u64> = (1..=4).chain(lost[0].2 + 1..=32).collect();
    assert!(sink.records(boot()).keys().copied().eq(kept));
    assert_eq!(spool.close(LONG).await, Closing::Clean);
}

#[tokio::test]
async fn life_that_ends_after_a_restore_ships_what_is_due_before_it_is_closed() {
    let Shipping { spool, sink, .. } = &shipping(SpoolLimits::default());
    write(spool, 1..=10);
    sink.wait_until(|sink| sink.records(boot()).len() == 10).await;
    sink.put_back(boot(), 4);
    sink.script([Mishap::Refused { retryable: false }]);
    assert_eq!(spool.close(LONG).await, Closing::Clean);
    assert_chained_once(sink, 10);
    assert_eq!(sink.closed(), [(boot(), 10)]);
}

/// Answers with the watermarks it is told to, one after the other; then as it should.
struct Unsteady {
    watermarks: Mutex<Vec<u64>>,
    shipped: Mutex<Vec<(u64, usize)>>,
}

impl AuditSink for Unsteady {
    async fn ship(&self, _: NodeId, _: BootId, begin: Begin, records: &[Bytes]) -> Result<u64, SinkError> {
        let first_seq = begin.seq;
        self.shipped.lock().push((first_seq, records.len()));
        Ok(self.watermarks.lock().pop().unwrap_or(first_seq - 1 + records.len() as u64))
    }

    async fn report_gap(&self, _: NodeId, _: BootId, _: u64, _: &[RequestId]) -> Result<(), SinkError> {
        Ok(())
    }

    async fn close_boot(&self, _: BootId, _: u64) -> Result<(), SinkError> {
        Ok(())
    }
}

#[tokio::test]
async fn watermark_that_goes_back_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), 1);
    write(&spool, 1..=10);
    spool.core().tick();
    let sink = Arc::new(Unsteady { watermarks: Mutex::new(vec![2, 5]), shipped: Mutex::default() });
    drop(Shipper::new(spool.clone(), Arc::clone(&sink)).spawn(&Shutdown::new()));
    assert_eq!(spool.close(LONG).await, Closing::Clean);
    assert_eq!(*sink.shipped.lock(), [(1, 10), (6, 5), (6, 5)]);
}
