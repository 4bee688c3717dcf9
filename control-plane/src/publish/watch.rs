//! A node's stream of orders: keys that stop or go on, and the answers to its beats.
//!
//! It has its own connection, queue and task, so that neither a snapshot nor a node that is slow to take changes can hold an order up. An answer
//! never overtakes an order that was given before it, by this control plane or another: a node that gets one knew every order that was given before it
//! sent its beat.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;

use keyforge_proto::convert::{self, ConvertError};
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::watch_request::Message as FromNode;
use keyforge_proto::fleet::v1::watch_response::Message as ToNode;
use keyforge_shared::id::{BootId, NodeId};
use keyforge_shared::state::SetHash;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::fleet::Presence;
use super::horizon::Horizon;
use super::hub::{Order, Watching};
use super::queues::Overrun;
use super::session::{End, HELLO_TIMEOUT, Publisher};

type Outbound = mpsc::Sender<Result<proto::WatchResponse, Status>>;

struct Hello {
    node: NodeId,
    boot: BootId,
    revision: u64,
    set_hash: Option<SetHash>,
}

/// Serves one node until its stream ends. A refusal is the stream's last item.
pub async fn run<I>(publisher: Publisher, mut inbound: I, outbound: Outbound)
where
    I: Stream<Item = Result<proto::WatchRequest, Status>> + Send + Unpin,
{
    let ended = match hello(&mut inbound).await {
        Ok(hello) => follow(&publisher, hello, inbound, &outbound).await,
        Err(status) => End::Refused(status),
    };
    if let End::Refused(status) = ended {
        tracing::warn!(%status, "a node's stream of orders was ended");
        // If the node is gone it need not be told.
        drop(outbound.send(Err(status)).await);
    }
}

async fn hello<I>(inbound: &mut I) -> Result<Hello, Status>
where
    I: Stream<Item = Result<proto::WatchRequest, Status>> + Send + Unpin,
{
    let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.next()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello: a node's first message says who it is"))?;
    match first.transpose()?.and_then(|message| message.message) {
        Some(FromNode::Hello(hello)) => {
            decode(&hello).map_err(|error| Status::invalid_argument(error.within("hello").to_string()))
        }
        Some(FromNode::Beat(_) | FromNode::Applied(_)) | None => {
            Err(Status::failed_precondition("the first message of a node must be its hello"))
        }
    }
}

fn decode(hello: &proto::WatchHello) -> Result<Hello, ConvertError> {
    let set_hash = match hello.have_set_hash.as_slice() {
        [] => None,
        _ => Some(convert::id(&hello.have_set_hash, "have_set_hash", SetHash::from_slice)?),
    };
    Ok(Hello {
        node: convert::id(&hello.node_id, "node_id", NodeId::from_slice)?,
        boot: convert::id(&hello.boot_id, "boot_id", BootId::from_slice)?,
        revision: hello.have_revision,
        set_hash,
    })
}

async fn follow<I>(publisher: &Publisher, hello: Hello, inbound: I, outbound: &Outbound) -> End
where
    I: Stream<Item = Result<proto::WatchRequest, Status>> + Send + Unpin,
{
    let presence = publisher.fleet.watch(hello.node, hello.boot);
    let (heard, beats) = watch::channel(0);
    let sending = pin!(send_all(publisher, &hello, beats, &presence, outbound));
    let hearing = pin!(hear(inbound, &presence, heard));
    tokio::select! {
        ended = sending => match ended {
            Ok(never) => match never {},
            Err(end) => end,
        },
        () = hearing => End::Gone,
        () = outbound.closed() => End::Gone,
    }
}

/// Takes acknowledgements and beats until the node closes its side; then waits, because it may still want to listen.
async fn hear<I>(mut inbound: I, presence: &Presence, beats: watch::Sender<u64>)
where
    I: Stream<Item = Result<proto::WatchRequest, Status>> + Send + Unpin,
{
    loop {
        match inbound.next().await {
            Some(Ok(message)) => match message.message {
                Some(FromNode::Applied(applied)) => presence.applied(applied.revision, applied.streams_cut),
                // Only the latest needs an answer.
                Some(FromNode::Beat(beat)) => drop(beats.send_replace(beat.number)),
                Some(FromNode::Hello(_)) | None => {}
            },
            Some(Err(_)) => return,
            None => pending().await,
        }
    }
}

async fn send_all(
    publisher: &Publisher,
    hello: &Hello,
    mut beats: watch::Receiver<u64>,
    presence: &Presence,
    outbound: &Outbound,
) -> Result<Infallible, End> {
    publisher.catch_up_with(hello.revision).await;
    let Watching { floor, is_foreign, missed, orders } = publisher.hub.watch(hello.revision, hello.set_hash);
    if is_foreign {
        let (node, revision) = (hello.node, hello.revision);
        tracing::warn!(%node, revision, "a node holds a set that this deployment never had, as after a restored backup; it is to be replaced");
    }
    // Where orders begin at what the node holds, its set was found to be ours.
    presence.begins_at(floor, if floor == hello.revision && !is_foreign { floor } else { 0 });
    let max_staleness_seconds = u32::try_from(publisher.max_staleness.as_secs()).unwrap_or(u32::MAX);
    let begin = ToNode::Footing(proto::Footing { floor, max_staleness_seconds, is_foreign });
    send(outbound, begin).await?;
    for order in missed {
        give(order, outbound).await?;
    }
    let mut unanswered = None;
    loop {
        tokio::select! {
            // Orders go before answers.
            biased;
            order = orders.next() => match order {
                Ok(order) => give(order, outbound).await?,
                Err(Overrun) => return Err(overrun()),
            },
            number = answerable(&publisher.horizon, unanswered) => {
                // Some may have come with the look that this answer waited for.
                while let Some(order) = orders.ready().map_err(|Overrun| overrun())? {
                    give(order, outbound).await?;
                }
                unanswered = None;
                send(outbound, echo(publisher, number, presence)).await?;
            }
            changed = beats.changed(), if unanswered.is_none() => match changed {
                Ok(()) => unanswered = Some(Beat { number: *beats.borrow_and_update(), heard_at: publisher.horizon.now() }),
                // Nobody hears the node any more.
                Err(_) => return Err(End::Gone),
            },
        }
    }
}

/// A beat that has no answer yet.
#[derive(Clone, Copy)]
struct Beat {
    number: u64,
    heard_at: u64,
}

/// The beat's number, as soon as everything is known that was committed before it was heard.
async fn answerable(horizon: &Horizon, beat: Option<Beat>) -> u64 {
    match beat {
        Some(beat) => {
            horizon.passes(beat.heard_at).await;
            beat.number
        }
        None => pending().await,
    }
}

fn overrun() -> End {
    End::Refused(Status::aborted("too many orders wait for this node: watch again"))
}

fn echo(publisher: &Publisher, number: u64, presence: &Presence) -> ToNode {
    presence.assured();
    let control_plane_ms = publisher.clock.now().millis();
    ToNode::Echo(proto::Echo { number, head_revision: publisher.hub.revision(), control_plane_ms })
}

async fn give(order: Order, outbound: &Outbound) -> Result<(), End> {
    let status = keyforge_proto::admin::v1::KeyStatus::from(order.standing.status);
    let (revision, key_id, spent) = (order.revision, order.key.to_string(), order.standing.spent);
    send(outbound, ToNode::Order(proto::Order { revision, key_id, status: status.into(), spent })).await
}

async fn send(outbound: &Outbound, message: ToNode) -> Result<(), End> {
    outbound.send(Ok(proto::WatchResponse { message: Some(message) })).await.map_err(|_| End::Gone)
}
