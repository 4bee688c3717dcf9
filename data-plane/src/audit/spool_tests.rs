//! The spool under full disks, damage, threads and crashes.

use std::collections::BTreeSet;
use std::time::Instant;

use keyforge_shared::clock::SystemClock;
use proptest::prelude::*;

use super::*;
use crate::audit::fixture::{self, identity, intent, open, open_limited, record, refusal};
use crate::audit::scan::{Scan, scan};

/// What a later start finds in the folder of life 1.
fn found(dir: &Path) -> Scan {
    scan(&fixture::leftover(dir)).unwrap()
}

fn segments(dir: &Path) -> Vec<u32> {
    let folder = dir.join("spool").join(identity(1).boot.to_string());
    leftover::segments(&folder).unwrap().into_iter().map(|(number, _)| number).collect()
}

fn complete(spool: &Spool, number: u32) {
    spool.record(record(number)).unwrap();
}

#[test]
fn record_bears_the_spools_identity_and_the_next_number() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, leftovers) = open(dir.path(), 1);
    assert!(leftovers.is_empty());
    spool.intent(&intent(1)).unwrap();
    assert_eq!(spool.record(record(1)).unwrap(), 1);
    assert_eq!(spool.refusal(refusal(2)), Some(2));
    let status = spool.status();
    assert_eq!((status.next_seq, status.unshipped, status.acked, status.open, status.reserved), (3, 2, 0, 0, 0));
    spool.core().tick();
    let shipped = spool.core().journal.lock().recent(1, 10, 1 << 20).unwrap();
    let first = RequestRecord::decode(&shipped[0]).unwrap();
    assert_eq!(
        (first.deployment, first.node, first.boot),
        (identity(1).deployment, identity(1).node, identity(1).boot)
    );
    assert_eq!((first.node_seq, first.request), (1, fixture::request(1)));
}

#[test]
fn i_17_what_was_written_is_found_again_when_the_process_dies() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), 1);
    (1..=5).for_each(|number| spool.intent(&intent(number)).unwrap());
    [2, 4].into_iter().for_each(|number| complete(&spool, number));
    // Nothing of the process takes part in this: it is read as a killed one would have left it.
    let scan = found(dir.path());
    assert_eq!(scan.open, [intent(1), intent(3), intent(5)]);
    assert_eq!((scan.last_seq, scan.damaged, scan.torn_at), (2, false, None));
}

#[test]
fn full_spool_refuses_intents_but_takes_the_records_of_admitted_attempts() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { max_bytes: 64 << 10, segment_bytes: 1 << 20 };
    let (spool, _) = open_limited(dir.path(), 1, limits).unwrap();
    let admitted = (1..).take_while(|number| spool.intent(&intent(*number)).is_ok()).last().unwrap();
    assert!(admitted > 20, "{admitted}");
    assert!(matches!(spool.intent(&intent(9999)), Err(SpoolError::Full { max: 65536, .. })));
    assert!(matches!(spool.record(refusal(9998)), Err(SpoolError::Full { .. })));
    for number in 1..=admitted {
        assert_eq!(spool.record(record(number)).unwrap(), u64::from(number));
    }
    assert!(spool.status().bytes <= limits.max_bytes);
    assert_eq!(spool.status().reserved, 0);
}

#[test]
fn refusals_are_dropped_and_counted_from_half_full_on() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { max_bytes: 64 << 10, segment_bytes: 1 << 20 };
    let (spool, _) = open_limited(dir.path(), 1, limits).unwrap();
    let taken = (1..).take_while(|number| spool.refusal(refusal(*number)).is_some()).count();
    let bytes = spool.status().bytes;
    assert!((32 << 10..33 << 10).contains(&bytes), "{taken} {bytes}");
    assert_eq!(spool.refusals_dropped(), 1);
    spool.intent(&intent(1)).unwrap();
    spool.record(record(1)).unwrap();
}

#[test]
fn numbers_are_dense_and_in_file_order_under_sixteen_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), 1);
    let seqs: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let write = |thread: u32| {
            let spool = spool.clone();
            scope.spawn(move || {
                let one = |number: u32| {
                    spool.intent(&intent(number)).unwrap();
                    spool.record(record(number)).unwrap()
                };
                (0..100).map(|n| one(thread * 1000 + n)).collect()
            })
        };
        let threads: Vec<_> = (0..16).map(write).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(seqs.iter().all(|own| own.is_sorted()));
    let all: BTreeSet<u64> = seqs.into_iter().flatten().collect();
    assert_eq!(all, (1..=1600).collect());
    drop(spool);
    // The scan takes numbers that are not in order for damage.
    let scan = found(dir.path());
    assert_eq!((scan.whole_through, scan.damaged, scan.open.len()), (1600, false, 0));
}

#[test]
fn acknowledged_segments_go_and_an_open_intent_moves_on() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { max_bytes: 1 << 20, segment_bytes: 2000 };
    let (spool, _) = open_limited(dir.path(), 1, limits).unwrap();
    spool.intent(&intent(0)).unwrap();
    for number in 1..=40 {
        spool.intent(&intent(number)).unwrap();
        let seq = spool.record(record(number)).unwrap();
        spool.marks().told(seq);
        spool.core().tick();
    }
    let before = segments(dir.path());
    assert!(before.len() > 5, "{before:?}");
    assert_eq!(before[0], 1);
    spool.core().with_journal(|journal| journal.acknowledge(20));
    spool.core().tick();
    let after = segments(dir.path());
    assert!(after[0] > 1 && after.len() > 1, "{after:?}");
    spool.core().with_journal(|journal| journal.acknowledge(40));
    spool.core().tick();
    let last = segments(dir.path());
    assert_eq!(last.len(), 1, "only the segment that is written to remains: {last:?}");
    let used = spool.status().bytes;
    drop(spool);
    let scan = found(dir.path());
    assert_eq!(scan.open, [intent(0)]);
    assert_eq!((scan.acked, scan.last_seq, scan.damaged), (40, 40, false));
    assert_eq!(std::fs::metadata(&scan.segments[0].1).unwrap().len(), used);
}

#[test]
fn watermark_only_goes_forward_and_never_beyond_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), 1);
    (1..=5).for_each(|number| complete(&spool, number));
    let acked = |watermark| {
        spool.core().with_journal(|journal| journal.acknowledge(watermark));
        spool.status().acked
    };
    assert_eq!([3, 2, 0, 3, 99, 4].map(acked), [3, 3, 3, 3, 5, 5]);
}

#[test]
fn disk_that_refuses_writes_stops_intents_and_keeps_the_records_it_owes() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), 1);
    (1..=3).for_each(|number| spool.intent(&intent(number)).unwrap());
    spool.core().journal.lock().break_disk().unwrap();
    assert!(matches!(spool.record(record(1)), Err(SpoolError::Disk { action: "write", .. })));
    assert!(matches!(spool.record(record(2)), Err(SpoolError::Failed)));
    assert!(matches!(spool.intent(&intent(4)), Err(SpoolError::Failed)));
    assert!(spool.refusal(refusal(5)).is_none());
    let status = spool.status();
    assert_eq!((status.health, status.open, status.next_seq), (Health::WriteFailed, 3, 1));
    spool.core().journal.lock().repair_disk().unwrap();
    spool.core().tick();
    let status = spool.status();
    assert_eq!((status.health, status.open, status.next_seq), (Health::Healthy, 1, 3));
    spool.intent(&intent(4)).unwrap();
    drop(spool);
    let scan = found(dir.path());
    assert_eq!((scan.open, scan.last_seq, scan.damaged), (vec![intent(3), intent(4)], 2, false));
}

#[tokio::test]
async fn disk_that_cannot_sync_is_not_trusted_again_in_this_life() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), 1);
    spool.intent(&intent(1)).unwrap();
    spool.flushed().await.unwrap();
    spool.core().with_journal(|journal| journal.sync_failed(&io::Error::from(io::ErrorKind::StorageFull)));
    assert!(matches!(spool.intent(&intent(2)), Err(SpoolError::Failed)));
    assert_eq!(
        spool.record(record(1)).unwrap(),
        1,
        "a process that dies later still leaves the record to the next start"
    );
    spool.core().tick();
    assert!(matches!(spool.flushed().await, Err(SpoolError::Failed)));
    assert!(spool.core().journal.lock().recent(1, 10, 1 << 20).unwrap().is_empty(), "nothing of it may be shipped");
    assert_eq!(spool.status().health, Health::SyncFailed);
    drop(spool);
    assert_eq!((found(dir.path()).last_seq, found(dir.path()).open), (1, Vec::new()));
}

#[test]
fn directory_belongs_to_one_process_and_a_boot_id_to_one_life() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), 1);
    let error = open_limited(dir.path(), 2, SpoolLimits::default()).err().unwrap();
    assert!(matches!(error, SpoolError::InUse { .. }), "{error}");
    drop(spool);
    let error = open_limited(dir.path(), 1, SpoolLimits::default()).err().unwrap();
    assert!(matches!(error, SpoolError::Disk { action: "create", .. }), "{error}");
}

#[test]
fn leftovers_count_against_the_limit_until_they_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { max_bytes: 64 << 10, segment_bytes: 1 << 20 };
    let (spool, _) = open_limited(dir.path(), 1, limits).unwrap();
    assert!((1..).take_while(|n| spool.record(record(*n)).is_ok()).count() > 50);
    drop(spool);
    let (spool, leftovers) = open_limited(dir.path(), 2, limits).unwrap();
    assert!(matches!(spool.intent(&intent(1)), Err(SpoolError::Full { .. })));
    leftovers[0].remove().unwrap();
    spool.intent(&intent(1)).unwrap();
    leftovers[0].remove().unwrap();
}

#[test]
fn a_removal_that_failed_half_way_is_finished_by_the_next_try() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { max_bytes: 64 << 10, segment_bytes: 1 << 20 };
    let (spool, _) = open_limited(dir.path(), 1, limits).unwrap();
    while spool.record(record(1)).is_ok() {}
    drop(spool);
    let (spool, leftovers) = open_limited(dir.path(), 2, limits).unwrap();
    let folder = dir.path().join("spool").join(identity(1).boot.to_string());
    std::fs::rename(&folder, folder.with_extension("removed")).unwrap();
    leftovers[0].remove().unwrap();
    assert!(!folder.with_extension("removed").exists());
    spool.intent(&intent(1)).unwrap();
}

#[test]
fn removal_that_a_crash_interrupted_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), 1));
    let folder = dir.path().join("spool").join(identity(1).boot.to_string());
    let doomed = folder.with_extension("removed");
    std::fs::rename(&folder, &doomed).unwrap();
    let (_spool, leftovers) = open(dir.path(), 2);
    assert!(leftovers.is_empty() && !doomed.exists());
}

#[tokio::test]
async fn flushed_means_that_everything_written_before_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = open(dir.path(), 1);
    (1..=3).for_each(|number| complete(&spool, number));
    spool.flushed().await.unwrap();
    assert_eq!(spool.core().journal.lock().recent(1, 10, 1 << 20).unwrap().len(), 3);
    spool.flushed().await.unwrap();
}

#[test]
fn files_can_be_read_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (_spool, _) = open(dir.path(), 1);
    let folder = dir.path().join("spool").join(identity(1).boot.to_string());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&leftover::segment_path(&folder, 1))), (0o700, 0o600));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Intend(u8),
    Complete(u8),
    Acknowledge(u8),
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u8>().prop_map(Step::Intend),
        4 => any::<u8>().prop_map(Step::Complete),
        1 => any::<u8>().prop_map(Step::Acknowledge),
        1 => Just(Step::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens in whatever order, a later start finds exactly the attempts without a record, and every record
    /// that is not acknowledged.
    #[test]
    fn i_17_every_admitted_attempt_is_found_exactly_once(steps in prop::collection::vec(step(), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let limits = SpoolLimits { max_bytes: 1 << 20, segment_bytes: 1500 };
        let (spool, _) = open_limited(dir.path(), 1, limits).unwrap();
        let (mut running, mut last, mut acked) = (BTreeSet::new(), 0, 0);
        for step in steps {
            match step {
                Step::Intend(number) => {
                    spool.intent(&intent(number.into())).unwrap();
                    running.insert(u32::from(number));
                }
                Step::Complete(number) => {
                    last = spool.record(record(number.into())).unwrap();
                    running.remove(&u32::from(number));
                }
                Step::Acknowledge(seq) => {
                    acked = acked.max(last.min(seq.into()));
                    spool.core().with_journal(|journal| journal.acknowledge(seq.into()));
                }
                Step::Tick => spool.core().tick(),
            }
        }
        prop_assert_eq!(spool.status().open, running.len());
        drop(spool);
        let scan = found(dir.path());
        prop_assert!(!scan.damaged && scan.torn_at.is_none());
        prop_assert_eq!((scan.last_seq, scan.whole_through), (last, last));
        prop_assert!(scan.acked <= acked);
        let open: BTreeSet<_> = scan.open.iter().map(|intent| intent.request).collect();
        prop_assert_eq!(open, running.into_iter().map(fixture::request).collect::<BTreeSet<_>>());
    }
}

#[test]
#[ignore = "a measurement, not a claim: run it alone and in release mode"]
#[expect(clippy::disallowed_methods, reason = "measures the machine, not the program's notion of time")]
fn throughput_of_intent_and_record() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = dir.path().join("spool");
    let (spool, _) = Spool::open(&path, SpoolLimits::default(), identity(1), Arc::new(SystemClock)).unwrap();
    const PAIRS: u32 = 200_000;
    let (intent, record) = (intent(1), record(1));
    let start = Instant::now();
    for number in 0..PAIRS {
        let request = fixture::request(number);
        spool.intent(&Intent { request, ..intent.clone() }).unwrap();
        spool.record(RequestRecord { request, ..record.clone() }).unwrap();
    }
    println!("{:.2} us for each intent and its record", start.elapsed().as_secs_f64() * 1e6 / f64::from(PAIRS));
}
