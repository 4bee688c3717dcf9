//! Operators: who a token belongs to. The first one is made with the deployment.

use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::id::OperatorId;
use keyforge_shared::token::{self, TokenKind};

use super::{Admin, AdminError, Call, Caller};

const MISSING: &str = "no operator token: send the metadata `authorization: Bearer kfo_...`; the first operator's token was written to \
                       operator.token in the data directory";
const MALFORMED: &str =
    "that is not an operator token: one starts with kfo_, and this one does not, or it was cut short or mistyped";
const UNKNOWN: &str = "the operator token is not known here: it may belong to another deployment";

impl Admin {
    /// Who the bearer of `token` is. `peer` is the caller's network address, `method` what is about to be called.
    ///
    /// # Errors
    /// [`AdminError::Unauthenticated`], which says what to do; the attempt is then an entry, or counted in the next one.
    pub async fn authenticate(
        &self,
        token: Option<&[u8]>,
        peer: &str,
        method: &'static str,
    ) -> Result<Caller, AdminError> {
        match self.operator(token) {
            Ok(operator) => {
                // What an operator did at another control plane is the case here, too.
                self.refresh().await?;
                Ok(Caller { operator, peer: peer.to_owned() })
            }
            Err(error) => {
                self.note_stranger(peer, method, &error).await;
                Err(error)
            }
        }
    }

    async fn note_stranger(&self, peer: &str, method: &'static str, error: &AdminError) {
        let operator = OperatorId::from_bytes([0; 16]);
        let call = Call { operator, peer: peer.to_owned(), method, target: String::new() };
        self.note_stranger_call(call, &error.to_string()).await;
    }

    /// Records a call of somebody who is nobody here, or counts it in the next entry.
    pub(super) async fn note_stranger_call(&self, call: Call, why: &str) {
        let Some(unrecorded) = self.inner.strangers.admit(self.inner.store.now()) else { return };
        let method = call.method;
        let detail = match unrecorded {
            0 => why.to_owned(),
            _ => format!("{why} (and {unrecorded} refused calls before this one that were too many to record)"),
        };
        if let Err(error) = self.append(call.act(AdminOutcome::Denied, detail)).await {
            tracing::error!(method, %error, "a refused call could not be recorded");
        }
    }

    fn operator(&self, token: Option<&[u8]>) -> Result<OperatorId, AdminError> {
        let token = token.ok_or(AdminError::Unauthenticated(MISSING))?;
        let digest = token::digest_of(TokenKind::Operator, token).ok_or(AdminError::Unauthenticated(MALFORMED))?;
        // Looked up by the digest of 256 random bits: how long a look-up takes says nothing about any token.
        self.inner.seal.operator(&digest).ok_or(AdminError::Unauthenticated(UNKNOWN))
    }
}
