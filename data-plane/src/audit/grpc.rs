//! The control plane as the sink of audit records, over gRPC.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use keyforge_proto::fleet::v1::audit_intake_service_client::AuditIntakeServiceClient;
use keyforge_proto::fleet::v1::grant_service_client::GrantServiceClient;
use keyforge_proto::fleet::v1::{CloseBootRequest, ReportGapRequest, ShipRecordsRequest};
use keyforge_shared::id::{BootId, NodeId, RequestId};
use tonic::client::GrpcService;
use tonic::codegen::StdError;
use tonic::{Code, Response, Status};

use crate::audit::sink::{AuditSink, Begin, SinkError};

/// How long one call may take before it is made again.
const CALL: Duration = Duration::from_secs(15);

/// Ships to the control plane over `T`: a channel that adds the fleet token, such as tonic's `InterceptedService`.
#[derive(Clone, Debug)]
pub struct GrpcSink<T> {
    intake: AuditIntakeServiceClient<T>,
    grants: GrantServiceClient<T>,
}

impl<T> GrpcSink<T>
where
    T: GrpcService<tonic::body::Body> + Clone,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    /// A sink over an authenticated channel.
    #[must_use]
    pub fn new(channel: T) -> Self {
        Self { intake: AuditIntakeServiceClient::new(channel.clone()), grants: GrantServiceClient::new(channel) }
    }
}

impl<T> AuditSink for GrpcSink<T>
where
    T: GrpcService<tonic::body::Body> + Clone + Send + Sync + 'static,
    T::Future: Send,
    T::Error: Into<StdError>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    async fn ship(&self, node: NodeId, boot: BootId, begin: Begin, records: &[Bytes]) -> Result<u64, SinkError> {
        let request = ShipRecordsRequest {
            node_id: node.as_bytes().to_vec(),
            boot_id: boot.as_bytes().to_vec(),
            first_seq: begin.seq,
            earlier_gone: begin.earlier_gone,
            // The only copy: the message owns its bytes, and the batch is kept in case it must be sent again.
            records: records.iter().map(|record| record.to_vec()).collect(),
        };
        Ok(call(self.intake.clone().ship_records(request)).await?.watermark)
    }

    async fn report_gap(
        &self,
        node: NodeId,
        boot: BootId,
        last_seq: u64,
        requests: &[RequestId],
    ) -> Result<(), SinkError> {
        let request = ReportGapRequest {
            node_id: node.as_bytes().to_vec(),
            boot_id: boot.as_bytes().to_vec(),
            last_seq,
            request_ids: requests.iter().map(|request| request.as_bytes().to_vec()).collect(),
        };
        call(self.intake.clone().report_gap(request)).await.map(drop)
    }

    async fn close_boot(&self, boot: BootId, last_seq: u64) -> Result<(), SinkError> {
        let request = CloseBootRequest { boot_id: boot.as_bytes().to_vec(), last_seq };
        call(self.grants.clone().close_boot(request)).await.map(drop)
    }
}

async fn call<M>(answer: impl Future<Output = Result<Response<M>, Status>>) -> Result<M, SinkError> {
    match tokio::time::timeout(CALL, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(SinkError {
            retryable: retryable(status.code()),
            message: format!("{}: {}", status.code(), status.message()),
        }),
        Err(_) => Err(SinkError { retryable: true, message: "no answer in time".to_owned() }),
    }
}

/// Whether a call that ended so may succeed when it is made again unchanged.
const fn retryable(code: Code) -> bool {
    !matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
    )
}

#[cfg(test)]
#[path = "grpc_tests.rs"]
mod tests;
