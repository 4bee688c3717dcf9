//! Workspaces: keys that share limits. They are made, read, renamed, given other limits, and deleted while no key belongs to them.
//!
//! A caller names one by its id or by its name. No name looks like an id or like another name, so that this is never ambiguous, and `default` is always
//! there. A key belongs to its workspace all its life and after it, because the books are kept by both: so also a revoked key keeps its workspace.

use std::sync::Arc;

use keyforge_shared::id::WorkspaceId;
use keyforge_shared::name;
use keyforge_shared::plan::Plan;
use keyforge_shared::policy::{RequestLimit, SpendLimit, limit_problems};
use keyforge_shared::state::{Change, Resource, ResourceId, State, WorkspaceRecord};
use serde_json::{Value, json};

use super::keys::name_problem;
use super::page::{Page, PageRequest};
use super::{Admin, AdminError, Call, Caller, Edit};
use crate::audit::completeness::NOTHING_CHANGED;
use crate::store::limit_changes::{self, Owner};
use crate::store::sql::Conn;
use crate::store::workspaces::{self, StoredWorkspace};
use crate::store::{StoreError, keys};

/// Name of the workspace that is made with a deployment, and that keys belong to when none is named.
pub const DEFAULT_WORKSPACE: &str = "default";
/// What ids begin with and names do not.
const ID_PREFIX: &str = "ws_";

/// A workspace to be made.
#[derive(Clone, Debug)]
pub struct NewWorkspace {
    /// Follows the rule of [`keyforge_shared::name`], does not begin with `ws_`, and looks like that of no other workspace.
    pub name: String,
    /// Request quotas of all its keys together, at most one per window.
    pub request_limits: Vec<RequestLimit>,
    /// Spend caps of all its keys together, at most one per window.
    pub spend_limits: Vec<SpendLimit>,
    /// What bounds it whatever its own limits say.
    pub plan: Plan,
}

/// A change of a workspace; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceUpdate {
    /// The new name, under the rules of [`NewWorkspace::name`]. That of `default` stays.
    pub name: Option<String>,
    /// Request quotas, which replace all that there are.
    pub request_limits: Option<Vec<RequestLimit>>,
    /// Spend caps, which replace all that there are.
    pub spend_limits: Option<Vec<SpendLimit>>,
    /// What bounds it whatever its own limits say.
    pub plan: Option<Plan>,
}

impl WorkspaceUpdate {
    /// Takes from `values`, which must have every field, those that a mask names.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] naming the paths that cannot be changed, or when there is none.
    pub fn masked<'a>(values: Self, paths: impl IntoIterator<Item = &'a str>) -> Result<Self, AdminError> {
        let (mut update, mut problems) = (Self::default(), Vec::new());
        for path in paths {
            match path {
                "request_limits" => update.request_limits.clone_from(&values.request_limits),
                "spend_limits" => update.spend_limits.clone_from(&values.spend_limits),
                "name" => update.name.clone_from(&values.name),
                "plan" => update.plan = values.plan,
                _ => problems.push(
                    "update_mask: a workspace has no such field that could be changed; use name, request_limits, spend_limits, plan".to_owned(),
                ),
            }
        }
        if update == Self::default() && problems.is_empty() {
            problems.push("update_mask: empty; name what is to change, such as spend_limits".to_owned());
        }
        AdminError::unless_valid(&problems)?;
        Ok(update)
    }
}

impl Admin {
    /// Makes a workspace.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] with every problem of name and limits, [`AdminError::Exists`] when the name is taken.
    pub async fn create_workspace(&self, caller: &Caller, new: NewWorkspace) -> Result<StoredWorkspace, AdminError> {
        let id = WorkspaceId::generate().map_err(|_| AdminError::Random)?;
        let call = Call::new(caller, "workspaces/Create", id);
        self.attempt(&call, async {
            let NewWorkspace { name, request_limits, spend_limits, plan } = new;
            let mut problems = name_problems(&name);
            problems.extend(limit_problems(&request_limits, &spend_limits));
            AdminError::unless_valid(&problems)?;
            let mut edit = self.edit().await?;
            // The turn that the edit holds keeps others from taking the name meanwhile.
            self.unless_taken(&name, id)?;
            let record = WorkspaceRecord { id, name, request_limits, spend_limits, plan };
            let workspace = StoredWorkspace { record, created_at: edit.now, revision: edit.revision() };
            workspaces::insert(edit.connection(), &workspace).await?;
            let detail = json!({ "after": shown(&workspace) }).to_string();
            self.commit(edit, &call, detail, publish(&workspace)).await?;
            Ok(workspace)
        })
        .await
    }

    /// The workspace of this id or name.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub async fn get_workspace(&self, caller: &Caller, workspace: &str) -> Result<StoredWorkspace, AdminError> {
        let found = self.workspace_named(caller.workspace, workspace);
        let call = Call::new(caller, "workspaces/Get", target(&found));
        self.look(&call, async {
            let stored = workspaces::get(&mut *self.inner.store.read().await?, found?.id).await?;
            stored.ok_or_else(|| StoreError::Corrupt("workspaces").into())
        })
        .await
    }

    /// A page of the workspaces that the caller sees, by name.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a page that cannot be.
    pub async fn list_workspaces(
        &self,
        caller: &Caller,
        request: &PageRequest,
    ) -> Result<Page<StoredWorkspace>, AdminError> {
        let call = Call::new(caller, "workspaces/List", "");
        self.look(&call, async {
            let size = request.size()?;
            let after = request.after(|bytes| String::from_utf8(bytes.to_vec()).ok())?.unwrap_or_default();
            let mut read = self.inner.store.read().await?;
            let found = match call.workspace {
                Some(own) => {
                    let own = workspaces::get(&mut read, own).await?;
                    own.into_iter().filter(|own| own.record.name > after).collect()
                }
                None => workspaces::list(&mut read, &after, size + 1).await?,
            };
            Ok(Page::cut(found, size, |last| last.record.name.as_bytes().to_vec()))
        })
        .await
    }

    /// Changes name, limits and plan of the workspace of this id or name. An operator who is bound to it changes its limits only: names are the whole
    /// deployment's, where one that is taken would tell of others, and a plan is not for those to choose whom it bounds.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] with every problem, [`AdminError::NotFound`], [`AdminError::Exists`] when the name is taken,
    /// [`AdminError::Precondition`] for another name of `default`, and for a plan that has room for fewer keys than there are; [`AdminError::Denied`].
    pub async fn update_workspace(
        &self,
        caller: &Caller,
        workspace: &str,
        update: WorkspaceUpdate,
    ) -> Result<StoredWorkspace, AdminError> {
        let found = self.workspace_named(caller.workspace, workspace);
        let call = Call::new(caller, "workspaces/Update", target(&found));
        self.attempt(&call, async {
            let found = found?;
            if call.workspace.is_some() && (update.name.is_some() || update.plan.is_some()) {
                return Err(AdminError::Denied(
                    "the name and the plan of a workspace are changed by operators of the whole deployment: you are bound to it"
                        .to_owned(),
                ));
            }
            let (mut edit, before) = self.edit_workspace(found.id).await?;
            let mut after = before.clone();
            let mut problems = Vec::new();
            if let Some(name) = update.name.filter(|name| *name != before.record.name) {
                unless_default(&before.record, "renamed")?;
                problems = name_problems(&name);
                if problems.is_empty() {
                    self.unless_taken(&name, before.record.id)?;
                }
                after.record.name = name;
            }
            after.record.request_limits = update.request_limits.unwrap_or(after.record.request_limits);
            after.record.spend_limits = update.spend_limits.unwrap_or(after.record.spend_limits);
            problems.extend(limit_problems(&after.record.request_limits, &after.record.spend_limits));
            AdminError::unless_valid(&problems)?;
            after.record.plan = update.plan.unwrap_or(after.record.plan);
            if after.record.plan != before.record.plan {
                unless_too_many_keys(edit.connection(), &after.record).await?;
            }
            if after == before {
                self.commit(edit, &call, NOTHING_CHANGED.to_owned(), Vec::new()).await?;
                return Ok(before);
            }
            after.revision = edit.revision();
            workspaces::update(edit.connection(), &after).await?;
            let now = edit.now;
            limit_changes::note(edit.connection(), Owner::Workspace(after.record.id), now).await?;
            let detail = json!({ "before": shown(&before), "after": shown(&after) }).to_string();
            self.commit(edit, &call, detail, publish(&after)).await?;
            Ok(after)
        })
        .await
    }

    /// Deletes the workspace of this id or name. What was done with it stays in the administrators' chain.
    ///
    /// # Errors
    /// [`AdminError::NotFound`], [`AdminError::Precondition`] for `default` and while any key belongs to it, also a revoked one.
    pub async fn delete_workspace(&self, caller: &Caller, workspace: &str) -> Result<(), AdminError> {
        let found = self.workspace_named(caller.workspace, workspace);
        let call = Call::new(caller, "workspaces/Delete", target(&found));
        self.attempt(&call, async {
            let (mut edit, before) = self.edit_workspace(found?.id).await?;
            unless_default(&before.record, "deleted")?;
            let (keys, revoked) = keys::count_in(edit.connection(), before.record.id).await?;
            if keys > 0 {
                return Err(AdminError::Precondition(format!(
                    "the workspace has {keys} virtual keys, {revoked} of them revoked: a key belongs to its workspace for ever, so this one stays"
                )));
            }
            let operators = self.roster().bound_to(before.record.id);
            if operators > 0 {
                return Err(AdminError::Precondition(format!(
                    "{operators} operators are bound to the workspace: revoke them first"
                )));
            }
            workspaces::delete(edit.connection(), before.record.id).await?;
            let detail = json!({ "before": shown(&before) }).to_string();
            self.commit(edit, &call, detail, vec![Change::Remove(ResourceId::Workspace(before.record.id))]).await
        })
        .await
    }

    /// The name of a workspace that is published; empty for one that is not.
    #[must_use]
    pub fn workspace_name(&self, id: WorkspaceId) -> String {
        let name = |workspace: &Arc<WorkspaceRecord>| workspace.name.clone();
        self.inner.hub.with_state(|state| state.workspace(id).map(name)).unwrap_or_default()
    }

    /// The id of the workspace of this id or name, if the caller sees it.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub fn workspace_id(&self, caller: &Caller, workspace: &str) -> Result<WorkspaceId, AdminError> {
        self.workspace_named(caller.workspace, workspace).map(|workspace| workspace.id)
    }

    /// The workspace that a key's request means: by id, by name, or by an empty text the caller's own, which for operators of the whole deployment is the
    /// default one.
    pub(super) fn workspace_or_default(&self, call: &Call, text: &str) -> Option<Arc<WorkspaceRecord>> {
        match (call.workspace, text) {
            (Some(own), "") => self.inner.hub.with_state(|state| state.workspace(own).cloned()),
            (None, "") => self.published_workspace(None, DEFAULT_WORKSPACE),
            (own, text) => self.published_workspace(own, text),
        }
    }

    /// Refuses one more key in a workspace whose plan has no room for it. To be called in the transaction that adds the key.
    pub(super) async fn unless_plan_is_full(&self, connection: &mut Conn, id: WorkspaceId) -> Result<(), AdminError> {
        // As published: what somebody else wrote into the row is not a plan.
        let plan = self.inner.hub.with_state(|state| state.workspace(id).map(|workspace| workspace.plan));
        let plan = plan.ok_or(StoreError::Corrupt("workspaces"))?;
        let Some(most) = plan.max_keys() else { return Ok(()) };
        let (keys, revoked) = keys::count_in(connection, id).await?;
        if keys - revoked.min(keys) < most {
            return Ok(());
        }
        Err(AdminError::Plan(format!(
            "the plan {plan} of the workspace allows {most} virtual keys that are not revoked, and it has them: revoke one, or ask for another plan"
        )))
    }

    fn workspace_named(&self, own: Option<WorkspaceId>, text: &str) -> Result<Arc<WorkspaceRecord>, AdminError> {
        // What was given is not repeated: it may be a secret in the wrong place, and errors are recorded.
        self.published_workspace(own, text).ok_or_else(|| AdminError::not_found("workspace", "of this id or name"))
    }

    /// The workspace of this id or name. For an operator who is bound to `own` no other one is even looked at, so that how long it takes says nothing
    /// about others.
    fn published_workspace(&self, own: Option<WorkspaceId>, text: &str) -> Option<Arc<WorkspaceRecord>> {
        let id = text.parse::<WorkspaceId>().ok();
        let is_meant = |workspace: &&Arc<WorkspaceRecord>| id.map_or(workspace.name == text, |id| workspace.id == id);
        self.inner.hub.with_state(|state| match (own, id) {
            (Some(own), _) => state.workspace(own).filter(is_meant).cloned(),
            (None, Some(id)) => state.workspace(id).cloned(),
            (None, None) => state.workspaces().find(is_meant).cloned(),
        })
    }

    /// Refuses a name that another workspace has, or that looks like it.
    fn unless_taken(&self, name: &str, of: WorkspaceId) -> Result<(), AdminError> {
        let skeleton = name::skeleton(name);
        let taken = |state: &State| {
            let others = state.workspaces().filter(|workspace| workspace.id != of);
            let mut alike = others.filter(|workspace| name::skeleton(&workspace.name) == skeleton);
            alike.next().map(|workspace| workspace.name.clone())
        };
        match self.inner.hub.with_state(taken) {
            None => Ok(()),
            Some(other) if other == name => {
                Err(AdminError::Exists("name: there is a workspace of this name already".to_owned()))
            }
            Some(other) => {
                Err(AdminError::Exists(format!("name: looks like `{other}`, which is the name of another workspace")))
            }
        }
    }

    async fn edit_workspace(&self, id: WorkspaceId) -> Result<(Edit, StoredWorkspace), AdminError> {
        let mut edit = self.edit().await?;
        let found = workspaces::get(edit.connection(), id).await?.ok_or(StoreError::Corrupt("workspaces"))?;
        self.unless_published(&found.record, |state| state.workspace(id).cloned(), "workspaces")?;
        Ok((edit, found))
    }
}

/// What an entry names a call's workspace by: its id, or nothing when there is none.
fn target(found: &Result<Arc<WorkspaceRecord>, AdminError>) -> String {
    found.as_ref().map(|workspace| workspace.id.to_string()).unwrap_or_default()
}

/// Keys that name no workspace belong to `default`, so it is always there.
fn unless_default(workspace: &WorkspaceRecord, what: &str) -> Result<(), AdminError> {
    if workspace.name != DEFAULT_WORKSPACE {
        return Ok(());
    }
    Err(AdminError::Precondition(format!(
        "the workspace {DEFAULT_WORKSPACE} cannot be {what}: keys for which none is named belong to it"
    )))
}

/// Refuses a plan that has room for fewer keys than there are.
async fn unless_too_many_keys(connection: &mut Conn, workspace: &WorkspaceRecord) -> Result<(), AdminError> {
    let Some(most) = workspace.plan.max_keys() else { return Ok(()) };
    let (keys, revoked) = keys::count_in(connection, workspace.id).await?;
    let alive = keys - revoked.min(keys);
    if alive <= most {
        return Ok(());
    }
    Err(AdminError::Precondition(format!(
        "plan: {} allows {most} virtual keys that are not revoked, and the workspace has {alive}: revoke {} first",
        workspace.plan,
        alive - most
    )))
}

fn name_problems(name: &str) -> Vec<String> {
    let mut problems: Vec<String> = name_problem(name).into_iter().collect();
    if name.starts_with(ID_PREFIX) {
        problems.push(format!("name: must not begin with {ID_PREFIX}, which ids do"));
    }
    problems
}

fn publish(workspace: &StoredWorkspace) -> Vec<Change> {
    vec![Change::Upsert(Resource::Workspace(Arc::new(workspace.record.clone())))]
}

fn shown(workspace: &StoredWorkspace) -> Value {
    let WorkspaceRecord { name, request_limits, spend_limits, plan, .. } = &workspace.record;
    json!({ "name": name, "request_limits": request_limits, "spend_limits": spend_limits, "plan": plan })
}

#[cfg(test)]
mod tests {
    use keyforge_shared::period::Window;

    use super::*;

    fn all() -> WorkspaceUpdate {
        let request_limits = Some(vec![RequestLimit { requests: 5, window: Window::Day }]);
        let (name, spend_limits, plan) = (Some("n".to_owned()), Some(Vec::new()), Some(Plan::Free));
        WorkspaceUpdate { name, request_limits, spend_limits, plan }
    }

    #[test]
    fn mask_takes_what_it_names_and_nothing_else() {
        let update = WorkspaceUpdate::masked(all(), ["request_limits"]).unwrap();
        assert_eq!(update, WorkspaceUpdate { spend_limits: None, name: None, plan: None, ..all() });
        assert_eq!(WorkspaceUpdate::masked(all(), ["spend_limits", "name", "plan", "request_limits"]).unwrap(), all());
    }

    #[test]
    fn mask_without_a_path_or_with_a_secret_is_refused_and_repeats_nothing() {
        for (paths, expected) in [(&[][..], "update_mask: empty"), (&["sk-topsecret"], "no such field")] {
            let error = WorkspaceUpdate::masked(all(), paths.iter().copied()).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("topsecret"), "{error}");
        }
    }
}
