//! Keeps the replica at the control plane's revision: subscribe, take a snapshot or deltas, acknowledge, reconnect.
//!
//! One attempt is [`attend`]; the loop around it backs off with jitter. A change that cannot be applied is refused by name, and the stream is taken
//! up anew with a snapshot; the last good state stays in use meanwhile.

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
use keyforge_shared::state::{ApplyError, Delta, Resource, SetHash, State};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Replica;
use super::key_followers::KeyFollowers;
use crate::control::{ControlChannel, said};

/// No message for this long means that the connection is dead: heartbeats come every second.
const SILENCE: Duration = Duration::from_secs(10);

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
    pub async fn run(self, followers: KeyFollowers, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut resync = false;
        let mut connected = true;
        loop {
            let attempt = self.attend(resync, &followers, &mut backoff);
            let interrupted = tokio::select! {
                () = shutdown.force_started() => return,
                interrupted = attempt => interrupted,
            };
            if matches!(interrupted, Interrupted::Removed) {
                tracing::error!(node = %self.node, "{interrupted}");
                self.replica.secrets.retain(|_, _| false);
                return;
            }
            resync = matches!(interrupted, Interrupted::Apply(_) | Interrupted::Message(_) | Interrupted::Order);
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

    async fn attend(&self, resync: bool, followers: &KeyFollowers, backoff: &mut Backoff) -> Interrupted {
        match self.subscribe(resync, followers, backoff).await {
            Ok(()) => Interrupted::Ended,
            Err(interrupted) => interrupted,
        }
    }

    async fn subscribe(
        &self,
        resync: bool,
        followers: &KeyFollowers,
        backoff: &mut Backoff,
    ) -> Result<(), Interrupted> {
        let (answers, outgoing) = mpsc::channel(64);
        let say = async |message| {
            let sent = answers.send(proto::NodeMessage { message: Some(message) }).await;
            sent.map_err(|_| Interrupted::Ended)
        };
        say(FromNode::Hello(self.hello(resync))).await?;
        let mut client = StateServiceClient::new(self.channel.clone());
        let subscribed = tokio::time::timeout(SILENCE, client.subscribe(ReceiverStream::new(outgoing)));
        let mut stream = subscribed.await.map_err(|_| Interrupted::Silence)??.into_inner();
        let mut snapshot = None;
        loop {
            let message = tokio::time::timeout(SILENCE, stream.message()).await.map_err(|_| Interrupted::Silence)??;
            let Some(message) = message.and_then(|message| message.message) else { return Ok(()) };
            self.replica.heard_at(self.clock.now());
            match self.take(message, &mut snapshot, followers) {
                Ok(None) => {}
                Ok(Some(revision)) => {
                    backoff.reset();
                    say(FromNode::Ack(proto::Ack { revision })).await?;
                }
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
        snapshot: &mut Option<Snapshot>,
        followers: &KeyFollowers,
    ) -> Result<Option<u64>, Interrupted> {
        match message {
            FromControl::Heartbeat(_) => Ok(None),
            FromControl::Secret(sealed) => self.open_secret(&sealed).map(|()| None),
            FromControl::SnapshotBegin(begin) => {
                let deployment = convert::id(&begin.deployment_id, "deployment_id", DeploymentId::from_slice)?;
                *snapshot = Some(Snapshot { deployment, revision: begin.revision, resources: Vec::new() });
                Ok(None)
            }
            FromControl::SnapshotChunk(chunk) => {
                let resources = &mut snapshot.as_mut().ok_or(Interrupted::Order)?.resources;
                for resource in chunk.resources {
                    resources.push(Resource::try_from(resource)?);
                }
                Ok(None)
            }
            FromControl::SnapshotEnd(end) => {
                let snapshot = snapshot.take().ok_or(Interrupted::Order)?;
                let set_hash = convert::id(&end.set_hash, "set_hash", SetHash::from_slice)?;
                let state = State::from_snapshot(snapshot.revision, snapshot.resources);
                let changes = self.replica.replace(snapshot.deployment, state, set_hash)?;
                self.forget_unused_secrets();
                followers.changed(&changes);
                tracing::info!(revision = snapshot.revision, "state snapshot applied");
                Ok(Some(snapshot.revision))
            }
            FromControl::Delta(delta) => {
                let delta = Delta::try_from(delta)?;
                let revision = delta.to;
                let (changes, applied) = self.replica.apply(delta);
                self.forget_unused_secrets();
                followers.changed(&changes);
                applied?;
                Ok(Some(revision))
            }
        }
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

struct Snapshot {
    deployment: DeploymentId,
    revision: u64,
    resources: Vec<Resource>,
}
