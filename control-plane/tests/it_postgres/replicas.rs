//! Several control planes on one database: what one commits the others serve, and no two decide about the same thing at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use keyforge_control_plane::app::{ControlPlane, StartError};
use keyforge_control_plane::audit::intake::IntakeError;
use keyforge_control_plane::ledger::{Acquire, Want};
use keyforge_control_plane::publish::fleet_token::FleetTokenError;
use keyforge_control_plane::store::ledger::sums;
use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::audit::request::{Flags, RequestRecord};
use keyforge_shared::clock::{Clock as _, Timestamp};
use keyforge_shared::id::{LifeId, RequestId, WorkspaceId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::Window;
use keyforge_shared::policy::Policy;
use keyforge_shared::state::State;
use prost_types::FieldMask;

use crate::beside::{plane_beside, rig_beside, share_database};
use crate::plane::{CANARY, Plane, start_in};
use crate::rig::{Key, NODE, Rig, boot, spend_per};
use crate::stores;
use crate::stream::Node;

#[tokio::test]
async fn change_at_one_control_plane_reaches_the_nodes_of_another() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let mut node = Node::connect(&there, 1, 1, State::default()).await;
    node.follow_to(there.revision().await).await;
    let (key, _) = here.make_key("agent").await;
    here.add_credential(CANARY).await;
    here.keys().revoke_key(admin::RevokeKeyRequest { id: key.id.clone(), wait_ms: None }).await.unwrap();
    node.follow_to(here.revision().await).await;
    let held = node.state.key(key.id.parse().unwrap()).unwrap().status;
    assert_eq!(held.as_str(), "revoked");
    // And back, from a state that this control plane did not make.
    let mut back = Node::connect(&here, 2, 2, State::default()).await;
    there.make_key("another").await;
    back.follow_to(there.revision().await).await;
    node.follow_to(there.revision().await).await;
    assert_eq!(back.state.set_hash(), node.state.set_hash());
    drop((node, back));
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn what_an_operator_did_at_one_control_plane_is_the_case_at_another_at_once() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    for number in 0..10 {
        let (one, other) = if number % 2 == 0 { (&here, &there) } else { (&there, &here) };
        let name = format!("team {number}");
        let team = admin::CreateWorkspaceRequest { name: name.clone(), ..Default::default() };
        one.workspaces().create_workspace(team).await.unwrap();
        let create =
            admin::CreateKeyRequest { name: "agent".to_owned(), workspace: name.clone(), ..Default::default() };
        let key = other.keys().create_key(create).await.unwrap().into_inner().key.unwrap();
        let update_mask = Some(FieldMask { paths: vec!["name".to_owned()] });
        let rename =
            admin::UpdateKeyRequest { id: key.id, name: "renamed".to_owned(), update_mask, ..Default::default() };
        one.keys().update_key(rename).await.unwrap();
        let taken = admin::CreateWorkspaceRequest { name, ..Default::default() };
        assert_eq!(other.workspaces().create_workspace(taken).await.unwrap_err().code(), tonic::Code::AlreadyExists);
    }
    there.stop().await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_stay_dense_and_every_state_is_the_same_while_all_control_planes_change_it() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let mut nodes =
        [Node::connect(&here, 1, 1, State::default()).await, Node::connect(&there, 2, 2, State::default()).await];
    let first = here.revision().await;
    let make = |plane: &Plane, number: u32| {
        let mut keys = plane.keys();
        async move {
            let request = admin::CreateKeyRequest { name: format!("agent {number}"), ..Default::default() };
            keys.create_key(request).await.unwrap().into_inner().key.unwrap().revision
        }
    };
    let mut revisions =
        join_all((0..40).map(|number| make(if number % 2 == 0 { &here } else { &there }, number))).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (first + 1..=first + 40).collect::<Vec<_>>());
    for node in &mut nodes {
        node.follow_to(first + 40).await;
    }
    assert_eq!(nodes[0].state.set_hash(), nodes[1].state.set_hash());
    drop(nodes);
    let (beside, directory) = (there.stop().await, here.stop().await);
    // The seal that the next start checks was made by both in turn.
    Plane::start_again(directory).await.stop().await;
    drop(beside);
}

#[tokio::test]
async fn control_planes_that_start_together_make_one_deployment() {
    let first = tempfile::tempdir().unwrap();
    let second = tempfile::tempdir().unwrap();
    assert!(stores::database_of(first.path()).is_some());
    share_database(first.path(), second.path());
    let (one, other) = tokio::join!(start_in(first.path()), start_in(second.path()));
    // Each made a vault key of its own, and only one of them belongs to the deployment.
    let (won, lost) = if one.is_ok() { (one, other) } else { (other, one) };
    let error = lost.err().expect("one of them is refused").to_string();
    assert!(error.contains("does not belong"), "{error}");
    let (running, shutdown) = won.unwrap();
    stop(running, shutdown).await;
}

async fn stop(running: ControlPlane, shutdown: Shutdown) {
    shutdown.trigger();
    let drained = shutdown.drained(std::time::Duration::from_secs(20)).await;
    assert_eq!(drained, keyforge_runtime::shutdown::Drained::Clean);
    running.close().await;
}

#[tokio::test]
async fn control_plane_without_the_fleets_token_is_refused_instead_of_making_another() {
    let plane = Plane::start().await;
    let directory = tempfile::tempdir().unwrap();
    share_database(plane.directory.path(), directory.path());
    keyforge_runtime::private_file::private_dir(&directory.path().join("data")).unwrap();
    let key = |of: &tempfile::TempDir| of.path().join("data/vault.key");
    std::fs::copy(key(&plane.directory), key(&directory)).unwrap();
    let error = start_in(directory.path()).await.err().unwrap();
    assert!(matches!(error, StartError::FleetToken(FleetTokenError::Missing(_))), "{error}");
    plane.stop().await;
}

/// `batches` of ten records of one boot, alternating between keys.
fn batches(rig: &Rig, keys: &[Key], n: u8, batches: u64) -> Vec<Vec<RequestRecord>> {
    let record = |seq: u64| rig.record(keys[usize::try_from(seq).unwrap() % keys.len()], boot(n), seq, 0, 7);
    (0..batches).map(|batch| (batch * 10 + 1..=batch * 10 + 10).map(record).collect()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_16_entries_of_one_key_that_come_through_two_control_planes_make_one_chain() {
    let rig = Arc::new(Rig::new().await);
    let other = Arc::new(rig_beside(&rig).await);
    let keys = [rig.key(1, spend_per(Window::Day, 1 << 40)).await, rig.key(2, Policy::default()).await];
    let ship = |n: u8| {
        let through = if n.is_multiple_of(2) { rig.clone() } else { other.clone() };
        let batches = batches(&rig, &keys, n, 12);
        async move {
            for batch in batches {
                assert_eq!(through.ship(boot(n), &batch).await.unwrap(), batch.last().unwrap().node_seq);
            }
        }
    };
    join_all((1..=8).map(ship).map(|it| Shutdown::new().spawn("traffic", it)))
        .await
        .into_iter()
        .for_each(|done| done.unwrap());
    assert_eq!(rig.faults().await, []);
    let verdicts = rig.verify(keyforge_control_plane::audit::verify::Selection::All).await;
    assert_eq!(verdicts.iter().map(|verdict| verdict.entries).sum::<u64>(), 8 * 120);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_17_batch_that_is_shipped_to_two_control_planes_at_once_is_chained_once() {
    let rig = Rig::new().await;
    let other = rig_beside(&rig).await;
    let key = rig.key(1, Policy::default()).await;
    for batch in batches(&rig, &[key], 1, 20) {
        let (one, two) = tokio::join!(rig.ship(boot(1), &batch), other.ship(boot(1), &batch));
        for watermark in [one, two] {
            match watermark {
                Ok(watermark) => assert_eq!(watermark, batch.last().unwrap().node_seq),
                Err(IntakeError::Audit(error)) => panic!("{error}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!(rig.faults().await, []);
    let head = rig.verify(keyforge_control_plane::audit::verify::Selection::One(key.chain)).await;
    assert_eq!(head[0].entries, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_1_grants_through_two_control_planes_never_exceed_a_limit() {
    const LIMIT: u64 = 10_000;
    let rig = Arc::new(Rig::new().await);
    let other = Arc::new(rig_beside(&rig).await);
    let team = WorkspaceId::from_bytes([0x7e; 16]);
    rig.workspace(team, "team", &spend_per(Window::Day, LIMIT)).await;
    let mut keys = Vec::new();
    for n in 1..=4 {
        keys.push(rig.key_in(team, n, spend_per(Window::Month, LIMIT / 2)).await);
    }
    let day = CounterId { scope: Scope::Workspace, ..rig.counter(keys[0], Dimension::Spend, Window::Day) };
    let month = rig.counter(keys[0], Dimension::Spend, Window::Month);
    let ask = |number: u8| {
        let through = if number.is_multiple_of(2) { rig.clone() } else { other.clone() };
        let key = keys[usize::from(number / 2) % keys.len()];
        let records = (1..=10).map(|seq| rig.record(key, boot(number), seq, 1, 3)).collect::<Vec<_>>();
        async move {
            let mut told = BTreeMap::new();
            for round in 0..10 {
                let counters = [CounterId { key: key.id, ..day }, CounterId { key: key.id, ..month }];
                let wants = counters.map(|counter| Want { counter, amount: 40 + round }).to_vec();
                let ask = Acquire { boot: boot(number), life: LifeId::from_bytes([number; 16]), key: key.id, wants };
                let granted = through.ledger.acquire(&ask).await.unwrap();
                for grant in &granted.grants {
                    told.insert((grant.counter.scope, key.id), grant.granted);
                }
                through.ship(boot(number), &records[usize::try_from(round).unwrap()..][..1]).await.unwrap();
            }
            told
        }
    };
    let told: Vec<_> = join_all((1..=16).map(ask).map(|it| Shutdown::new().spawn("traffic", it)))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let in_team: u64 =
        told.iter().flatten().filter(|((scope, _), _)| *scope == Scope::Workspace).map(|(_, told)| told).sum();
    assert!(in_team <= LIMIT, "{in_team} of {LIMIT}");
    let mut read = rig.store.read().await.unwrap();
    for key in &keys {
        let own: u64 = told.iter().filter_map(|told| told.get(&(Scope::Key, key.id))).sum();
        assert!(own <= LIMIT / 2, "{own} of {}", LIMIT / 2);
        let month = sums(&mut read, &CounterId { key: key.id, ..month }, None, Timestamp::from_nanos(0)).await.unwrap();
        assert!(month.written_off() <= LIMIT / 2, "{month:?}");
    }
    let day = sums(&mut read, &day, None, Timestamp::from_nanos(0)).await.unwrap();
    assert!(day.written_off() <= LIMIT && day.settled == 16 * 10 * 3, "{day:?}");
    drop(read);
    assert_eq!(rig.faults().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_that_comes_while_entries_are_chained_elsewhere_counts_each_of_them_once() {
    let rig = Arc::new(Rig::new().await);
    let other = Arc::new(rig_beside(&rig).await);
    let team = WorkspaceId::from_bytes([0x7e; 16]);
    for round in 1..=5 {
        let team = WorkspaceId::from_bytes([team.as_bytes()[0] + round; 16]);
        rig.workspace(team, &format!("team {round}"), &Policy::default()).await;
        let key = rig.key_in(team, round, Policy::default()).await;
        let shipping = {
            let (other, batches) = (other.clone(), batches(&rig, &[key], round, 30));
            Shutdown::new().spawn("traffic", async move {
                for batch in batches {
                    other.ship(boot(round), &batch).await.unwrap();
                }
            })
        };
        rig.change_workspace(team, &spend_per(Window::Day, 1 << 30)).await;
        let counter = CounterId { scope: Scope::Workspace, ..rig.counter(key, Dimension::Spend, Window::Day) };
        let wants = vec![Want { counter, amount: 10 }];
        let life = LifeId::from_bytes([round; 16]);
        rig.ledger.acquire(&Acquire { boot: boot(100 + round), life, key: key.id, wants }).await.unwrap();
        shipping.await.unwrap();
        let sums = sums(&mut rig.store.read().await.unwrap(), &counter, None, Timestamp::from_nanos(0)).await.unwrap();
        assert_eq!(sums.settled, 300 * 7, "round {round}");
    }
    assert_eq!(rig.faults().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overspent_key_is_paused_once_however_many_control_planes_see_it() {
    let here = Plane::start().await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("agent").await;
    let id = key.id.parse().unwrap();
    let mut database = stores::connect(here.directory.path()).await;
    let note = "INSERT INTO overspent SELECT key_id, zeroblob(16) FROM virtual_keys";
    keyforge_control_plane::store::sql::query(note).execute(&mut database).await.unwrap();
    let (one, two) = tokio::join!(
        here.running.admin().pause_overspent_key(id, "one"),
        there.running.admin().pause_overspent_key(id, "two")
    );
    one.unwrap();
    two.unwrap();
    let resume = admin::UpdateKeyRequest {
        id: key.id.clone(),
        update_mask: Some(FieldMask { paths: vec!["paused".to_owned()] }),
        ..Default::default()
    };
    there.keys().update_key(resume).await.unwrap();
    here.running.admin().pause_overspent_key(id, "late").await.unwrap();
    let status = here.keys().get_key(admin::GetKeyRequest { id: key.id }).await.unwrap().into_inner().status();
    assert_eq!(status, admin::KeyStatus::Active);
    let pauses = here.admin_entries().await.into_iter().filter(|entry| entry.method == "keys/PauseOverspent").count();
    assert_eq!(pauses, 1);
    drop(database);
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn gap_that_is_told_to_another_control_plane_is_chained_in_order() {
    let rig = Rig::new().await;
    let other = rig_beside(&rig).await;
    let key = rig.key(1, Policy::default()).await;
    let mut record = rig.record(key, boot(1), 1, 0, 5);
    record.flags = record.flags.with(Flags::CLIENT_GONE);
    rig.ship(boot(1), &[record]).await.unwrap();
    other.audit.report_gap(&other.store, NODE, boot(1), &[RequestId::from_bytes([9; 16])]).await.unwrap();
    rig.ship(boot(2), &[rig.record(key, boot(2), 1, 0, 5)]).await.unwrap();
    assert_eq!(rig.faults().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_planes_that_hear_of_the_same_nodes_at_the_same_time_do_not_wait_for_each_other() {
    let rig = Rig::new().await;
    let other = rig_beside(&rig).await;
    let boots: Vec<_> = (1..=250).map(boot).collect();
    let backwards: Vec<_> = boots.iter().rev().copied().collect();
    for _ in 0..20 {
        // Whoever comes second has something to write.
        rig.clock.advance(Duration::from_nanos(1));
        let (here, there) = tokio::join!(rig.ledger.hear_of(&boots), other.ledger.hear_of(&backwards));
        here.unwrap();
        there.unwrap();
    }
    let mut read = rig.store.read().await.unwrap();
    let heard = sql::query("SELECT count(*) FROM boot_signs WHERE heard_at = $1").bind(rig.clock.now().nanos());
    assert_eq!(heard.fetch_value::<i64>(&mut read).await.unwrap(), Some(250));
}
