//! One node's stream: its hello, then a snapshot or the deltas that it missed, then every change as it comes.
//!
//! A credential's secret is always sent before the record that makes it usable. The newest version is sent; it can be ahead of a record that
//! is on its way. A node that reads slowly delays only itself. The session ends with the stream, or when the control plane drains.

use std::collections::BTreeSet;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use keyforge_proto::convert::{self, ConvertError};
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::control_message::Message as ToNode;
use keyforge_proto::fleet::v1::node_message::Message as FromNode;
use keyforge_shared::clock::Clock;
use keyforge_shared::fleet_seal::BootPublicKey;
use keyforge_shared::id::{BootId, CredentialId, DeploymentId, NodeId};
use keyforge_shared::state::{Change, Delta, Resource, SetHash};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::encoded::Encoded;
use super::fleet::{Fleet, Presence};
use super::horizon::Horizon;
use super::hub::{Hub, Next, Start, Subscription};
use super::progress::{Collection, Word};
use super::secrets::{Sealer, Secrets};

const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a node may take to say hello.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// What every session needs. Clones share it.
#[derive(Clone)]
pub struct Publisher {
    /// The replicated state.
    pub hub: Hub,
    /// How much of it is known here.
    pub horizon: Horizon,
    /// Who follows it.
    pub fleet: Fleet,
    /// Where secrets come from.
    pub secrets: Secrets,
    /// The installation, which nodes are told.
    pub deployment: DeploymentId,
    /// The clock that nodes are told.
    pub clock: Arc<dyn Clock>,
    /// How long a node may serve a key without us, unless its policy says otherwise.
    pub max_staleness: Duration,
}

impl Publisher {
    /// Begins to collect who has done what `revision` says: of all nodes that may serve a key whose state may be `max_staleness` old.
    #[must_use]
    pub fn collect(&self, revision: u64, max_staleness: Duration) -> Collection {
        let word = if self.hub.may_have_ordered(revision) { Word::Order } else { Word::State };
        self.fleet.collect(revision, word, max_staleness)
    }

    /// For a node that holds `revision`: another control plane may have given it a state that is not known here yet, and an older one would undo it.
    pub(super) async fn catch_up_with(&self, revision: u64) {
        if revision > self.hub.revision() {
            self.horizon.passes(self.horizon.now()).await;
        }
    }
}

/// Why a session ended other than by the node's wish.
pub(super) enum End {
    /// The node is gone.
    Gone,
    /// The node is to be told.
    Refused(Status),
}

type Outbound = mpsc::Sender<Result<proto::ControlMessage, Status>>;

/// Serves one node until its stream ends. A refusal is the stream's last item.
pub async fn run<I>(publisher: Publisher, mut inbound: I, outbound: Outbound)
where
    I: Stream<Item = Result<proto::NodeMessage, Status>> + Send + Unpin,
{
    let ended = match hello(&mut inbound).await {
        Ok(hello) => follow(&publisher, hello, inbound, &outbound).await,
        Err(status) => End::Refused(status),
    };
    if let End::Refused(status) = ended {
        tracing::warn!(%status, "a node's stream was refused");
        // If the node is gone it need not be told.
        drop(outbound.send(Err(status)).await);
    }
}

struct Hello {
    node: NodeId,
    boot: BootId,
    revision: u64,
    set_hash: Option<SetHash>,
    version: String,
    region: String,
    seal_key: BootPublicKey,
}

async fn hello<I>(inbound: &mut I) -> Result<Hello, Status>
where
    I: Stream<Item = Result<proto::NodeMessage, Status>> + Send + Unpin,
{
    let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.next()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello: a node's first message says who it is"))?;
    match first.transpose()?.and_then(|message| message.message) {
        Some(FromNode::Hello(hello)) => {
            decode(hello).map_err(|error| Status::invalid_argument(error.within("hello").to_string()))
        }
        Some(FromNode::Ack(_) | FromNode::Nack(_)) | None => {
            Err(Status::failed_precondition("the first message of a node must be its hello"))
        }
    }
}

fn decode(hello: proto::Hello) -> Result<Hello, ConvertError> {
    let set_hash = match hello.have_set_hash.as_slice() {
        [] => None,
        bytes => Some(
            SetHash::from_slice(bytes)
                .ok_or_else(|| ConvertError::new("have_set_hash", "neither 32 bytes nor none"))?,
        ),
    };
    Ok(Hello {
        node: convert::id(&hello.node_id, "node_id", NodeId::from_slice)?,
        boot: convert::id(&hello.boot_id, "boot_id", BootId::from_slice)?,
        revision: hello.have_revision,
        set_hash,
        version: hello.version,
        region: hello.region,
        seal_key: BootPublicKey::from_slice(&hello.seal_key)
            .ok_or_else(|| ConvertError::new("seal_key", "not an X25519 public key of 32 bytes"))?,
    })
}

async fn follow<I>(publisher: &Publisher, hello: Hello, inbound: I, outbound: &Outbound) -> End
where
    I: Stream<Item = Result<proto::NodeMessage, Status>> + Send + Unpin,
{
    let (node, boot) = (hello.node, hello.boot);
    tokio::select! {
        () = publisher.catch_up_with(hello.revision) => {}
        () = outbound.closed() => return End::Gone,
    }
    let presence = publisher.fleet.join(node, boot, &hello.version, &hello.region);
    let sealer = publisher.secrets.sealer(node, boot, hello.seal_key);
    let mut sender = Sender { publisher, sealer, outbound, withheld: BTreeSet::new() };
    let (start, subscription) = publisher.hub.subscribe(hello.revision, hello.set_hash);
    if matches!(start, Start::Deltas(_)) {
        // It has proven by the hash of its set what it holds, and may have nothing to acknowledge until the next change.
        presence.acked(hello.revision);
    }
    tracing::info!(%node, %boot, revision = hello.revision, region = hello.region, "a node joined");
    let sending = pin!(sender.send_all(start, &subscription));
    let hearing = pin!(hear(inbound, &presence, node));
    let end = tokio::select! {
        end = sending => end,
        () = hearing => End::Gone,
        () = outbound.closed() => End::Gone,
    };
    tracing::info!(%node, %boot, "a node left");
    end
}

/// Takes acks and nacks until the node closes its side; then waits, because it may still want to listen.
async fn hear<I>(mut inbound: I, presence: &Presence, node: NodeId)
where
    I: Stream<Item = Result<proto::NodeMessage, Status>> + Send + Unpin,
{
    loop {
        match inbound.next().await {
            Some(Ok(message)) => match message.message {
                Some(FromNode::Ack(ack)) => presence.acked(ack.revision),
                Some(FromNode::Nack(nack)) => {
                    presence.nacked();
                    let (revision, resource, reason) = (nack.revision, nack.resource, nack.reason);
                    tracing::error!(%node, revision, resource, reason, "a node refused a change and keeps its last good state");
                }
                Some(FromNode::Hello(_)) | None => {}
            },
            Some(Err(_)) => return,
            None => pending().await,
        }
    }
}

struct Sender<'a> {
    publisher: &'a Publisher,
    sealer: Sealer,
    outbound: &'a Outbound,
    /// Credentials that the node lacks the secrets of, because these could not be opened.
    withheld: BTreeSet<CredentialId>,
}

impl Sender<'_> {
    async fn send_all(&mut self, start: Start, subscription: &Subscription) -> End {
        match self.try_send_all(start, subscription).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_send_all(
        &mut self,
        start: Start,
        subscription: &Subscription,
    ) -> Result<std::convert::Infallible, End> {
        // A boot that comes back may have missed a rotation while it was away, so that it gets every secret again.
        let credentials = self.publisher.hub.with_state(|state| state.credentials().map(|c| c.id).collect::<Vec<_>>());
        self.send_secrets(credentials).await?;
        match start {
            Start::Snapshot(snapshot, deltas) => self.send_snapshot(&snapshot, &deltas).await?,
            Start::Deltas(deltas) => self.send_deltas(&deltas).await?,
        }
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut unreadable = self.publisher.secrets.unreadable();
        loop {
            let next = tokio::select! {
                next = subscription.next() => next,
                _ = heartbeat.tick() => {
                    self.send(ToNode::Heartbeat(self.heartbeat())).await?;
                    continue;
                }
                Ok(()) = unreadable.changed() => {
                    let unreadable = Arc::clone(&unreadable.borrow_and_update());
                    let readable = self.withheld.extract_if(.., |id| !unreadable.contains(id)).collect();
                    self.send_secrets(readable).await?;
                    continue;
                }
            };
            match next {
                Next::Delta(delta) => self.send_delta(&delta).await?,
                Next::Resync(snapshot, deltas) => {
                    tracing::warn!(revision = snapshot.revision(), "a node fell behind and gets a snapshot");
                    let credentials = snapshot.contents().credentials().map(|credential| credential.id).collect();
                    self.send_secrets(credentials).await?;
                    self.send_snapshot(&snapshot, &deltas).await?;
                }
            }
        }
    }

    fn heartbeat(&self) -> proto::Heartbeat {
        let control_plane_ms = self.publisher.clock.now().millis();
        proto::Heartbeat { head_revision: self.publisher.hub.revision(), control_plane_ms }
    }

    async fn send_delta(&mut self, delta: &Delta) -> Result<(), End> {
        let changed = delta.changes.iter().filter_map(|change| match change {
            Change::Upsert(resource) => credential(resource),
            Change::Remove(_) => None,
        });
        self.send_secrets(changed.collect()).await?;
        self.send(ToNode::Delta(delta.into())).await
    }

    async fn send_deltas(&mut self, deltas: &[Arc<Delta>]) -> Result<(), End> {
        for delta in deltas {
            self.send_delta(delta).await?;
        }
        Ok(())
    }

    async fn send_snapshot(&mut self, snapshot: &Encoded, deltas: &[Arc<Delta>]) -> Result<(), End> {
        let (revision, set_hash) = (snapshot.revision(), snapshot.set_hash().as_bytes().to_vec());
        let count = u64::try_from(snapshot.len()).unwrap_or(u64::MAX);
        let deployment_id = self.publisher.deployment.as_bytes().to_vec();
        self.send(ToNode::SnapshotBegin(proto::SnapshotBegin { revision, count, deployment_id })).await?;
        for number in 0.. {
            let Some(piece) = snapshot.piece(number) else { break };
            self.send(ToNode::SnapshotChunk(piece)).await?;
        }
        self.send(ToNode::SnapshotEnd(proto::SnapshotEnd { revision, set_hash })).await?;
        self.send_deltas(deltas).await
    }

    async fn send_secrets(&mut self, credentials: Vec<CredentialId>) -> Result<(), End> {
        let credentials = self.publisher.hub.with_state(|state| self.publisher.secrets.given(state, credentials));
        let sealed = self.sealer.seal(credentials.iter().copied()).await.map_err(|error| {
            error.log("secrets cannot be read");
            End::Refused(match error.is_passing() {
                true => Status::unavailable("secrets cannot be read: the database is away; connect again"),
                false => Status::internal("secrets cannot be read; the control plane's log says why"),
            })
        })?;
        for credential in &credentials {
            self.withheld.remove(credential);
        }
        self.withheld.extend(sealed.withheld);
        for secret in sealed.messages {
            self.send(ToNode::Secret(secret)).await?;
        }
        Ok(())
    }

    async fn send(&self, message: ToNode) -> Result<(), End> {
        let message = proto::ControlMessage { message: Some(message) };
        self.outbound.send(Ok(message)).await.map_err(|_| End::Gone)
    }
}

fn credential(resource: &Resource) -> Option<CredentialId> {
    match resource {
        Resource::Credential(credential) => Some(credential.id),
        Resource::Workspace(_) | Resource::Key(_) | Resource::Model(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use keyforge_shared::catalog::{Model, Operation, ProviderName};
    use keyforge_shared::clock::SystemClock;
    use keyforge_shared::fleet_seal::BootKey;
    use keyforge_shared::secret::{Key256, SecretBytes};
    use keyforge_shared::state::State;
    use tokio_stream::wrappers::ReceiverStream;

    use prost::Message as _;

    use super::*;
    use crate::publish::encoded::FULL;
    use crate::store::Store;
    use crate::vault::{Kek, KekSource, Keyring, Vault};

    fn model(number: u64, source: &str) -> Resource {
        Resource::Model(Arc::new(Model {
            name: format!("model-{number}"),
            provider: ProviderName("sandbox".to_owned()),
            upstream_name: "m".to_owned(),
            operation: Operation::Chat,
            context_tokens: None,
            max_output_tokens: None,
            prices: None,
            source: source.to_owned(),
            as_of: "2026-11-22".to_owned(),
        }))
    }

    async fn publisher(directory: &std::path::Path, state: State) -> Publisher {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store = Store::open(&directory.join("data"), Arc::clone(&clock)).await.unwrap();
        let deployment = DeploymentId::from_bytes([1; 16]);
        let kek = Arc::new(Kek::new(Key256::new([1; 32]), KekSource::Env("TEST".to_owned())));
        let vault = Arc::new(Vault::new(Keyring::of_one(deployment, kek), deployment));
        let unreadable = tokio::sync::watch::Sender::default().subscribe();
        let secrets = Secrets::new(store, vault, unreadable, &SecretBytes::new(b"token".to_vec()));
        let (hub, fleet) = (Hub::new(state), Fleet::new(Arc::clone(&clock)));
        let horizon = Horizon::new(Arc::clone(&clock), false);
        Publisher { hub, horizon, fleet, secrets, deployment, clock, max_staleness: Duration::from_secs(30) }
    }

    struct Follower {
        messages: mpsc::Receiver<Result<proto::ControlMessage, Status>>,
        state: State,
        chunks: Vec<usize>,
        snapshots: usize,
    }

    impl Follower {
        async fn follow_to(&mut self, revision: u64) {
            let mut resources = Vec::new();
            while self.state.revision() < revision {
                match self.messages.recv().await.unwrap().unwrap().message.unwrap() {
                    ToNode::SnapshotChunk(chunk) => {
                        self.chunks.push(chunk.len());
                        let chunk = proto::SnapshotChunk::decode(chunk).unwrap();
                        resources.extend(chunk.resources.into_iter().map(|one| Resource::try_from(one).unwrap()));
                    }
                    ToNode::SnapshotEnd(end) => {
                        self.state = State::from_snapshot(end.revision, resources.drain(..));
                        self.snapshots += 1;
                    }
                    ToNode::Delta(delta) => self.state.apply(delta.try_into().unwrap()).unwrap(),
                    ToNode::SnapshotBegin(_) | ToNode::Heartbeat(_) | ToNode::Secret(_) => {}
                }
            }
        }
    }

    /// A node that has said hello, with room for one message on its way.
    async fn join(publisher: &Publisher) -> (Follower, mpsc::Sender<Result<proto::NodeMessage, Status>>) {
        let (to_control, from_node) = mpsc::channel(1);
        let seal_key = BootKey::generate().unwrap().public().to_bytes();
        let hello = proto::Hello { node_id: vec![1; 16], boot_id: vec![1; 16], seal_key, ..Default::default() };
        to_control.send(Ok(proto::NodeMessage { message: Some(FromNode::Hello(hello)) })).await.unwrap();
        let (outbound, messages) = mpsc::channel(1);
        let session = run(publisher.clone(), ReceiverStream::new(from_node), outbound);
        drop(keyforge_runtime::shutdown::Shutdown::new().spawn("session", session));
        (Follower { messages, state: State::default(), chunks: Vec::new(), snapshots: 0 }, to_control)
    }

    #[tokio::test]
    async fn i_15_node_that_stops_reading_is_resynchronised_and_ends_with_the_same_set() {
        let directory = tempfile::tempdir().unwrap();
        let publisher = publisher(directory.path(), State::from_snapshot(1, [])).await;
        let (mut node, _open) = join(&publisher).await;
        node.follow_to(1).await;
        for number in 0..3_000 {
            publisher.hub.commit(vec![Change::Upsert(model(number % 700, &number.to_string()))]);
        }
        node.follow_to(3_001).await;
        assert_eq!(node.snapshots, 2, "one at the start, one because it fell behind");
        assert_eq!(node.state.set_hash(), publisher.hub.with_state(State::set_hash));
        publisher.hub.commit(vec![Change::Upsert(model(1, "after"))]);
        node.follow_to(3_002).await;
        assert_eq!(node.snapshots, 2, "it is back on deltas");
    }

    #[tokio::test]
    async fn no_snapshot_message_outgrows_what_grpc_clients_take() {
        let directory = tempfile::tempdir().unwrap();
        let large = (0..60).map(|number| model(number, &"x".repeat(100_000)));
        let small = (100..1_500).map(|number| model(number, "small"));
        let publisher = publisher(directory.path(), State::from_snapshot(1, large.chain(small))).await;
        let (mut node, _open) = join(&publisher).await;
        node.follow_to(1).await;
        assert!(node.chunks.len() >= 5 && node.chunks.iter().all(|bytes| *bytes < 2 * FULL), "{:?}", node.chunks);
        assert_eq!(node.state.models().count(), 1_460);
    }
}
