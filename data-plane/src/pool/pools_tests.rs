//! Turns at credentials, on a clock that the test holds; nobody waits here.

use keyforge_counters::MemoryCooldowns;
use keyforge_providers::fault::{Fault, FaultKind};
use keyforge_shared::catalog::ProviderName;
use keyforge_shared::clock::ManualClock;
use keyforge_shared::id::{CredentialId, DeploymentId};
use keyforge_shared::secret::SecretBytes;
use keyforge_shared::state::{Change, CredentialRecord, Resource, State};

use super::*;
use crate::fixture::{START, key_id};

struct Bench {
    pools: Pools,
    clock: Arc<ManualClock>,
    replica: Arc<Replica>,
    model: Model,
}

fn record(number: u8) -> CredentialRecord {
    CredentialRecord {
        id: CredentialId::from_bytes([number; 16]),
        provider: ProviderName("openai".to_owned()),
        pool: "default".to_owned(),
        base_url: "http://127.0.0.1:1/v1".to_owned(),
        limit_group: format!("group {number}"),
        secret_version: 1,
        enabled: true,
        weight: 1,
    }
}

impl Bench {
    fn new(credentials: &[CredentialRecord]) -> Self {
        let Resource::Model(model) = crate::fixture::model() else { panic!("a model") };
        let replica = Arc::new(Replica::default());
        let mut state = State::default();
        let credentials = credentials.iter().map(|record| {
            for version in 1..=record.secret_version {
                replica.secrets.put(record.id, version, &SecretBytes::new(b"sk-test".to_vec())).unwrap();
            }
            Change::Upsert(Resource::Credential(Arc::new(record.clone())))
        });
        state.commit(credentials.collect());
        let hash = state.set_hash();
        replica.replace(DeploymentId::from_bytes([1; 16]), state, hash).unwrap();
        let clock = Arc::new(ManualClock::at(START));
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let store = Cooldowns::InProcess(MemoryCooldowns::new(Arc::clone(&shared)));
        let metrics = Metrics::new(&opentelemetry::global::meter("test"));
        let pools = Pools::start(store, Arc::clone(&replica), shared, metrics, &Shutdown::new());
        Self { pools, clock, replica, model: Arc::unwrap_or_clone(model) }
    }

    /// A credential gets a new version of its secret.
    fn rotate(&self, record: &CredentialRecord) {
        let rotated = CredentialRecord { secret_version: record.secret_version + 1, ..record.clone() };
        self.replica.secrets.put(rotated.id, rotated.secret_version, &SecretBytes::new(b"sk-test".to_vec())).unwrap();
        let mut state = State::default();
        let all = self.replica.credentials(|_| true).into_iter();
        state.commit(all.map(|one| Change::Upsert(Resource::Credential(one))).collect());
        state.commit(vec![Change::Upsert(Resource::Credential(Arc::new(rotated)))]);
        let hash = state.set_hash();
        self.replica.replace(DeploymentId::from_bytes([1; 16]), state, hash).unwrap();
    }

    fn pool(&self) -> Arc<Pool> {
        self.pools.of(&self.model)
    }

    async fn turn(&self) -> Result<Turn, Unserved> {
        let asking =
            Asking { key: key_id(1), need: Need { input: 1, output: 1 }, tried: &[], patience: Duration::ZERO };
        self.pools.turn(&self.pool(), asking).await
    }

    /// Which credentials serve a hundred requests.
    async fn served(&self) -> Vec<usize> {
        let mut seen = Vec::new();
        for _ in 0..100 {
            let turn = self.turn().await.unwrap();
            seen.push(turn.index());
            turn.passed();
        }
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    /// Lets the credential at `index` meet a fault.
    async fn meets(&self, index: usize, fault: &Fault) {
        loop {
            let turn = self.turn().await.unwrap();
            if turn.index() == index {
                return turn.failed(fault, &mut Blame::default());
            }
            turn.passed();
        }
    }
}

fn fault(kind: FaultKind, status: u16, retry_after: Option<Duration>) -> Fault {
    Fault {
        kind,
        status: Some(status),
        code: Some("a_code".to_owned()),
        error_type: None,
        param: None,
        message: String::new(),
        retry_after,
        in_answer: false,
        usage: None,
    }
}

const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

#[tokio::test]
async fn i_26_a_throttled_credential_is_left_alone_and_the_others_serve() {
    let bench = Bench::new(&[record(1), record(2), record(3)]);
    assert_eq!(bench.served().await, [0, 1, 2]);
    bench.meets(1, &fault(FaultKind::Throttled, 429, MINUTE)).await;
    assert_eq!(bench.served().await, [0, 2]);
    bench.clock.advance(Duration::from_secs(67));
    assert_eq!(bench.served().await, [0, 1, 2]);
}

#[tokio::test]
async fn credentials_of_one_limit_group_cool_together() {
    let same = |number| CredentialRecord { limit_group: "org".to_owned(), ..record(number) };
    let bench = Bench::new(&[same(1), same(2), record(3)]);
    bench.meets(0, &fault(FaultKind::Throttled, 429, MINUTE)).await;
    assert_eq!(bench.served().await, [2]);
}

#[tokio::test]
async fn when_all_cool_the_first_moment_is_told() {
    let bench = Bench::new(&[record(1), record(2)]);
    bench.meets(0, &fault(FaultKind::Throttled, 429, MINUTE)).await;
    bench.meets(1, &fault(FaultKind::Throttled, 429, Some(Duration::from_secs(20)))).await;
    let Err(Unserved::Later(wait)) = bench.turn().await else { panic!("served") };
    assert!(wait >= Duration::from_secs(20) && wait <= Duration::from_secs(22), "{wait:?}");
    bench.clock.advance(Duration::from_millis(22_500));
    let probe = bench.turn().await.unwrap();
    assert_eq!(probe.index(), 1);
    assert!(bench.turn().await.is_err(), "I-27: one probes");
    probe.passed();
    bench.turn().await.unwrap().passed();
}

#[tokio::test]
async fn a_dead_credential_is_no_hope_and_a_rotated_one_is() {
    let bench = Bench::new(&[record(1)]);
    bench.meets(0, &fault(FaultKind::Dead, 401, None)).await;
    assert!(matches!(bench.turn().await, Err(Unserved::Hopeless)));
    assert_eq!(bench.pools.glance(&bench.pool(), LONGEST_WAIT), Err(Unserved::Hopeless));
    let standing = bench.pools.standings().remove(0);
    assert_eq!(standing.state, i32::from(keyforge_proto::admin::v1::CredentialState::Dead));
    assert_eq!((standing.last_error_class.as_str(), standing.last_error_code.as_str()), ("dead", "a_code"));
    bench.rotate(&record(1));
    assert_eq!(bench.served().await, [0]);
}

#[tokio::test]
async fn a_credential_without_the_right_to_one_model_serves_others() {
    let mut bench = Bench::new(&[record(1), record(2)]);
    bench.meets(0, &fault(FaultKind::Dead, 403, None)).await;
    assert_eq!(bench.served().await, [1]);
    bench.model.name = "another".to_owned();
    bench.model.upstream_name = "another".to_owned();
    assert_eq!(bench.served().await, [0, 1]);
    bench.meets(0, &fault(FaultKind::Closed, 429, None)).await;
    assert_eq!(bench.served().await, [1]);
    bench.model.name = "m".to_owned();
    bench.model.upstream_name = "m".to_owned();
    assert_eq!(bench.served().await, [1], "an account that may not spend serves no model");
}

#[tokio::test]
async fn operators_are_told_what_a_credential_lacks_and_not_that_it_is_dead() {
    use keyforge_proto::admin::v1::CredentialState;
    let bench = Bench::new(&[record(1), record(2)]);
    let standing = || bench.pools.standings()[0].clone();
    let mut other = bench.model.clone();
    (other.name, other.upstream_name) = ("another".to_owned(), "another".to_owned());
    bench.meets(0, &fault(FaultKind::Dead, 403, None)).await;
    assert_eq!(standing().state, i32::from(CredentialState::Dead), "it has no other use");
    assert_eq!((standing().last_error_code.as_str(), standing().headroom_percent), ("a_code (m)", 0));
    drop(bench.pools.of(&other));
    assert_eq!(standing().state, i32::from(CredentialState::Healthy));
    assert_eq!((standing().last_error_class.as_str(), standing().last_error_code.as_str()), ("dead", "a_code (m)"));
}

#[tokio::test]
async fn what_waits_for_its_probe_is_not_told_as_shut() {
    use keyforge_proto::admin::v1::CredentialState;
    let bench = Bench::new(&[record(1)]);
    let standing = || bench.pools.standings()[0].clone();
    bench.meets(0, &fault(FaultKind::Throttled, 429, MINUTE)).await;
    assert_eq!((standing().state, standing().headroom_percent), (i32::from(CredentialState::Cooling), 0));
    bench.clock.advance(Duration::from_secs(67));
    assert_eq!((standing().state, standing().ready_in_ms), (i32::from(CredentialState::Probing), 0));
}

#[tokio::test]
async fn a_quota_of_the_day_closes_the_credential_until_then() {
    let bench = Bench::new(&[record(1), record(2)]);
    let hours = |count: u64| Some(Duration::from_secs(count * 3_600));
    bench.meets(0, &fault(FaultKind::Closed, 429, hours(7))).await;
    bench.clock.advance(Duration::from_secs(6 * 3_600));
    assert_eq!(bench.served().await, [1]);
    bench.clock.advance(Duration::from_secs(2 * 3_600));
    assert_eq!(bench.served().await, [0, 1]);
}

#[tokio::test]
async fn an_overloaded_host_is_left_alone_by_all_and_another_host_is_not() {
    let elsewhere = CredentialRecord { base_url: "http://127.0.0.1:2/v1".to_owned(), ..record(3) };
    let bench = Bench::new(&[record(1), record(2), elsewhere]);
    bench.meets(0, &fault(FaultKind::Overloaded, 529, None)).await;
    assert_eq!(bench.served().await, [2]);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.served().await, [0, 1, 2]);
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_is_left_alone_by_all_who_use_it() {
    let elsewhere = CredentialRecord { base_url: "http://127.0.0.1:2/v1".to_owned(), ..record(3) };
    let bench = Bench::new(&[record(1), record(2), elsewhere]);
    loop {
        let turn = bench.turn().await.unwrap();
        if turn.index() == 0 {
            turn.unreached();
            break;
        }
        turn.passed();
    }
    assert_eq!(bench.served().await, [2]);
    let standing = bench.pools.standings().remove(0);
    assert_eq!((standing.last_error_class.as_str(), standing.last_error_code.as_str()), ("overloaded", "unreachable"));
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.served().await, [0, 1, 2]);
}

#[tokio::test]
async fn what_a_request_is_denied_everywhere_takes_the_right_of_one_credential_only() {
    let bench = Bench::new(&[record(1), record(2), record(3)]);
    let mut blame = Blame::default();
    let mut denied = Vec::new();
    while denied.len() < 2 {
        let turn = bench.turn().await.unwrap();
        if denied.contains(&turn.index()) {
            turn.passed();
        } else {
            denied.push(turn.index());
            turn.failed(&fault(FaultKind::Dead, 403, None), &mut blame);
        }
    }
    let served: Vec<_> = (0..3).filter(|index| *index != denied[0]).collect();
    assert_eq!(bench.served().await, served, "the first was shut, the second was not");
    let turn = bench.turn().await.unwrap();
    let refused = turn.index();
    turn.failed(&fault(FaultKind::Dead, 401, None), &mut blame);
    let served: Vec<_> = served.into_iter().filter(|index| *index != refused).collect();
    assert_eq!(bench.served().await, served, "a wrong secret is the credential's own");
}

#[tokio::test]
async fn a_probe_that_came_to_nothing_is_made_again_at_once() {
    for (kind, status) in [(FaultKind::Throttled, 429), (FaultKind::Dead, 401)] {
        let bench = Bench::new(&[record(1)]);
        bench.meets(0, &fault(kind, status, MINUTE)).await;
        bench.clock.advance(Duration::from_secs(67));
        // As the store of nodes that share it: what is told names the cooldown.
        bench.pools.exchange().await;
        for _ in 0..3 {
            drop(bench.turn().await.unwrap());
        }
        bench.turn().await.unwrap().passed();
    }
}

#[tokio::test]
async fn a_credential_is_told_of_also_while_no_pool_of_the_revision_was_asked_for() {
    let mut bench = Bench::new(&[record(1), record(2)]);
    bench.meets(0, &fault(FaultKind::Dead, 401, None)).await;
    let known = bench.pools.standings();
    bench.rotate(&record(2));
    bench.model.name = "another".to_owned();
    bench.model.provider = ProviderName("anthropic".to_owned());
    assert!(bench.pool().members.is_empty(), "which makes all other pools of earlier revisions go");
    assert_eq!(bench.pools.0.pools.read().len(), 1);
    assert_eq!(known[0].state, i32::from(keyforge_proto::admin::v1::CredentialState::Dead));
    assert_eq!(bench.pools.standings(), known[..1], "the second is another now, of which nothing is known");
}

#[tokio::test]
async fn what_is_the_clients_or_the_providers_own_fault_costs_no_credential_anything() {
    let bench = Bench::new(&[record(1)]);
    for (kind, status) in [(FaultKind::ClientError, 400), (FaultKind::ServerError, 500), (FaultKind::Ambiguous, 504)] {
        bench.meets(0, &fault(kind, status, None)).await;
        assert_eq!(bench.served().await, [0], "{kind:?}");
    }
}

#[tokio::test]
async fn weights_decide_between_equals() {
    let bench = Bench::new(&[record(1), CredentialRecord { weight: 9, ..record(2) }, record(3)]);
    let mut counts = [0; 3];
    for _ in 0..1_000 {
        let turn = bench.turn().await.unwrap();
        counts[turn.index()] += 1;
        turn.passed();
    }
    assert!(counts[1] > 700, "{counts:?}");
}

#[tokio::test]
async fn what_a_credential_said_it_has_left_decides() {
    let bench = Bench::new(&[record(1), record(2)]);
    for _ in 0..20 {
        let mut turn = bench.turn().await.unwrap();
        let left = if turn.index() == 0 { "1" } else { "90" };
        let mut headers = http::HeaderMap::new();
        for (name, value) in [("limit", "100"), ("remaining", left), ("reset", "60s")] {
            let name: http::HeaderName = format!("x-ratelimit-{name}-requests").parse().unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        turn.answered(&headers);
        turn.passed();
    }
    assert_eq!(bench.served().await, [1]);
}
