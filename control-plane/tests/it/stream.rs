//! The state stream as a node sees it.

use std::collections::HashMap;
use std::time::Duration;

use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::fleet::v1 as fleet;
use keyforge_proto::fleet::v1::control_message::Message;
use keyforge_proto::fleet::v1::node_message::Message as FromNode;
use keyforge_shared::fleet_seal::{Binding, BootKey, SharedToken};
use keyforge_shared::id::{BootId, CredentialId, KeyId, NodeId};
use keyforge_shared::state::{Delta, KeyStatus, Resource, SetHash, State};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::plane::{CANARY, Plane, database};

const PATIENCE: Duration = Duration::from_secs(20);

/// A node that follows the stream with the same state machine as a real one.
pub struct Node {
    id: NodeId,
    boot: BootId,
    key: BootKey,
    token: SharedToken,
    outbound: mpsc::Sender<fleet::NodeMessage>,
    inbound: Streaming<fleet::ControlMessage>,
    pub state: State,
    secrets: HashMap<CredentialId, fleet::SealedSecret>,
    snapshots: usize,
    heartbeats: usize,
}

impl Node {
    pub async fn connect(plane: &Plane, id: u8, boot: u8, state: State) -> Self {
        let (outbound, receiver) = mpsc::channel(16);
        let held = state.revision() > 0;
        let key = BootKey::generate().unwrap();
        let hello = fleet::Hello {
            node_id: vec![id; 16],
            boot_id: vec![boot; 16],
            have_revision: state.revision(),
            have_set_hash: if held { state.set_hash().as_bytes().to_vec() } else { Vec::new() },
            version: "0.1.0".to_owned(),
            region: "eu".to_owned(),
            seal_key: key.public().to_bytes(),
        };
        say(&outbound, FromNode::Hello(hello)).await;
        let inbound = plane.state().subscribe(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self {
            id: NodeId::from_bytes([id; 16]),
            boot: BootId::from_bytes([boot; 16]),
            key,
            token: SharedToken::of(&plane.fleet_secret()),
            outbound,
            inbound,
            state,
            secrets: HashMap::new(),
            snapshots: 0,
            heartbeats: 0,
        }
    }

    async fn receive(&mut self) -> Result<Message, Status> {
        let message = tokio::time::timeout(PATIENCE, self.inbound.message()).await.expect("the stream is silent")?;
        Ok(message.expect("the stream ended").message.unwrap())
    }

    /// Follows the stream until the state is at `revision`, and acknowledges it.
    pub async fn follow_to(&mut self, revision: u64) {
        let mut resources = Vec::new();
        while self.state.revision() < revision {
            match self.receive().await.unwrap() {
                Message::SnapshotBegin(_) => resources.clear(),
                Message::SnapshotChunk(chunk) => {
                    let chunk = fleet::SnapshotChunk::decode(chunk).unwrap();
                    assert!(chunk.resources.len() <= 500);
                    resources.extend(chunk.resources.into_iter().map(|resource| Resource::try_from(resource).unwrap()));
                }
                Message::SnapshotEnd(end) => {
                    self.snapshots += 1;
                    self.require_secrets(&resources);
                    require_workspaces(&resources);
                    self.state = State::from_snapshot(end.revision, resources.drain(..));
                    assert_eq!(Some(self.state.set_hash()), SetHash::from_slice(&end.set_hash));
                }
                Message::Delta(delta) => {
                    self.state.apply(Delta::try_from(delta).unwrap()).unwrap();
                    require_workspaces(&self.state.resources().collect::<Vec<_>>());
                }
                Message::Heartbeat(_) => self.heartbeats += 1,
                Message::Secret(secret) => self.keep(secret),
            }
        }
        self.acknowledge().await;
    }

    /// Says how far it is.
    pub async fn acknowledge(&self) {
        say(&self.outbound, FromNode::Ack(fleet::Ack { revision: self.state.revision() })).await;
    }

    /// Takes what the stream begins with.
    pub async fn begin(&mut self) {
        loop {
            match self.receive().await.unwrap() {
                Message::Heartbeat(_) => return,
                Message::Secret(secret) => self.keep(secret),
                _ => {}
            }
        }
    }

    /// Waits until a secret comes that the node lacks.
    pub async fn given(&mut self, credential: CredentialId) {
        assert!(!self.secrets.contains_key(&credential), "it has that secret");
        let given = async {
            while !self.secrets.contains_key(&credential) {
                if let Message::Secret(secret) = self.receive().await.unwrap() {
                    self.keep(secret);
                }
            }
        };
        tokio::time::timeout(PATIENCE, given).await.expect("the secret does not come");
    }

    fn keep(&mut self, secret: fleet::SealedSecret) {
        self.secrets.insert(CredentialId::from_slice(&secret.credential_id).unwrap(), secret);
    }

    fn require_secrets(&self, resources: &[Resource]) {
        for resource in resources {
            if let Resource::Credential(credential) = resource {
                assert!(self.secrets.contains_key(&credential.id), "record before secret");
            }
        }
    }

    fn open(&self, boot: BootId, credential: CredentialId) -> Option<Vec<u8>> {
        let secret = &self.secrets[&credential];
        let binding = Binding { node: self.id, boot, credential, secret_version: secret.secret_version };
        self.key.open(&binding, Some(&self.token), &secret.sealed).ok().map(|secret| secret.expose().to_vec())
    }
}

/// No key comes before its workspace.
fn require_workspaces(resources: &[Resource]) {
    let mut known = Vec::new();
    for resource in resources {
        match resource {
            Resource::Workspace(workspace) => known.push(workspace.id),
            Resource::Key(key) => assert!(known.contains(&key.workspace), "{} before its workspace", key.id),
            Resource::Model(_) | Resource::Credential(_) => {}
        }
    }
}

async fn say(outbound: &mpsc::Sender<fleet::NodeMessage>, message: FromNode) {
    outbound.send(fleet::NodeMessage { message: Some(message) }).await.unwrap();
}

/// Waits until the control plane knows that a node has applied `revision`.
async fn acked(plane: &Plane, node: NodeId, revision: u64) {
    let reached = async {
        loop {
            let nodes = plane.running.fleet().nodes();
            if nodes.iter().any(|(id, seen)| *id == node && seen.acked_revision == revision) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("the ack was not recorded");
}

#[tokio::test]
async fn a_key_is_made_when_the_connected_nodes_know_it_and_a_node_that_does_not_answer_is_not_waited_for_long() {
    let plane = Plane::start().await;
    let mut node = Node::connect(&plane, 1, 1, State::default()).await;
    node.follow_to(1).await;
    let began = Instant::now();
    plane.make_key("first").await;
    assert!(began.elapsed() >= Duration::from_millis(250), "the node has not said that it knows");
    let next = plane.revision().await + 1;
    let (made, ()) = tokio::join!(plane.make_key("second"), node.follow_to(next));
    assert_eq!((made.0.revision, plane.running.fleet().nodes()[0].1.acked_revision), (next, next));
    drop(node);
    plane.stop().await;
}

#[tokio::test]
async fn i_14_node_follows_from_snapshot_over_deltas_to_the_same_set() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("before").await;
    let mut node = Node::connect(&plane, 1, 1, State::default()).await;
    node.follow_to(key.revision).await;
    assert!(node.state.models().count() > 150);

    let id: KeyId = key.id.parse().unwrap();
    assert_eq!(node.state.key(id).unwrap().status, KeyStatus::Active);
    // This node hears no orders: it is told by the state, and counted by that.
    let revoke = admin::RevokeKeyRequest { id: key.id.clone(), wait_ms: Some(0) };
    let revoked = plane.keys().revoke_key(revoke).await.unwrap().into_inner().key.unwrap();
    plane.models().remove_model(admin::RemoveModelRequest { name: "gpt-5".to_owned() }).await.unwrap();
    node.follow_to(revoked.revision + 1).await;
    assert_eq!(node.state.key(id).unwrap().status, KeyStatus::Revoked);
    assert!(node.state.model("gpt-5").is_none());
    assert_eq!(node.snapshots, 1);
    acked(&plane, node.id, revoked.revision + 1).await;

    let mut other = Node::connect(&plane, 2, 2, State::default()).await;
    other.follow_to(revoked.revision + 1).await;
    assert_eq!(other.state.set_hash(), node.state.set_hash());
    plane.stop().await;
}

#[tokio::test]
async fn workspaces_reach_a_node_before_the_keys_that_name_them() {
    let plane = Plane::start().await;
    let mut early = Node::connect(&plane, 1, 1, State::default()).await;
    early.follow_to(1).await;
    let home = early.state.workspaces().next().expect("a deployment begins with a workspace").clone();
    assert_eq!((home.name.as_str(), home.request_limits.len(), home.spend_limits.len()), ("default", 0, 0));

    let limit = admin::SpendLimit { nano_usd: 7, window: admin::Window::Month.into() };
    let team =
        admin::CreateWorkspaceRequest { name: "team".to_owned(), spend_limits: vec![limit], ..Default::default() };
    let team = plane.workspaces().create_workspace(team).await.unwrap().into_inner();
    let request =
        admin::CreateKeyRequest { name: "one".to_owned(), workspace: "team".to_owned(), ..Default::default() };
    let key = plane.keys().create_key(request).await.unwrap().into_inner().key.unwrap();
    // Every state on the way is whole: `follow_to` checks it after each message.
    early.follow_to(key.revision).await;
    let id = team.id.parse().unwrap();
    assert_eq!(early.state.key(key.id.parse().unwrap()).unwrap().workspace, id);
    assert_eq!(early.state.workspace(id).unwrap().spend_limits[0].amount.nanos(), 7);

    let update = admin::UpdateWorkspaceRequest {
        workspace: "team".to_owned(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["spend_limits".to_owned()] }),
        ..Default::default()
    };
    let updated = plane.workspaces().update_workspace(update).await.unwrap().into_inner();
    early.follow_to(updated.revision).await;
    assert!(early.state.workspace(id).unwrap().spend_limits.is_empty());
    assert_eq!(early.snapshots, 1);
    let mut late = Node::connect(&plane, 2, 2, State::default()).await;
    late.follow_to(updated.revision).await;
    assert_eq!(late.state.set_hash(), early.state.set_hash());
    plane.stop().await;
}

#[tokio::test]
async fn node_that_comes_back_gets_deltas_if_it_holds_our_set_and_else_a_snapshot() {
    let plane = Plane::start().await;
    let (first, _) = plane.make_key("first").await;
    let mut node = Node::connect(&plane, 1, 1, State::default()).await;
    node.follow_to(first.revision).await;
    let held = node.state.clone();
    drop(node);
    let (second, _) = plane.make_key("second").await;
    let mut back = Node::connect(&plane, 1, 1, held.clone()).await;
    back.follow_to(second.revision).await;
    assert_eq!(back.snapshots, 0);

    let mut diverged = held;
    drop(diverged.commit(Vec::new()));
    let mut back = Node::connect(&plane, 1, 2, diverged.clone()).await;
    assert_eq!(diverged.revision(), second.revision);
    let (third, _) = plane.make_key("third").await;
    back.follow_to(third.revision).await;
    assert_eq!(back.snapshots, 1);
    plane.stop().await;
}

#[tokio::test]
async fn node_that_outlived_the_control_plane_goes_on_without_a_snapshot() {
    let plane = Plane::start().await;
    let (first, _) = plane.make_key("first").await;
    let mut node = Node::connect(&plane, 1, 1, State::default()).await;
    node.follow_to(first.revision).await;
    let held = node.state.clone();
    drop(node);
    let plane = Plane::start_again(plane.stop().await).await;
    let mut node = Node::connect(&plane, 1, 1, held).await;
    node.begin().await;
    let acked = plane.running.fleet().nodes()[0].1.acked_revision;
    assert_eq!((acked, plane.revision().await), (node.state.revision(), acked), "it is not behind");
    let (second, _) = plane.make_key("second").await;
    node.follow_to(second.revision).await;
    assert_eq!(node.snapshots, 0);
    plane.stop().await;
}

#[tokio::test]
async fn i_25_secrets_open_for_the_boot_that_said_hello_and_for_no_other() {
    let plane = Plane::start().await;
    let added = plane.add_credential(CANARY).await;
    let credential: CredentialId = added.id.parse().unwrap();
    let mut node = Node::connect(&plane, 1, 1, State::default()).await;
    node.follow_to(plane.revision().await).await;
    assert!(node.open(node.boot, credential).unwrap() == CANARY.as_bytes());
    assert!(node.open(BootId::from_bytes([2; 16]), credential).is_none());

    let rotate = admin::RotateCredentialRequest { id: added.id.clone(), secret: b"sk-the-second-secret".to_vec() };
    plane.credentials().rotate_credential(rotate).await.unwrap();
    node.follow_to(plane.revision().await).await;
    // The delta has been applied, so its secret must have come before it.
    assert_eq!(node.secrets[&credential].secret_version, 2);
    assert!(node.open(node.boot, credential).unwrap() == b"sk-the-second-secret");
    plane.stop().await;
}

#[tokio::test]
async fn secret_that_can_be_opened_again_reaches_the_node_that_lacks_it() {
    let plane = Plane::start().await;
    let [lost, kept] = [plane.add_credential(CANARY).await.id, plane.add_credential("sk-sound").await.id];
    let [lost, kept]: [CredentialId; 2] = [lost.parse().unwrap(), kept.parse().unwrap()];
    let mut database = database(plane.directory.path()).await;
    let mut move_to = async |from: u32, to: u32| {
        let update = "UPDATE vault_records SET secret_version = $1 WHERE credential_id = $2 AND secret_version = $3";
        let update = sql::query(update).bind(to).bind(lost.as_bytes().as_slice()).bind(from);
        assert_eq!(update.execute(&mut database).await.unwrap(), 1);
    };
    move_to(1, 9).await;
    let mut node = Node::connect(&plane, 1, 1, State::default()).await;
    node.begin().await;
    assert!(node.open(node.boot, kept).unwrap() == b"sk-sound");
    move_to(9, 1).await;
    // They are all tried now and not only at the next minute.
    plane.vault().get_vault_status(admin::GetVaultStatusRequest {}).await.unwrap();
    node.given(lost).await;
    assert!(node.open(node.boot, lost).unwrap() == CANARY.as_bytes());
    plane.stop().await;
}

#[tokio::test]
async fn refused_change_is_counted_and_the_stream_goes_on() {
    let plane = Plane::start().await;
    let mut node = Node::connect(&plane, 1, 1, State::default()).await;
    node.follow_to(1).await;
    let nack = fleet::Nack { revision: 1, resource: "model x".to_owned(), reason: "unknown operation".to_owned() };
    say(&node.outbound, FromNode::Nack(nack)).await;
    let (key, _) = plane.make_key("later").await;
    node.follow_to(key.revision).await;
    acked(&plane, node.id, key.revision).await;
    let (_, seen) = plane.running.fleet().nodes().remove(0);
    assert_eq!((seen.nacks, seen.region.as_str(), seen.version.as_str()), (1, "eu", "0.1.0"));
    plane.stop().await;
}

#[tokio::test]
async fn stream_that_does_not_begin_with_a_whole_hello_is_refused() {
    let plane = Plane::start().await;
    let hello = fleet::Hello { node_id: vec![1; 16], boot_id: vec![1; 16], ..Default::default() };
    let cases = [
        (FromNode::Ack(fleet::Ack { revision: 1 }), Code::FailedPrecondition, "must be its hello"),
        (
            FromNode::Hello(fleet::Hello { node_id: vec![1; 15], ..hello.clone() }),
            Code::InvalidArgument,
            "hello.node_id",
        ),
        (
            FromNode::Hello(fleet::Hello { boot_id: Vec::new(), ..hello.clone() }),
            Code::InvalidArgument,
            "hello.boot_id",
        ),
        (
            FromNode::Hello(fleet::Hello { have_set_hash: vec![1], ..hello.clone() }),
            Code::InvalidArgument,
            "hello.have_set_hash",
        ),
        (FromNode::Hello(fleet::Hello { seal_key: vec![1; 31], ..hello }), Code::InvalidArgument, "hello.seal_key"),
    ];
    for (first, code, expected) in cases {
        let messages = tokio_stream::iter([fleet::NodeMessage { message: Some(first) }]);
        let mut inbound = plane.state().subscribe(messages).await.unwrap().into_inner();
        let status = tokio::time::timeout(PATIENCE, inbound.message()).await.unwrap().unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(expected), "{status}");
    }
    plane.stop().await;
}

#[tokio::test]
async fn drain_ends_the_stream_and_tells_the_node_to_come_back() {
    let plane = Plane::start().await;
    let mut node = Node::connect(&plane, 1, 1, State::default()).await;
    node.follow_to(1).await;
    while node.heartbeats == 0 {
        if let Message::Heartbeat(heartbeat) = node.receive().await.unwrap() {
            assert_eq!(heartbeat.head_revision, 1);
            node.heartbeats += 1;
        }
    }
    plane.shutdown.trigger();
    let status = loop {
        if let Err(status) = node.receive().await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    drop(node);
    plane.stop().await;
}
