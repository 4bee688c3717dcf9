//! `keyforge.admin.v1.ModelService`.

use keyforge_proto::admin::v1 as proto;
use keyforge_proto::admin::v1::model_service_server::ModelService;
use keyforge_proto::convert::{ConvertError, required};
use keyforge_shared::catalog::Model;
use tonic::{Request, Response, Status};

use super::operator_gate::operator;
use super::recorded::decoded;
use crate::admin::page::PageRequest;
use crate::admin::{Admin, AdminError};

/// Serves the model catalogue to operators.
pub struct ModelApi {
    admin: Admin,
}

impl ModelApi {
    /// Serves what `admin` does.
    #[must_use]
    pub const fn new(admin: Admin) -> Self {
        Self { admin }
    }
}

#[tonic::async_trait]
impl ModelService for ModelApi {
    async fn list_models(
        &self,
        request: Request<proto::ListModelsRequest>,
    ) -> Result<Response<proto::ListModelsResponse>, Status> {
        let caller = operator(&request)?;
        let proto::ListModelsRequest { page_size, page_token } = request.into_inner();
        let page = self.admin.list_models(&caller, &PageRequest { size: page_size, token: page_token }).await?;
        let (models, next_page_token) = page.into_messages(|model| proto::Model::from(&model));
        Ok(Response::new(proto::ListModelsResponse { models, next_page_token }))
    }

    async fn set_model(&self, request: Request<proto::SetModelRequest>) -> Result<Response<proto::Model>, Status> {
        let caller = operator(&request)?;
        let message = request.into_inner().model;
        let name = message.as_ref().map_or_else(String::new, |model| model.name.clone());
        let model = required(message, "model").and_then(|model| Model::try_from(model).map_err(within_model));
        let model = decoded(&self.admin, &caller, "models/Set", &name, model.map_err(AdminError::from)).await?;
        Ok(Response::new((&self.admin.set_model(&caller, model).await?).into()))
    }

    async fn remove_model(
        &self,
        request: Request<proto::RemoveModelRequest>,
    ) -> Result<Response<proto::RemoveModelResponse>, Status> {
        let caller = operator(&request)?;
        self.admin.remove_model(&caller, &request.into_inner().name).await?;
        Ok(Response::new(proto::RemoveModelResponse {}))
    }
}

fn within_model(error: ConvertError) -> ConvertError {
    error.within("model")
}
