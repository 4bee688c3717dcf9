//! Credentials' secrets on their way to a node: opened from the vault, sealed for the boot that asks, never kept.

use std::sync::Arc;

use keyforge_proto::fleet::v1 as proto;
use keyforge_shared::fleet_seal::{Binding, BootPublicKey, SharedToken};
use keyforge_shared::id::{BootId, CredentialId, NodeId};
use keyforge_shared::seal::SealError;
use keyforge_shared::secret::SecretBytes;
use keyforge_shared::state::{Resource, ResourceId, State};

use crate::custody::health::{self, Fault};
use crate::nodes::serves::Serves;
use crate::store::{Store, StoreError, vault_records};
use crate::vault::Vault;

/// Where secrets come from.
#[derive(Clone)]
pub struct Secrets {
    store: Store,
    vault: Arc<Vault>,
    /// What nodes without a certificate have in common with the control plane.
    token: Option<Arc<SharedToken>>,
    serves: Serves,
}

/// Seals secrets for one life of one node.
pub struct Sealer {
    secrets: Secrets,
    key: BootPublicKey,
    node: NodeId,
    boot: BootId,
}

impl Secrets {
    /// Secrets out of `vault`, for nodes that hold `fleet_token`.
    #[must_use]
    pub fn new(store: Store, vault: Arc<Vault>, fleet_token: &SecretBytes) -> Self {
        Self { store, vault, token: Some(Arc::new(SharedToken::of(fleet_token))), serves: Serves::default() }
    }

    /// The same for a node that has joined: its certificate has told who it is, it knows no token, and it is given what it serves.
    #[must_use]
    pub fn for_joined(&self, serves: Serves) -> Self {
        Self { token: None, serves, ..self.clone() }
    }

    /// Those of `credentials` that the node is given, by what `state` says of them.
    #[must_use]
    pub fn given(&self, state: &State, credentials: Vec<CredentialId>) -> Vec<CredentialId> {
        let is_given = |id: &CredentialId| match state.get(&ResourceId::Credential(*id)) {
            Some(Resource::Credential(known)) => self.serves.includes(&known.provider),
            _ => false,
        };
        credentials.into_iter().filter(is_given).collect()
    }

    /// Seals to the `key` of one life of one node.
    #[must_use]
    pub fn sealer(&self, node: NodeId, boot: BootId, key: BootPublicKey) -> Sealer {
        Sealer { secrets: self.clone(), key, node, boot }
    }
}

impl Sealer {
    /// The newest secrets of `credentials`, in their order. One that has been removed in the meantime is left out.
    ///
    /// # Errors
    /// [`StoreError`]. One secret that cannot be opened does not stop the others: it is logged and left out.
    pub async fn seal(
        &self,
        credentials: impl IntoIterator<Item = CredentialId> + Send,
    ) -> Result<Vec<proto::SealedSecret>, StoreError> {
        let credentials: Vec<CredentialId> = credentials.into_iter().collect();
        if credentials.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = self.secrets.store.read().await?;
        let mut messages = Vec::with_capacity(credentials.len());
        for credential in credentials {
            let Some(kept) = vault_records::kept(&mut read, credential).await? else { continue };
            let opened = health::open(&self.secrets.vault, &kept);
            let resealed = opened.and_then(|(version, secret)| {
                self.reseal(credential, version, &secret).map_err(|error| Fault::Vault(error.into()))
            });
            match resealed {
                Ok(message) => messages.push(message),
                Err(reason) => tracing::error!(%credential, %reason, "a secret cannot be sent to a node"),
            }
        }
        Ok(messages)
    }

    fn reseal(
        &self,
        credential: CredentialId,
        version: u32,
        secret: &SecretBytes,
    ) -> Result<proto::SealedSecret, SealError> {
        let binding = Binding { node: self.node, boot: self.boot, credential, secret_version: version };
        Ok(proto::SealedSecret {
            credential_id: credential.as_bytes().to_vec(),
            secret_version: version,
            sealed: self.key.seal(&binding, self.secrets.token.as_deref(), secret)?,
        })
    }
}
