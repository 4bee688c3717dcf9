//! May they: status, expiry, model. Only here is a [`Permit`] made.

use std::sync::Arc;

use keyforge_providers::redact;
use keyforge_shared::catalog::{Model, Operation};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::state::{KeyRecord, KeyStatus};

use super::authenticate::Caller;
use super::receive::Inbound;
use crate::plane::Plane;
use crate::rejection::Rejection;

/// Providers whose API this version speaks.
pub const SPOKEN: [&str; 1] = ["openai"];

/// Leave to call one model with one key, at one moment.
pub struct Permit {
    key: Arc<KeyRecord>,
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

    /// The same permit, for the reservation made with it.
    pub(super) fn again(&self) -> Self {
        Self { key: Arc::clone(&self.key), model: Arc::clone(&self.model), at: self.at }
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
/// A rejection with status 401, 403 or 404.
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
    Ok(Permit { key, model, at })
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
