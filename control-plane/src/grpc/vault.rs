//! `keyforge.admin.v1.VaultService`.

use std::pin::Pin;

use futures_util::{Stream, stream};
use keyforge_proto::admin::v1 as proto;
use keyforge_proto::admin::v1::vault_service_server::VaultService;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::operator_gate::operator;
use super::recorded::recorded;
use crate::admin::Admin;
use crate::custody::holders::KeyHolder;
use crate::custody::{Custodian, Progress, ROTATE, VaultKeyStatus};
use crate::vault::MOST_WRAPS;

const STATUS: &str = "vault/Status";
/// What stands where a credential's id would for the private key of the nodes' authority.
const NODE_AUTHORITY: &str = "node_authority";

/// Serves the vault's status and its rotation to operators.
pub struct VaultApi {
    admin: Admin,
    custodian: Custodian,
}

impl VaultApi {
    /// Serves what `custodian` does; `admin` says who may ask.
    #[must_use]
    pub const fn new(admin: Admin, custodian: Custodian) -> Self {
        Self { admin, custodian }
    }
}

#[tonic::async_trait]
impl VaultService for VaultApi {
    type RotateVaultStream = Pin<Box<dyn Stream<Item = Result<proto::RotationProgress, Status>> + Send>>;

    async fn get_vault_status(
        &self,
        request: Request<proto::GetVaultStatusRequest>,
    ) -> Result<Response<proto::VaultStatus>, Status> {
        let caller = operator(&request)?;
        let status = recorded(&self.admin, &caller, STATUS, "", self.custodian.status().await).await?;
        let retired = retired(&status.keys);
        let unreadable = status.findings.unreadable.iter().map(|(credential, fault)| proto::UnreadableSecret {
            credential_id: credential.to_string(),
            reason: fault.to_string(),
        });
        let authority = status
            .authority_fault
            .map(|reason| proto::UnreadableSecret { credential_id: NODE_AUTHORITY.to_owned(), reason });
        let ids: Vec<_> = status.keys.iter().map(|key| (key.key.term, key.key.id.to_string())).collect();
        Ok(Response::new(proto::VaultStatus {
            unreadable: unreadable.chain(authority).collect(),
            holders: status.holders.into_iter().map(|one| holder(one, &ids)).collect(),
            secrets: status.findings.credentials,
            rotation: status.rotation.as_ref().map(|progress| encode(progress, retired)),
            keys: status.keys.into_iter().map(key).collect(),
        }))
    }

    async fn rotate_vault(
        &self,
        request: Request<proto::RotateVaultRequest>,
    ) -> Result<Response<Self::RotateVaultStream>, Status> {
        let caller = operator(&request)?;
        let watched = match self.custodian.rotate(&caller).await {
            Ok(watched) => watched,
            Err(error) => return Err(self.admin.refuse(&caller, ROTATE, "", error).await.into()),
        };
        Ok(Response::new(Box::pin(follow(watched, self.custodian.clone()))))
    }
}

/// What a rotation says of itself until it ends or is interrupted.
fn follow(
    watched: watch::Receiver<Option<Progress>>,
    custodian: Custodian,
) -> impl Stream<Item = Result<proto::RotationProgress, Status>> + Send {
    stream::try_unfold((watched, custodian, true, false), |(mut watched, custodian, first, ended)| async move {
        // The sender of a rotation that had nothing to do is gone, and what it said is there.
        if ended || (!first && watched.changed().await.is_err()) {
            return Ok(None);
        }
        let progress = watched.borrow_and_update().clone();
        let Some(progress) = progress else { return Ok(None) };
        let ended = !progress.is_running();
        let retired = if ended { retired(&custodian.status().await?.keys) } else { Vec::new() };
        Ok::<_, Status>(Some((encode(&progress, retired), (watched, custodian, false, ended))))
    })
}

fn retired(keys: &[VaultKeyStatus]) -> Vec<String> {
    keys.iter().filter(|key| key.is_retired()).filter_map(|key| key.source.clone()).collect()
}

fn encode(progress: &Progress, retired: Vec<String>) -> proto::RotationProgress {
    let state = match progress {
        Progress { done: true, .. } => proto::RotationState::Done,
        Progress { interrupted: Some(_), .. } => proto::RotationState::Interrupted,
        Progress { .. } => proto::RotationState::Running,
    };
    proto::RotationProgress {
        state: state.into(),
        key_id: progress.to.to_string(),
        total: progress.total,
        rewrapped: progress.rewrapped,
        unreadable: progress.unreadable,
        reason: progress.interrupted.clone().unwrap_or_default(),
        retired,
    }
}

fn holder(holder: KeyHolder, ids: &[(u32, String)]) -> proto::VaultHolder {
    let id = |term: u32| ids.iter().find(|(known, _)| *known == term).map(|(_, id)| id.clone());
    proto::VaultHolder {
        name: holder.name,
        key_ids: holder.terms.into_iter().filter_map(id).collect(),
        seen_at_ms: holder.seen_at.millis(),
        is_this: holder.is_this,
    }
}

fn key(status: VaultKeyStatus) -> proto::VaultKey {
    proto::VaultKey {
        id: status.key.id.to_string(),
        term: status.key.term,
        source: status.source.unwrap_or_default(),
        current: status.current,
        wanted: status.wanted,
        node_authority: status.node_authority,
        secrets: status.secrets.secrets,
        unreadable: status.secrets.unreadable,
        audit_root: status.audit_root,
        wraps: status.key.wraps,
        most_wraps: MOST_WRAPS,
        added_at_ms: status.key.added_at.millis(),
    }
}
