//! `keyforge.fleet.v1.StateService`: one session per node's stream.

use keyforge_proto::convert::{self, ConvertError};
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::node_message::Message as FromNode;
use keyforge_proto::fleet::v1::state_service_server::StateService;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::id::{BootId, NodeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::head::peer;
use super::node_gate::{NodeGate, caller};
use crate::nodes::FleetCaller;
use crate::publish::credential_reports::CredentialReports;
use crate::publish::session::{self, Publisher};
use crate::publish::watch;

/// Messages that may wait for a node's connection; what follows waits in the hub.
const OUTBOUND: usize = 16;

/// Serves the replicated state to nodes.
pub struct StateApi {
    publisher: Publisher,
    credential_reports: CredentialReports,
    gate: NodeGate,
    shutdown: Shutdown,
}

impl StateApi {
    /// Serves what `publisher` holds to those whom `gate` lets pass, until the drain, and takes in what they say of credentials.
    #[must_use]
    pub const fn new(
        publisher: Publisher,
        credential_reports: CredentialReports,
        gate: NodeGate,
        shutdown: Shutdown,
    ) -> Self {
        Self { publisher, credential_reports, gate, shutdown }
    }
}

/// A message of a node that may be its hello.
trait Greeting: Send + 'static {
    /// The call, as entries name it.
    const METHOD: &'static str;

    /// The node and the boot that a hello names.
    fn hello(&self) -> Option<(&[u8], &[u8])>;
}

impl Greeting for proto::NodeMessage {
    const METHOD: &'static str = "fleet/Subscribe";

    fn hello(&self) -> Option<(&[u8], &[u8])> {
        match &self.message {
            Some(FromNode::Hello(hello)) => Some((&hello.node_id, &hello.boot_id)),
            _ => None,
        }
    }
}

impl Greeting for proto::WatchRequest {
    const METHOD: &'static str = "fleet/Watch";

    fn hello(&self) -> Option<(&[u8], &[u8])> {
        match &self.message {
            Some(proto::watch_request::Message::Hello(hello)) => Some((&hello.node_id, &hello.boot_id)),
            _ => None,
        }
    }
}

/// What a node says, its hello only if it is entitled to it.
fn entitled<M: Greeting>(
    inbound: Streaming<M>,
    caller: FleetCaller,
    peer: String,
    gate: NodeGate,
) -> impl Stream<Item = Result<M, Status>> + Send {
    inbound.then(move |message| {
        let (gate, peer) = (gate.clone(), peer.clone());
        async move {
            let message = message?;
            if let Some((node, boot)) = message.hello() {
                let invalid = |error: ConvertError| Status::invalid_argument(error.within("hello").to_string());
                let node = convert::id(node, "node_id", NodeId::from_slice).map_err(invalid)?;
                let boot = convert::id(boot, "boot_id", BootId::from_slice).map_err(invalid)?;
                if let Err(refusal) = gate.find_out(&caller, Some(node), Some(boot)).await {
                    return Err(gate.refuse(&refusal, &peer, M::METHOD).await);
                }
            }
            Ok(message)
        }
    })
}

/// What ends a node's stream from this side.
struct End<D> {
    gate: NodeGate,
    caller: FleetCaller,
    peer: String,
    drain: D,
}

impl<D: Future<Output = ()>> End<D> {
    /// Lets `running` go on until the caller is entitled to it no longer or the drain starts, and says why on `outbound`.
    async fn of<T>(
        self,
        running: impl Future<Output = ()>,
        outbound: mpsc::Sender<Result<T, Status>>,
        method: &'static str,
    ) {
        let Self { gate, caller, peer, drain } = self;
        let last = tokio::select! {
            () = running => return,
            refusal = gate.nodes().ended(&caller) => gate.refuse(&refusal, &peer, method).await,
            () = drain => Status::unavailable("the control plane is stopping: connect again"),
        };
        // Whatever waited to be sent is given up with the stream; a node that does not read is cut off with its connection, and need not be told.
        drop(outbound.try_send(Err(last)));
    }
}

#[tonic::async_trait]
impl StateService for StateApi {
    type SubscribeStream = ReceiverStream<Result<proto::ControlMessage, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<proto::NodeMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (outbound, receiver) = mpsc::channel(OUTBOUND);
        let (caller, peer, gate) = (caller(&request)?, peer(request.extensions()), self.gate.clone());
        let (mut publisher, drain) = (self.publisher.clone(), self.shutdown.drain_started());
        if matches!(caller, FleetCaller::Node { .. }) {
            let serves = gate.nodes().serves(&caller).await.map_err(|error| {
                error.log("it cannot be seen which providers a node serves");
                Status::unavailable("which providers this node serves cannot be read: connect again")
            })?;
            publisher.secrets = publisher.secrets.for_joined(serves);
        }
        let inbound = Box::pin(entitled(request.into_inner(), caller, peer.clone(), gate.clone()));
        let running = session::run(publisher, inbound, outbound.clone());
        drop(
            self.shutdown
                .spawn("node session", End { gate, caller, peer, drain }.of(running, outbound, "fleet/Subscribe")),
        );
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type WatchStream = ReceiverStream<Result<proto::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<proto::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (outbound, receiver) = mpsc::channel(OUTBOUND);
        let (caller, peer, gate) = (caller(&request)?, peer(request.extensions()), self.gate.clone());
        let (publisher, drain) = (self.publisher.clone(), self.shutdown.drain_started());
        let inbound = Box::pin(entitled(request.into_inner(), caller, peer.clone(), gate.clone()));
        let running = watch::run(publisher, inbound, outbound.clone());
        drop(
            self.shutdown.spawn("node orders", End { gate, caller, peer, drain }.of(running, outbound, "fleet/Watch")),
        );
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn report_credentials(
        &self,
        request: Request<proto::ReportCredentialsRequest>,
    ) -> Result<Response<proto::ReportCredentialsResponse>, Status> {
        let node = convert::id(&request.get_ref().node_id, "node_id", NodeId::from_slice);
        let node = node.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let boot = Some(&request.get_ref().boot_id).filter(|boot| !boot.is_empty());
        let boot = boot.map(|boot| convert::id(boot, "boot_id", BootId::from_slice)).transpose();
        let boot = boot.map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.gate.check(&request, Some(node), boot).await?;
        self.credential_reports.report(node, request.into_inner().credentials);
        Ok(Response::new(proto::ReportCredentialsResponse {}))
    }
}
