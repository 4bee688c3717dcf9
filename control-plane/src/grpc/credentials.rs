//! `keyforge.admin.v1.CredentialService`.

use keyforge_proto::admin::v1 as proto;
use keyforge_proto::admin::v1::credential_service_server::CredentialService;
use keyforge_proto::convert::required;
use keyforge_shared::secret::SecretBytes;
use tonic::{Request, Response, Status};

use super::ids::credential_id;
use super::operator_gate::operator;
use super::recorded::decoded;
use crate::admin::credentials::{CredentialUpdate, NewCredential};
use crate::admin::page::PageRequest;
use crate::admin::{Admin, AdminError};
use crate::custody::Custodian;
use crate::custody::health::Fault;
use crate::publish::credential_reports::CredentialReports;
use crate::store::credentials::StoredCredential;

/// Serves credentials to operators. Secrets come in and never go out.
pub struct CredentialApi {
    admin: Admin,
    credential_reports: CredentialReports,
    custodian: Custodian,
}

impl CredentialApi {
    /// Serves what `admin` does, and tells how the nodes find credentials and which secrets cannot be opened.
    #[must_use]
    pub const fn new(admin: Admin, credential_reports: CredentialReports, custodian: Custodian) -> Self {
        Self { admin, credential_reports, custodian }
    }

    fn encode(&self, credential: &StoredCredential) -> proto::Credential {
        proto::Credential { standing: self.credential_reports.standing(credential.record.id), ..encode(credential) }
    }
}

#[tonic::async_trait]
impl CredentialService for CredentialApi {
    async fn add_credential(
        &self,
        request: Request<proto::AddCredentialRequest>,
    ) -> Result<Response<proto::Credential>, Status> {
        let caller = operator(&request)?;
        let proto::AddCredentialRequest { provider, secret, pool, base_url, limit_group, weight } =
            request.into_inner();
        let secret = SecretBytes::new(secret);
        let new = NewCredential { provider, secret, pool, base_url, limit_group, weight };
        Ok(Response::new(encode(&self.admin.add_credential(&caller, new).await?)))
    }

    async fn list_credentials(
        &self,
        request: Request<proto::ListCredentialsRequest>,
    ) -> Result<Response<proto::ListCredentialsResponse>, Status> {
        let caller = operator(&request)?;
        let proto::ListCredentialsRequest { page_size, page_token } = request.into_inner();
        let page = self.admin.list_credentials(&caller, &PageRequest { size: page_size, token: page_token }).await?;
        let ids = page.entries().map(|credential| credential.record.id);
        let mut faults = self.custodian.faults(ids).await.map_err(AdminError::from)?.into_iter();
        let (credentials, next_page_token) = page.into_messages(|credential| {
            let unreadable = faults.next().flatten().map(|fault: Fault| fault.to_string()).unwrap_or_default();
            proto::Credential { unreadable, ..self.encode(&credential) }
        });
        Ok(Response::new(proto::ListCredentialsResponse { credentials, next_page_token }))
    }

    async fn update_credential(
        &self,
        request: Request<proto::UpdateCredentialRequest>,
    ) -> Result<Response<proto::Credential>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        let update = (|| {
            let id = credential_id(&request.id)?;
            let mask = required(request.update_mask, "update_mask")?;
            let values = CredentialUpdate {
                enabled: Some(request.enabled),
                base_url: Some(request.base_url),
                limit_group: Some(request.limit_group),
                pool: Some(request.pool),
                weight: Some(request.weight),
            };
            let update = CredentialUpdate::masked(values, mask.paths.iter().map(String::as_str))?;
            Ok((id, update))
        })();
        let (id, update) = decoded(&self.admin, &caller, "credentials/Update", "", update).await?;
        Ok(Response::new(self.encode(&self.admin.update_credential(&caller, id, update).await?)))
    }

    async fn rotate_credential(
        &self,
        request: Request<proto::RotateCredentialRequest>,
    ) -> Result<Response<proto::Credential>, Status> {
        let caller = operator(&request)?;
        let proto::RotateCredentialRequest { id, secret } = request.into_inner();
        let secret = SecretBytes::new(secret);
        let id = credential_id(&id);
        let id = decoded(&self.admin, &caller, "credentials/Rotate", "", id).await?;
        Ok(Response::new(self.encode(&self.admin.rotate_credential(&caller, id, &secret).await?)))
    }

    async fn remove_credential(
        &self,
        request: Request<proto::RemoveCredentialRequest>,
    ) -> Result<Response<proto::RemoveCredentialResponse>, Status> {
        let caller = operator(&request)?;
        let id = credential_id(&request.into_inner().id);
        let id = decoded(&self.admin, &caller, "credentials/Remove", "", id).await?;
        self.admin.remove_credential(&caller, id).await?;
        Ok(Response::new(proto::RemoveCredentialResponse {}))
    }
}

fn encode(credential: &StoredCredential) -> proto::Credential {
    let record = &credential.record;
    proto::Credential {
        id: record.id.to_string(),
        provider: record.provider.0.clone(),
        pool: record.pool.clone(),
        base_url: record.base_url.clone(),
        limit_group: record.limit_group.clone(),
        enabled: record.enabled,
        secret_version: record.secret_version,
        created_at_ms: credential.created_at.millis(),
        weight: record.weight,
        standing: None,
        unreadable: String::new(),
    }
}
