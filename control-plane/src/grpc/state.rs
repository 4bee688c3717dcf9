//! `keyforge.fleet.v1.StateService`: one session per node's stream.

use keyforge_proto::convert;
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::state_service_server::StateService;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::id::NodeId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::publish::session::{self, Publisher};
use crate::publish::standings::Standings;

/// Messages that may wait for a node's connection; what follows waits in the hub.
const OUTBOUND: usize = 16;

/// Serves the replicated state to nodes.
pub struct StateApi {
    publisher: Publisher,
    standings: Standings,
    shutdown: Shutdown,
}

impl StateApi {
    /// Serves what `publisher` holds, until the drain, and takes in what nodes say of credentials.
    #[must_use]
    pub const fn new(publisher: Publisher, standings: Standings, shutdown: Shutdown) -> Self {
        Self { publisher, standings, shutdown }
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
        let (publisher, drain) = (self.publisher.clone(), self.shutdown.drain_started());
        drop(self.shutdown.spawn("node session", async move {
            tokio::select! {
                () = session::run(publisher, request.into_inner(), outbound.clone()) => {}
                () = drain => {
                    // A node that does not read is cut off with its connection; it need not be told.
                    drop(outbound.try_send(Err(Status::unavailable("the control plane is stopping: connect again"))));
                }
            }
        }));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn report_credentials(
        &self,
        request: Request<proto::ReportCredentialsRequest>,
    ) -> Result<Response<proto::ReportCredentialsResponse>, Status> {
        let proto::ReportCredentialsRequest { node_id, credentials, .. } = request.into_inner();
        let node = convert::id(&node_id, "node_id", NodeId::from_slice);
        let node = node.map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.standings.report(node, credentials);
        Ok(Response::new(proto::ReportCredentialsResponse {}))
    }
}
