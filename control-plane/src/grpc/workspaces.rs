//! `keyforge.admin.v1.WorkspaceService`.

use keyforge_proto::admin::v1 as proto;
use keyforge_proto::admin::v1::workspace_service_server::WorkspaceService;
use keyforge_proto::convert::{self, required};
use tonic::{Request, Response, Status};

use super::operator_gate::operator;
use super::recorded::decoded;
use crate::admin::page::PageRequest;
use crate::admin::workspaces::{NewWorkspace, WorkspaceUpdate};
use crate::admin::{Admin, AdminError};
use crate::store::workspaces::StoredWorkspace;

/// Serves workspaces to operators.
pub struct WorkspaceApi {
    admin: Admin,
}

impl WorkspaceApi {
    /// Serves what `admin` does.
    #[must_use]
    pub const fn new(admin: Admin) -> Self {
        Self { admin }
    }
}

#[tonic::async_trait]
impl WorkspaceService for WorkspaceApi {
    async fn create_workspace(
        &self,
        request: Request<proto::CreateWorkspaceRequest>,
    ) -> Result<Response<proto::Workspace>, Status> {
        let caller = operator(&request)?;
        let proto::CreateWorkspaceRequest { name, request_limits, spend_limits, plan } = request.into_inner();
        let limits = convert::limits(request_limits, spend_limits)
            .and_then(|limits| Ok((limits.0, limits.1, convert::plan(plan, "plan")?)))
            .map_err(AdminError::from);
        let limits = decoded(&self.admin, &caller, "workspaces/Create", &name, limits).await?;
        let new = NewWorkspace { name, request_limits: limits.0, spend_limits: limits.1, plan: limits.2 };
        Ok(Response::new(encode(&self.admin.create_workspace(&caller, new).await?)))
    }

    async fn get_workspace(
        &self,
        request: Request<proto::GetWorkspaceRequest>,
    ) -> Result<Response<proto::Workspace>, Status> {
        let caller = operator(&request)?;
        let workspace = request.into_inner().workspace;
        Ok(Response::new(encode(&self.admin.get_workspace(&caller, &workspace).await?)))
    }

    async fn list_workspaces(
        &self,
        request: Request<proto::ListWorkspacesRequest>,
    ) -> Result<Response<proto::ListWorkspacesResponse>, Status> {
        let caller = operator(&request)?;
        let proto::ListWorkspacesRequest { page_size, page_token } = request.into_inner();
        let page = self.admin.list_workspaces(&caller, &PageRequest { size: page_size, token: page_token }).await?;
        let (workspaces, next_page_token) = page.into_messages(|workspace| encode(&workspace));
        Ok(Response::new(proto::ListWorkspacesResponse { workspaces, next_page_token }))
    }

    async fn update_workspace(
        &self,
        request: Request<proto::UpdateWorkspaceRequest>,
    ) -> Result<Response<proto::Workspace>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        let update = (|| {
            let mask = required(request.update_mask, "update_mask")?;
            let (requests, spend) = convert::limits(request.request_limits, request.spend_limits)?;
            let name = Some(request.name);
            let plan = Some(convert::plan(request.plan, "plan")?);
            let is_named = mask.paths.iter().any(|path| path == "plan");
            if is_named && request.plan == i32::from(proto::Plan::Unspecified) {
                return Err(AdminError::Invalid("plan: unspecified".to_owned()));
            }
            let values = WorkspaceUpdate { name, request_limits: Some(requests), spend_limits: Some(spend), plan };
            WorkspaceUpdate::masked(values, mask.paths.iter().map(String::as_str))
        })();
        let update = decoded(&self.admin, &caller, "workspaces/Update", "", update).await?;
        Ok(Response::new(encode(&self.admin.update_workspace(&caller, &request.workspace, update).await?)))
    }

    async fn delete_workspace(
        &self,
        request: Request<proto::DeleteWorkspaceRequest>,
    ) -> Result<Response<proto::DeleteWorkspaceResponse>, Status> {
        let caller = operator(&request)?;
        self.admin.delete_workspace(&caller, &request.into_inner().workspace).await?;
        Ok(Response::new(proto::DeleteWorkspaceResponse {}))
    }
}

fn encode(workspace: &StoredWorkspace) -> proto::Workspace {
    let record = &workspace.record;
    proto::Workspace {
        id: record.id.to_string(),
        name: record.name.clone(),
        request_limits: record.request_limits.iter().copied().map(Into::into).collect(),
        spend_limits: record.spend_limits.iter().copied().map(Into::into).collect(),
        plan: proto::Plan::from(record.plan).into(),
        created_at_ms: workspace.created_at.millis(),
        revision: workspace.revision,
    }
}
