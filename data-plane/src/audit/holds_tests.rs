//! What a dead life held in a counter store that outlived it. The store of these tests is one in memory that the lives share.

use std::path::Path;
use std::time::Duration;

use keyforge_counters::redis::RedisSettings;
use keyforge_counters::{
    Concurrency, CounterState, Grant, GrantSet, MemoryCounters, Need, Rates, RedisCounters, Reserve, Verdict,
};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::Clock;
use keyforge_shared::id::LifeId;
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Calendar, Window};

use super::*;
use crate::audit::fixture::{self, identity, intent, open, record};
use crate::audit::frame::{self, Frame};
use crate::audit::memory::MemorySink;
use crate::audit::recover::{self, Told, recover};
use crate::audit::{Spool, SpoolLimits, leftover};

/// Of the fixture's intents.
const EPOCH: u32 = 3;
const GRANTED: u64 = 1_000_000;

/// A store that the lives share, with books in the epoch of the fixture's intents.
struct Shared(Arc<Counters>);

impl Shared {
    async fn start() -> Self {
        let shared = Self(Arc::new(Counters::Memory(MemoryCounters::new(fixture::clock()))));
        shared.join(EPOCH).await;
        shared
    }

    async fn join(&self, epoch: u32) -> LifeId {
        let Verdict::NotJoined(life) = self.ask(0, 0).await else { panic!("the books have an epoch") };
        let slice = |need: Need| Grant { counter: need.counter, period: need.period, granted: GRANTED, elsewhere: 0 };
        let grants = needs(0).into_iter().map(slice).collect();
        self.0.grant(key(), &GrantSet { life, epoch, serial: 1, grants }).await.unwrap();
        life
    }

    async fn ask(&self, number: u32, epoch: u32) -> Verdict {
        let rates =
            Rates { concurrency: Some(Concurrency { limit: 9, lease: Duration::from_secs(30) }), ..Rates::default() };
        let expires_after = Duration::from_secs(3_720);
        let needs = needs(intent(number).bound.nanos());
        let ask = Reserve { id: id(number), key: key(), epoch, needs: &needs, rates, expires_after, not_after: None };
        self.0.reserve(ask).await.unwrap()
    }

    /// As a request does: the question is written down, the store asked, the intent written.
    async fn admit(&self, spool: &Spool, number: u32) {
        let asked = spool.question(key(), fixture::request(number), 1).unwrap();
        assert!(matches!(self.ask(number, EPOCH).await, Verdict::Admitted(_)), "{number}");
        spool.intent(&intent(number)).unwrap();
        drop(asked);
    }

    /// Charged and held: requests, then nano-dollars.
    async fn sums(&self) -> [(u64, u64); 2] {
        let books = self.0.books(key()).await.unwrap();
        let of = |dimension| {
            let CounterState { used, held, .. } =
                books.iter().find(|books| books.counter.dimension == dimension).unwrap();
            (*used, *held)
        };
        [of(Dimension::Requests), of(Dimension::Spend)]
    }

    /// How many requests may begin to run.
    async fn places(&self) -> usize {
        let (mut places, epoch) = (0, 0);
        let rates =
            Rates { concurrency: Some(Concurrency { limit: 9, lease: Duration::from_secs(30) }), ..Rates::default() };
        for number in 900..920 {
            let expires_after = Duration::from_secs(1);
            let ask = Reserve { id: id(number), key: key(), epoch, needs: &[], rates, expires_after, not_after: None };
            places += usize::from(matches!(self.0.reserve(ask).await.unwrap(), Verdict::Admitted(_)));
        }
        places
    }
}

fn key() -> KeyId {
    intent(1).key
}

fn id(number: u32) -> ReservationId {
    ReservationId { request: fixture::request(number), attempt: 1 }
}

fn needs(bound: u64) -> Vec<Need> {
    let (calendar, now) = (Calendar::utc(), fixture::clock().now());
    let first_day = calendar.day_at(now);
    let need = |(dimension, amount)| Need {
        counter: CounterId { key: key(), scope: Scope::Key, dimension, window: Window::Day, first_day },
        period: calendar.period(Window::Day, first_day),
        limit: GRANTED,
        amount,
    };
    [(Dimension::Requests, 1), (Dimension::Spend, bound)].map(need).to_vec()
}

fn bound(numbers: &[u32]) -> u64 {
    numbers.iter().map(|number| intent(*number).bound.nanos()).sum()
}

/// Recovers life 1 in life 2, which leaves no trace.
async fn restart(dir: &Path, sink: &Arc<MemorySink>, counters: &Arc<Counters>) {
    let recovery = begin(dir, sink, counters);
    recovery.await;
}

async fn begin(dir: &Path, sink: &Arc<MemorySink>, counters: &Arc<Counters>) {
    let (_spool, leftovers) = open(dir, 2);
    // Whatever becomes of the recovery.
    std::fs::remove_dir_all(dir.join("spool").join(identity(2).boot.to_string())).unwrap();
    let told = Told { sink: Arc::clone(sink), counters: Some(Arc::clone(counters)) };
    recover(leftovers, told, fixture::clock(), Shutdown::new()).await;
}

fn folder_exists(dir: &Path) -> bool {
    fixture::leftover(dir).dir.exists()
}

/// Life 1 ends with attempts 2 and 5 open; 1, 3 and 4 are recorded, and the store was told of the first.
async fn crashed(dir: &Path, shared: &Shared) {
    let (spool, _) = open(dir, 1);
    for number in 1..=5 {
        shared.admit(&spool, number).await;
    }
    for number in [1, 3, 4] {
        let seq = spool.record(record(number)).unwrap();
        if number == 1 {
            let settlement = settlement(&record(1));
            shared.0.settle(key(), EPOCH, id(1), settlement).await.unwrap();
            spool.marks().told(seq);
        }
    }
    spool.core().tick();
    assert_eq!(shared.sums().await, [(1, 4), (1, bound(&[2, 3, 4, 5]))]);
}

/// What is charged once all of that is settled.
fn settled() -> [(u64, u64); 2] {
    [(5, 0), (1 + 3 + 4 + bound(&[2, 5]), 0)]
}

#[tokio::test]
async fn i_9_a_life_that_died_holds_nothing_once_it_is_recovered_and_charges_the_truth() {
    let (dir, shared, sink) = (tempfile::tempdir().unwrap(), Shared::start().await, Arc::new(MemorySink::new()));
    crashed(dir.path(), &shared).await;
    restart(dir.path(), &sink, &shared.0).await;
    assert_eq!(shared.sums().await, settled());
    assert_eq!(shared.places().await, 9, "none of them runs any more");
    assert!(!folder_exists(dir.path()));
}

#[tokio::test]
async fn only_what_the_store_may_not_have_heard_of_is_told_again() {
    let (dir, shared) = (tempfile::tempdir().unwrap(), Shared::start().await);
    crashed(dir.path(), &shared).await;
    let found = scan::scan(&fixture::leftover(dir.path())).unwrap();
    assert_eq!((found.told, found.questions.len()), (1, 0));
    let untold = read::owned(&found.segments, &mut Position::default(), found.told, 9).unwrap();
    assert_eq!(untold.iter().map(|(_, record)| record.node_seq).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test]
async fn i_9_a_store_is_told_although_the_control_plane_is_away_and_once_more_changes_nothing() {
    let (dir, shared, sink) = (tempfile::tempdir().unwrap(), Shared::start().await, Arc::new(MemorySink::new()));
    crashed(dir.path(), &shared).await;
    sink.set_reachable_for(Some(0));
    for _ in 0..3 {
        tokio::select! {
            () = restart(dir.path(), &sink, &shared.0) => panic!("the control plane is away"),
            () = async { while shared.sums().await != settled() { tokio::time::sleep(Duration::from_millis(1)).await } } => {}
        }
        assert!(folder_exists(dir.path()), "the records are not shipped");
    }
    sink.set_reachable_for(None);
    restart(dir.path(), &sink, &shared.0).await;
    assert_eq!(shared.sums().await, settled());
    assert_eq!(sink.records(identity(1).boot).len(), 5);
    assert!(!folder_exists(dir.path()));
}

#[tokio::test]
async fn while_the_store_is_away_records_are_shipped_and_what_is_to_be_told_stays() {
    let (dir, shared, sink) = (tempfile::tempdir().unwrap(), Shared::start().await, Arc::new(MemorySink::new()));
    crashed(dir.path(), &shared).await;
    let settings = RedisSettings {
        urls: vec!["redis://127.0.0.1:1".to_owned()],
        cluster: false,
        username: None,
        password: None,
        timeout: Duration::from_millis(40),
    };
    let away = Arc::new(Counters::Redis(RedisCounters::start(settings, &Shutdown::new()).await.unwrap()));
    tokio::select! {
        () = restart(dir.path(), &sink, &away) => panic!("the store is away"),
        () = sink.wait_until(|sink| !sink.closed().is_empty()) => {}
    }
    assert_eq!(sink.records(identity(1).boot).len(), 5);
    assert!(folder_exists(dir.path()));
    restart(dir.path(), &sink, &shared.0).await;
    assert_eq!(shared.sums().await, settled());
    assert!(!folder_exists(dir.path()));
}

#[tokio::test]
async fn i_9_a_question_that_nothing_was_dispatched_on_is_taken_back_and_no_other() {
    let (dir, shared, sink) = (tempfile::tempdir().unwrap(), Shared::start().await, Arc::new(MemorySink::new()));
    let (spool, _) = open(dir.path(), 1);
    let kept = [
        spool.question(key(), fixture::request(1), 1),
        spool.question(key(), fixture::request(2), 1),
        spool.question(key(), fixture::request(3), 1),
    ];
    for number in 1..=3 {
        assert!(matches!(shared.ask(number, EPOCH).await, Verdict::Admitted(_)));
    }
    spool.intent(&intent(2)).unwrap();
    spool.intent(&intent(3)).unwrap();
    spool.record(record(3)).unwrap();
    drop(spool);
    drop(kept);
    restart(dir.path(), &sink, &shared.0).await;
    assert_eq!(shared.sums().await, [(2, 0), (3 + bound(&[2]), 0)]);
    assert_eq!(shared.places().await, 9);
}

#[tokio::test]
async fn a_question_whose_time_is_not_there_any_more_is_not_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { max_bytes: 1 << 20, segment_bytes: 100 };
    let (spool, _) = fixture::open_limited(dir.path(), 1, limits).unwrap();
    let question = spool.question(key(), fixture::request(1), 1);
    let scan = || scan::scan(&fixture::leftover(dir.path())).unwrap();
    assert_eq!(scan().questions.len(), 1);
    // Its attempt is dispatched, recorded, chained and told of, and its segment goes.
    spool.intent(&intent(1)).unwrap();
    assert_eq!(scan().questions.len(), 0);
    let seq = spool.record(record(1)).unwrap();
    spool.core().tick();
    spool.marks().told(seq);
    spool.core().with_journal(|journal| journal.acknowledge(1));
    spool.core().tick();
    let found = scan();
    assert!(found.segments[0].0 > 1, "{:?}", found.segments);
    assert_eq!(found.questions, [], "its slot still names it");
    drop(question);
}

#[tokio::test]
async fn a_segment_with_records_that_the_store_may_not_know_stays_while_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { max_bytes: 1 << 20, segment_bytes: 100 };
    let (spool, _) = fixture::open_limited(dir.path(), 1, limits).unwrap();
    spool.intent(&intent(1)).unwrap();
    let seq = spool.record(record(1)).unwrap();
    spool.core().tick();
    spool.core().with_journal(|journal| journal.acknowledge(1));
    let first = || leftover::segments(&fixture::leftover(dir.path()).dir).unwrap()[0].0;
    spool.core().tick();
    assert_eq!(first(), 1);
    spool.marks().told(seq);
    spool.core().tick();
    assert!(first() > 1);
    assert_eq!(
        scan::scan(&fixture::leftover(dir.path())).unwrap().told,
        seq,
        "what was written of it is written again"
    );
}

#[tokio::test]
async fn a_store_is_told_before_anyone_says_which_installation_this_is_and_nothing_is_changed_on_disk() {
    let (dir, shared, sink) = (tempfile::tempdir().unwrap(), Shared::start().await, Arc::new(MemorySink::new()));
    crashed(dir.path(), &shared).await;
    let spool = dir.path().join("spool");
    let before = std::fs::read(leftover::segment_path(&fixture::leftover(dir.path()).dir, 1)).unwrap();
    let ahead = || recover::tell_ahead(&spool, (identity(2).node, identity(2).boot), &shared.0);
    ahead().await;
    assert_eq!(shared.sums().await, settled());
    let after = std::fs::read(leftover::segment_path(&fixture::leftover(dir.path()).dir, 1)).unwrap();
    assert!(before == after && leftover::segments(&fixture::leftover(dir.path()).dir).unwrap().len() == 1);
    restart(dir.path(), &sink, &shared.0).await;
    assert_eq!(shared.sums().await, settled());
    // The directory of a process that runs is left alone.
    let (running, _) = open(dir.path(), 3);
    shared.admit(&running, 9).await;
    ahead().await;
    assert_eq!(shared.sums().await[0], (5, 1));
}

#[tokio::test]
async fn books_that_began_another_life_are_left_alone() {
    let (dir, shared, sink) = (tempfile::tempdir().unwrap(), Shared::start().await, Arc::new(MemorySink::new()));
    crashed(dir.path(), &shared).await;
    let life = shared.0.life(key()).await.unwrap().unwrap();
    shared.0.vacate(key(), life).await.unwrap();
    shared.join(EPOCH + 1).await;
    assert!(matches!(shared.ask(7, EPOCH + 1).await, Verdict::Admitted(_)));
    restart(dir.path(), &sink, &shared.0).await;
    assert_eq!(shared.sums().await, [(0, 1), (0, bound(&[7]))]);
    assert!(!folder_exists(dir.path()));
}

#[tokio::test]
async fn i_1_an_attempt_whose_bound_was_lowered_is_charged_at_the_lower_one() {
    let (dir, shared, sink) = (tempfile::tempdir().unwrap(), Shared::start().await, Arc::new(MemorySink::new()));
    let (spool, _) = open(dir.path(), 1);
    shared.admit(&spool, 1).await;
    let lower = Intent { bound: NanoUsd::new(7), ..intent(1) };
    spool.lower(&lower).unwrap();
    shared.0.shrink(key(), EPOCH, id(1), lower.bound, None).await.unwrap();
    assert!(spool.lower(&Intent { bound: NanoUsd::new(7), ..intent(2) }).is_err(), "it does not run");
    assert_eq!((spool.status().open, spool.status().next_seq), (1, 1));
    drop(spool);
    restart(dir.path(), &sink, &shared.0).await;
    assert_eq!(shared.sums().await, [(1, 0), (7, 0)]);
    let records = sink.records(identity(1).boot);
    let costs: Vec<_> = records.values().map(|bytes| RequestRecord::decode(bytes).unwrap().cost.nanos()).collect();
    assert_eq!(costs, [7]);
}

#[tokio::test]
async fn what_is_saved_of_a_damaged_folder_is_told_too() {
    let (dir, shared, sink) = (tempfile::tempdir().unwrap(), Shared::start().await, Arc::new(MemorySink::new()));
    let limits = SpoolLimits { max_bytes: 1 << 20, segment_bytes: 100 };
    let (spool, _) = fixture::open_limited(dir.path(), 1, limits).unwrap();
    for number in 1..=4 {
        shared.admit(&spool, number).await;
        spool.record(record(number)).unwrap();
        spool.core().tick();
    }
    drop(spool);
    // The second record is lost with its intent; its hold ends by time.
    std::fs::remove_file(leftover::segment_path(&fixture::leftover(dir.path()).dir, 2)).unwrap();
    restart(dir.path(), &sink, &shared.0).await;
    assert_eq!(shared.sums().await, [(3, 1), (1 + 3 + 4, bound(&[2]))]);
}

#[tokio::test]
async fn a_folder_of_an_earlier_version_is_recovered_and_its_open_attempts_are_settled() {
    let (dir, shared, sink) = (tempfile::tempdir().unwrap(), Shared::start().await, Arc::new(MemorySink::new()));
    drop(open(dir.path(), 1));
    let folder = fixture::leftover(dir.path()).dir;
    std::fs::remove_file(folder.join("questions")).unwrap();
    let mut bytes = frame::file_header(&identity(1), 1);
    for number in [1, 2] {
        bytes.extend(frame::sealed_intent(&fixture::without_hold(&intent(number))));
        assert!(matches!(shared.ask(number, EPOCH).await, Verdict::Admitted(_)));
    }
    let of_life = RequestRecord { node: identity(1).node, boot: identity(1).boot, node_seq: 1, ..record(1) };
    bytes.extend(Frame::record(1, None, &of_life.encode()));
    std::fs::write(leftover::segment_path(&folder, 1), bytes).unwrap();
    restart(dir.path(), &sink, &shared.0).await;
    // Records did not say then whose they were.
    assert_eq!(shared.sums().await, [(1, 1), (bound(&[2]), bound(&[1]))]);
    assert_eq!(sink.closed(), [(identity(1).boot, 2)]);
    assert!(!folder_exists(dir.path()));
}

#[test]
fn a_record_settles_as_its_attempt_did() {
    let flagged = |flags: Flags| RequestRecord {
        flags,
        input_tokens: 1,
        output_tokens: 20,
        cache_read_tokens: 300,
        cache_write_tokens: 4_000,
        ..record(9)
    };
    let cost = NanoUsd::new(9);
    for (flags, expected) in [
        (Flags::USAGE_KNOWN, Settlement { cost, counted: true, tokens: Some(4_321) }),
        (Flags::UPSTREAM_BROKEN, Settlement { cost, counted: true, tokens: None }),
        (Flags::NOT_BILLED, Settlement { cost, counted: true, tokens: Some(0) }),
        (Flags::UPSTREAM_BROKEN.with(Flags::NOT_COUNTED), Settlement { cost, counted: false, tokens: None }),
    ] {
        assert_eq!(settlement(&flagged(flags)), expected, "{flags:?}");
    }
    let undispatched = flagged(Flags::NOT_BILLED.with(Flags::NOT_COUNTED));
    assert_eq!(settlement(&RequestRecord { cost: NanoUsd::ZERO, ..undispatched }), Settlement::CANCELLED);
}
