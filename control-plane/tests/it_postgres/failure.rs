//! PostgreSQL killed and started again under traffic: what was acknowledged is there, no chain forks, nothing is granted twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use keyforge_control_plane::audit::AuditError;
use keyforge_control_plane::audit::intake::IntakeError;
use keyforge_control_plane::audit::verify::Selection;
use keyforge_control_plane::ledger::{Acquire, LedgerError, Want};
use keyforge_control_plane::store::ledger::sums;
use keyforge_loadtest::postgres::Server;
use keyforge_proto::admin::v1 as admin;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::LifeId;
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::period::Window;
use keyforge_shared::state::State;
use tonic::Code;

use crate::beside::{plane_beside, rig_beside, use_database};
use crate::books::{Clients, ask as ask_for, clients, ship as ship_records};
use crate::plane::Plane;
use crate::rig::{Key, Rig, boot, spend_per};
use crate::stream::Node;

const LIMIT: u64 = 60_000;
const KILLS: u32 = 3;

/// Two control planes' books on a server of their own.
async fn two_on(server: &Server) -> (Arc<Rig>, Arc<Rig>) {
    let directory = tempfile::tempdir().unwrap();
    use_database(directory.path(), &server.create("keyforge").unwrap());
    let rig = Rig::start_in(directory).await;
    let other = rig_beside(&rig).await;
    (Arc::new(rig), Arc::new(other))
}

struct Traffic {
    over: AtomicBool,
    refused: AtomicU64,
}

impl Traffic {
    /// Notes that a call failed. It must be one that may be made again.
    async fn failed(&self, passing: bool, error: &(dyn std::fmt::Display + Sync)) {
        assert!(passing, "not one that may be made again: {error}");
        self.refused.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ships through one control plane and, whenever that fails, through the other one, until the traffic is over. Gives how many records were acknowledged.
async fn ship(traffic: Arc<Traffic>, through: [Arc<Rig>; 2], keys: Vec<Key>, n: u8) -> u64 {
    let (mut acknowledged, mut turn) = (0, usize::from(n));
    while !traffic.over.load(Ordering::Relaxed) {
        let record = |seq: u64| through[0].record(keys[usize::try_from(seq).unwrap() % keys.len()], boot(n), seq, 1, 1);
        let batch: Vec<_> = (acknowledged + 1..=acknowledged + 10).map(record).collect();
        match through[turn % 2].ship(boot(n), &batch).await {
            Ok(watermark) => acknowledged = watermark,
            Err(IntakeError::Audit(AuditError::Store(error))) => {
                traffic.failed(error.is_passing(), &error).await;
                turn += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    acknowledged
}

/// Asks for more and more of a key until the traffic is over. Gives what the life was told that it may spend.
async fn ask(traffic: Arc<Traffic>, through: [Arc<Rig>; 2], counter: CounterId, n: u8) -> u64 {
    let (mut told, mut turn) = (0, usize::from(n));
    while !traffic.over.load(Ordering::Relaxed) {
        let wants = vec![Want { counter, amount: 1 }];
        let ask = Acquire { boot: boot(n), life: LifeId::from_bytes([n; 16]), key: counter.key, wants };
        match through[turn % 2].ledger.acquire(&ask).await {
            Ok(granted) => {
                assert!(granted.grants[0].granted >= told, "a grant was taken back");
                told = granted.grants[0].granted;
            }
            Err(LedgerError::Store(error)) => {
                traffic.failed(error.is_passing(), &error).await;
                turn += 1;
            }
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_16_killing_the_database_under_traffic_loses_nothing_that_was_acknowledged_and_grants_nothing_twice() {
    let mut server = Server::start().unwrap();
    let (rig, other) = two_on(&server).await;
    let mut keys = Vec::new();
    for n in 1..=3 {
        keys.push(rig.key(n, spend_per(Window::Month, LIMIT)).await);
    }
    let traffic = Arc::new(Traffic { over: AtomicBool::new(false), refused: AtomicU64::new(0) });
    let through = [rig.clone(), other.clone()];
    let shipping: Vec<_> = (1..=6)
        .map(|n| Shutdown::new().spawn("traffic", ship(traffic.clone(), through.clone(), keys.clone(), n)))
        .collect();
    let counter = |n: u8| rig.counter(keys[usize::from(n) % keys.len()], Dimension::Spend, Window::Month);
    let asking: Vec<_> = (21..=26)
        .map(|n| Shutdown::new().spawn("traffic", ask(traffic.clone(), through.clone(), counter(n), n)))
        .collect();
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        server.kill().unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.run().unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    traffic.over.store(true, Ordering::Relaxed);
    let acknowledged: Vec<u64> = join_all(shipping).await.into_iter().map(Result::unwrap).collect();
    let told: Vec<u64> = join_all(asking).await.into_iter().map(Result::unwrap).collect();
    assert!(traffic.refused.load(Ordering::Relaxed) > 0, "nothing failed, so nothing was killed");
    assert!(acknowledged.iter().all(|count| *count > 0), "{acknowledged:?}");

    assert_eq!(rig.faults().await, []);
    let verdicts = other.verify(Selection::All).await;
    let chained: u64 = verdicts.iter().map(|verdict| verdict.entries).sum();
    let sum: u64 = acknowledged.iter().sum();
    // A batch whose answer was lost with the server may be chained without having been acknowledged, at most one per boot.
    assert!((sum..=sum + 6 * 10).contains(&chained), "{chained} chained, {sum} acknowledged");
    let mut granted: BTreeMap<CounterId, u64> = BTreeMap::new();
    for (told, n) in told.iter().zip(21..=26) {
        *granted.entry(counter(n)).or_default() += told;
    }
    let mut read = rig.store.read().await.unwrap();
    for (counter, told) in granted {
        let sums = sums(&mut read, &counter, None, Timestamp::from_nanos(0)).await.unwrap();
        assert!(told <= LIMIT && told > 0, "{told} of {LIMIT}");
        assert!((told..=LIMIT).contains(&sums.written_off()), "{told} was told, {sums:?} is written off");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_calls_are_unavailable_and_nodes_stay() {
    let mut server = Server::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    use_database(directory.path(), &server.create("keyforge").unwrap());
    let here = Plane::start_again(directory).await;
    let there = plane_beside(&here).await;
    let (key, _) = here.make_key("agent").await;
    let mut node = Node::connect(&there, 1, 1, State::default()).await;
    node.follow_to(here.revision().await).await;
    server.kill().unwrap();
    for plane in [&here, &there] {
        let status = plane.keys().get_key(admin::GetKeyRequest { id: key.id.clone() }).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        // Nor can be found out whose calls these are.
        let Clients { mut grants, mut intake, .. } = clients(plane, Some(&plane.fleet_token), None);
        let status = grants.acquire_grants(ask_for(&key.id, 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let status = intake.ship_records(ship_records(vec![vec![0]])).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    server.run().unwrap();
    let revoked = async || here.keys().revoke_key(admin::RevokeKeyRequest { id: key.id.clone(), wait_ms: None }).await;
    let mut tries = 0;
    while let Err(status) = revoked().await {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        tries += 1;
        assert!(tries < 100, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.follow_to(here.revision().await).await;
    assert_eq!(node.state.key(key.id.parse().unwrap()).unwrap().status.as_str(), "revoked");
    drop(node);
    there.stop().await;
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test --release -p keyforge-control-plane --test it_postgres -- --ignored --nocapture durably"]
async fn intake_of_several_nodes_durably() {
    let server = Server::start().unwrap();
    for (number, (planes, nodes, batch)) in
        [(1, 1, 500), (1, 1, 2_000), (1, 4, 500), (1, 4, 2_000), (2, 4, 2_000), (2, 8, 2_000)].into_iter().enumerate()
    {
        let directory = tempfile::tempdir().unwrap();
        use_database(directory.path(), &server.create(&format!("rate_{number}")).unwrap());
        let rig = Rig::start_in(directory).await;
        let beside = rig_beside(&rig).await;
        let rigs = [Arc::new(rig), Arc::new(beside)];
        let measured = crate::intake::measured(&rigs[..planes], nodes, batch, 100_000 / batch).await;
        println!("{planes} control planes: {measured}");
    }
}
