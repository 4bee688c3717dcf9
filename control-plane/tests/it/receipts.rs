//! What stops a key or lets it go on: orders to nodes, and receipts of who has carried them out.

use std::time::Duration;

use keyforge_proto::admin::v1 as admin;
use keyforge_proto::fleet::v1 as fleet;
use keyforge_proto::fleet::v1::node_message::Message as StateMessage;
use keyforge_proto::fleet::v1::state_service_client::StateServiceClient;
use keyforge_proto::fleet::v1::watch_request::Message as FromNode;
use keyforge_proto::fleet::v1::watch_response::Message;
use keyforge_shared::clock::{Clock as _, SystemClock};
use keyforge_shared::fleet_seal::BootKey;
use keyforge_shared::id::NodeId;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};

use crate::plane::{Authorized, Plane};

const PATIENCE: Duration = Duration::from_secs(20);

/// A node that hears orders and does nothing else.
pub struct Watcher {
    id: u8,
    outbound: mpsc::Sender<fleet::WatchRequest>,
    inbound: Streaming<fleet::WatchResponse>,
    floor: u64,
}

impl Watcher {
    pub async fn connect(plane: &Plane, id: u8, have_revision: u64) -> Self {
        Self::connect_as(plane, (id, id), have_revision).await
    }

    pub async fn connect_as(plane: &Plane, (id, boot): (u8, u8), have_revision: u64) -> Self {
        let (outbound, receiver) = mpsc::channel(16);
        let hello = fleet::WatchHello {
            node_id: vec![id; 16],
            boot_id: vec![boot; 16],
            have_revision,
            have_set_hash: Vec::new(),
        };
        say(&outbound, FromNode::Hello(hello)).await;
        let inbound = plane.state().watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let mut watcher = Self { id, outbound, inbound, floor: 0 };
        let footing = match watcher.receive().await {
            Message::Footing(footing) => Some(footing),
            Message::Order(_) | Message::Echo(_) => None,
        };
        let footing = footing.expect("a footing comes first");
        assert_eq!(footing.max_staleness_seconds, 30);
        watcher.floor = footing.floor;
        watcher
    }

    pub async fn receive(&mut self) -> Message {
        let message = tokio::time::timeout(PATIENCE, self.inbound.message()).await.expect("the stream is silent");
        message.unwrap().expect("the stream ended").message.unwrap()
    }

    /// Waits until the stream ends.
    pub async fn order(&mut self) -> fleet::Order {
        let order = match self.receive().await {
            Message::Order(order) => Some(order),
            Message::Footing(_) | Message::Echo(_) => None,
        };
        order.expect("an order")
    }

    pub async fn beat(&self, number: u64) {
        say(&self.outbound, FromNode::Beat(fleet::Beat { number })).await;
    }

    pub async fn applied(&self, revision: u64, streams_cut: u64) {
        say(&self.outbound, FromNode::Applied(fleet::Applied { revision, streams_cut })).await;
    }
}

async fn say(outbound: &mpsc::Sender<fleet::WatchRequest>, message: FromNode) {
    outbound.send(fleet::WatchRequest { message: Some(message) }).await.unwrap();
}

pub fn revoke(key: &admin::Key, wait_ms: u32) -> admin::RevokeKeyRequest {
    admin::RevokeKeyRequest { id: key.id.clone(), wait_ms: Some(wait_ms) }
}

#[tokio::test]
async fn i_13_a_receipt_says_who_has_done_it_and_by_when_the_others_do_it() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("doomed").await;
    let mut watchers = Vec::new();
    for id in 1..=3 {
        watchers.push(Watcher::connect(&plane, id, key.revision).await);
    }
    let mut keys = plane.keys();
    let before = SystemClock.now().millis();
    let hearing = async {
        for watcher in &mut watchers {
            let order = watcher.order().await;
            assert_eq!((order.status(), order.spent), (admin::KeyStatus::Revoked, false));
            // The third one does not answer.
            if watcher.id < 3 {
                watcher.applied(order.revision, u64::from(watcher.id)).await;
            }
        }
    };
    let (answer, ()) = tokio::join!(keys.revoke_key(revoke(&key, 400)), hearing);
    let answer = answer.unwrap().into_inner();
    let (key, receipt) = (answer.key.unwrap(), answer.receipt.unwrap());
    assert_eq!((receipt.revision, key.status()), (key.revision, admin::KeyStatus::Revoked));
    assert_eq!((receipt.nodes_acked, receipt.nodes_total, receipt.streams_cut), (2, 3, 3));
    assert_eq!(receipt.nodes_pending, [NodeId::from_bytes([3; 16]).to_string()]);
    assert!((1..400_000).contains(&receipt.took_us), "to the last acknowledgement: {}", receipt.took_us);
    let bound = receipt.effective_by_ms - before;
    assert!((25_000..=30_400).contains(&bound), "{bound} ms after the call");

    let entry = plane.last_entry().await;
    let detail: Value = serde_json::from_str(&entry.detail).unwrap();
    assert_eq!((entry.method.as_str(), entry.target.as_str()), ("keys/Receipt", key.id.as_str()));
    assert_eq!((detail["nodes_acked"].as_u64(), detail["nodes_total"].as_u64()), (Some(2), Some(3)));
    assert_eq!((detail["of"].as_str(), detail["streams_cut"].as_u64()), (Some("keys/Revoke"), Some(3)));

    // Asked again once all have done it, nothing changes but the receipt.
    watchers[2].applied(key.revision, 0).await;
    let again = plane.keys().revoke_key(revoke(&key, 2_000)).await.unwrap().into_inner();
    let receipt = again.receipt.unwrap();
    assert_eq!((again.key.unwrap(), receipt.nodes_acked, receipt.nodes_pending.len()), (key, 3, 0));
    let bound = receipt.effective_by_ms - SystemClock.now().millis();
    assert!((-5_000..=0).contains(&bound), "{bound} ms from now");
    drop(watchers);
    plane.stop().await;
}

#[tokio::test]
async fn i_13_a_copy_of_a_node_takes_nothing_from_the_receipt_that_the_node_owes() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("doomed").await;
    let node = Watcher::connect(&plane, 1, key.revision).await;
    let mut copy = Watcher::connect_as(&plane, (1, 2), key.revision).await;
    let mut keys = plane.keys();
    let before = SystemClock.now().millis();
    let hearing = async {
        let order = copy.order().await;
        copy.applied(order.revision, 0).await;
    };
    let (answer, ()) = tokio::join!(keys.revoke_key(revoke(&key, 400)), hearing);
    let answer = answer.unwrap().into_inner();
    let (key, receipt) = (answer.key.unwrap(), answer.receipt.unwrap());
    assert_eq!((receipt.nodes_acked, receipt.nodes_total), (0, 1), "the node has not done it");
    assert_eq!(receipt.nodes_pending, [NodeId::from_bytes([1; 16]).to_string()]);
    let bound = receipt.effective_by_ms - before;
    assert!((25_000..=30_400).contains(&bound), "{bound} ms after the call");
    node.applied(key.revision, 0).await;
    let again = plane.keys().revoke_key(revoke(&key, 2_000)).await.unwrap().into_inner().receipt.unwrap();
    assert_eq!((again.nodes_acked, again.nodes_total), (1, 1));
    drop((node, copy));
    plane.stop().await;
}

#[tokio::test]
async fn pause_resume_and_zero_are_orders_like_any_other_and_a_revoked_key_takes_none() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("k").await;
    let mut watcher = Watcher::connect(&plane, 1, key.revision).await;
    let (id, wait_ms) = (key.id.clone(), Some(0));
    let mut keys = plane.keys();
    let paused = keys.pause_key(admin::PauseKeyRequest { id: id.clone(), wait_ms }).await.unwrap().into_inner();
    assert_eq!(paused.key.unwrap().status(), admin::KeyStatus::Paused);
    let resumed = keys.resume_key(admin::ResumeKeyRequest { id: id.clone(), wait_ms }).await.unwrap().into_inner();
    assert_eq!(resumed.key.unwrap().status(), admin::KeyStatus::Active);
    let zeroed = keys.zero_key(admin::ZeroKeyRequest { id: id.clone(), wait_ms }).await.unwrap().into_inner();
    let limits = zeroed.key.unwrap().policy.unwrap().request_limits;
    assert_eq!(limits, [admin::RequestLimit { requests: 0, window: admin::Window::Total.into() }]);
    for (offset, status, spent) in [
        (1, admin::KeyStatus::Paused, false),
        (2, admin::KeyStatus::Active, false),
        (3, admin::KeyStatus::Active, true),
    ] {
        let order = watcher.order().await;
        assert_eq!((order.revision, order.status(), order.spent), (key.revision + offset, status, spent));
    }
    keys.revoke_key(revoke(&key, 0)).await.unwrap();
    let refused = [
        keys.pause_key(admin::PauseKeyRequest { id: id.clone(), wait_ms }).await,
        keys.resume_key(admin::ResumeKeyRequest { id: id.clone(), wait_ms }).await,
        keys.zero_key(admin::ZeroKeyRequest { id, wait_ms }).await,
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
    }
    drop(watcher);
    plane.stop().await;
}

#[tokio::test]
async fn a_watcher_that_comes_back_hears_what_it_missed_and_one_that_knows_nothing_needs_the_set() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("k").await;
    let watcher = Watcher::connect(&plane, 1, key.revision).await;
    assert_eq!(watcher.floor, key.revision);
    drop(watcher);
    let revoked = plane.keys().revoke_key(revoke(&key, 0)).await.unwrap().into_inner().key.unwrap();
    let mut back = Watcher::connect(&plane, 1, key.revision).await;
    let order = back.order().await;
    assert_eq!((back.floor, order.revision, order.key_id), (key.revision, revoked.revision, key.id));
    let mut ignorant = Watcher::connect(&plane, 2, 0).await;
    assert_eq!(ignorant.floor, revoked.revision);
    ignorant.beat(7).await;
    let Message::Echo(echo) = ignorant.receive().await else { panic!("an order that the set tells") };
    assert_eq!((echo.number, echo.head_revision), (7, revoked.revision));
    drop((back, ignorant));
    plane.stop().await;
}

#[tokio::test]
async fn an_order_does_not_wait_for_a_node_that_takes_no_snapshot() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("doomed").await;
    // Enough for every window and buffer on the way of the state stream.
    let some = some_model(&plane).await;
    for number in 0..300 {
        let name = format!("model-{number}");
        let source = "€".repeat(500);
        let model = admin::Model { name, provider: "openai".to_owned(), source, ..some.clone() };
        plane.models().set_model(admin::SetModelRequest { model: Some(model) }).await.unwrap();
    }
    let state_connection = Endpoint::from_shared(format!("http://{}", plane.running.addr())).unwrap();
    let (_, bearer) = plane.with(Some(&plane.fleet_token));
    let mut state: StateServiceClient<Authorized> =
        StateServiceClient::with_interceptor(state_connection.connect().await.unwrap(), bearer);
    let (outbound, receiver) = mpsc::channel(16);
    let seal_key = BootKey::generate().unwrap().public().to_bytes();
    let hello = fleet::Hello { node_id: vec![1; 16], boot_id: vec![1; 16], seal_key, ..Default::default() };
    outbound.send(fleet::NodeMessage { message: Some(StateMessage::Hello(hello)) }).await.unwrap();
    let mut snapshot = state.subscribe(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let begun = snapshot.message().await.unwrap().unwrap();
    assert!(begun.message.is_some(), "the snapshot begins, and nobody takes the rest of it");

    let mut watcher = Watcher::connect(&plane, 1, key.revision).await;
    let mut keys = plane.keys();
    let called = Instant::now();
    let hearing = async {
        let order = watcher.order().await;
        watcher.applied(order.revision, 0).await;
    };
    let (answer, ()) = tokio::join!(keys.revoke_key(revoke(&key, 5_000)), hearing);
    let receipt = answer.unwrap().into_inner().receipt.unwrap();
    assert_eq!((receipt.nodes_acked, receipt.nodes_total), (1, 1));
    assert!(called.elapsed() < Duration::from_secs(2), "{:?}", called.elapsed());
    drop((snapshot, outbound, watcher, state));
    plane.stop().await;
}

async fn some_model(plane: &Plane) -> admin::Model {
    let list = admin::ListModelsRequest::default();
    plane.models().list_models(list).await.unwrap().into_inner().models.remove(0)
}

#[tokio::test]
async fn a_stream_of_orders_that_does_not_begin_with_a_whole_hello_is_refused() {
    let plane = Plane::start().await;
    let hello =
        fleet::WatchHello { node_id: vec![1; 16], boot_id: vec![1; 16], have_revision: 0, have_set_hash: Vec::new() };
    let cases = [
        (FromNode::Beat(fleet::Beat { number: 1 }), Code::FailedPrecondition, "must be its hello"),
        (
            FromNode::Hello(fleet::WatchHello { node_id: vec![1; 15], ..hello.clone() }),
            Code::InvalidArgument,
            "hello.node_id",
        ),
        (
            FromNode::Hello(fleet::WatchHello { boot_id: Vec::new(), ..hello.clone() }),
            Code::InvalidArgument,
            "hello.boot_id",
        ),
        (
            FromNode::Hello(fleet::WatchHello { have_set_hash: vec![1], ..hello }),
            Code::InvalidArgument,
            "hello.have_set_hash",
        ),
    ];
    for (first, code, expected) in cases {
        let messages = tokio_stream::iter([fleet::WatchRequest { message: Some(first) }]);
        let mut inbound = plane.state().watch(messages).await.unwrap().into_inner();
        let status = tokio::time::timeout(PATIENCE, inbound.message()).await.unwrap().unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(expected), "{status}");
    }
    plane.stop().await;
}
