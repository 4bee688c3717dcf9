//! `keyforge.fleet.v1.StateService`: one session per node's stream.

use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::state_service_server::StateService;
use keyforge_runtime::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::publish::session::{self, Publisher};

/// Messages that may wait for a node's connection; what follows waits in the hub.
const OUTBOUND: usize = 16;

/// Serves the replicated state to nodes.
pub struct StateApi {
    publisher: Publisher,
    shutdown: Shutdown,
}

impl StateApi {
    /// Serves what `publisher` holds, until the drain.
    #[must_use]
    pub const fn new(publisher: Publisher, shutdown: Shutdown) -> Self {
        Self { publisher, shutdown }
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
}
