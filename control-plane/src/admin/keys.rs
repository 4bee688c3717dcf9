//! Virtual keys: made, read, changed, labelled, paused, revoked.

use std::sync::Arc;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{ChainId, KeyId};
use keyforge_shared::name;
use keyforge_shared::period::ZoneName;
use keyforge_shared::policy::{Policy, Raise};
use keyforge_shared::state::{Change, KeyRecord, KeyStatus, Resource, policy_digest};
use keyforge_shared::token::NewToken;
use serde_json::{Value, json};

use super::key_update::KeyMask;
use super::labels;
use super::page::{self, Page, PageRequest};
use super::{Admin, AdminError, Call, Caller, Edit};
use crate::audit::completeness::NOTHING_CHANGED;
use crate::store::key_labels::{self, Labels};
use crate::store::keys::{self, After, Filter, StoredKey};
use crate::store::limit_changes::{self, Owner};
use crate::store::{StoreError, overspent};

/// Model patterns of one policy: each is tried on every request.
const MAX_PATTERNS: usize = 256;

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Follows the rule of [`name`].
    pub name: String,
    /// What it may do.
    pub policy: Policy,
    /// The workspace that it belongs to all its life, by id or name; empty for `default`.
    pub workspace: String,
    /// What people sort it by.
    pub labels: Labels,
}

/// A change of a key. What the mask does not name stays as it is.
#[derive(Clone, Debug)]
pub struct KeyUpdate {
    /// What is to change.
    pub mask: KeyMask,
    /// The new name.
    pub name: String,
    /// The new policy, or new parts of it.
    pub policy: Option<Policy>,
    /// Whether it is to be paused.
    pub paused: bool,
    /// The workspace, by id or name: refused unless it is the key's own.
    pub workspace: String,
    /// The new labels, or some of them.
    pub labels: Labels,
}

/// Which keys are asked for.
#[derive(Clone, Debug, Default)]
pub struct KeyQuery {
    /// Those that have all of these labels.
    pub labels: Labels,
    /// Those that are not revoked and end before then.
    pub expires_before: Option<Timestamp>,
}

impl Admin {
    /// Makes a key with a chain of its own. The token is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] with every problem of name, policy and workspace; [`AdminError::Plan`] when the workspace's plan allows no further key.
    pub async fn create_key(&self, caller: &Caller, new: NewKey) -> Result<(StoredKey, NewToken), AdminError> {
        let token = NewToken::generate().map_err(|_| AdminError::Random)?;
        let call = Call::new(caller, "keys/Create", token.id());
        let work = async {
            let policy = whole_millis(new.policy);
            let now = self.inner.store.now();
            let mut problems: Vec<String> = name_problem(&new.name).into_iter().collect();
            problems.extend(policy_problems(&policy));
            problems.extend(labels::problems(&new.labels));
            if policy.expires_at.is_some_and(|at| at <= now) {
                problems.push("policy.expires_at_ms: lies in the past".to_owned());
            }
            problems.extend(raises_over(&policy.raises, now));
            let workspace = self.workspace_or_default(&call, &new.workspace);
            if workspace.is_none() {
                problems.push("workspace: there is none of this id or name".to_owned());
            }
            AdminError::unless_valid(&problems)?;
            let workspace = workspace.ok_or(StoreError::Corrupt("workspaces"))?.id;
            let chain = ChainId::generate().map_err(|_| AdminError::Random)?;
            let mut edit = self.edit().await?;
            self.unless_plan_is_full(edit.connection(), workspace).await?;
            let record = KeyRecord {
                id: token.id(),
                digest: token.digest(),
                name: new.name,
                status: KeyStatus::Active,
                status_revision: 0,
                policy: Arc::new(policy),
                chain,
                workspace,
                former: None,
            };
            let revision = edit.revision();
            let key = StoredKey { record, created_at: now, revoked_at: None, revision, labels: new.labels };
            keys::insert(edit.connection(), &key).await?;
            let digest = policy_digest(&key.record.policy);
            self.inner.audit.create_chain(edit.connection(), chain, Some(token.id()), digest).await?;
            let detail = json!({ "after": shown(&key) }).to_string();
            self.commit(edit, &call, detail, publish(&key)).await?;
            Ok(key)
        };
        let key = self.attempt(&call, work).await?;
        Ok((key, token))
    }

    /// One key.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub async fn get_key(&self, caller: &Caller, id: KeyId) -> Result<StoredKey, AdminError> {
        let call = Call::new(caller, "keys/Get", id);
        self.look(&call, async {
            self.unless_hidden(call.workspace, id)?;
            let found = keys::get(&mut *self.inner.store.read().await?, id).await?;
            found.ok_or_else(|| AdminError::not_found("virtual key", id))
        })
        .await
    }

    /// A page of the keys that are asked for and that the caller sees, newest first.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a page that cannot be.
    pub async fn list_keys(
        &self,
        caller: &Caller,
        query: KeyQuery,
        request: &PageRequest,
    ) -> Result<Page<StoredKey>, AdminError> {
        let call = Call::new(caller, "keys/List", "");
        self.look(&call, async {
            let size = request.size()?;
            let expiring = query.expires_before.map(|until| (self.inner.store.now(), until));
            let filter = Filter { workspace: call.workspace, labels: query.labels, expiring };
            let after = request.after(|bytes| {
                let (created_at, id) = page::marked(bytes)?;
                Some(After { created_at, id: KeyId::from_ascii(id).ok()? })
            })?;
            let found = keys::page(&mut *self.inner.store.read().await?, &filter, after, size + 1).await?;
            Ok(Page::cut(found, size, |last| page::mark(last.created_at, last.record.id.as_str().as_bytes())))
        })
        .await
    }

    /// Changes what the update's mask names.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] with every problem, [`AdminError::NotFound`], [`AdminError::Precondition`] for a revoked key.
    pub async fn update_key(&self, caller: &Caller, id: KeyId, update: KeyUpdate) -> Result<StoredKey, AdminError> {
        let call = Call::new(caller, "keys/Update", id);
        self.attempt(&call, async {
            let (edit, before) = self.edit_key(&call, id).await?;
            unless_revoked(&before)?;
            let mut problems = self.fixed_parts_named_otherwise(&call, &before, &update);
            let mut after = before.clone();
            // A name that is older than the rule stays until it is changed.
            if update.mask.name() {
                problems.extend(name_problem(&update.name));
                after.record.name = update.name;
            }
            if update.mask.paused() {
                after.record.status = if update.paused { KeyStatus::Paused } else { KeyStatus::Active };
            }
            if update.mask.policy() {
                let missing = || AdminError::Invalid("policy: missing, but named in update_mask".to_owned());
                let policy = Arc::make_mut(&mut after.record.policy);
                // Those that the key has may be over; new ones may not.
                let named = update.policy.as_ref().filter(|_| update.mask.raises());
                problems.extend(named.and_then(|named| raises_over(&named.raises, edit.now)));
                update.mask.change(policy, whole_millis(update.policy.ok_or_else(missing)?));
                policy.drop_ended_raises(edit.now);
            }
            update.mask.change_labels(&mut after.labels, update.labels);
            problems.extend(policy_problems(&after.record.policy));
            problems.extend(labels::problems(&after.labels));
            AdminError::unless_valid(&problems)?;
            self.save_key(edit, &call, &before, after).await
        })
        .await
    }

    /// Kills a key for ever. A key that is revoked stays so, and nothing changes.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub async fn revoke_key(&self, caller: &Caller, id: KeyId) -> Result<StoredKey, AdminError> {
        let call = Call::new(caller, "keys/Revoke", id);
        self.attempt(&call, async {
            let (edit, before) = self.edit_key(&call, id).await?;
            let mut after = before.clone();
            after.record.status = KeyStatus::Revoked;
            after.revoked_at = before.revoked_at.or(Some(edit.now));
            self.save_key(edit, &call, &before, after).await
        })
        .await
    }

    /// Stops a key until it is resumed. One that is stopped already stays as it is.
    ///
    /// # Errors
    /// [`AdminError::NotFound`], [`AdminError::Precondition`] for a revoked key.
    pub async fn pause_key(&self, caller: &Caller, id: KeyId) -> Result<StoredKey, AdminError> {
        self.change_living(Call::new(caller, "keys/Pause", id), id, |record| record.status = KeyStatus::Paused).await
    }

    /// Lets a key that was stopped work again.
    ///
    /// # Errors
    /// [`AdminError::NotFound`], [`AdminError::Precondition`] for a revoked key.
    pub async fn resume_key(&self, caller: &Caller, id: KeyId) -> Result<StoredKey, AdminError> {
        self.change_living(Call::new(caller, "keys/Resume", id), id, |record| record.status = KeyStatus::Active).await
    }

    /// Sets what a key has left to nothing: its total limit of requests becomes 0, its other limits stay.
    ///
    /// # Errors
    /// [`AdminError::NotFound`], [`AdminError::Precondition`] for a revoked key.
    pub async fn zero_key(&self, caller: &Caller, id: KeyId) -> Result<StoredKey, AdminError> {
        let zero = |record: &mut KeyRecord| {
            let limits = &mut Arc::make_mut(&mut record.policy).request_limits;
            limits.retain(|limit| limit.window != Policy::NOTHING_LEFT.window);
            limits.push(Policy::NOTHING_LEFT);
        };
        self.change_living(Call::new(caller, "keys/Zero", id), id, zero).await
    }

    async fn change_living(
        &self,
        call: Call,
        id: KeyId,
        change: impl FnOnce(&mut KeyRecord) + Send,
    ) -> Result<StoredKey, AdminError> {
        self.attempt(&call, async {
            let (edit, before) = self.edit_key(&call, id).await?;
            unless_revoked(&before)?;
            let mut after = before.clone();
            change(&mut after.record);
            self.save_key(edit, &call, &before, after).await
        })
        .await
    }

    /// Pauses a key on the control plane's own account, because a request of it cost more than its bound. An operator can resume it.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub async fn pause_overspent_key(&self, id: KeyId, why: &str) -> Result<(), AdminError> {
        let call = Call::of_control_plane("keys/PauseOverspent", id);
        self.attempt(&call, async {
            let (mut edit, before) = self.edit_key(&call, id).await?;
            // Another control plane may have been first, and an operator may have resumed the key since.
            if before.record.status != KeyStatus::Active || !overspent::is_noted(edit.connection(), id).await? {
                return Ok(());
            }
            let mut after = before.clone();
            after.record.status = KeyStatus::Paused;
            (after.revision, after.record.status_revision) = (edit.revision(), edit.revision());
            let detail = json!({ "why": why, "before": shown(&before), "after": shown(&after) });
            self.write_key(edit, &call, detail, &after).await
        })
        .await
    }

    /// What an update would have to change and cannot: a key keeps its workspace and its time zone.
    fn fixed_parts_named_otherwise(&self, call: &Call, key: &StoredKey, update: &KeyUpdate) -> Vec<String> {
        let mut problems = Vec::new();
        let workspace = || self.workspace_or_default(call, &update.workspace).map(|workspace| workspace.id);
        if update.mask.workspace() && workspace() != Some(key.record.workspace) {
            problems.push(format!("workspace: {}", fixed("workspace")));
        }
        let zone = |policy: &Policy| policy.time_zone.as_ref().map_or("UTC", ZoneName::as_str).to_owned();
        let named = update.policy.as_ref().filter(|_| update.mask.time_zone());
        if named.is_some_and(|policy| zone(policy) != zone(&key.record.policy)) {
            problems.push(format!("policy.time_zone: {}", fixed("time zone")));
        }
        problems
    }

    pub(super) async fn edit_key(&self, call: &Call, id: KeyId) -> Result<(Edit, StoredKey), AdminError> {
        self.unless_hidden(call.workspace, id)?;
        let mut edit = self.edit().await?;
        let found = keys::get(edit.connection(), id).await?.ok_or_else(|| AdminError::not_found("virtual key", id))?;
        self.unless_published(&found.record, |state| state.key(id), "virtual_keys")?;
        Ok((edit, found))
    }

    pub(super) async fn save_key(
        &self,
        mut edit: Edit,
        call: &Call,
        before: &StoredKey,
        mut after: StoredKey,
    ) -> Result<StoredKey, AdminError> {
        if after == *before {
            self.commit(edit, call, NOTHING_CHANGED.to_owned(), Vec::new()).await?;
            return Ok(after);
        }
        after.revision = edit.revision();
        if after.record.status != before.record.status {
            after.record.status_revision = edit.revision();
        }
        let limits = |key: &StoredKey| {
            let policy = &key.record.policy;
            (policy.request_limits.clone(), policy.spend_limits.clone())
        };
        if limits(&after) != limits(before) {
            let (owner, now) = (Owner::Key(after.record.id), edit.now);
            limit_changes::note(edit.connection(), owner, now).await?;
        }
        if after.labels != before.labels {
            key_labels::replace(edit.connection(), after.record.id, &after.labels).await?;
        }
        self.write_key(edit, call, json!({ "before": shown(before), "after": shown(&after) }), &after).await?;
        Ok(after)
    }

    pub(super) async fn write_key(
        &self,
        mut edit: Edit,
        call: &Call,
        detail: Value,
        key: &StoredKey,
    ) -> Result<(), AdminError> {
        keys::update(edit.connection(), key).await?;
        self.commit(edit, call, detail.to_string(), publish(key)).await
    }
}

pub(super) fn unless_revoked(key: &StoredKey) -> Result<(), AdminError> {
    let StoredKey { record: KeyRecord { id, status, .. }, .. } = key;
    if *status == KeyStatus::Revoked {
        return Err(AdminError::Precondition(format!("{id} is revoked for ever: make a new key")));
    }
    Ok(())
}

/// Why a part of a key cannot be another one.
fn fixed(part: &str) -> String {
    format!(
        "a key's {part} is set when it is made: with another one, periods that are already counted would overlap; make a new key"
    )
}

/// What is wrong with the name of a key or a workspace.
pub(super) fn name_problem(text: &str) -> Option<String> {
    name::check(text).err().map(|error| format!("name: {error}"))
}

pub(super) fn policy_problems(policy: &Policy) -> Vec<String> {
    let mut problems = Vec::new();
    if policy.models.len() > MAX_PATTERNS {
        problems.push(format!("policy.models: at most {MAX_PATTERNS} patterns"));
    }
    problems.extend(policy.problems().into_iter().map(|problem| format!("policy.{problem}")));
    problems
}

/// What is wrong with raises of which one is over before it begins.
pub(super) fn raises_over(raises: &[Raise], now: Timestamp) -> Option<String> {
    raises.iter().any(|raise| raise.until <= now).then(|| "raises: the end of one lies in the past".to_owned())
}

/// Nodes are told moments in milliseconds; a finer one here would make their set another one than ours.
fn whole_millis(policy: Policy) -> Policy {
    let whole = |at: Timestamp| Timestamp::from_millis(at.millis());
    let raises = policy.raises.iter().map(|raise| Raise { until: whole(raise.until), ..*raise }).collect();
    Policy { expires_at: policy.expires_at.map(whole), raises, ..policy }
}

fn publish(key: &StoredKey) -> Vec<Change> {
    vec![Change::Upsert(Resource::Key(Arc::new(key.record.clone())))]
}

/// What entries show of a key: all but its digest and its chain.
fn shown(key: &StoredKey) -> Value {
    let KeyRecord { name, status, policy, workspace, .. } = &key.record;
    let labels = &key.labels;
    json!({ "name": name, "status": status.as_str(), "policy": **policy, "workspace": workspace, "labels": labels })
}
