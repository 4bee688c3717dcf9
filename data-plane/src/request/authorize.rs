//! May they: status, expiry, model. Only here is a [`Permit`] made.

use std::sync::Arc;

use keyforge_providers::redact;
use keyforge_shared::catalog::{Model, Operation};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::limit::{Touched, touched};
use keyforge_shared::period::CivilDay;
use keyforge_shared::state::{KeyRecord, KeyStatus, WorkspaceRecord};

use super::authenticate::Caller;
use super::receive::Inbound;
use crate::plane::Plane;
use crate::rejection::Rejection;

/// Providers whose API this version speaks.
pub const SPOKEN: [&str; 1] = ["openai"];

/// Leave to call one model with one key, at one moment.
pub struct Permit {
    key: Arc<KeyRecord>,
    workspace: Arc<WorkspaceRecord>,
    model: Arc<Model>,
    at: Timestamp,
}

impl Permit {
    /// The key.
    #[must_use]
    pub const fn key(&self) -> &Arc<KeyRecord> {
        &self.key
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Whether money is limited, by the key's policy or by its workspace, so that the request needs a provable bound.
    #[must_use]
    pub fn is_capped(&self) -> bool {
        self.key.policy.is_capped() || !self.workspace.spend_limits.is_empty()
    }

    /// The counters that the request touches.
    pub fn counters(&self) -> impl Iterator<Item = Touched> + use<'_> {
        touched(&self.key, &self.workspace, self.at)
    }

    /// The date that the request is charged to, in the calendar of its key.
    #[must_use]
    pub fn day(&self) -> CivilDay {
        self.key.policy.calendar().day_at(self.at)
    }

    /// The same permit, for the reservation made with it.
    pub(super) fn again(&self) -> Self {
        let (key, workspace) = (Arc::clone(&self.key), Arc::clone(&self.workspace));
        Self { key, workspace, model: Arc::clone(&self.model), at: self.at }
    }

    /// The same permit at a later moment.
    pub(super) fn made_at(&self, at: Timestamp) -> Self {
        Self { at, ..self.again() }
    }

    /// The moment that decides which periods the request is charged to.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        self.at
    }
}

/// Whether the key works at all. Checked before the body is read, so that a dead key costs nothing.
///
/// # Errors
/// A rejection with status 401.
pub fn standing(key: &KeyRecord, now: Timestamp) -> Result<(), Rejection> {
    match key.status {
        KeyStatus::Revoked => return Err(Rejection::KeyRevoked),
        KeyStatus::Frozen => return Err(Rejection::KeyFrozen),
        KeyStatus::Active => {}
    }
    match key.policy.expires_at {
        Some(expiry) if expiry <= now => Err(Rejection::KeyExpired(expiry)),
        _ => Ok(()),
    }
}

/// Whether the key may make this request. The key is looked up again: reading the body took time, and it may have been revoked meanwhile.
///
/// # Errors
/// A rejection with status 401, 403, 404 or 503.
pub fn authorize(plane: &Plane, caller: &Caller, inbound: &Inbound) -> Result<Permit, Rejection> {
    let _step = tracing::debug_span!("authorize").entered();
    let at = plane.clock.now();
    let key = plane.replica.key_by_digest(&caller.key().digest).ok_or(Rejection::KeyRevoked)?;
    standing(&key, at)?;
    let name = &inbound.request.model;
    // What a key may not call it need not learn exists: the policy speaks first.
    if !key.policy.allows_model(name) {
        return Err(Rejection::ModelNotAllowed(brief(name)));
    }
    let model = plane.replica.model(name).ok_or_else(|| Rejection::ModelUnknown(brief(name)))?;
    if !can_be_called(&model) {
        return Err(Rejection::ModelNotServed(brief(name)));
    }
    permit(plane, key, model, at)
}

/// Leave for this key and this model, at this moment.
pub(super) fn permit(
    plane: &Plane,
    key: Arc<KeyRecord>,
    model: Arc<Model>,
    at: Timestamp,
) -> Result<Permit, Rejection> {
    // Without its workspace nobody knows the key's limits.
    let workspace = plane.replica.workspace(key.workspace).ok_or_else(|| {
        plane.metrics.failed_closed("workspace");
        Rejection::EnforcementUnavailable
    })?;
    Ok(Permit { key, workspace, model, at })
}

/// Whether the key of a permit still works.
///
/// # Errors
/// A rejection with status 401.
pub fn still_stands(plane: &Plane, permit: &Permit) -> Result<(), Rejection> {
    let key = plane.replica.key_by_digest(&permit.key.digest).ok_or(Rejection::KeyRevoked)?;
    standing(&key, plane.clock.now())
}

/// Whether this version can call a model through chat completions.
#[must_use]
pub fn can_be_called(model: &Model) -> bool {
    model.operation == Operation::Chat && SPOKEN.contains(&model.provider.0.as_str())
}

fn brief(name: &str) -> String {
    redact::message(&name.chars().take(64).collect::<String>())
}
