//! Records of the state as they come over the wire, each read by itself: one that cannot be read costs no other, and its last good version stays.
//!
//! Whether a key works is read even of a record that is refused otherwise, so that no version of this program can be kept from stopping a key.

use std::sync::Arc;

use hashbrown::HashSet;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::convert;
use keyforge_proto::fleet::v1 as proto;
use keyforge_shared::id::{CredentialId, KeyId, WorkspaceId};
use keyforge_shared::state::{Change, KeyRecord, KeyStatus, Resource, ResourceId};

/// Longest part of a name that is told.
const LONGEST_NAME: usize = 64;

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it is, such as `key vk_0123456789ab`.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// The records whose last good version is kept, by name.
#[derive(Debug, Default)]
pub struct Refusals(HashSet<String>);

impl Refusals {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Forgets all: a whole set was read.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Reads a change. A record that cannot be read is added to `refused`; what is left of the change is its last good version, if there is one.
    pub fn change(
        &mut self,
        message: proto::Change,
        held: impl FnOnce(&ResourceId) -> Option<Resource>,
        refused: &mut Vec<Refused>,
    ) -> Option<Change> {
        match message.change {
            Some(proto::change::Change::Upsert(resource)) => self.resource(resource, held, refused).map(Change::Upsert),
            other => match Change::try_from(proto::Change { change: other }) {
                Ok(change) => {
                    if let Change::Remove(id) = &change {
                        self.0.remove(&name_of_id(id));
                    }
                    Some(change)
                }
                Err(error) => {
                    let name = "a removal".to_owned();
                    self.note(Refused { name, reason: error.to_string() }, refused);
                    None
                }
            },
        }
    }

    /// Reads a record, as [`Self::change`] does.
    pub fn resource(
        &mut self,
        message: proto::Resource,
        held: impl FnOnce(&ResourceId) -> Option<Resource>,
        refused: &mut Vec<Refused>,
    ) -> Option<Resource> {
        let known = Known::of(&message);
        match Resource::try_from(message) {
            Ok(resource) => {
                if !self.0.is_empty() {
                    self.0.remove(&name_of_id(&resource.id()));
                }
                Some(resource)
            }
            Err(error) => {
                self.note(Refused { name: known.name.clone(), reason: error.to_string() }, refused);
                known.id.as_ref().and_then(held).map(|last_good| known.stopped(last_good))
            }
        }
    }

    fn note(&mut self, one: Refused, refused: &mut Vec<Refused>) {
        self.0.insert(one.name.clone());
        refused.push(one);
    }
}

/// What can be known of a record that may not be readable.
struct Known {
    name: String,
    id: Option<ResourceId>,
    status: Option<(KeyStatus, u64)>,
}

impl Known {
    fn of(message: &proto::Resource) -> Self {
        use proto::resource::Resource as Wire;
        let (id, status) = match &message.resource {
            Some(Wire::Key(key)) => {
                let status = admin::KeyStatus::try_from(key.status).ok().and_then(|it| KeyStatus::try_from(it).ok());
                let id = convert::parsed::<KeyId>(&key.id, "id").ok().map(ResourceId::Key);
                (id, status.map(|status| (status, key.status_revision)))
            }
            Some(Wire::Model(model)) => (Some(ResourceId::Model(model.name.clone())), None),
            Some(Wire::Credential(credential)) => {
                (CredentialId::from_slice(&credential.id).map(ResourceId::Credential), None)
            }
            Some(Wire::Workspace(workspace)) => {
                (WorkspaceId::from_slice(&workspace.id).map(ResourceId::Workspace), None)
            }
            None => (None, None),
        };
        let name = id.as_ref().map_or_else(|| "a record without a name".to_owned(), name_of_id);
        Self { name, id, status }
    }

    /// The last good version, with the status of the one that could not be read.
    fn stopped(&self, last_good: Resource) -> Resource {
        match (last_good, self.status) {
            (Resource::Key(key), Some((status, status_revision))) => {
                Resource::Key(Arc::new(KeyRecord { status, status_revision, ..(*key).clone() }))
            }
            (other, _) => other,
        }
    }
}

fn name_of_id(id: &ResourceId) -> String {
    match id {
        ResourceId::Key(id) => format!("key {id}"),
        ResourceId::Model(name) => format!("model {}", name.chars().take(LONGEST_NAME).collect::<String>()),
        ResourceId::Credential(id) => format!("credential {id}"),
        ResourceId::Workspace(id) => format!("workspace {id}"),
    }
}

#[cfg(test)]
mod tests {
    use keyforge_shared::policy::Policy;

    use super::*;
    use crate::fixture::{key, key_id, quota};

    fn wire(number: u8, policy: Policy) -> proto::KeyRecord {
        let Resource::Key(record) = key(number, policy) else { panic!("not a key") };
        (&*record).into()
    }

    fn upsert(key: proto::KeyRecord) -> proto::Change {
        let resource = proto::Resource { resource: Some(proto::resource::Resource::Key(key)) };
        proto::Change { change: Some(proto::change::Change::Upsert(resource)) }
    }

    /// As a later version would send it.
    fn unreadable(number: u8, status: admin::KeyStatus) -> proto::KeyRecord {
        let mut key = wire(number, quota(5));
        key.policy.as_mut().unwrap().request_limits[0].window = 77;
        proto::KeyRecord { status: status.into(), status_revision: 9, ..key }
    }

    #[test]
    fn a_record_that_cannot_be_read_is_named_and_its_last_good_version_stays() {
        let (mut refusals, mut refused) = (Refusals::default(), Vec::new());
        let held = |id: &ResourceId| (*id == ResourceId::Key(key_id(1))).then(|| key(1, quota(3)));
        let change = refusals.change(upsert(unreadable(1, admin::KeyStatus::Active)), held, &mut refused);
        let Some(Change::Upsert(Resource::Key(kept))) = change else { panic!("{change:?}") };
        assert_eq!((kept.policy.request_limits[0].requests, kept.status), (3, KeyStatus::Active));
        assert_eq!(refusals.change(upsert(unreadable(2, admin::KeyStatus::Active)), held, &mut refused), None);
        let names: Vec<_> = refused.iter().map(|refused| refused.name.as_str()).collect();
        assert_eq!((names, refusals.count()), (vec!["key vk_key000000001", "key vk_key000000002"], 2));
        assert!(refused[0].reason.contains("window"), "{:?}", refused[0]);
        assert!(refusals.change(upsert(wire(1, quota(4))), held, &mut refused).is_some());
        assert_eq!(refusals.count(), 1, "a version that can be read takes its place");
    }

    #[test]
    fn a_key_is_stopped_by_a_record_that_cannot_be_read_otherwise() {
        let held = |_: &ResourceId| Some(key(1, quota(3)));
        let stopped = upsert(unreadable(1, admin::KeyStatus::Revoked));
        let change = Refusals::default().change(stopped, held, &mut Vec::new());
        let Some(Change::Upsert(Resource::Key(kept))) = change else { panic!("{change:?}") };
        assert_eq!((kept.status, kept.status_revision), (KeyStatus::Revoked, 9));
    }
}
