//! Credentials' secrets on their way to a node: opened from the vault, sealed for the boot that asks, never kept.

use std::sync::Arc;

use keyforge_proto::fleet::v1 as proto;
use keyforge_shared::fleet_seal;
use keyforge_shared::id::{BootId, CredentialId, NodeId};
use keyforge_shared::seal;
use keyforge_shared::secret::{Key256, SecretBytes};

use crate::store::{Store, StoreError, credentials};
use crate::vault::{Place, Vault};

/// Where secrets come from.
#[derive(Clone)]
pub struct Secrets {
    store: Store,
    vault: Arc<Vault>,
    fleet_token: Arc<SecretBytes>,
}

/// Seals secrets for one life of one node.
pub struct Sealer {
    secrets: Secrets,
    key: Key256,
    node: NodeId,
    boot: BootId,
}

impl Secrets {
    /// Secrets out of `vault`, for nodes that hold `fleet_token`.
    #[must_use]
    pub const fn new(store: Store, vault: Arc<Vault>, fleet_token: Arc<SecretBytes>) -> Self {
        Self { store, vault, fleet_token }
    }

    /// Seals for one life of one node.
    #[must_use]
    pub fn sealer(&self, node: NodeId, boot: BootId) -> Sealer {
        Sealer { secrets: self.clone(), key: fleet_seal::seal_key(&self.fleet_token, boot), node, boot }
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
            let Some((version, sealed)) = credentials::secret(&mut read, credential).await? else { continue };
            let opened = self.secrets.vault.open(Place::credential(&credential, version), &sealed);
            match opened.and_then(|secret| Ok(self.reseal(credential, version, &secret)?)) {
                Ok(message) => messages.push(message),
                Err(error) => tracing::error!(%credential, version, %error, "a secret cannot be sent to a node"),
            }
        }
        Ok(messages)
    }

    fn reseal(
        &self,
        credential: CredentialId,
        version: u32,
        secret: &SecretBytes,
    ) -> Result<proto::SealedSecret, seal::SealError> {
        let associated = fleet_seal::associated_data(self.node, self.boot, credential, version);
        Ok(proto::SealedSecret {
            credential_id: credential.as_bytes().to_vec(),
            secret_version: version,
            sealed: seal::seal(&self.key, &associated, secret.expose())?,
        })
    }
}
