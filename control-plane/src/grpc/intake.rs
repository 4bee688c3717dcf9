//! `keyforge.fleet.v1.AuditIntakeService`.

use std::sync::Arc;

use keyforge_proto::convert::{ConvertError, id};
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::audit_intake_service_server::AuditIntakeService;
use keyforge_shared::id::{BootId, ChainId, NodeId, RequestId};
use tonic::{Code, Request, Response, Status};

use crate::admin::Admin;
use crate::audit::intake::{Intake, IntakeError};
use crate::audit::{Audit, AuditError};
use crate::store::{Store, chains};

/// Serves the intake to nodes.
pub struct IntakeApi {
    store: Store,
    audit: Arc<Audit>,
    intake: Intake,
    admin: Admin,
}

impl IntakeApi {
    /// Chains with `audit` in `store`; keys that must not go on are frozen by `admin`.
    #[must_use]
    pub fn new(store: Store, audit: Arc<Audit>, admin: Admin) -> Self {
        let intake = Intake::new(store.clone(), Arc::clone(&audit));
        Self { store, audit, intake, admin }
    }

    /// Freezes the key of a request that cost more than its bound. The records are chained already, so a failure here is only told.
    async fn freeze(&self, chain: ChainId, request: RequestId) {
        let key = async {
            let mut tx = self.store.read().await?;
            chains::head(&mut tx, chain).await
        };
        let key = key.await.ok().flatten().and_then(|head| head.key);
        let Some(key) = key else { return };
        let why = format!("request {request} cost more than its bound");
        if let Err(error) = self.admin.freeze_overspent_key(key, &why).await {
            tracing::error!(%key, %error, "a key that overspent could not be frozen");
        }
    }
}

#[tonic::async_trait]
impl AuditIntakeService for IntakeApi {
    async fn ship_records(
        &self,
        request: Request<proto::ShipRecordsRequest>,
    ) -> Result<Response<proto::ShipRecordsResponse>, Status> {
        let request = request.into_inner();
        let (node, boot) = life(&request.node_id, &request.boot_id).map_err(invalid)?;
        let shipment = self.intake.ship(node, boot, request.first_seq, request.records).await.map_err(refused)?;
        for (chain, request) in shipment.over_bound {
            self.freeze(chain, request).await;
        }
        Ok(Response::new(proto::ShipRecordsResponse { watermark: shipment.watermark }))
    }

    async fn report_gap(
        &self,
        request: Request<proto::ReportGapRequest>,
    ) -> Result<Response<proto::ReportGapResponse>, Status> {
        let request = request.into_inner();
        let (node, boot) = life(&request.node_id, &request.boot_id).map_err(invalid)?;
        let requests: Result<Vec<_>, _> =
            request.request_ids.iter().map(|bytes| id(bytes, "request_ids", RequestId::from_slice)).collect();
        self.audit.report_gap(&self.store, node, boot, &requests.map_err(invalid)?).await.map_err(refused)?;
        Ok(Response::new(proto::ReportGapResponse {}))
    }
}

fn life(node: &[u8], boot: &[u8]) -> Result<(NodeId, BootId), ConvertError> {
    Ok((id(node, "node_id", NodeId::from_slice)?, id(boot, "boot_id", BootId::from_slice)?))
}

fn invalid(error: ConvertError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn refused(error: IntakeError) -> Status {
    tracing::error!(%error, "audit records were not chained");
    let code = match &error {
        IntakeError::Audit(AuditError::Tampered(_)) => Code::DataLoss,
        IntakeError::Audit(_) => Code::Internal,
        IntakeError::Sequence { .. } => Code::FailedPrecondition,
        IntakeError::ForeignBoot(_) => Code::PermissionDenied,
        IntakeError::Unreadable { .. }
        | IntakeError::Contradiction { .. }
        | IntakeError::UnknownChain { .. }
        | IntakeError::Rewritten { .. } => Code::InvalidArgument,
    };
    Status::new(code, error.to_string())
}
