//! Records and grants over a real socket.

use keyforge_proto::fleet::v1::audit_intake_service_server::{AuditIntakeService, AuditIntakeServiceServer};
use keyforge_proto::fleet::v1::grant_service_server::{GrantService, GrantServiceServer};
use keyforge_proto::fleet::v1::{
    AcquireGrantsRequest, AcquireGrantsResponse, CloseBootResponse, LeaveEpochsRequest, LeaveEpochsResponse,
    ReportGapResponse, ReturnGrantsRequest, ReturnGrantsResponse, ShipRecordsResponse,
};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, async_trait};

use super::*;
use crate::audit::Identity;
use crate::audit::fixture::{self, identity, record};
use crate::audit::memory::MemorySink;

/// A control plane that keeps what it is sent in a [`MemorySink`].
struct ControlPlane(std::sync::Arc<MemorySink>);

fn admitted<T>(request: Request<T>) -> Result<T, Status> {
    match request.metadata().get("authorization") {
        Some(token) if token == "Bearer fleet" => Ok(request.into_inner()),
        _ => Err(Status::unauthenticated("who are you?")),
    }
}

fn boot(bytes: &[u8]) -> BootId {
    BootId::from_slice(bytes).unwrap()
}

#[async_trait]
impl AuditIntakeService for ControlPlane {
    async fn ship_records(
        &self,
        request: Request<ShipRecordsRequest>,
    ) -> Result<Response<ShipRecordsResponse>, Status> {
        let request = admitted(request)?;
        let records: Vec<Bytes> = request.records.into_iter().map(Bytes::from).collect();
        let node = NodeId::from_slice(&request.node_id).unwrap();
        let begin = Begin { seq: request.first_seq, earlier_gone: request.earlier_gone };
        let watermark = self.0.ship(node, boot(&request.boot_id), begin, &records).await;
        let watermark = watermark.map_err(|error| Status::unavailable(error.message))?;
        Ok(Response::new(ShipRecordsResponse { watermark }))
    }

    async fn report_gap(&self, request: Request<ReportGapRequest>) -> Result<Response<ReportGapResponse>, Status> {
        let request = admitted(request)?;
        let node = NodeId::from_slice(&request.node_id).unwrap();
        let requests: Vec<RequestId> = request.request_ids.iter().filter_map(|id| RequestId::from_slice(id)).collect();
        self.0.report_gap(node, boot(&request.boot_id), request.last_seq, &requests).await.unwrap();
        Ok(Response::new(ReportGapResponse {}))
    }
}

#[async_trait]
impl GrantService for ControlPlane {
    async fn acquire_grants(
        &self,
        _: Request<AcquireGrantsRequest>,
    ) -> Result<Response<AcquireGrantsResponse>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    async fn return_grants(&self, _: Request<ReturnGrantsRequest>) -> Result<Response<ReturnGrantsResponse>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    async fn leave_epochs(&self, _: Request<LeaveEpochsRequest>) -> Result<Response<LeaveEpochsResponse>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }

    async fn close_boot(&self, request: Request<CloseBootRequest>) -> Result<Response<CloseBootResponse>, Status> {
        let request = admitted(request)?;
        self.0.close_boot(boot(&request.boot_id), request.last_seq).await.unwrap();
        Ok(Response::new(CloseBootResponse { epochs_closed: 1 }))
    }
}

async fn served() -> (std::sync::Arc<MemorySink>, Channel) {
    let kept = std::sync::Arc::new(MemorySink::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .add_service(AuditIntakeServiceServer::new(ControlPlane(std::sync::Arc::clone(&kept))))
        .add_service(GrantServiceServer::new(ControlPlane(std::sync::Arc::clone(&kept))))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    drop(keyforge_runtime::shutdown::Shutdown::new().spawn_background("control-plane", server));
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    (kept, channel)
}

fn with_token(channel: Channel, token: &'static str) -> impl AuditSink {
    let add = move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", MetadataValue::from_static(token));
        Ok(request)
    };
    GrpcSink::new(InterceptedService::new(channel, add))
}

#[tokio::test]
async fn everything_arrives_over_a_socket_as_it_was_sent() {
    let (kept, channel) = served().await;
    let sink = with_token(channel, "Bearer fleet");
    let Identity { node, boot, .. } = identity(1);
    let records: Vec<Bytes> = (1..=3).map(|number| Bytes::from(record(number).encode())).collect();
    assert_eq!(sink.ship(node, boot, Begin::at(1), &records).await, Ok(3));
    assert_eq!(sink.ship(node, boot, Begin::at(2), &[]).await, Ok(3));
    assert!(kept.records(boot).into_values().eq(records));
    sink.report_gap(node, boot, 3, &[fixture::request(9)]).await.unwrap();
    assert_eq!(kept.gaps(), [(boot, 3, vec![fixture::request(9)])]);
    sink.close_boot(boot, 3).await.unwrap();
    assert_eq!(kept.closed(), [(boot, 3)]);
}

#[tokio::test]
async fn refusals_that_only_an_operator_can_lift_are_told_apart_from_outages() {
    let (kept, channel) = served().await;
    let Identity { node, boot, .. } = identity(1);
    let stranger = with_token(channel.clone(), "Bearer other");
    let refused = stranger.ship(node, boot, Begin::at(1), &[]).await.unwrap_err();
    assert!(!refused.retryable && refused.message.contains("who are you?"), "{refused:?}");
    kept.set_reachable_for(Some(0));
    let outage = with_token(channel, "Bearer fleet").ship(node, boot, Begin::at(1), &[]).await.unwrap_err();
    assert!(outage.retryable, "{outage:?}");
    let closed = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    assert!(with_token(closed, "Bearer fleet").ship(node, boot, Begin::at(1), &[]).await.unwrap_err().retryable);
}
