//! `keyforge.fleet.v1.AuditIntakeService`.

use std::sync::Arc;

use keyforge_proto::convert::{ConvertError, id};
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::audit_intake_service_server::AuditIntakeService;
use keyforge_shared::id::{BootId, KeyId, NodeId, RequestId};
use tokio::sync::Mutex;
use tonic::{Code, Request, Response, Status};

use super::node_gate::NodeGate;
use super::status::told;
use crate::admin::Admin;
use crate::audit::intake::{Batch, Intake, IntakeError, Taken};
use crate::audit::{Audit, AuditError};
use crate::metrics::LabelledCounter;
use crate::store::{Store, StoreError, overspent};

/// Serves the intake to nodes.
pub struct IntakeApi {
    store: Store,
    audit: Arc<Audit>,
    intake: Intake,
    admin: Admin,
    gate: NodeGate,
    passed_over: LabelledCounter,
    /// Held while noted keys are paused: a second look at the notes comes after the pause that took them away, so that it cannot pause a key
    /// again which an operator has resumed in between.
    pausing: Mutex<()>,
}

impl IntakeApi {
    /// Chains with `audit` in `store` what those ship whom `gate` lets pass; keys that must not go on are paused by `admin`. What is passed over is
    /// counted in `passed_over`.
    #[must_use]
    pub fn new(
        store: Store,
        audit: Arc<Audit>,
        admin: Admin,
        (gate, passed_over): (NodeGate, LabelledCounter),
    ) -> Self {
        let intake = Intake::new(store.clone(), Arc::clone(&audit));
        Self { store, audit, intake, admin, gate, passed_over, pausing: Mutex::default() }
    }

    /// Pauses every key that is noted as one that overspent.
    ///
    /// A pause needs the administration's turn and is published after its commit, so it cannot be part of the transaction that chains the
    /// records. The note is, and the pause takes it away in its own. Whatever comes between (a crash, a caller who hung up, a full disk), the
    /// note stays, and the next shipment of any node leads to the pause. Records that are shipped again are not chained again, so
    /// they make no note, and a key that an operator has resumed stays so.
    async fn pause_overspent(&self) -> Result<(), StoreError> {
        if self.overspent().await?.is_empty() {
            return Ok(());
        }
        let _turn = self.pausing.lock().await;
        for (key, request) in self.overspent().await? {
            let why = format!("request {request} cost more than its bound");
            if let Err(error) = self.admin.pause_overspent_key(key, &why).await {
                match error.is_passing() {
                    true => {
                        tracing::warn!(%key, %error, "a key that overspent cannot be paused while the database is away; the next shipment tries again")
                    }
                    false => {
                        tracing::error!(%key, %error, "a key that overspent could not be paused; the next shipment tries again")
                    }
                }
            }
        }
        Ok(())
    }

    /// Says aloud what was passed over.
    fn passed_over(&self, (node, boot): (NodeId, BootId), taken: Taken) {
        let Taken { watermark, unchained, lost } = taken;
        if unchained > 0 {
            self.passed_over.add(unchained, "unknown_chain");
            tracing::warn!(%node, %boot, records = unchained, watermark,
                "records name chains that no virtual key here has; they count for no key, and the administrators' chain names them");
        }
        if lost > 0 {
            self.passed_over.add(lost, "gone");
            tracing::warn!(%node, %boot, records = lost, watermark,
                "records that were acknowledged before are gone here and at their node; the administrators' chain names their numbers");
        }
    }

    async fn overspent(&self) -> Result<Vec<(KeyId, RequestId)>, StoreError> {
        overspent::noted(&mut *self.store.read().await?).await
    }
}

#[tonic::async_trait]
impl AuditIntakeService for IntakeApi {
    async fn ship_records(
        &self,
        request: Request<proto::ShipRecordsRequest>,
    ) -> Result<Response<proto::ShipRecordsResponse>, Status> {
        let (node, boot) = life(&request.get_ref().node_id, &request.get_ref().boot_id).map_err(invalid)?;
        self.gate.check(&request, Some(node), Some(boot)).await?;
        let request = request.into_inner();
        let proto::ShipRecordsRequest { first_seq, records, earlier_gone, .. } = request;
        let batch = Batch { node, boot, first_seq, earlier_gone, records };
        let taken = self.intake.ship(batch).await.map_err(refused)?;
        self.passed_over((node, boot), taken);
        if let Err(error) = self.pause_overspent().await {
            // The records are chained all the same, and that is what the node asks for.
            error.log("the keys that overspent could not be read, and the next shipment tries again");
        }
        Ok(Response::new(proto::ShipRecordsResponse { watermark: taken.watermark }))
    }

    async fn report_gap(
        &self,
        request: Request<proto::ReportGapRequest>,
    ) -> Result<Response<proto::ReportGapResponse>, Status> {
        let (node, boot) = life(&request.get_ref().node_id, &request.get_ref().boot_id).map_err(invalid)?;
        self.gate.check(&request, Some(node), Some(boot)).await?;
        let request = request.into_inner();
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
    if let IntakeError::Audit(AuditError::Store(passing)) = &error
        && passing.is_passing()
    {
        tracing::warn!(%error, "audit records were not chained: the database is away");
        return Status::unavailable(told(passing));
    }
    tracing::error!(%error, "audit records were not chained");
    let code = match &error {
        IntakeError::Audit(AuditError::Tampered(_)) => Code::DataLoss,
        IntakeError::Audit(_) => Code::Internal,
        IntakeError::Sequence { .. } => Code::FailedPrecondition,
        IntakeError::ForeignBoot(_) => Code::PermissionDenied,
        IntakeError::Unreadable { .. } | IntakeError::Contradiction { .. } | IntakeError::Rewritten { .. } => {
            Code::InvalidArgument
        }
    };
    Status::new(
        code,
        match &error {
            IntakeError::Audit(AuditError::Store(error)) => told(error),
            other => other.to_string(),
        },
    )
}
