//! Credentials' secrets on their way to a node: opened from the vault, sealed for the boot that asks, never kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use keyforge_proto::fleet::v1 as proto;
use keyforge_shared::fleet_seal::{Binding, BootPublicKey, SharedToken};
use keyforge_shared::id::{BootId, CredentialId, NodeId};
use keyforge_shared::seal::SealError;
use keyforge_shared::secret::SecretBytes;
use keyforge_shared::state::{Resource, ResourceId, State};
use tokio::sync::watch;

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
    unreadable: Unreadable,
}

/// Secrets that could not be opened when all were last tried; told anew with each trial.
pub type Unreadable = watch::Receiver<Arc<BTreeSet<CredentialId>>>;

/// Secrets for a node.
pub struct Sealed {
    /// Those that can be opened.
    pub messages: Vec<proto::SealedSecret>,
    /// Whose cannot.
    pub withheld: Vec<CredentialId>,
}

/// Seals secrets for one life of one node.
pub struct Sealer {
    secrets: Secrets,
    key: BootPublicKey,
    node: NodeId,
    boot: BootId,
}

impl Secrets {
    /// Secrets out of `vault`, which are tried now and then, for nodes that hold `fleet_token`.
    #[must_use]
    pub fn new(store: Store, vault: Arc<Vault>, unreadable: Unreadable, fleet_token: &SecretBytes) -> Self {
        let token = Some(Arc::new(SharedToken::of(fleet_token)));
        Self { store, vault, token, serves: Serves::default(), unreadable }
    }

    /// Which secrets can be opened, as it becomes known.
    #[must_use]
    pub fn unreadable(&self) -> Unreadable {
        self.unreadable.clone()
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
    pub async fn seal(&self, credentials: impl IntoIterator<Item = CredentialId> + Send) -> Result<Sealed, StoreError> {
        let credentials: Vec<CredentialId> = credentials.into_iter().collect();
        let mut sealed = Sealed { messages: Vec::with_capacity(credentials.len()), withheld: Vec::new() };
        if credentials.is_empty() {
            return Ok(sealed);
        }
        let mut read = self.secrets.store.read().await?;
        for credential in credentials {
            let Some(kept) = vault_records::kept(&mut read, credential).await? else { continue };
            let opened = health::open(&self.secrets.vault, &kept);
            let resealed = opened.and_then(|(version, secret)| {
                self.reseal(credential, version, &secret).map_err(|error| Fault::Vault(error.into()))
            });
            match resealed {
                Ok(message) => sealed.messages.push(message),
                Err(reason) => {
                    tracing::error!(%credential, %reason, "a secret cannot be sent to a node");
                    sealed.withheld.push(credential);
                }
            }
        }
        Ok(sealed)
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
