//! `keyforge.admin.v1.OperatorService`.

use keyforge_proto::admin::v1 as proto;
use keyforge_proto::admin::v1::operator_service_server::OperatorService;
use keyforge_proto::convert;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::WorkspaceId;
use tonic::{Request, Response, Status};

use super::operator_gate::operator;
use super::recorded::decoded;
use crate::admin::operators::{NewExpiry, NewOperator};
use crate::admin::page::PageRequest;
use crate::admin::{Admin, AdminError};
use crate::store::operators::Operator;

/// Serves operators to owners.
pub struct OperatorApi {
    admin: Admin,
}

impl OperatorApi {
    /// Serves what `admin` does.
    #[must_use]
    pub const fn new(admin: Admin) -> Self {
        Self { admin }
    }

    fn encode(&self, operator: &Operator) -> proto::Operator {
        proto::Operator {
            id: operator.id.to_string(),
            name: operator.name.clone(),
            role: proto::Role::from(operator.role).into(),
            workspace_id: operator.workspace.as_ref().map(WorkspaceId::to_string).unwrap_or_default(),
            workspace_name: operator.workspace.map(|id| self.admin.workspace_name(id)).unwrap_or_default(),
            created_at_ms: operator.created_at.millis(),
            expires_at_ms: operator.expires_at.map(Timestamp::millis),
            revoked_at_ms: operator.revoked_at.map(Timestamp::millis),
        }
    }
}

#[tonic::async_trait]
impl OperatorService for OperatorApi {
    async fn create_operator(
        &self,
        request: Request<proto::CreateOperatorRequest>,
    ) -> Result<Response<proto::CreateOperatorResponse>, Status> {
        let caller = operator(&request)?;
        let proto::CreateOperatorRequest { name, role, workspace, expires_at_ms } = request.into_inner();
        let new = (|| {
            let role = convert::role(role, "role")?;
            let expires_at = expires_at_ms.map(|at| convert::time(at, "expires_at_ms")).transpose()?;
            Ok(NewOperator { name, role, workspace, expires_at })
        })();
        let new = decoded(&self.admin, &caller, "operators/Create", "", new).await?;
        let (operator, token) = self.admin.create_operator(&caller, new).await?;
        let operator = Some(self.encode(&operator));
        Ok(Response::new(proto::CreateOperatorResponse { operator, token: token.to_string() }))
    }

    async fn list_operators(
        &self,
        request: Request<proto::ListOperatorsRequest>,
    ) -> Result<Response<proto::ListOperatorsResponse>, Status> {
        let caller = operator(&request)?;
        let proto::ListOperatorsRequest { page_size, page_token } = request.into_inner();
        let page = self.admin.list_operators(&caller, &PageRequest { size: page_size, token: page_token }).await?;
        let (operators, next_page_token) = page.into_messages(|operator| self.encode(&operator));
        Ok(Response::new(proto::ListOperatorsResponse { operators, next_page_token }))
    }

    async fn set_operator_role(
        &self,
        request: Request<proto::SetOperatorRoleRequest>,
    ) -> Result<Response<proto::Operator>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        let role = convert::role(request.role, "role").map_err(AdminError::from);
        let role = decoded(&self.admin, &caller, "operators/SetRole", "", role).await?;
        Ok(Response::new(self.encode(&*self.admin.set_operator_role(&caller, &request.operator, role).await?)))
    }

    async fn rotate_operator(
        &self,
        request: Request<proto::RotateOperatorRequest>,
    ) -> Result<Response<proto::RotateOperatorResponse>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        let expiry = match request.expires_at_ms {
            None => Ok(NewExpiry::AsBefore),
            Some(0) => Ok(NewExpiry::Never),
            Some(at) => convert::time(at, "expires_at_ms").map(NewExpiry::At).map_err(AdminError::from),
        };
        let expiry = decoded(&self.admin, &caller, "operators/Rotate", "", expiry).await?;
        let (operator, token) = self.admin.rotate_operator(&caller, &request.operator, expiry).await?;
        let operator = Some(self.encode(&operator));
        Ok(Response::new(proto::RotateOperatorResponse { operator, token: token.to_string() }))
    }

    async fn revoke_operator(
        &self,
        request: Request<proto::RevokeOperatorRequest>,
    ) -> Result<Response<proto::Operator>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        Ok(Response::new(self.encode(&*self.admin.revoke_operator(&caller, &request.operator).await?)))
    }
}
