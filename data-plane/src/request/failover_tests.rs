//! Between two attempts: what has changed by then decides, and what is not sent again holds nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use keyforge_counters::CounterStore;
use keyforge_providers::dialect::Dialect;
use keyforge_providers::fault::{Fault, FaultKind};
use keyforge_shared::catalog::ProviderName;
use keyforge_shared::clock::ManualClock;
use keyforge_shared::id::{CredentialId, DeploymentId, RequestId};
use keyforge_shared::limit::{Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Window;
use keyforge_shared::policy::Policy;
use keyforge_shared::secret::SecretBytes;
use keyforge_shared::state::{Change, CredentialRecord, KeyRecord, KeyStatus, Resource, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::super::bound::bound;
use super::super::dispatch::dispatch;
use super::super::fixture::{body, permit_for, wanted};
use super::super::receive::{Head, Inbound, Room};
use super::super::reserve::reserve;
use super::*;
use crate::audit::Closing;
use crate::fixture::{FakeLedger, Node, Parts, START, cap, key, key_id, model, quota, workspace};

const THROTTLED: &str =
    "HTTP/1.1 429 Too Many Requests\r\nretry-after: 60\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const THROTTLED_FOR_LONG: &str =
    "HTTP/1.1 429 Too Many Requests\r\nretry-after: 120\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// Ten tokens in and five out: 60,000 nano-dollars.
const SERVED: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n\
    {\"id\":\"x\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\
    \"message\":{\"role\":\"assistant\",\"content\":\"Hello\"},\"finish_reason\":\"stop\"}],\
    \"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"total_tokens\":15}}";
const NO_MODEL: &str = "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n\
    {\"error\":{\"message\":\"The model `m` does not exist or you do not have access to it.\",\
    \"type\":\"invalid_request_error\",\"param\":null,\"code\":\"model_not_found\"}}";
/// A word, and then what a limit that was met on the way is told by.
const THROTTLED_MIDWAY: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
    data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\
    \"delta\":{\"role\":\"assistant\",\"content\":\"Hel\"},\"finish_reason\":null}]}\n\n\
    data: {\"error\":{\"message\":\"Too fast.\",\"type\":\"rate_limit_error\",\"code\":\"rate_limit_exceeded\"}}\n\n";
/// Tokens of output that a request asks for.
const OUTPUT: u64 = 100;

/// What waits for the provider's answer.
type Asked = oneshot::Sender<&'static str>;

/// A node with a pool of two credentials, each at a host of its own, whose answers the test gives.
struct Bench {
    node: Node,
    _ledger: Arc<FakeLedger>,
    clock: Arc<ManualClock>,
    asked: mpsc::Receiver<Asked>,
    state: Vec<Resource>,
}

fn credential(number: u8, base_url: String) -> CredentialRecord {
    CredentialRecord {
        id: CredentialId::from_bytes([number; 16]),
        provider: ProviderName("openai".to_owned()),
        pool: "default".to_owned(),
        base_url,
        limit_group: format!("group {number}"),
        secret_version: 1,
        enabled: true,
        weight: 1,
    }
}

/// A host that hands each request on and says what it is told to.
async fn host(asked: mpsc::Sender<Asked>, shutdown: &keyforge_runtime::shutdown::Shutdown) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let serving = async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (mut seen, mut buffer) = (Vec::new(), [0; 4_096]);
            while !seen.ends_with(b"}") {
                let read = socket.read(&mut buffer).await.unwrap();
                seen.extend_from_slice(&buffer[..read]);
            }
            let (answer, told) = oneshot::channel();
            asked.send(answer).await.unwrap();
            if let Ok(answer) = told.await {
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    };
    drop(shutdown.spawn_background("host", serving));
    url
}

impl Bench {
    async fn new(policy: Policy, limits: &[((Scope, Dimension, Window), u64)]) -> Self {
        let ledger = Arc::new(FakeLedger::default());
        ledger.0.lock().limits = BTreeMap::from_iter(limits.iter().copied());
        ledger.0.lock().slice = 10;
        let url = ledger.serve().await;
        let (sender, asked) = mpsc::channel(16);
        let hosts = keyforge_runtime::shutdown::Shutdown::new();
        let mut state = vec![workspace(Vec::new(), Vec::new()), key(1, policy), model()];
        for number in [1, 2] {
            let credential = credential(number, host(sender.clone(), &hosts).await);
            state.push(Resource::Credential(Arc::new(credential)));
        }
        let clock = Arc::new(ManualClock::at(START));
        let node = Parts::in_memory(url, &clock, state.clone()).build();
        for number in [1, 2] {
            let id = CredentialId::from_bytes([number; 16]);
            node.plane.replica.secrets.put(id, 1, &SecretBytes::new(b"sk-test".to_vec())).unwrap();
        }
        Self { node, _ledger: ledger, clock, asked, state }
    }

    async fn with_quota() -> Self {
        Self::new(quota(10), &[((Scope::Key, Dimension::Requests, Window::Day), 10)]).await
    }

    fn pool(&self) -> Arc<Pool> {
        self.node.plane.pools.of(&self.node.plane.replica.model("m").unwrap())
    }

    /// A request whose client waits for so many seconds.
    fn ask(&self, seconds: &str) -> JoinHandle<Result<Answer, Rejection>> {
        self.ask_for(body(OUTPUT), seconds)
    }

    fn ask_for(&self, body: serde_json::Value, seconds: &str) -> JoinHandle<Result<Answer, Rejection>> {
        let plane = Arc::clone(&self.node.plane);
        let permit = permit_for(&self.node, 1, "m").unwrap();
        let (parts, ()) =
            http::Request::builder().header("x-stainless-timeout", seconds).body(()).unwrap().into_parts();
        let peer = "127.0.0.1:1".parse().unwrap();
        let id = RequestId::generate_at(plane.clock.now()).unwrap();
        let head = Arc::new(Head { parts, peer, id, started: 0, dialect: Dialect::ChatCompletions });
        self.node.plane.shutdown.spawn("request", async move {
            let wanted = wanted(&body);
            let bound = bound(&permit, &wanted)?;
            let reservation = reserve(&plane, &permit, &head, bound).await?;
            let pool = plane.pools.of(permit.model());
            let inbound = Inbound { wanted, body: Bytes::from(body.to_string()), room: Room::empty() };
            dispatch(&plane, reservation, pool, &head, inbound).await
        })
    }

    /// The second credential is throttled for so long.
    async fn shut_second(&self, wait: Duration) {
        let fault = Fault {
            kind: FaultKind::Throttled,
            status: Some(429),
            code: None,
            error_type: None,
            param: None,
            message: String::new(),
            retry_after: Some(wait),
            in_answer: false,
            usage: None,
        };
        loop {
            let need = permit_for(&self.node, 1, "m").and_then(|permit| bound(&permit, &wanted(&body(OUTPUT))));
            let need = need.unwrap().need();
            let asking = Asking { key: key_id(1), need, tried: &[], patience: Duration::ZERO };
            let Ok(turn) = self.node.plane.pools.turn(&self.pool(), asking).await else { panic!("not served") };
            if turn.index() == 1 {
                return turn.failed(&fault, &mut Blame::default());
            }
            turn.passed();
        }
    }

    /// The credentials that serve fifty turns, by what agents know them by.
    async fn serving(&self) -> Vec<String> {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let need = bound(&permit_for(&self.node, 1, "m").unwrap(), &wanted(&body(OUTPUT))).unwrap().need();
            let asking = Asking { key: key_id(1), need, tried: &[], patience: Duration::ZERO };
            let Ok(turn) = self.node.plane.pools.turn(&self.pool(), asking).await else { break };
            seen.insert(turn.slot().to_owned());
            turn.passed();
        }
        seen.into_iter().collect()
    }

    /// The next request that comes to a host.
    async fn asked(&mut self) -> Asked {
        tokio::time::timeout(Duration::from_secs(5), self.asked.recv()).await.unwrap().unwrap()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let so = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), so).await.unwrap_or_else(|_| panic!("not {what}"));
    }

    fn change_key(&self, status: KeyStatus) {
        let mut state = State::default();
        state.commit(self.state.iter().cloned().map(Change::Upsert).collect());
        let Resource::Key(known) = &self.state[1] else { panic!("a key") };
        let changed = KeyRecord { status, ..(**known).clone() };
        state.commit(vec![Change::Upsert(Resource::Key(Arc::new(changed)))]);
        let hash = state.set_hash();
        self.node.plane.replica.replace(DeploymentId::from_bytes([1; 16]), state, hash).unwrap();
    }

    /// What the counters hold and what they have counted.
    async fn books(&self) -> (u64, u64) {
        let books = self.node.plane.counters.books(key_id(1)).await.unwrap();
        books.iter().fold((0, 0), |(held, used), book| (held + book.held, used + book.used))
    }
}

fn told(answer: &Answer) -> (u16, &'static str) {
    (answer.response.status().as_u16(), answer.code)
}

#[tokio::test]
async fn who_hangs_up_between_two_attempts_is_not_asked_for_again() {
    let mut bench = Bench::with_quota().await;
    let tasks = bench.node.plane.shutdown.running_tasks();
    bench.shut_second(Duration::from_secs(4)).await;
    let asking = bench.ask("20");
    bench.asked().await.send(THROTTLED).unwrap();
    bench.until("waiting for the second", |bench| bench.pool().line.waiting() == 1).await;
    asking.abort();
    assert!(asking.await.is_err(), "it hung up");
    bench.clock.advance(Duration::from_secs(5));
    bench.until("at rest", |bench| bench.node.plane.shutdown.running_tasks() <= tasks).await;
    assert!(bench.asked.try_recv().is_err(), "one request arrived, and no other");
    assert_eq!((bench.books().await, bench.pool().line.waiting()), ((0, 0), 0));
}

#[tokio::test]
async fn who_hung_up_during_the_first_attempt_gets_no_second_one() {
    let mut bench = Bench::with_quota().await;
    let tasks = bench.node.plane.shutdown.running_tasks();
    let asking = bench.ask("20");
    let asked = bench.asked().await;
    asking.abort();
    assert!(asking.await.is_err());
    asked.send(THROTTLED).unwrap();
    bench.until("at rest", |bench| bench.node.plane.shutdown.running_tasks() <= tasks).await;
    assert!(bench.asked.try_recv().is_err());
    assert_eq!(bench.books().await.0, 0);
}

#[tokio::test]
async fn a_key_that_died_between_two_attempts_is_told_so_and_its_request_is_recorded() {
    for (status, code) in [(KeyStatus::Revoked, "key_revoked"), (KeyStatus::Paused, "key_paused")] {
        let mut bench = Bench::with_quota().await;
        let asking = bench.ask("20");
        let asked = bench.asked().await;
        bench.change_key(status);
        asked.send(THROTTLED).unwrap();
        let answer = asking.await.unwrap().ok().unwrap();
        assert_eq!(told(&answer), (401, code));
        assert_eq!(bench.books().await, (0, 0));
        // The attempt, which does not count, and the request's own refusal.
        assert_eq!(bench.node.plane.spool.status().next_seq, 3);
        assert!(bench.asked.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_key_that_was_frozen_by_its_own_cost_reserves_nothing_again() {
    let mut bench = Bench::with_quota().await;
    let asking = bench.ask("20");
    let asked = bench.asked().await;
    bench.node.plane.settlements.freeze(key_id(1), 1);
    asked.send(THROTTLED).unwrap();
    assert_eq!(told(&asking.await.unwrap().ok().unwrap()), (401, "key_paused"));
    assert_eq!(bench.books().await, (0, 0));
}

#[tokio::test]
async fn a_pool_that_serves_nobody_in_time_says_when_it_will() {
    let mut bench = Bench::with_quota().await;
    bench.shut_second(Duration::from_millis(100)).await;
    let asking = bench.ask("0.4");
    bench.asked().await.send(THROTTLED).unwrap();
    assert_eq!(told(&asking.await.unwrap().ok().unwrap()), (429, "pool_exhausted"));
    assert_eq!(bench.books().await, (0, 0));
}

/// Throttles for less than its client waits.
const THROTTLED_BRIEFLY: &str =
    "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const OVERLOADED: &str = "HTTP/1.1 529 Overloaded\r\nretry-after: 25\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const DENIED: &str = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n\
    {\"error\":{\"message\":\"You may not use this model.\",\"type\":\"invalid_request_error\",\"code\":\"model_not_found\"}}";

#[tokio::test]
async fn who_finds_out_that_all_are_throttled_waits_in_line_as_others_do() {
    let mut bench = Bench::with_quota().await;
    let asking = bench.ask("20");
    bench.asked().await.send(THROTTLED_BRIEFLY).unwrap();
    bench.asked().await.send(THROTTLED_BRIEFLY).unwrap();
    bench.until("waiting", |bench| bench.pool().line.waiting() == 1).await;
    bench.clock.advance(Duration::from_secs(4));
    bench.asked().await.send(SERVED).unwrap();
    let answer = asking.await.unwrap().ok().unwrap();
    assert_eq!(
        (told(&answer).0, &answer.response.headers()["x-keyforge-attempts"]),
        (200, &http::HeaderValue::from(3))
    );
    assert_eq!(bench.books().await, (0, 1), "it counts once");
}

#[tokio::test]
async fn who_waited_for_a_pool_and_is_refused_again_is_told_when_to_come_back() {
    let mut bench = Bench::with_quota().await;
    let asking = bench.ask("20");
    bench.asked().await.send(THROTTLED_BRIEFLY).unwrap();
    bench.asked().await.send(THROTTLED_BRIEFLY).unwrap();
    bench.until("waiting", |bench| bench.pool().line.waiting() == 1).await;
    bench.clock.advance(Duration::from_secs(4));
    bench.asked().await.send(THROTTLED).unwrap();
    let answer = asking.await.unwrap().ok().unwrap();
    assert_eq!((told(&answer), bench.books().await), ((429, "pool_exhausted"), (0, 1)), "its last attempt counts");
    assert!(bench.asked.try_recv().is_err(), "it gets in line once");
}

#[tokio::test]
async fn an_overloaded_provider_is_told_with_its_wait_as_to_whoever_asks_next() {
    let mut bench = Bench::with_quota().await;
    bench.shut_second(Duration::from_secs(60)).await;
    let asking = bench.ask("20");
    bench.asked().await.send(OVERLOADED).unwrap();
    let answer = asking.await.unwrap().ok().unwrap();
    let wait = answer.response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(told(&answer), (429, "pool_exhausted"));
    assert!((25..=28).contains(&wait), "{wait}");
}

#[tokio::test]
async fn a_model_that_all_credentials_are_denied_is_no_limit_of_a_moment() {
    let mut bench = Bench::with_quota().await;
    let asking = bench.ask("20");
    bench.asked().await.send(DENIED).unwrap();
    bench.asked().await.send(DENIED).unwrap();
    let answer = asking.await.unwrap().ok().unwrap();
    assert_eq!(told(&answer), (502, "upstream_credentials_exhausted"));
    assert_eq!(answer.response.headers()["x-should-retry"], "false");
    assert_eq!(bench.serving().await.len(), 1, "one request takes one right");
}

#[tokio::test]
async fn a_wait_of_minutes_is_told_as_what_it_is() {
    let mut bench = Bench::with_quota().await;
    bench.shut_second(Duration::from_secs(300)).await;
    let asking = bench.ask("20");
    bench.asked().await.send(THROTTLED_FOR_LONG).unwrap();
    let answer = asking.await.unwrap().ok().unwrap();
    let seconds = |name: &str| answer.response.headers()[name].to_str().unwrap().parse::<u64>().unwrap();
    // A tenth is added, so that not all come back in the same moment.
    assert!((120..=132).contains(&seconds("retry-after")), "{}", seconds("retry-after"));
    assert!((120_000..=132_000).contains(&seconds("retry-after-ms")));
    let body = http_body_util::BodyExt::collect(answer.response.into_body()).await.unwrap().to_bytes();
    let body = std::str::from_utf8(&body).unwrap();
    assert!(body.contains("try again in 12") || body.contains("try again in 13"), "{body}");
}

#[tokio::test]
async fn an_attempt_that_cannot_be_written_down_is_not_made() {
    let mut bench = Bench::with_quota().await;
    let asking = bench.ask("20");
    let asked = bench.asked().await;
    let closing = bench.node.plane.spool.close(Duration::ZERO).await;
    assert!(matches!(closing, Closing::Left { open: 1, .. }));
    asked.send(THROTTLED).unwrap();
    assert_eq!(told(&asking.await.unwrap().ok().unwrap()).0, 429, "what the first one met");
    assert_eq!(bench.books().await.0, 0);
    assert!(bench.asked.try_recv().is_err());
}

#[tokio::test]
async fn what_an_earlier_attempt_may_have_cost_is_told_and_one_that_cannot_hold_as_much_is_not_made() {
    let spend = (Scope::Key, Dimension::Spend, Window::Day);
    let bound = {
        let bench = Bench::new(cap(1_000_000_000), &[(spend, 1_000_000_000)]).await;
        bound(&permit_for(&bench.node, 1, "m").unwrap(), &wanted(&body(OUTPUT))).unwrap().amount
    };
    let bound = bound.nanos();
    for (limit, second, code, cost) in [
        (bound * 3 / 2, None, 502, bound),
        (bound * 3, Some(THROTTLED), 429, bound),
        (bound * 3, Some(SERVED), 200, bound + 60_000),
    ] {
        let mut bench = Bench::new(cap(limit), &[(spend, limit)]).await;
        let asking = bench.ask("20");
        bench.asked().await.send(UNAVAILABLE).unwrap();
        if let Some(second) = second {
            bench.asked().await.send(second).unwrap();
        }
        let answer = asking.await.unwrap().ok().unwrap();
        assert_eq!(told(&answer).0, code);
        assert_eq!(bench.books().await, (0, cost), "nobody knows what the first one cost");
        let header = |name: &str| answer.response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-keyforge-cost-usd"), NanoUsd::new(cost).decimal());
        assert_eq!(header("x-keyforge-budget-remaining-usd"), NanoUsd::new(limit - cost).decimal());
        assert!(bench.asked.try_recv().is_err());
    }
}

fn slot(answer: &Answer) -> String {
    answer.response.headers()["x-keyforge-pool-slot"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_credential_that_lacks_a_model_which_another_serves_is_not_asked_for_it_again() {
    let mut bench = Bench::with_quota().await;
    let asking = bench.ask("20");
    bench.asked().await.send(NO_MODEL).unwrap();
    bench.asked().await.send(SERVED).unwrap();
    let answer = asking.await.unwrap().ok().unwrap();
    assert_eq!(
        (told(&answer).0, &answer.response.headers()["x-keyforge-attempts"]),
        (200, &http::HeaderValue::from(2))
    );
    assert_eq!(bench.serving().await, [slot(&answer)]);
}

#[tokio::test]
async fn a_model_that_two_credentials_lack_is_not_there_and_neither_is_to_blame() {
    let mut bench = Bench::with_quota().await;
    let asking = bench.ask("20");
    bench.asked().await.send(NO_MODEL).unwrap();
    bench.asked().await.send(NO_MODEL).unwrap();
    let answer = asking.await.unwrap().ok().unwrap();
    assert_eq!(told(&answer), (404, "upstream_refused"));
    assert_eq!(bench.serving().await.len(), 2);
    assert!(bench.asked.try_recv().is_err());
}

#[tokio::test]
async fn a_limit_that_is_met_within_a_stream_is_kept_from_the_next_request_and_from_no_byte_of_this_one() {
    let mut bench = Bench::with_quota().await;
    let mut streamed = body(OUTPUT);
    streamed["stream"] = true.into();
    let asking = bench.ask_for(streamed, "20");
    bench.asked().await.send(THROTTLED_MIDWAY).unwrap();
    let answer = asking.await.unwrap().ok().unwrap();
    let met = slot(&answer);
    assert_eq!(bench.serving().await.len(), 2, "nothing is known yet");
    let got = http_body_util::BodyExt::collect(answer.response.into_body()).await.unwrap().to_bytes();
    let got = std::str::from_utf8(&got).unwrap();
    assert!(got.contains("Hel") && got.contains("rate_limit_error") && !got.contains("[DONE]"), "{got}");
    assert!(got.contains("broke this answer off") && !got.contains("No credential"), "another can serve it: {got}");
    assert!(bench.asked.try_recv().is_err(), "no other attempt after the first byte");
    let serving = bench.serving().await;
    assert!(serving.len() == 1 && !serving.contains(&met), "{serving:?}");
}
