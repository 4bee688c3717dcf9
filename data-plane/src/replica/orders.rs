//! Follows the control plane's orders, that keys stop or go on, on a connection of its own, and asks every second how fresh the state is.
//!
//! Orders are carried out as they come, whatever the state stream is busy with; each is acknowledged with the number of streams that it cut. When the
//! stream breaks it is taken up again at the node's revision, after a short wait that differs from node to node.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use keyforge_proto::convert::{self, ConvertError};
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::state_service_client::StateServiceClient;
use keyforge_proto::fleet::v1::watch_request::Message as FromNode;
use keyforge_proto::fleet::v1::watch_response::Message as FromControl;
use keyforge_runtime::backoff::Backoff;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::Clock;
use keyforge_shared::id::{BootId, NodeId};
use keyforge_shared::state::{KeyStatus, Standing};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::freshness::Moment;
use super::held::{Order, SetNumber};
use super::key_followers::KeyFollowers;
use super::{RECONNECT, Replica};
use crate::control::ControlChannel;
use crate::metrics::Metrics;

/// How often the node asks whether its state is fresh.
const BEAT: Duration = Duration::from_secs(1);
/// No message for this long means that the connection is dead: beats are answered every second.
const SILENCE: Duration = Duration::from_secs(3);
/// Beats that may wait for their answers.
const UNANSWERED: usize = 16;

/// One node's ear for orders.
pub struct Watcher {
    /// Where they are carried out.
    pub replica: Arc<Replica>,
    /// What else follows when a key changes.
    pub followers: Arc<KeyFollowers>,
    /// How to reach the control plane, by no connection that anything else uses.
    pub channel: ControlChannel,
    /// Which node.
    pub node: NodeId,
    /// In which life.
    pub boot: BootId,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where the age of the state is shown.
    pub metrics: Metrics,
}

#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("control plane: {0}")]
    Status(Box<tonic::Status>),
    #[error("nothing heard for {} s", SILENCE.as_secs())]
    Silence,
    #[error("the stream ended")]
    Ended,
    #[error("not a valid message: {0}")]
    Message(#[from] ConvertError),
}

impl From<tonic::Status> for Interrupted {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// One stream.
struct Session {
    answers: mpsc::Sender<proto::WatchRequest>,
    beats: VecDeque<(u64, Moment)>,
    last_beat: u64,
    /// The set tells what came before this revision; no answer says anything until it is there.
    floor: Option<u64>,
    /// Which set the hello told of.
    told: SetNumber,
}

impl Watcher {
    /// Watches until the process is forced to stop: what still runs during a drain can still be revoked.
    pub async fn run(self, shutdown: Shutdown) {
        let watching = async {
            let mut backoff = Backoff::new(RECONNECT.0, RECONNECT.1);
            let mut connected = true;
            loop {
                let interrupted = match self.attend(&mut backoff, &mut connected).await {
                    Ok(()) => Interrupted::Ended,
                    Err(interrupted) => interrupted,
                };
                if std::mem::take(&mut connected) {
                    tracing::warn!(reason = %interrupted, "the stream of orders was interrupted; keys are served until their state is too old");
                }
                self.show_age();
                tokio::time::sleep(backoff.next_delay()).await;
            }
        };
        tokio::select! {
            () = shutdown.force_started() => {}
            () = watching => {}
        }
    }

    async fn attend(&self, backoff: &mut Backoff, connected: &mut bool) -> Result<(), Interrupted> {
        let (answers, outgoing) = mpsc::channel(64);
        let (hello, told) = self.hello();
        let mut session = Session { answers, beats: VecDeque::new(), last_beat: 0, floor: None, told };
        session.say(FromNode::Hello(hello)).await?;
        let mut client = StateServiceClient::new(self.channel.clone());
        let subscribed = tokio::time::timeout(SILENCE, client.watch(ReceiverStream::new(outgoing)));
        let mut stream = subscribed.await.map_err(|_| Interrupted::Silence)??.into_inner();
        let mut beat = tokio::time::interval(BEAT);
        let mut attached = self.replica.attached();
        let mut silent_at = Instant::now() + SILENCE;
        loop {
            tokio::select! {
                message = stream.message() => {
                    let Some(message) = message?.and_then(|message| message.message) else { return Ok(()) };
                    silent_at = Instant::now() + SILENCE;
                    *connected = true;
                    backoff.reset();
                    self.take(message, &mut session).await?;
                }
                // What was answered before does not count, and nobody is served until something does.
                Ok(()) = attached.changed() => session.beat(Moment::now(&*self.clock)),
                _ = beat.tick() => {
                    session.beat(Moment::now(&*self.clock));
                    self.show_age();
                }
                () = tokio::time::sleep_until(silent_at) => return Err(Interrupted::Silence),
            }
        }
    }

    fn hello(&self) -> (proto::WatchHello, SetNumber) {
        let (revision, set_hash, number) = self.replica.numbered_position();
        let hello = proto::WatchHello {
            node_id: self.node.as_bytes().to_vec(),
            boot_id: self.boot.as_bytes().to_vec(),
            have_revision: revision,
            have_set_hash: set_hash.as_bytes().to_vec(),
        };
        (hello, number)
    }

    async fn take(&self, message: FromControl, session: &mut Session) -> Result<(), Interrupted> {
        match message {
            FromControl::Footing(footing) => {
                session.floor = Some(footing.floor);
                if footing.is_foreign && self.replica.disown(session.told) {
                    tracing::warn!(
                        "the control plane never had the state that this node holds, as after a restored backup; it is replaced"
                    );
                }
                let bound = Duration::from_secs(footing.max_staleness_seconds.into());
                self.replica.freshness.set_bound(bound);
            }
            FromControl::Order(order) => {
                let order = decode(&order)?;
                let (changes, streams_cut) = self.replica.carry_out(order);
                self.followers.changed(&changes);
                session.say(FromNode::Applied(proto::Applied { revision: order.revision, streams_cut })).await?;
            }
            FromControl::Echo(echo) => {
                let sent = session.answered(echo.number);
                let stands = session.floor.is_some_and(|floor| self.replica.stands_on(floor));
                // A node that began with what it kept serves nothing before it has been sent its secrets.
                let stands = stands && *self.replica.attached().borrow();
                if let Some(sent) = sent.filter(|_| stands) {
                    self.replica.freshness.confirm(sent);
                }
                self.replica.heard_at(self.clock.now());
            }
        }
        Ok(())
    }

    fn show_age(&self) {
        let age = self.replica.freshness.age(&*self.clock);
        if age != Duration::MAX {
            self.metrics.state_age(age);
        }
    }
}

impl Session {
    async fn say(&self, message: FromNode) -> Result<(), Interrupted> {
        let sent = self.answers.send(proto::WatchRequest { message: Some(message) }).await;
        sent.map_err(|_| Interrupted::Ended)
    }

    /// Sends a beat, unless what waits to be sent already says that the connection is stuck.
    fn beat(&mut self, now: Moment) {
        self.last_beat += 1;
        let beat = FromNode::Beat(proto::Beat { number: self.last_beat });
        if self.answers.try_send(proto::WatchRequest { message: Some(beat) }).is_ok() {
            if self.beats.len() == UNANSWERED {
                self.beats.pop_front();
            }
            self.beats.push_back((self.last_beat, now));
        }
    }

    /// When the beat of this number was sent. Earlier ones need no answer any more.
    fn answered(&mut self, number: u64) -> Option<Moment> {
        while let Some((sent, moment)) = self.beats.pop_front() {
            match sent.cmp(&number) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Some(moment),
                std::cmp::Ordering::Greater => {
                    self.beats.push_front((sent, moment));
                    return None;
                }
            }
        }
        None
    }
}

fn decode(order: &proto::Order) -> Result<Order, ConvertError> {
    let status = keyforge_proto::admin::v1::KeyStatus::try_from(order.status);
    let status = status.map_err(|error| ConvertError::new("status", error))?;
    Ok(Order {
        revision: order.revision,
        key: convert::parsed(&order.key_id, "key_id")?,
        standing: Standing { status: KeyStatus::try_from(status)?, spent: order.spent },
    })
}
