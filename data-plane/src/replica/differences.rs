//! What of the copy became another one, as far as others follow it: by a whole snapshot, or by the changes of a delta.
//!
//! Comparing a snapshot with what is held takes as long as there are keys. So it is done on records that are detached from the copy, and this file
//! holds no lock and changes nothing.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use keyforge_shared::id::{KeyId, WorkspaceId};
use keyforge_shared::state::{Change, Contents, KeyRecord, Resource, ResourceId, State, WorkspaceRecord};

/// What became of a key whose record changed.
pub struct KeyChange {
    /// Before; `None` for a new key.
    pub before: Option<Arc<KeyRecord>>,
    /// Now, by all that the node knows; `None` for a key that is gone.
    pub now: Option<Arc<KeyRecord>>,
}

/// What a snapshot or a delta changed, as far as others follow it.
#[derive(Default)]
pub struct Changes {
    /// Keys whose record changed.
    pub keys: Vec<KeyChange>,
    /// Workspaces whose limits changed.
    pub workspaces: Vec<WorkspaceId>,
}

/// What changes when `now` takes the place of what held these contents.
pub(super) fn differences(before: &Contents, now: &State) -> Changes {
    let known: HashMap<WorkspaceId, &WorkspaceRecord> = before.workspaces().map(|it| (it.id, it.as_ref())).collect();
    let ids: HashSet<WorkspaceId> = known.keys().copied().chain(now.workspaces().map(|it| it.id)).collect();
    let differs = |id: &WorkspaceId| !same_limits(known.get(id).copied(), now.workspace(*id).map(Arc::as_ref));
    Changes { workspaces: ids.into_iter().filter(differs).collect(), keys: key_differences(before, now) }
}

/// Keys that were known before. Nothing follows from one that is new.
fn key_differences(before: &Contents, now: &State) -> Vec<KeyChange> {
    let changed = before.keys().filter_map(|key| {
        let now = now.key(key.id);
        (now.as_deref() != Some(&key)).then(|| KeyChange { before: Some(Arc::new(key)), now })
    });
    changed.collect()
}

/// Whether both have the same limits in effect, so that nothing follows from one taking the other's place.
pub(super) fn same_limits(one: Option<&WorkspaceRecord>, other: Option<&WorkspaceRecord>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => {
            one.request_limits_in_effect() == other.request_limits_in_effect() && one.spend_limits == other.spend_limits
        }
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The key that a change of a delta is about, if it is about one.
pub(super) fn changed_key(change: &Change) -> Option<KeyId> {
    match change {
        Change::Upsert(Resource::Key(key)) => Some(key.id),
        Change::Remove(ResourceId::Key(id)) => Some(*id),
        Change::Upsert(_) | Change::Remove(_) => None,
    }
}

/// The workspace that a change of a delta is about, if it is about one.
pub(super) fn changed_workspace(change: &Change) -> Option<WorkspaceId> {
    match change {
        Change::Upsert(Resource::Workspace(workspace)) => Some(workspace.id),
        Change::Remove(ResourceId::Workspace(id)) => Some(*id),
        Change::Upsert(_) | Change::Remove(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use keyforge_shared::period::Window;
    use keyforge_shared::policy::RequestLimit;

    use super::*;
    use crate::fixture::{key, key_id, quota, workspace};

    fn renamed(resource: Resource) -> Resource {
        let Resource::Workspace(record) = resource else { panic!("not a workspace") };
        Resource::Workspace(Arc::new(WorkspaceRecord { name: "renamed".to_owned(), ..(*record).clone() }))
    }

    #[test]
    fn keys_that_changed_or_are_gone_differ_and_keys_that_are_new_or_the_same_do_not() {
        let before = State::from_snapshot(1, [key(1, quota(5)), key(2, quota(5)), key(3, quota(5))]);
        let now = State::from_snapshot(2, [key(1, quota(5)), key(2, quota(6)), key(4, quota(5))]);
        let mut changes = differences(&before.contents(), &now).keys;
        changes.sort_by_key(|change| change.before.as_ref().map(|key| key.id));
        let told: Vec<_> = changes.into_iter().map(|change| (change.before, change.now)).collect();
        let [second, third] = [2, 3].map(|number| before.key(key_id(number)));
        assert_eq!(told, [(second, now.key(key_id(2))), (third, None)]);
    }

    #[test]
    fn a_workspace_differs_by_its_limits_and_not_by_its_name() {
        let limit = |requests| vec![RequestLimit { requests, window: Window::Day }];
        let limited = |requests| workspace(limit(requests), Vec::new());
        let ResourceId::Workspace(id) = limited(1).id() else { panic!("not a workspace") };
        for (before, now, expected) in [
            (Some(limited(5)), Some(limited(5)), false),
            (Some(limited(5)), Some(renamed(limited(5))), false),
            (Some(limited(5)), Some(limited(6)), true),
            (Some(limited(5)), None, true),
            (None, Some(limited(5)), true),
        ] {
            let [before, now] = [before, now].map(|resource| State::from_snapshot(1, resource));
            let found = differences(&before.contents(), &now).workspaces;
            assert_eq!(found, if expected { vec![id] } else { Vec::new() });
        }
    }
}
