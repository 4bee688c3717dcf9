//! [`Resource`], [`ResourceId`], [`Change`] and [`Delta`]: the replicated state on the wire.

use std::sync::Arc;

use keyforge_shared::id::{CredentialId, WorkspaceId};
use keyforge_shared::state::{Change, Delta, Resource, ResourceId, SetHash};

use super::{ConvertError, each, id, parsed, required};
use crate::fleet::v1 as proto;
use crate::fleet::v1::{change, resource, resource_id};

impl From<&Resource> for proto::Resource {
    fn from(resource: &Resource) -> Self {
        let resource = match resource {
            Resource::Key(key) => resource::Resource::Key((&**key).into()),
            Resource::Model(model) => resource::Resource::Model((&**model).into()),
            Resource::Credential(credential) => resource::Resource::Credential((&**credential).into()),
            Resource::Workspace(workspace) => resource::Resource::Workspace((&**workspace).into()),
        };
        Self { resource: Some(resource) }
    }
}

impl TryFrom<proto::Resource> for Resource {
    type Error = ConvertError;
    fn try_from(message: proto::Resource) -> Result<Self, ConvertError> {
        let within = |name| move |error: ConvertError| error.within(name);
        Ok(match required(message.resource, "resource")? {
            resource::Resource::Key(key) => Self::Key(Arc::new(key.try_into().map_err(within("key"))?)),
            resource::Resource::Model(model) => Self::Model(Arc::new(model.try_into().map_err(within("model"))?)),
            resource::Resource::Credential(credential) => {
                Self::Credential(Arc::new(credential.try_into().map_err(within("credential"))?))
            }
            resource::Resource::Workspace(workspace) => {
                Self::Workspace(Arc::new(workspace.try_into().map_err(within("workspace"))?))
            }
        })
    }
}

impl From<&ResourceId> for proto::ResourceId {
    fn from(name: &ResourceId) -> Self {
        let resource = match name {
            ResourceId::Key(key) => resource_id::Resource::Key(key.to_string()),
            ResourceId::Model(name) => resource_id::Resource::Model(name.clone()),
            ResourceId::Credential(id) => resource_id::Resource::Credential(id.as_bytes().to_vec()),
            ResourceId::Workspace(id) => resource_id::Resource::Workspace(id.as_bytes().to_vec()),
        };
        Self { resource: Some(resource) }
    }
}

impl TryFrom<proto::ResourceId> for ResourceId {
    type Error = ConvertError;
    fn try_from(message: proto::ResourceId) -> Result<Self, ConvertError> {
        Ok(match required(message.resource, "resource")? {
            resource_id::Resource::Key(key) => Self::Key(parsed(&key, "key")?),
            resource_id::Resource::Model(name) => Self::Model(name),
            resource_id::Resource::Credential(bytes) => {
                Self::Credential(id(&bytes, "credential", CredentialId::from_slice)?)
            }
            resource_id::Resource::Workspace(bytes) => {
                Self::Workspace(id(&bytes, "workspace", WorkspaceId::from_slice)?)
            }
        })
    }
}

impl From<&Change> for proto::Change {
    fn from(change: &Change) -> Self {
        let change = match change {
            Change::Upsert(resource) => change::Change::Upsert(resource.into()),
            Change::Remove(name) => change::Change::Remove(name.into()),
        };
        Self { change: Some(change) }
    }
}

impl TryFrom<proto::Change> for Change {
    type Error = ConvertError;
    fn try_from(message: proto::Change) -> Result<Self, ConvertError> {
        let within = |name| move |error: ConvertError| error.within(name);
        Ok(match required(message.change, "change")? {
            change::Change::Upsert(resource) => Self::Upsert(resource.try_into().map_err(within("upsert"))?),
            change::Change::Remove(name) => Self::Remove(name.try_into().map_err(within("remove"))?),
        })
    }
}

impl From<&Delta> for proto::Delta {
    fn from(delta: &Delta) -> Self {
        Self {
            from: delta.from,
            to: delta.to,
            changes: delta.changes.iter().map(Into::into).collect(),
            set_hash: delta.set_hash.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<proto::Delta> for Delta {
    type Error = ConvertError;
    fn try_from(delta: proto::Delta) -> Result<Self, ConvertError> {
        if delta.to <= delta.from {
            return Err(ConvertError::new("to", "a delta leads to a later revision than it starts from"));
        }
        let set_hash = SetHash::from_slice(&delta.set_hash);
        Ok(Self {
            from: delta.from,
            to: delta.to,
            changes: each(delta.changes, "changes")?,
            set_hash: set_hash.ok_or_else(|| ConvertError::new("set_hash", "not 32 bytes"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use keyforge_shared::state::State;
    use proptest::prelude::*;

    use super::*;
    use crate::convert::samples;

    proptest! {
        #[test]
        fn i_14_deltas_that_crossed_the_wire_lead_to_the_same_set(changes in proptest::collection::vec(samples::change(), 1..8)) {
            let (mut leader, mut follower) = (State::default(), State::default());
            for change in changes {
                let delta = leader.commit(vec![change]);
                let decoded = Delta::try_from(proto::Delta::from(&delta)).unwrap();
                prop_assert_eq!(&decoded, &delta);
                prop_assert_eq!(follower.apply(decoded), Ok(()));
            }
            prop_assert_eq!(follower.set_hash(), leader.set_hash());
        }

        #[test]
        fn every_name_survives_the_wire(change in samples::change()) {
            let name = match change {
                Change::Upsert(resource) => resource.id(),
                Change::Remove(name) => name,
            };
            prop_assert_eq!(ResourceId::try_from(proto::ResourceId::from(&name)), Ok(name));
        }
    }

    #[test]
    fn a_fault_deep_in_a_delta_is_named_by_its_whole_path() {
        let credential = proto::CredentialRecord::default();
        let resource = proto::Resource { resource: Some(resource::Resource::Credential(credential)) };
        let bad = proto::Change { change: Some(change::Change::Upsert(resource)) };
        let key = resource_id::Resource::Key("vk_abcdefghijkl".to_owned());
        let good = proto::Change { change: Some(change::Change::Remove(proto::ResourceId { resource: Some(key) })) };
        let delta = proto::Delta { from: 1, to: 2, changes: vec![good, bad], set_hash: vec![0; 32] };
        assert_eq!(Delta::try_from(delta.clone()).unwrap_err().field, "changes[1].upsert.credential.provider");
        let empty = proto::Delta { changes: vec![proto::Change::default()], ..delta.clone() };
        assert_eq!(Delta::try_from(empty).unwrap_err().field, "changes[0].change");
        let short = proto::Delta { changes: Vec::new(), set_hash: vec![0; 31], ..delta.clone() };
        assert_eq!(Delta::try_from(short).unwrap_err().field, "set_hash");
        assert_eq!(Delta::try_from(proto::Delta { to: 1, ..delta }).unwrap_err().field, "to");
    }
}
