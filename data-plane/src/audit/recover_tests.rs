//! What earlier lives left behind, after crashes at any step.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use keyforge_shared::audit::request::{Outcome, RequestRecord};
use keyforge_shared::id::BootId;

use super::*;
use crate::audit::fixture::{self, identity, intent, open, record};
use crate::audit::frame::{FILE_HEADER, Frame, FrameReader, Next, Recorded};
use crate::audit::memory::{MemorySink, Mishap};
use crate::audit::{SpoolLimits, leftover};

fn boot() -> BootId {
    identity(1).boot
}

fn folder(dir: &Path) -> std::path::PathBuf {
    dir.join("spool").join(boot().to_string())
}

/// Life 1 ends with attempts 2 and 5 open, after records of 1, 3 and 4.
fn crashed(dir: &Path) {
    let (spool, _) = open(dir, 1);
    (1..=5).for_each(|number| spool.intent(&intent(number)).unwrap());
    for number in [1, 3, 4] {
        spool.record(record(number)).unwrap();
    }
}

/// A life with a segment for about two attempts each.
fn crashed_over_segments(dir: &Path, attempts: u32) {
    let limits = SpoolLimits { max_bytes: 1 << 20, segment_bytes: 1000 };
    let (spool, _) = fixture::open_limited(dir, 1, limits).unwrap();
    for number in 1..=attempts {
        spool.intent(&intent(number)).unwrap();
        spool.record(record(number)).unwrap();
        spool.core().tick();
    }
    spool.intent(&intent(attempts + 1)).unwrap();
}

/// Recovery without a counter store that outlives a life.
fn to(sink: &Arc<MemorySink>) -> Told<MemorySink> {
    Told { sink: Arc::clone(sink), counters: None }
}

/// Starts a new life, recovers life 1 with `sink`, and ends the life without a trace.
async fn restart(dir: &Path, sink: &Arc<MemorySink>) {
    let (_spool, leftovers) = open(dir, 2);
    recover(leftovers, to(sink), fixture::clock(), Shutdown::new()).await;
    fs::remove_dir_all(dir.join("spool").join(identity(2).boot.to_string())).unwrap();
}

/// As [`restart`], but the sink fails after `calls`, and the process dies at the first failure.
async fn restart_and_die(dir: &Path, sink: &Arc<MemorySink>, calls: u64) {
    sink.set_reachable_for(Some(calls));
    let dies_at = sink.calls() + calls;
    let (_spool, leftovers) = open(dir, 2);
    tokio::select! {
        () = recover(leftovers, to(sink), fixture::clock(), Shutdown::new()) => {}
        () = sink.wait_until(|sink| sink.calls() > dies_at) => {}
    }
    fs::remove_dir_all(dir.join("spool").join(identity(2).boot.to_string())).unwrap();
    sink.set_reachable_for(None);
}

fn outcomes(records: &BTreeMap<u64, Bytes>) -> Vec<(u64, u32, Outcome, u64)> {
    records
        .iter()
        .map(|(seq, bytes)| {
            let record = RequestRecord::decode(bytes).unwrap();
            assert_eq!((record.node_seq, record.boot), (*seq, boot()));
            let number = u32::from_be_bytes(record.request.as_bytes()[12..].try_into().unwrap());
            (*seq, number, record.outcome, record.cost.nanos())
        })
        .collect()
}

#[tokio::test]
async fn i_17_attempt_without_a_record_is_charged_at_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    crashed(dir.path());
    let sink = Arc::new(MemorySink::new());
    restart(dir.path(), &sink).await;
    let (done, open) = (Outcome::Completed, Outcome::Unresolved);
    let expected = [(1, 1, done, 1), (2, 3, done, 3), (3, 4, done, 4), (4, 2, open, 1002), (5, 5, open, 1005)];
    assert_eq!(outcomes(&sink.records(boot())), expected);
    assert_eq!(sink.closed(), [(boot(), 5)]);
    assert!(sink.gaps().is_empty());
    assert!(!folder(dir.path()).exists());
}

#[tokio::test]
async fn crash_at_any_step_of_recovery_gives_the_same_records_in_the_end() {
    let undisturbed = {
        let dir = tempfile::tempdir().unwrap();
        crashed(dir.path());
        let sink = Arc::new(MemorySink::new());
        restart(dir.path(), &sink).await;
        sink.records(boot())
    };
    // Calls of an undisturbed recovery: ship, close.
    for calls in 0..=2 {
        for mishap in [None, Some(Mishap::AnswerLost), Some(Mishap::OneTaken)] {
            let dir = tempfile::tempdir().unwrap();
            crashed(dir.path());
            let sink = Arc::new(MemorySink::new());
            sink.script(mishap);
            restart_and_die(dir.path(), &sink, calls).await;
            restart_and_die(dir.path(), &sink, 0).await;
            restart(dir.path(), &sink).await;
            assert_eq!(sink.records(boot()), undisturbed, "{calls} {mishap:?}");
            assert_eq!(sink.closed().last().map(|closed| closed.1), Some(5));
            assert!(!folder(dir.path()).exists());
        }
    }
}

#[tokio::test]
async fn crash_while_the_settlement_is_written_leaves_no_half_of_it() {
    let dir = tempfile::tempdir().unwrap();
    crashed(dir.path());
    let whole = {
        let copy = tempfile::tempdir().unwrap();
        crashed(copy.path());
        let sink = Arc::new(MemorySink::new());
        restart_and_die(copy.path(), &sink, 0).await;
        fs::read(leftover::segment_path(&folder(copy.path()), 2)).unwrap()
    };
    for length in 0..whole.len() {
        fs::write(folder(dir.path()).join("settlement.tmp"), &whole[..length]).unwrap();
        let scan = scan::scan(&fixture::leftover(dir.path())).unwrap();
        assert_eq!((scan.last_seq, scan.open.len(), scan.damaged), (3, 2, false));
    }
    let sink = Arc::new(MemorySink::new());
    restart(dir.path(), &sink).await;
    assert_eq!(sink.records(boot()).len(), 5);
}

#[test]
fn i_17_segment_cut_at_any_byte_loses_no_whole_record() {
    let dir = tempfile::tempdir().unwrap();
    crashed(dir.path());
    let path = leftover::segment_path(&folder(dir.path()), 1);
    let whole = fs::read(&path).unwrap();
    for length in 0..=whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let (mut last, mut running) = (0, Vec::new());
        let mut frames = FrameReader::new(&whole[FILE_HEADER.min(length)..length], 0);
        while let Ok(Next::Frame(frame)) = frames.next() {
            match frame {
                Frame::Intent(intent) => running.push(intent),
                Frame::Record(Recorded { seq, bytes, .. }) => {
                    last = seq;
                    let record = RequestRecord::decode(&bytes).unwrap();
                    running.retain(|intent| intent.request != record.request);
                }
                Frame::Acked(_) | Frame::Rebased(_) | Frame::Told(_) => {}
            }
        }
        let found = scan::scan(&fixture::leftover(dir.path())).unwrap();
        assert!(!found.damaged, "{length}");
        assert_eq!((found.last_seq, &found.open), (last, &running), "{length}");
    }
}

#[tokio::test]
async fn torn_tail_is_recovered_to_the_end_and_over_a_second_crash() {
    let whole = {
        let dir = tempfile::tempdir().unwrap();
        crashed(dir.path());
        fs::read(leftover::segment_path(&folder(dir.path()), 1)).unwrap()
    };
    for cut in [1, 100, 400, 700, 1300, whole.len() - 10, whole.len() - FILE_HEADER, whole.len() - 5] {
        let dir = tempfile::tempdir().unwrap();
        crashed(dir.path());
        fs::write(leftover::segment_path(&folder(dir.path()), 1), &whole[..whole.len() - cut]).unwrap();
        let found = scan::scan(&fixture::leftover(dir.path())).unwrap();
        let sink = Arc::new(MemorySink::new());
        restart_and_die(dir.path(), &sink, 0).await;
        restart(dir.path(), &sink).await;
        let records = sink.records(boot());
        assert_eq!(records.len() as u64, found.last_seq + found.open.len() as u64, "{cut}");
        assert!(sink.gaps().is_empty() && !folder(dir.path()).exists(), "{cut}");
    }
}

#[tokio::test]
async fn damage_is_reported_and_what_can_be_read_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    crashed_over_segments(dir.path(), 10);
    let path = leftover::segment_path(&folder(dir.path()), 2);
    let mut bytes = fs::read(&path).unwrap();
    bytes[FILE_HEADER + 40] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let sink = Arc::new(MemorySink::new());
    restart(dir.path(), &sink).await;
    let records = outcomes(&sink.records(boot()));
    let (_, last_seq, requests) = sink.gaps().remove(0);
    assert!(last_seq > 0 && last_seq < 9, "{last_seq}");
    assert!(requests.contains(&fixture::request(11)));
    assert!(records.iter().map(|record| record.0).eq(1..=records.len() as u64), "the numbers have no gap: {records:?}");
    assert!(records.iter().any(|record| record.1 == 10 && record.2 == Outcome::Completed));
    assert_eq!(records.last().map(|record| (record.1, record.2)), Some((11, Outcome::Unresolved)));
    assert_eq!(sink.closed()[0].1, records.len() as u64);
}

#[tokio::test]
async fn damage_to_records_that_the_control_plane_has_loses_none_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    crashed_over_segments(dir.path(), 10);
    let copy: Vec<Bytes> = {
        let found = scan::scan(&fixture::leftover(dir.path())).unwrap();
        let want = Want { from: 1, through: 10, max_records: 100, max_bytes: 1 << 20 };
        read::records(&found.segments, &mut Position::default(), want).unwrap()
    };
    let sink = Arc::new(MemorySink::new());
    // It got records 1 to 8, but the answer never came back.
    sink.ship(identity(1).node, boot(), Begin::at(1), &copy[..8]).await.unwrap();
    let path = leftover::segment_path(&folder(dir.path()), 2);
    fs::write(&path, &fs::read(&path).unwrap()[..FILE_HEADER]).unwrap();
    restart(dir.path(), &sink).await;
    let records = outcomes(&sink.records(boot()));
    assert_eq!(sink.gaps()[0].1, 8);
    let numbers: Vec<u32> = records.iter().filter(|record| record.2 == Outcome::Completed).map(|r| r.1).collect();
    assert_eq!(numbers, (1..=10).collect::<Vec<u32>>());
}

#[tokio::test]
async fn segment_that_disappeared_is_damage_and_recovery_survives_a_crash_at_each_step() {
    let build = |dir: &Path| {
        crashed_over_segments(dir, 10);
        fs::remove_file(leftover::segment_path(&folder(dir), 2)).unwrap();
    };
    let undisturbed = {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path());
        let sink = Arc::new(MemorySink::new());
        restart(dir.path(), &sink).await;
        sink.records(boot())
    };
    // Calls of an undisturbed recovery: ship what is whole, report the gap, ship the rest, close.
    for calls in 0..=4 {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path());
        let sink = Arc::new(MemorySink::new());
        restart_and_die(dir.path(), &sink, calls).await;
        restart(dir.path(), &sink).await;
        assert_eq!(sink.records(boot()), undisturbed, "{calls}");
        assert!(!sink.gaps().is_empty());
    }
}

#[test]
fn any_flipped_byte_is_survived_without_losing_an_intact_record() {
    let whole = {
        let dir = tempfile::tempdir().unwrap();
        crashed(dir.path());
        fs::read(leftover::segment_path(&folder(dir.path()), 1)).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder(dir.path())).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(leftover::segment_path(&folder(dir.path()), 1), &bytes).unwrap();
        let found = scan::scan(&fixture::leftover(dir.path())).unwrap();
        let before = {
            let mut frames = FrameReader::new(&bytes[FILE_HEADER..], 0);
            let mut records = 0;
            while let Ok(Next::Frame(frame)) = frames.next() {
                records += u64::from(matches!(frame, Frame::Record(..)));
            }
            records
        };
        assert_eq!(found.last_seq, before, "{at}");
        assert!(found.damaged || found.torn_at.is_some(), "{at}");
    }
}

#[tokio::test]
async fn recovery_stops_for_a_drain_and_leaves_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    crashed(dir.path());
    let sink = Arc::new(MemorySink::new());
    sink.set_reachable_for(Some(0));
    let shutdown = Shutdown::new();
    let (_spool, leftovers) = open(dir.path(), 2);
    let recovery = recover(leftovers, to(&sink), fixture::clock(), shutdown.clone());
    let drain = async {
        sink.wait_until(|sink| sink.calls() > 0).await;
        shutdown.trigger();
    };
    tokio::join!(recovery, drain);
    assert!(folder(dir.path()).exists());
}

#[tokio::test]
async fn life_that_wrote_nothing_is_closed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), 1));
    let sink = Arc::new(MemorySink::new());
    restart(dir.path(), &sink).await;
    assert_eq!(sink.closed(), [(boot(), 0)]);
    assert!(!folder(dir.path()).exists());
}

#[tokio::test]
async fn i_17_earlier_life_gets_through_to_a_control_plane_that_was_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Arc::new(MemorySink::new());
    {
        let limits = SpoolLimits { max_bytes: 1 << 20, segment_bytes: 1000 };
        let (spool, _) = fixture::open_limited(dir.path(), 1, limits).unwrap();
        let task = crate::audit::Shipper::new(spool.clone(), Arc::clone(&sink)).spawn(&Shutdown::new());
        for number in 1..=30 {
            // Without a hold, nothing but the acknowledgement keeps a segment.
            spool.intent(&crate::audit::Intent { holds: false, ..intent(number) }).unwrap();
            spool.record(record(number)).unwrap();
            spool.core().tick();
            sink.wait_until(|sink| sink.records(boot()).len() == number as usize).await;
        }
        while leftover::segments(&folder(dir.path())).unwrap().first().is_some_and(|(number, _)| *number == 1) {
            spool.core().tick();
            tokio::task::yield_now().await;
        }
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        spool.intent(&intent(31)).unwrap();
    }
    sink.put_back(boot(), 4);
    restart(dir.path(), &sink).await;
    let lost = sink.lost();
    assert_eq!((lost.len(), lost[0].1), (1, 5), "{lost:?}");
    let kept: Vec<u64> = (1..=4).chain(lost[0].2 + 1..=31).collect();
    assert!(sink.records(boot()).keys().copied().eq(kept));
    assert_eq!(sink.closed(), [(boot(), 31)]);
    assert!(sink.gaps().is_empty() && !folder(dir.path()).exists());
}
