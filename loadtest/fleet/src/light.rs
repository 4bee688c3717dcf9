//! A light node: it hears orders and beats by the real protocol, acknowledges, and holds no state.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyforge_data_plane::control::ControlChannel;
use keyforge_proto::fleet::v1 as fleet;
use keyforge_proto::fleet::v1::state_service_client::StateServiceClient;
use keyforge_proto::fleet::v1::watch_request::Message as FromNode;
use keyforge_proto::fleet::v1::watch_response::Message as FromControl;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::secret::SecretBytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const BEAT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// Many light nodes. They leave when `shutdown` is forced.
pub struct LightNodes {
    hearing: Arc<AtomicUsize>,
    count: usize,
}

impl LightNodes {
    /// Connects `count` nodes, so many on each connection, and waits until all hear.
    pub async fn connect(
        (url, token): (&str, &SecretBytes),
        count: usize,
        per_connection: usize,
        have_revision: u64,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let hearing = Arc::new(AtomicUsize::new(0));
        let mut channel = ControlChannel::in_the_clear(url, token)?;
        for number in 0..count {
            if number % per_connection == 0 {
                channel = ControlChannel::in_the_clear(url, token)?;
            }
            let node = Light { number: number as u128, have_revision, hearing: Arc::clone(&hearing) };
            let (channel, stop) = (channel.clone(), shutdown.force_started());
            drop(shutdown.spawn_background("light node", async move {
                tokio::select! {
                    _ended = node.run(channel) => {}
                    () = stop => {}
                }
            }));
            if number % 200 == 199 {
                tokio::task::yield_now().await;
            }
        }
        let nodes = Self { hearing, count };
        tokio::time::timeout(PATIENCE, async {
            while nodes.hearing() < count {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .map_err(|_| anyhow::anyhow!("only {} of {count} light nodes are connected", nodes.hearing()))?;
        Ok(nodes)
    }

    /// How many hear.
    pub fn hearing(&self) -> usize {
        self.hearing.load(Ordering::Relaxed)
    }

    pub const fn count(&self) -> usize {
        self.count
    }
}

struct Light {
    number: u128,
    have_revision: u64,
    hearing: Arc<AtomicUsize>,
}

impl Light {
    async fn run(self, channel: ControlChannel) -> Result<(), tonic::Status> {
        let (answers, outgoing) = mpsc::channel(8);
        let id = (self.number + 1).to_be_bytes().to_vec();
        let hello = fleet::WatchHello {
            node_id: id.clone(),
            boot_id: id,
            have_revision: self.have_revision,
            have_set_hash: Vec::new(),
        };
        say(&answers, FromNode::Hello(hello)).await?;
        let mut stream = StateServiceClient::new(channel).watch(ReceiverStream::new(outgoing)).await?.into_inner();
        // They would otherwise all beat in the same moment.
        let first = BEAT.mul_f64((self.number % 997) as f64 / 997.0);
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + first, BEAT);
        let mut number = 0;
        loop {
            tokio::select! {
                message = stream.message() => match message?.and_then(|message| message.message) {
                    Some(FromControl::Order(order)) => {
                        say(&answers, FromNode::Applied(fleet::Applied { revision: order.revision, streams_cut: 0 })).await?;
                    }
                    Some(FromControl::Footing(_)) => drop(self.hearing.fetch_add(1, Ordering::Relaxed)),
                    Some(FromControl::Echo(_)) => {}
                    None => break,
                },
                _ = beat.tick() => {
                    number += 1;
                    say(&answers, FromNode::Beat(fleet::Beat { number })).await?;
                }
            }
        }
        self.hearing.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

async fn say(answers: &mpsc::Sender<fleet::WatchRequest>, message: FromNode) -> Result<(), tonic::Status> {
    let sent = answers.send(fleet::WatchRequest { message: Some(message) }).await;
    sent.map_err(|_| tonic::Status::unavailable("the stream is over"))
}
