//! Keeps the replica at the control plane's revision: subscribe, take a snapshot or deltas, acknowledge, reconnect.
//!
//! One attempt is [`attend`]; the loop around it backs off with jitter. A record that cannot be read is refused by name, and its last good version
//! stays; when it can be read again, or a change does not fit, the stream is taken up anew with a snapshot, and the last good state stays in use
//! meanwhile.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use keyforge_proto::convert::{self, ConvertError};
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::control_message::Message as FromControl;
use keyforge_proto::fleet::v1::node_message::Message as FromNode;
use keyforge_proto::fleet::v1::state_service_client::StateServiceClient;
use keyforge_runtime::backoff::Backoff;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::Clock;
use keyforge_shared::fleet_seal::{Binding, BootKey, SharedToken};
use keyforge_shared::id::{BootId, CredentialId, DeploymentId, NodeId};
use keyforge_shared::state::{ApplyError, Delta, ResourceId, SetHash, State};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::differences::Changes;
use super::key_followers::KeyFollowers;
use super::reading::{Refusals, Refused};
use super::{RECONNECT, Replica};
use crate::control::{ControlChannel, said};
use crate::metrics::Metrics;

/// No message for this long means that the connection is dead: heartbeats come every second.
const SILENCE: Duration = Duration::from_secs(5);
/// Most keys that room is made for before they come.
const MOST_EXPECTED: u64 = 4_000_000;

/// Metadata of the refusal of a node that was removed, and its value.
const REMOVED_KEY: &str = "keyforge-node";
const REMOVED: &str = "removed";

/// How long a refusal has to leave before the stream is given up.
const PARTING: Duration = Duration::from_millis(50);

/// One node's place at the control plane.
pub struct Follower {
    /// What is kept up to date.
    pub replica: Arc<Replica>,
    /// How to reach the control plane.
    pub channel: ControlChannel,
    /// Which node.
    pub node: NodeId,
    /// In which life.
    pub boot: BootId,
    /// Where it says it is.
    pub region: String,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Opens the secrets sealed for this life.
    pub seal_key: BootKey,
    /// What the control plane must have known to seal them, where node and control plane share a token.
    pub token: Option<SharedToken>,
    /// Where refused records are counted.
    pub metrics: Metrics,
}

/// Why one attempt ended.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("control plane: {}", said(_0))]
    Status(Box<tonic::Status>),
    #[error(
        "the control plane has removed this node: it stops, and can join again as a new node with a new join token"
    )]
    Removed,
    #[error("nothing heard for {} s", SILENCE.as_secs())]
    Silence,
    #[error("the stream ended")]
    Ended,
    #[error("not a valid message: {0}")]
    Message(#[from] ConvertError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("a message came out of order")]
    Order,
    #[error("the encoded records of a snapshot cannot be read: {0}")]
    Chunk(#[from] prost::DecodeError),
    #[error("records that could not be read have been replaced")]
    Mended,
}

impl From<tonic::Status> for Interrupted {
    fn from(status: tonic::Status) -> Self {
        if status.metadata().get(REMOVED_KEY).is_some_and(|value| value == REMOVED) {
            return Self::Removed;
        }
        Self::Status(Box::new(status))
    }
}

impl Follower {
    /// Follows until the process is forced to stop: what still runs during a drain can still be revoked. A node that was removed follows no more,
    /// which ends its process.
    pub async fn run(self, followers: Arc<KeyFollowers>, shutdown: Shutdown) {
        let mut backoff = Backoff::new(RECONNECT.0, RECONNECT.1);
        let mut session = Session::default();
        let mut connected = true;
        loop {
            let attempt = self.attend(&mut session, &followers, &mut backoff);
            let interrupted = tokio::select! {
                () = shutdown.force_started() => return,
                interrupted = attempt => interrupted,
            };
            if matches!(interrupted, Interrupted::Removed) {
                tracing::error!(node = %self.node, "{interrupted}");
                self.replica.secrets.retain(|_, _| false);
                return;
            }
            session.resync = !matches!(interrupted, Interrupted::Status(_) | Interrupted::Silence | Interrupted::Ended);
            if std::mem::take(&mut connected) {
                tracing::warn!(reason = %interrupted, "state stream interrupted; the last good state stays in use");
            }
            tokio::select! {
                () = shutdown.force_started() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
            connected |= self.clock.now().since(self.replica.last_heard()) < SILENCE;
        }
    }

    async fn attend(&self, session: &mut Session, followers: &KeyFollowers, backoff: &mut Backoff) -> Interrupted {
        match self.subscribe(session, followers, backoff).await {
            Ok(()) => Interrupted::Ended,
            Err(interrupted) => interrupted,
        }
    }

    async fn subscribe(
        &self,
        session: &mut Session,
        followers: &KeyFollowers,
        backoff: &mut Backoff,
    ) -> Result<(), Interrupted> {
        let (answers, outgoing) = mpsc::channel(64);
        let say = async |message| {
            let sent = answers.send(proto::NodeMessage { message: Some(message) }).await;
            sent.map_err(|_| Interrupted::Ended)
        };
        say(FromNode::Hello(self.hello(session.resync))).await?;
        let mut client = StateServiceClient::new(self.channel.clone());
        let subscribed = tokio::time::timeout(SILENCE, client.subscribe(ReceiverStream::new(outgoing)));
        let mut stream = subscribed.await.map_err(|_| Interrupted::Silence)??.into_inner();
        session.snapshot = None;
        loop {
            let message = tokio::time::timeout(SILENCE, stream.message()).await.map_err(|_| Interrupted::Silence)??;
            let Some(message) = message.and_then(|message| message.message) else { return Ok(()) };
            self.replica.heard_at(self.clock.now());
            let taken = self.take(message, session, followers);
            for Refused { name: resource, reason } in session.refused.drain(..) {
                tracing::error!(resource, reason, "a record of the state cannot be read; its last good version stays");
                let revision = self.replica.revision();
                say(FromNode::Nack(proto::Nack { revision, resource, reason })).await?;
            }
            match taken {
                Ok(None) => {}
                Ok(Some(revision)) => {
                    backoff.reset();
                    session.resync = false;
                    say(FromNode::Ack(proto::Ack { revision })).await?;
                }
                Err(Interrupted::Mended) => return Err(Interrupted::Mended),
                Err(interrupted) => {
                    let (revision, reason) = (self.replica.position().0, interrupted.to_string());
                    say(FromNode::Nack(proto::Nack { revision, resource: String::new(), reason })).await?;
                    // The refusal must be on its way before the stream is given up.
                    tokio::time::sleep(PARTING).await;
                    return Err(interrupted);
                }
            }
        }
    }

    fn hello(&self, resync: bool) -> proto::Hello {
        let (revision, set_hash) = if resync { Default::default() } else { self.replica.position() };
        proto::Hello {
            node_id: self.node.as_bytes().to_vec(),
            boot_id: self.boot.as_bytes().to_vec(),
            have_revision: revision,
            have_set_hash: set_hash.as_bytes().to_vec(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            region: self.region.clone(),
            seal_key: self.seal_key.public().to_bytes(),
        }
    }

    /// Takes one message in; gives the revision to acknowledge, if one was reached.
    fn take(
        &self,
        message: FromControl,
        session: &mut Session,
        followers: &KeyFollowers,
    ) -> Result<Option<u64>, Interrupted> {
        match message {
            FromControl::Heartbeat(_) => {
                self.replica.attach();
                Ok(None)
            }
            FromControl::Secret(sealed) => self.open_secret(&sealed).map(|()| None),
            FromControl::SnapshotBegin(begin) => {
                let deployment = convert::id(&begin.deployment_id, "deployment_id", DeploymentId::from_slice)?;
                let expected = usize::try_from(begin.count.min(MOST_EXPECTED)).unwrap_or(0);
                let state = State::with_room(begin.revision, expected);
                session.refusals.clear();
                session.snapshot = Some((deployment, state));
                Ok(None)
            }
            FromControl::SnapshotChunk(chunk) => {
                let (_, state) = session.snapshot.as_mut().ok_or(Interrupted::Order)?;
                for resource in proto::SnapshotChunk::decode(chunk)?.resources {
                    let held = |id: &ResourceId| self.replica.resource(id);
                    if let Some(resource) = session.refusals.resource(resource, held, &mut session.refused) {
                        state.add(resource);
                    }
                }
                Ok(None)
            }
            FromControl::SnapshotEnd(end) => self.end_snapshot(&end, session, followers).map(Some),
            FromControl::Delta(delta) => self.take_delta(delta, session, followers).map(Some),
        }
    }

    fn end_snapshot(
        &self,
        end: &proto::SnapshotEnd,
        session: &mut Session,
        followers: &KeyFollowers,
    ) -> Result<u64, Interrupted> {
        let (deployment, mut state) = session.snapshot.take().ok_or(Interrupted::Order)?;
        let set_hash = convert::id(&end.set_hash, "set_hash", SetHash::from_slice)?;
        let revision = state.revision();
        if session.refusals.count() > 0 {
            state.assume_set_hash(set_hash);
        }
        let changes = self.replica.replace(deployment, state, set_hash)?;
        self.after(&changes, session, followers);
        tracing::info!(revision, refused = session.refusals.count(), "state snapshot applied");
        Ok(revision)
    }

    fn take_delta(
        &self,
        delta: proto::Delta,
        session: &mut Session,
        followers: &KeyFollowers,
    ) -> Result<u64, Interrupted> {
        let refused_before = session.refusals.count();
        let proto::Delta { from, to, changes, set_hash } = delta;
        let frame = Delta::try_from(proto::Delta { from, to, changes: Vec::new(), set_hash })?;
        let read = changes.into_iter().filter_map(|change| {
            let held = |id: &ResourceId| self.replica.resource(id);
            session.refusals.change(change, held, &mut session.refused)
        });
        let delta = Delta { changes: read.collect(), ..frame };
        let is_whole = refused_before == 0 && session.refusals.count() == 0;
        let (changes, applied) = if is_whole { self.replica.apply(delta) } else { self.replica.apply_partly(delta) };
        self.after(&changes, session, followers);
        applied?;
        // What is held can be compared again only with a whole set.
        if refused_before > 0 && session.refusals.count() == 0 { Err(Interrupted::Mended) } else { Ok(to) }
    }

    fn after(&self, changes: &Changes, session: &Session, followers: &KeyFollowers) {
        self.replica.attach();
        self.forget_unused_secrets();
        self.metrics.resources_refused(session.refusals.count());
        followers.changed(changes);
    }

    fn open_secret(&self, sealed: &proto::SealedSecret) -> Result<(), Interrupted> {
        let credential = convert::id(&sealed.credential_id, "credential_id", CredentialId::from_slice)?;
        let secret_version = sealed.secret_version;
        let binding = Binding { node: self.node, boot: self.boot, credential, secret_version };
        let opened = self.seal_key.open(&binding, self.token.as_ref(), &sealed.sealed);
        let stored = opened.map_err(|error| error.to_string()).and_then(|secret| {
            self.replica.secrets.put(credential, sealed.secret_version, &secret).map_err(|error| error.to_string())
        });
        if let Err(reason) = stored {
            // One bad secret must not cost the node its stream: that credential stays unusable, and is said to be.
            tracing::error!(%credential, reason, "a credential's secret cannot be used");
        }
        Ok(())
    }

    fn forget_unused_secrets(&self) {
        let known = self.replica.credentials(|credential| credential.enabled);
        let oldest: HashMap<_, _> = known.iter().map(|known| (known.id, known.secret_version)).collect();
        // Newer versions than those named so far are about to be.
        let in_use = |credential, version| oldest.get(&credential).is_some_and(|oldest| version >= *oldest);
        self.replica.secrets.retain(in_use);
    }
}

/// What is kept from one message to the next, and of refused records from one stream to the next.
#[derive(Default)]
struct Session {
    /// Whether the next stream must begin with a snapshot.
    resync: bool,
    snapshot: Option<(DeploymentId, State)>,
    refusals: Refusals,
    /// Refused by the latest message.
    refused: Vec<Refused>,
}
