//! Who calls, and whether they may: who proves to be which operator, their role, and what becomes of calls by anybody else.

use std::sync::Arc;

use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::OperatorId;
use keyforge_shared::token::{self, TokenKind};

use super::{Admin, AdminError, Call, Caller, roles};
use crate::store::operators::Operator;

const MISSING: &str = "no operator token: send the metadata `authorization: Bearer kfo_...`; the first operator's token was written to \
                       operator.token in the data directory";
const MALFORMED: &str =
    "that is not an operator token: one starts with kfo_, and this one does not, or it was cut short or mistyped";
const UNKNOWN: &str =
    "the operator token is not known here: it may belong to another deployment, or it was replaced by a new one";
const REVOKED: &str = "this operator was revoked";
const EXPIRED: &str = "the operator token has expired: an owner can rotate it";
const TOO_MANY: &str = "too many calls of this address without a working operator token: wait for a minute; a working one is accepted at once";

/// What a caller proves with who they are. Each way of signing in is one of these and ends in an operator of the roster, whose role, workspace, end
/// and revocation then count the same, whichever way it was. A sign-in through an identity provider, as a dashboard needs it, has its place here.
#[derive(Clone, Copy)]
pub enum Proof<'a> {
    /// Nothing at all.
    None,
    /// An operator's token, as it was sent.
    Token(&'a [u8]),
}

/// Why somebody is not let in, and who they are when their token says so.
struct Stranger {
    error: AdminError,
    operator: Option<OperatorId>,
}

impl From<&'static str> for Stranger {
    fn from(why: &'static str) -> Self {
        Self { error: AdminError::Unauthenticated(why), operator: None }
    }
}

/// Somebody who proved who they are.
pub struct Authenticated {
    /// Who.
    pub caller: Caller,
    /// Why they may not call the method; it is not recorded yet.
    pub refusal: Option<AdminError>,
}

impl Admin {
    /// Who `proof` is of, and whether they may call `method`. `peer` is the caller's network address. What was changed at another control plane counts.
    ///
    /// # Errors
    /// [`AdminError::Unauthenticated`], which says what to do, and [`AdminError::TooManyFailures`]; the attempt is then an entry, or counted in the next
    /// one.
    pub async fn authenticate(
        &self,
        proof: Proof<'_>,
        peer: &str,
        method: &'static str,
    ) -> Result<Authenticated, AdminError> {
        let now = self.inner.store.now();
        // Who is not known has failed before the database is asked, also if they hang up meanwhile. Strangers who are too many do not make it work; a right
        // token that another control plane made passes within a second all the same.
        let is_known = self.identify(proof, now).is_ok();
        let is_admitted = is_known || self.inner.failures.admit(peer, now);
        if is_admitted {
            self.refresh().await?;
        }
        let operator = match self.identify(proof, now) {
            Ok(operator) => operator,
            Err(stranger) => {
                let is_admitted = if is_known { self.inner.failures.admit(peer, now) } else { is_admitted };
                return Err(self.turn_away(stranger, is_admitted, peer, method).await);
            }
        };
        if !is_known && is_admitted {
            self.inner.failures.take_back(peer);
        }
        let caller = Caller { operator: operator.id, peer: peer.to_owned(), workspace: operator.workspace };
        Ok(Authenticated { caller, refusal: roles::permit(&operator, method).err() })
    }

    /// Failed sign-ins so far: those that were answered as what they are, and those that were too many of one address.
    #[must_use]
    pub fn failed_sign_ins(&self) -> (u64, u64) {
        self.inner.failures.totals()
    }

    async fn turn_away(&self, stranger: Stranger, is_admitted: bool, peer: &str, method: &'static str) -> AdminError {
        let Stranger { error, operator } = stranger;
        if !is_admitted {
            self.inner.strangers.pass_over(1);
            return AdminError::TooManyFailures(TOO_MANY);
        }
        let operator = operator.unwrap_or(OperatorId::from_bytes([0; 16]));
        let call = Call { operator, peer: peer.to_owned(), method, target: String::new(), workspace: None };
        self.note_stranger_call(call, &error.to_string()).await;
        error
    }

    /// Records a call of somebody who is nobody here, or counts it in the next entry, also if they hang up meanwhile.
    pub(super) async fn note_stranger_call(&self, call: Call, why: &str) {
        let Some(unrecorded) = self.inner.strangers.admit(self.inner.store.now()) else { return };
        let method = call.method;
        let detail = match unrecorded {
            0 => why.to_owned(),
            _ => format!("{why} (and {unrecorded} refused calls before this one that were too many to record)"),
        };
        let this = self.clone();
        let recording = async move {
            if let Err(error) = this.append(call.act(AdminOutcome::Denied, detail)).await {
                tracing::error!(method, %error, "a refused call could not be recorded");
                this.inner.strangers.pass_over(unrecorded.saturating_add(1));
            }
        };
        // Only a panic ends it early, and that is logged.
        drop(self.to_its_end("refused call", recording).await);
    }

    /// The operator whom a proof is of. Other ways to sign in end here, too, so that no operator who is revoked or whose time is over gets in by any.
    fn identify(&self, proof: Proof<'_>, now: Timestamp) -> Result<Arc<Operator>, Stranger> {
        let operator = match proof {
            Proof::None => return Err(MISSING.into()),
            Proof::Token(token) => self.bearer_of(token)?,
        };
        let why = match (operator.revoked_at, operator.is_expired(now)) {
            (Some(_), _) => REVOKED,
            (None, true) => EXPIRED,
            (None, false) => return Ok(operator),
        };
        Err(Stranger { error: AdminError::Unauthenticated(why), operator: Some(operator.id) })
    }

    fn bearer_of(&self, token: &[u8]) -> Result<Arc<Operator>, Stranger> {
        let digest = token::digest_of(TokenKind::Operator, token).ok_or(MALFORMED)?;
        // Looked up by the digest of 256 random bits: how long a look-up takes says nothing about any token.
        Ok(self.roster().by_token(&digest).cloned().ok_or(UNKNOWN)?)
    }
}
