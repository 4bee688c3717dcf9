//! `keyforge.admin.v1.KeyService`.

use keyforge_proto::admin::v1 as proto;
use keyforge_proto::admin::v1::key_service_server::KeyService;
use keyforge_proto::convert::{ConvertError, required};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::policy::Policy;
use tonic::{Request, Response, Status};

use super::auth::{decoded, operator};
use super::ids::key_id;
use crate::admin::key_update::KeyMask;
use crate::admin::keys::{KeyUpdate, NewKey};
use crate::admin::page::PageRequest;
use crate::admin::{Admin, AdminError};
use crate::store::keys::StoredKey;

/// Serves virtual keys to operators.
pub struct KeyApi {
    admin: Admin,
}

impl KeyApi {
    /// Serves what `admin` does.
    #[must_use]
    pub const fn new(admin: Admin) -> Self {
        Self { admin }
    }

    fn encode(&self, key: &StoredKey) -> proto::Key {
        proto::Key {
            id: key.record.id.to_string(),
            name: key.record.name.clone(),
            status: proto::KeyStatus::from(key.record.status).into(),
            policy: Some((&key.record.policy).into()),
            created_at_ms: key.created_at.millis(),
            revoked_at_ms: key.revoked_at.map(Timestamp::millis),
            revision: key.revision,
            workspace_id: key.record.workspace.to_string(),
            workspace_name: self.admin.workspace_name(key.record.workspace),
        }
    }
}

#[tonic::async_trait]
impl KeyService for KeyApi {
    async fn create_key(
        &self,
        request: Request<proto::CreateKeyRequest>,
    ) -> Result<Response<proto::CreateKeyResponse>, Status> {
        let caller = operator(&self.admin, &request, "keys/Create").await?;
        let proto::CreateKeyRequest { name, policy, workspace } = request.into_inner();
        let policy = decode_policy(policy.unwrap_or_default()).map_err(AdminError::from);
        let policy = decoded(&self.admin, &caller, "keys/Create", &name, policy).await?;
        let (key, token) = self.admin.create_key(&caller, NewKey { name, policy, workspace }).await?;
        Ok(Response::new(proto::CreateKeyResponse { key: Some(self.encode(&key)), token: token.expose().to_owned() }))
    }

    async fn get_key(&self, request: Request<proto::GetKeyRequest>) -> Result<Response<proto::Key>, Status> {
        let caller = operator(&self.admin, &request, "keys/Get").await?;
        let id = request.into_inner().id;
        let key = key_id(&id);
        let key = decoded(&self.admin, &caller, "keys/Get", "", key).await?;
        Ok(Response::new(self.encode(&self.admin.get_key(&caller, key).await?)))
    }

    async fn list_keys(
        &self,
        request: Request<proto::ListKeysRequest>,
    ) -> Result<Response<proto::ListKeysResponse>, Status> {
        let caller = operator(&self.admin, &request, "keys/List").await?;
        let proto::ListKeysRequest { page_size, page_token } = request.into_inner();
        let page = self.admin.list_keys(&caller, &PageRequest { size: page_size, token: page_token }).await?;
        let keys = page.entries.iter().map(|key| self.encode(key)).collect();
        Ok(Response::new(proto::ListKeysResponse { keys, next_page_token: page.next.unwrap_or_default() }))
    }

    async fn update_key(&self, request: Request<proto::UpdateKeyRequest>) -> Result<Response<proto::Key>, Status> {
        let caller = operator(&self.admin, &request, "keys/Update").await?;
        let request = request.into_inner();
        let update = (|| {
            let mask = required(request.update_mask, "update_mask")?;
            let mask = KeyMask::parse(mask.paths.iter().map(String::as_str))?;
            let policy = request.policy.map(decode_policy).transpose()?;
            let update =
                KeyUpdate { mask, name: request.name, policy, frozen: request.frozen, workspace: request.workspace };
            Ok((key_id(&request.id)?, update))
        })();
        let (id, update) = decoded(&self.admin, &caller, "keys/Update", "", update).await?;
        Ok(Response::new(self.encode(&self.admin.update_key(&caller, id, update).await?)))
    }

    async fn revoke_key(&self, request: Request<proto::RevokeKeyRequest>) -> Result<Response<proto::Key>, Status> {
        let caller = operator(&self.admin, &request, "keys/Revoke").await?;
        let id = request.into_inner().id;
        let key = key_id(&id);
        let key = decoded(&self.admin, &caller, "keys/Revoke", "", key).await?;
        Ok(Response::new(self.encode(&self.admin.revoke_key(&caller, key).await?)))
    }
}

fn decode_policy(policy: proto::Policy) -> Result<Policy, ConvertError> {
    policy.try_into().map_err(|error: ConvertError| error.within("policy"))
}
