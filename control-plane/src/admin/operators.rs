//! Operators: made, listed, given another role or another token, revoked. The first one, an owner, is made with the deployment.
//!
//! There is always an owner of the whole deployment who is there for good, so that nobody can lock everybody out. Tokens are in the answers that
//! make them and nowhere else; only their digests are kept.

use std::sync::Arc;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::OperatorId;
use keyforge_shared::role::Role;
use keyforge_shared::token::{self, TokenKind};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::keys::name_problem;
use super::nodes::CREATE_JOIN_TOKEN;
use super::page::{Page, PageRequest};
use super::roles::permit;
use super::roster::Roster;
use super::{Admin, AdminError, Call, Caller, Edit};
use crate::audit::completeness::NOTHING_CHANGED;
use crate::store::StoreError;
use crate::store::nodes::forget_tokens_of;
use crate::store::operators::{self, Operator};

/// What ids begin with and names do not.
const ID_PREFIX: &str = "op_";
/// Most operators, revoked ones included: they are all held in memory.
const MAX_OPERATORS: usize = 10_000;

/// An operator to be made.
#[derive(Clone, Debug)]
pub struct NewOperator {
    /// Follows the rule of [`keyforge_shared::name`], does not begin with `op_`, and looks like that of no other operator.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The only workspace that they see, by id or name; empty for all.
    pub workspace: String,
    /// First moment at which the token no longer works; `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// When a new token of an operator who is there already ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewExpiry {
    /// When the old one would have.
    AsBefore,
    /// Never.
    Never,
    /// At this moment.
    At(Timestamp),
}

impl Admin {
    /// Makes an operator. The token is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] with every problem, [`AdminError::Exists`] when the name is taken, [`AdminError::NotFound`] for the workspace.
    pub async fn create_operator(
        &self,
        caller: &Caller,
        new: NewOperator,
    ) -> Result<(Arc<Operator>, Zeroizing<String>), AdminError> {
        let id = OperatorId::generate().map_err(|_| AdminError::Random)?;
        let call = Call::new(caller, "operators/Create", id);
        self.attempt(&call, async {
            let NewOperator { name, role, workspace, expires_at } = new;
            let mut problems: Vec<String> = name_problem(&name).into_iter().collect();
            if name.starts_with(ID_PREFIX) {
                problems.push(format!("name: must not begin with {ID_PREFIX}, which ids do"));
            }
            problems.extend(expires_at.and_then(|at| self.past_problem(at)));
            if role == Role::Owner && !workspace.is_empty() {
                problems.push("workspace: an owner is of the whole deployment; the role admin may be bound".to_owned());
            }
            AdminError::unless_valid(&problems)?;
            let (mut edit, roster) = self.edit_operators().await?;
            // The turn that the edit holds keeps others from deleting it, or from taking the name, meanwhile.
            let workspace = if workspace.is_empty() { None } else { Some(self.workspace_id(caller, &workspace)?) };
            unless_taken(&roster, &name)?;
            let token = token::generate(TokenKind::Operator).map_err(|_| AdminError::Random)?;
            let digest = token::digest(token.as_bytes());
            let created_at = edit.now;
            let operator = Operator { id, name, digest, created_at, role, workspace, expires_at, revoked_at: None };
            operators::insert(edit.connection(), &operator).await?;
            let detail = json!({ "after": shown(&operator) });
            Ok((self.save_operator(edit, &call, detail, &roster, operator).await?, token))
        })
        .await
    }

    /// A page of all operators, by name.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a page that cannot be.
    pub async fn list_operators(
        &self,
        caller: &Caller,
        request: &PageRequest,
    ) -> Result<Page<Arc<Operator>>, AdminError> {
        let call = Call::new(caller, "operators/List", "");
        self.look(&call, async {
            let size = request.size()?;
            let after = request.after(|bytes| String::from_utf8(bytes.to_vec()).ok())?.unwrap_or_default();
            let count = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(1);
            let found = self.roster().page(&after, count);
            Ok(Page::cut(found, size, |last| last.name.as_bytes().to_vec()))
        })
        .await
    }

    /// Gives the operator of this id or name another role.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]; [`AdminError::Precondition`] for one who is revoked, for the last owner who is there for good, and for an owner who would be
    /// bound to a workspace.
    pub async fn set_operator_role(
        &self,
        caller: &Caller,
        operator: &str,
        role: Role,
    ) -> Result<Arc<Operator>, AdminError> {
        let call = Call::new(caller, "operators/SetRole", self.operator_target(operator));
        self.attempt(&call, async {
            let (edit, roster, before) = self.edit_operator(operator).await?;
            let before = unless_revoked(before)?;
            if role == Role::Owner && before.workspace.is_some() {
                return Err(AdminError::Precondition(
                    "an owner is of the whole deployment, and this operator is bound to a workspace: make another one"
                        .to_owned(),
                ));
            }
            let after = Operator { role, ..(*before).clone() };
            self.change_operator(edit, &call, &roster, &before, after).await
        })
        .await
    }

    /// Replaces the token of the operator of this id or name; the old one is refused from then on.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]; [`AdminError::Invalid`] for an end in the past, given or kept; [`AdminError::Precondition`] for one who is revoked, and for an
    /// end of the last owner who is there for good.
    pub async fn rotate_operator(
        &self,
        caller: &Caller,
        operator: &str,
        expiry: NewExpiry,
    ) -> Result<(Arc<Operator>, Zeroizing<String>), AdminError> {
        let call = Call::new(caller, "operators/Rotate", self.operator_target(operator));
        self.attempt(&call, async {
            let (edit, roster, before) = self.edit_operator(operator).await?;
            let before = unless_revoked(before)?;
            let expires_at = match expiry {
                NewExpiry::AsBefore => before.expires_at,
                NewExpiry::Never => None,
                NewExpiry::At(moment) => Some(moment),
            };
            let problem = expires_at.and_then(|at| self.past_problem(at));
            AdminError::unless_valid(problem.as_slice())?;
            let token = token::generate(TokenKind::Operator).map_err(|_| AdminError::Random)?;
            let after = Operator { digest: token::digest(token.as_bytes()), expires_at, ..(*before).clone() };
            Ok((self.change_operator(edit, &call, &roster, &before, after).await?, token))
        })
        .await
    }

    /// Refuses the operator of this id or name for ever. One who is revoked stays so, and nothing changes.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]; [`AdminError::Precondition`] for the last owner who is there for good.
    pub async fn revoke_operator(&self, caller: &Caller, operator: &str) -> Result<Arc<Operator>, AdminError> {
        let call = Call::new(caller, "operators/Revoke", self.operator_target(operator));
        self.attempt(&call, async {
            let (edit, roster, before) = self.edit_operator(operator).await?;
            let revoked_at = before.revoked_at.or(Some(edit.now));
            let after = Operator { revoked_at, ..(*before).clone() };
            self.change_operator(edit, &call, &roster, &before, after).await
        })
        .await
    }

    /// What an entry names a call's operator by: their id, or nothing when there is none.
    fn operator_target(&self, text: &str) -> String {
        self.roster().named(text).map(|operator| operator.id.to_string()).unwrap_or_default()
    }

    fn past_problem(&self, moment: Timestamp) -> Option<String> {
        (moment <= self.inner.store.now())
            .then(|| "expires_at_ms: lies in the past; name a moment that is still to come".to_owned())
    }

    async fn edit_operator(&self, text: &str) -> Result<(Edit, Arc<Roster>, Arc<Operator>), AdminError> {
        let (edit, roster) = self.edit_operators().await?;
        // What was given is not repeated: it may be a secret in the wrong place, and errors are recorded.
        let found = roster.named(text).cloned().ok_or_else(|| AdminError::not_found("operator", "of this id or name"));
        Ok((edit, roster, found?))
    }

    async fn edit_operators(&self) -> Result<(Edit, Arc<Roster>), AdminError> {
        let mut edit = self.edit().await?;
        let roster = self.roster();
        // What somebody else wrote there must not be taken over into the seal.
        let stored = operators::all(edit.connection()).await?;
        if operators::digest(&stored) != *roster.digest() {
            return Err(StoreError::Corrupt("operators").into());
        }
        Ok((edit, roster))
    }

    async fn change_operator(
        &self,
        mut edit: Edit,
        call: &Call,
        roster: &Roster,
        before: &Operator,
        after: Operator,
    ) -> Result<Arc<Operator>, AdminError> {
        if before.is_lasting_owner() && !after.is_lasting_owner() && roster.lasting_owners() == 1 {
            return Err(AdminError::Precondition(
                "this is the last owner of the whole deployment without an end: make another one first, or nobody could administer"
                    .to_owned(),
            ));
        }
        if after == *before {
            self.commit(edit, call, NOTHING_CHANGED.to_owned(), Vec::new()).await?;
            return Ok(Arc::new(after));
        }
        operators::update(edit.connection(), &after).await?;
        let mut detail = json!({ "before": shown(before), "after": shown(&after) });
        if after.digest != before.digest {
            detail["token"] = json!("replaced");
        }
        // What was made with a token that may have been stolen, or by somebody who may do it no more, admits nobody, also if they may again.
        if after.digest != before.digest || after.revoked_at.is_some() || permit(&after, CREATE_JOIN_TOKEN).is_err() {
            let ended = forget_tokens_of(edit.connection(), after.id).await?;
            if ended > 0 {
                detail["join_tokens_ended"] = json!(ended);
            }
        }
        self.save_operator(edit, call, detail, roster, after).await
    }

    async fn save_operator(
        &self,
        edit: Edit,
        call: &Call,
        detail: Value,
        roster: &Roster,
        operator: Operator,
    ) -> Result<Arc<Operator>, AdminError> {
        self.commit_operators(edit, call, detail.to_string(), roster.with(operator.clone())).await?;
        Ok(Arc::new(operator))
    }
}

fn unless_revoked(operator: Arc<Operator>) -> Result<Arc<Operator>, AdminError> {
    if operator.revoked_at.is_none() {
        return Ok(operator);
    }
    Err(AdminError::Precondition("this operator is revoked for ever: make another one".to_owned()))
}

fn unless_taken(roster: &Roster, name: &str) -> Result<(), AdminError> {
    if roster.page("", MAX_OPERATORS).len() == MAX_OPERATORS {
        return Err(AdminError::Precondition(format!(
            "there are {MAX_OPERATORS} operators already, revoked ones included"
        )));
    }
    match roster.alike(name) {
        None => Ok(()),
        Some(other) if other == name => {
            Err(AdminError::Exists("name: there is an operator of this name already, or was".to_owned()))
        }
        Some(other) => {
            Err(AdminError::Exists(format!("name: looks like `{other}`, which is the name of another operator")))
        }
    }
}

/// What entries show of an operator: all but the digest of their token.
fn shown(operator: &Operator) -> Value {
    json!({
        "name": operator.name, "role": operator.role, "workspace": operator.workspace,
        "expires_at": operator.expires_at.map(Timestamp::rfc3339), "revoked_at": operator.revoked_at.map(Timestamp::rfc3339),
    })
}
