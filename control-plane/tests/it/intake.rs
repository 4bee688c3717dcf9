//! Intake: at-least-once shipping becomes exactly-once chaining, and nothing is dropped silently.

use std::sync::Arc;

use keyforge_control_plane::audit::intake::IntakeError;
use keyforge_control_plane::audit::list::{self, Order};
use keyforge_control_plane::store::overspent;
use keyforge_control_plane::store::usage::{self, Grouping, UsageQuery, UsageSums};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::audit::record::Record;
use keyforge_shared::audit::request::{Flags, Outcome, PrivateTag, PrivateValue, RequestRecord};
use keyforge_shared::clock::{Clock as _, SystemClock};
use keyforge_shared::id::{ChainId, DeploymentId, NodeId, RequestId};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::policy::Policy;
use keyforge_shared::state::KeyStatus;

use crate::rig::{ADMIN_CHAIN, NODE, Rig, batch, boot};

#[tokio::test]
async fn i_17_records_that_are_shipped_again_are_chained_once() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let records: Vec<_> = (1..=250).map(|seq| rig.record(key, boot(1), seq, 0, seq)).collect();
    assert_eq!(rig.ship(boot(1), &records[..100]).await.unwrap(), 100);
    // The answer was lost, or came late: whole, in part, overlapping, and from the start again.
    assert_eq!(rig.ship(boot(1), &records[..100]).await.unwrap(), 100);
    assert_eq!(rig.ship(boot(1), &records[40..60]).await.unwrap(), 100);
    assert_eq!(rig.ship(boot(1), &records[90..250]).await.unwrap(), 250);
    assert_eq!(rig.ship(boot(1), &records).await.unwrap(), 250);
    assert_eq!(rig.ship(boot(1), &[]).await.unwrap(), 250);

    let entries = list::entries(&rig.store, key.chain, (Order::OldestFirst, None), 500).await.unwrap();
    let listed: Vec<_> = entries.iter().map(|entry| &entry.record).collect();
    let expected: Vec<_> = records.iter().map(|record| Record::Request(Box::new(record.clone()))).collect();
    assert_eq!(listed, expected.iter().collect::<Vec<_>>());
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn records_of_several_boots_and_keys_interleave_and_every_chain_holds() {
    let rig = Rig::new().await;
    let keys = [rig.key(1, Policy::default()).await, rig.key(2, Policy::default()).await];
    for batch in 0..4 {
        for life in 1..=3 {
            let seqs = batch * 7 + 1..=batch * 7 + 7;
            let records: Vec<_> = seqs.map(|seq| rig.record(keys[seq as usize % 2], boot(life), seq, 0, 1)).collect();
            rig.ship(boot(life), &records).await.unwrap();
        }
    }
    let counts = [key_entries(&rig, keys[0].chain).await, key_entries(&rig, keys[1].chain).await];
    assert_eq!(counts, [42, 42]);
    assert!(rig.faults().await.is_empty());
}

async fn key_entries(rig: &Rig, chain: ChainId) -> usize {
    list::entries(&rig.store, chain, (Order::OldestFirst, None), 500).await.unwrap().len()
}

#[tokio::test]
async fn a_batch_with_one_bad_record_names_it_and_chains_nothing() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let good: Vec<_> = (1..=5).map(|seq| rig.record(key, boot(1), seq, 0, 1)).collect();
    let spoil = |change: fn(&mut RequestRecord)| {
        let mut records = good.clone();
        change(&mut records[2]);
        records
    };
    let foreign = [
        ("deployment_id", spoil(|record| record.deployment = DeploymentId::from_bytes([9; 16]))),
        ("node_id", spoil(|record| record.node = NodeId::from_bytes([9; 16]))),
        ("boot_id", spoil(|record| record.boot = boot(9))),
        ("node_seq", spoil(|record| record.node_seq = 4)),
    ];
    for (name, records) in foreign {
        let error = rig.ship(boot(1), &records).await.unwrap_err();
        assert!(matches!(error, IntakeError::Contradiction { seq: 3, field } if field == name), "{error}");
    }

    let mut bytes: Vec<_> = good.iter().map(RequestRecord::encode).collect();
    bytes[2].push(0);
    let error = rig.intake.ship(batch((NODE, boot(1)), 1, bytes)).await.unwrap_err();
    assert!(matches!(error, IntakeError::Unreadable { seq: 3, .. }), "{error}");

    assert_eq!(key_entries(&rig, key.chain).await, 0);
    assert_eq!(rig.ship(boot(1), &good).await.unwrap(), 5);
}

#[tokio::test]
async fn a_record_that_changed_after_it_was_chained_is_refused() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let records: Vec<_> = (1..=3).map(|seq| rig.record(key, boot(1), seq, 0, 5)).collect();
    rig.ship(boot(1), &records).await.unwrap();
    let mut rewritten = records.clone();
    rewritten[1].cost = NanoUsd::new(4);
    rewritten.push(rig.record(key, boot(1), 4, 0, 5));
    let error = rig.ship(boot(1), &rewritten).await.unwrap_err();
    assert!(matches!(error, IntakeError::Rewritten { seq: 2 }), "{error}");
    assert_eq!(key_entries(&rig, key.chain).await, 3);
}

#[tokio::test]
async fn a_batch_that_leaves_a_record_out_is_told_which_one_is_due() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let error = rig.ship(boot(1), &[rig.record(key, boot(1), 2, 0, 1)]).await.unwrap_err();
    assert!(matches!(error, IntakeError::Sequence { first: 2, due: 1 }), "{error}");
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 0, 1)]).await.unwrap();
    let error = rig.ship(boot(1), &[rig.record(key, boot(1), 5, 0, 1)]).await.unwrap_err();
    assert!(matches!(error, IntakeError::Sequence { first: 5, due: 2 }), "{error}");
    let error = rig.intake.ship(batch((NodeId::from_bytes([8; 16]), boot(1)), 2, Vec::new())).await.unwrap_err();
    assert!(matches!(error, IntakeError::ForeignBoot(life) if life == boot(1)), "{error}");
}

#[tokio::test]
async fn a_tampered_head_stops_its_chain_and_no_other() {
    let rig = Rig::new().await;
    let keys = [rig.key(1, Policy::default()).await, rig.key(2, Policy::default()).await];
    rig.ship(boot(1), &[rig.record(keys[0], boot(1), 1, 0, 1)]).await.unwrap();
    rig.ship(boot(2), &[rig.record(keys[1], boot(2), 1, 0, 1)]).await.unwrap();
    rig.tamper("UPDATE chains SET head_seq = 0, head_hash = genesis_hash WHERE key_id = 'key000000001'").await;
    let error = rig.ship(boot(1), &[rig.record(keys[0], boot(1), 2, 0, 1)]).await.unwrap_err();
    assert!(error.to_string().contains("tampered"), "{error}");
    assert_eq!(rig.ship(boot(2), &[rig.record(keys[1], boot(2), 2, 0, 1)]).await.unwrap(), 2);
}

#[tokio::test]
async fn time_in_a_chain_never_goes_back_although_the_clock_does() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    rig.ship(boot(1), &[rig.record(key, boot(1), 1, 0, 1)]).await.unwrap();
    let before = rig.clock.now();
    rig.clock.set(keyforge_shared::clock::Timestamp::from_nanos(before.nanos() - 3_600_000_000_000));
    rig.ship(boot(1), &[rig.record(key, boot(1), 2, 0, 1)]).await.unwrap();
    let entries = list::entries(&rig.store, key.chain, (Order::OldestFirst, None), 10).await.unwrap();
    assert!(entries[1].t_cp >= entries[0].t_cp);
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn usage_is_summed_by_key_model_and_day_in_pages() {
    let rig = Rig::new().await;
    let keys = [rig.key(1, Policy::default()).await, rig.key(2, Policy::default()).await];
    let mut records: Vec<_> = (1..=6).map(|seq| rig.record(keys[seq as usize % 2], boot(1), seq, 0, 100)).collect();
    records[3].model = "claude".to_owned();
    records[4].outcome = Outcome::Refused;
    records[4].cost = NanoUsd::ZERO;
    let reasoning =
        PrivateValue { tag: PrivateTag::REASONING_TOKENS, salt: [0; 16], value: 9u64.to_be_bytes().to_vec() };
    records[5].private.push(reasoning);
    rig.ship(boot(1), &records[..3]).await.unwrap();
    rig.ship(boot(1), &records).await.unwrap();
    rig.clock.advance(std::time::Duration::from_hours(24));
    // What nobody can have paid stops at the largest number there is, and stops nothing else.
    let huge = RequestRecord { model: "huge".to_owned(), ..rig.record(keys[0], boot(1), 7, 0, u64::MAX) };
    let more = RequestRecord { node_seq: 8, ..huge.clone() };
    rig.ship(boot(1), &[huge, more]).await.unwrap();

    let until_day = Some("2026-11-23".parse().unwrap());
    let all = UsageQuery {
        workspace: None,
        key: None,
        grouping: Grouping::Model,
        from_day: None,
        until_day,
        after: None,
        limit: 1,
    };
    let mut tx = rig.store.read().await.unwrap();
    let first = usage::query(&mut tx, &all).await.unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].0.as_str(), first[0].1.requests), ("claude", 1));
    let second = UsageQuery { after: Some(first[0].0.clone()), limit: 10, ..all.clone() };
    let second = usage::query(&mut tx, &second).await.unwrap();
    let expected = UsageSums {
        requests: 4,
        refused: 1,
        input_tokens: 50,
        cache_read_tokens: 15,
        cache_write_tokens: 20,
        output_tokens: 100,
        reasoning_tokens: 9,
        cost: 400,
    };
    assert_eq!(second, [("gpt-5-mini".to_owned(), expected)]);

    let by_day = UsageQuery { grouping: Grouping::Day, until_day: None, limit: 10, ..all.clone() };
    let days = usage::query(&mut tx, &by_day).await.unwrap();
    assert_eq!(days.iter().map(|(day, _)| day.as_str()).collect::<Vec<_>>(), ["2026-11-22", "2026-11-23"]);
    assert_eq!(days[1].1.cost, i64::MAX.unsigned_abs());
    let rest = usage::query(&mut tx, &UsageQuery { after: Some(days[0].0.clone()), ..by_day }).await.unwrap();
    assert_eq!(rest.len(), 1);
    let later = UsageQuery { from_day: until_day, until_day: None, ..all.clone() };
    assert_eq!(usage::query(&mut tx, &later).await.unwrap()[0].0, "huge");
    let by_key = UsageQuery { grouping: Grouping::Key, key: Some(keys[1].id), limit: 10, ..all };
    let rows = usage::query(&mut tx, &by_key).await.unwrap();
    assert_eq!((rows.len(), rows[0].0.as_str()), (1, keys[1].id.to_string().as_str()));
}

#[tokio::test]
async fn a_day_that_no_calendar_has_is_reported_once_and_does_not_hold_up_the_pages() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let never = RequestRecord { period: u32::MAX, ..rig.record(key, boot(1), 1, 0, 1) };
    rig.ship(boot(1), &[never]).await.unwrap();
    let mut query = UsageQuery {
        workspace: None,
        key: None,
        grouping: Grouping::Day,
        from_day: None,
        until_day: None,
        after: None,
        limit: 10,
    };
    let days = usage::query(&mut rig.store.read().await.unwrap(), &query).await.unwrap();
    assert_eq!((days.len(), days[0].0.as_str()), (1, "9999-12-31"));
    query.after = Some(days[0].0.clone());
    assert!(usage::query(&mut rig.store.read().await.unwrap(), &query).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_gap_is_written_once_to_the_chains_that_miss_records() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let known = rig.record(key, boot(1), 1, 0, 1);
    rig.ship(boot(1), std::slice::from_ref(&known)).await.unwrap();
    let stranger = RequestId::from_bytes([0x99; 16]);
    for _ in 0..2 {
        rig.audit.report_gap(&rig.store, NODE, boot(1), &[known.request, stranger]).await.unwrap();
    }
    let gaps = |entries: Vec<list::Listed>| -> Vec<_> {
        let gap = |entry: list::Listed| match entry.record {
            Record::Gap(gap) => Some((gap.last_seq, gap.requests)),
            Record::Request(_) | Record::Admin(_) | Record::Unchained(_) => None,
        };
        entries.into_iter().filter_map(gap).collect()
    };
    let in_key = gaps(list::entries(&rig.store, key.chain, (Order::OldestFirst, None), 10).await.unwrap());
    let in_admin = gaps(list::entries(&rig.store, ADMIN_CHAIN, (Order::OldestFirst, None), 10).await.unwrap());
    assert_eq!(in_key, [(1, vec![known.request])]);
    assert_eq!(in_admin, [(1, vec![stranger])]);
    // Records that are saved after all go on behind the gap, and may be followed by another one.
    rig.ship(boot(1), &[rig.record(key, boot(1), 2, 0, 1)]).await.unwrap();
    rig.audit.report_gap(&rig.store, NODE, boot(1), &[stranger]).await.unwrap();
    let in_admin = gaps(list::entries(&rig.store, ADMIN_CHAIN, (Order::OldestFirst, None), 10).await.unwrap());
    assert_eq!(in_admin, [(1, vec![stranger]), (2, vec![stranger])]);
    let error = rig.audit.report_gap(&rig.store, NodeId::from_bytes([8; 16]), boot(1), &[]).await.unwrap_err();
    assert!(matches!(error, IntakeError::ForeignBoot(_)), "{error}");
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn a_gap_of_more_requests_than_one_entry_names_goes_on_in_the_next_and_is_written_once_all_the_same() {
    let rig = Rig::new().await;
    let many: Vec<_> = (0..12_001_u128).map(|number| RequestId::from_bytes(number.to_be_bytes())).collect();
    for _ in 0..2 {
        rig.audit.report_gap(&rig.store, NODE, boot(1), &many).await.unwrap();
    }
    let entries = list::entries(&rig.store, ADMIN_CHAIN, (Order::OldestFirst, None), 100).await.unwrap();
    let gaps = entries.into_iter().filter_map(|entry| match entry.record {
        Record::Gap(gap) => Some(gap.requests),
        Record::Request(_) | Record::Admin(_) | Record::Unchained(_) => None,
    });
    let gaps: Vec<_> = gaps.collect();
    assert_eq!(gaps.iter().map(Vec::len).collect::<Vec<_>>(), [2_001, 5_000, 5_000]);
    assert_eq!(gaps.concat(), many);
    assert!(rig.faults().await.is_empty());
}

#[tokio::test]
async fn what_was_not_counted_takes_no_request_and_is_still_chained() {
    let rig = Rig::new().await;
    let key = rig.key(1, Policy::default()).await;
    let uncounted = RequestRecord { flags: Flags::NOT_COUNTED, ..rig.record(key, boot(1), 1, 0, 0) };
    rig.ship(boot(1), &[uncounted]).await.unwrap();
    let query = UsageQuery {
        workspace: None,
        key: None,
        grouping: Grouping::Key,
        from_day: None,
        until_day: None,
        after: None,
        limit: 10,
    };
    let rows = usage::query(&mut rig.store.read().await.unwrap(), &query).await.unwrap();
    assert_eq!((rows[0].1.requests, rows[0].1.refused), (0, 0));
    assert_eq!(key_entries(&rig, key.chain).await, 1);
}

#[tokio::test]
async fn a_cost_above_its_bound_is_noted_with_its_entry_until_the_key_is_paused_and_not_again() {
    let rig = Rig::new().await;
    let (key, paused) = (rig.key(1, Policy::default()).await, rig.key(2, Policy::default()).await);
    rig.change(paused, |record| record.status = KeyStatus::Paused).await;
    let over = |key, seq| RequestRecord { flags: Flags::BOUND_EXCEEDED, ..rig.record(key, boot(1), seq, 0, 9) };
    let records = [over(key, 1), over(key, 2), over(paused, 3), rig.record(paused, boot(1), 4, 0, 9)];
    let noted = async || overspent::noted(&mut rig.store.read().await.unwrap()).await.unwrap();
    let foreign = RequestRecord { boot: boot(9), ..records[1].clone() };
    rig.ship(boot(1), &[records[0].clone(), foreign]).await.unwrap_err();
    assert!(noted().await.is_empty());
    for _ in 0..2 {
        rig.ship(boot(1), &records).await.unwrap();
        assert_eq!(noted().await, [(key.id, records[0].request)]);
    }
    rig.change(key, |record| std::sync::Arc::make_mut(&mut record.policy).requests_per_minute = Some(5)).await;
    assert_eq!(noted().await.len(), 1, "only a pause is one");
    rig.change(key, |record| record.status = KeyStatus::Paused).await;
    assert!(noted().await.is_empty());
    rig.change(key, |record| record.status = KeyStatus::Active).await;
    rig.ship(boot(1), &records).await.unwrap();
    assert!(noted().await.is_empty(), "a late copy is no new reason");
    rig.ship(boot(1), &[over(key, 5)]).await.unwrap();
    assert_eq!(noted().await.len(), 1);
}

#[tokio::test]
#[ignore = "a measurement: cargo test --release -p keyforge-control-plane --test it -- --ignored --nocapture throughput"]
async fn intake_throughput_is_at_least_20_000_entries_per_second() {
    const BATCH: u64 = 500;
    const BATCHES: u64 = 60;
    let rig = Rig::new().await;
    let mut keys = Vec::new();
    for n in 1..=50 {
        keys.push(rig.key(n, crate::rig::spend_per(keyforge_shared::period::Window::Day, 1 << 50)).await);
    }
    let mut spent = 0;
    for number in 0..BATCHES {
        let seqs = number * BATCH + 1..=(number + 1) * BATCH;
        let records = seqs.map(|seq| rig.record(keys[seq as usize % 50], boot(1), seq, 1, 7).encode()).collect();
        let start = SystemClock.monotonic_nanos();
        rig.intake.ship(batch((NODE, boot(1)), number * BATCH + 1, records)).await.unwrap();
        spent += SystemClock.monotonic_nanos() - start;
    }
    let rate = BATCHES * BATCH * 1_000_000_000 / spent;
    println!("{rate} entries per second in batches of {BATCH} over 50 chains");
    assert!(rate >= 20_000, "{rate}");
}

/// How many entries a second are chained when `nodes` ship at once, each `batches` of `batch` records over 20 keys of its own, in turn through `rigs`,
/// and how long a node waits for the acknowledgement of a batch.
pub async fn measured(rigs: &[Arc<Rig>], nodes: u8, batch: u64, batches: u64) -> String {
    const KEYS: u8 = 20;
    let rig = &rigs[0];
    let mut keys = Vec::new();
    for n in 0..nodes * KEYS {
        let policy = crate::rig::spend_per(keyforge_shared::period::Window::Day, 1 << 50);
        keys.push(rig.key(n, policy).await);
    }
    let mut shippers = Vec::new();
    for node in 0..nodes {
        let through = rigs[usize::from(node) % rigs.len()].clone();
        let own = &keys[usize::from(node * KEYS)..][..usize::from(KEYS)];
        let record =
            |seq: u64| rig.record(own[usize::try_from(seq).unwrap() % own.len()], boot(node), seq, 1, 7).encode();
        let shipped: Vec<Vec<Vec<u8>>> =
            (0..batches).map(|number| (number * batch + 1..=(number + 1) * batch).map(record).collect()).collect();
        shippers.push(async move {
            let mut waited = Vec::new();
            for (number, records) in (0..).zip(shipped) {
                let start = SystemClock.monotonic_nanos();
                through.intake.ship(crate::rig::batch((NODE, boot(node)), number * batch + 1, records)).await.unwrap();
                waited.push(SystemClock.monotonic_nanos() - start);
            }
            waited
        });
    }
    let start = SystemClock.monotonic_nanos();
    let mut waited = Vec::new();
    for shipper in shippers.into_iter().map(|it| Shutdown::new().spawn("traffic", it)).collect::<Vec<_>>() {
        waited.extend(shipper.await.unwrap());
    }
    let rate = u64::from(nodes) * batch * batches * 1_000_000_000 / (SystemClock.monotonic_nanos() - start);
    waited.sort_unstable();
    let at = |share: usize| waited[(waited.len() * share / 100).min(waited.len() - 1)] / 1_000;
    let (half, most) = (at(50), at(99));
    format!("{rate} entries/s: {nodes} nodes, batches of {batch}; acknowledged after {half} us (p50), {most} us (p99)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test --release -p keyforge-control-plane --test it -- --ignored --nocapture together"]
async fn intake_of_several_nodes_together() {
    for (nodes, batch) in [(1, 500), (1, 2_000), (4, 500), (4, 2_000)] {
        let rig = Arc::new(Rig::new().await);
        println!("{}", measured(&[rig], nodes, batch, 100_000 / batch).await);
    }
}
