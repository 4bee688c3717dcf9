//! May they: status, expiry, token, address, endpoint, model. Only here is a [`Permit`] made.

use std::sync::Arc;

use keyforge_providers::redact;
use keyforge_shared::admission;
use keyforge_shared::audit::request::Flags;
use keyforge_shared::catalog::{Model, Operation};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::endpoint::Endpoint;
use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{CounterId, Touched, touched};
use keyforge_shared::period::CivilDay;
use keyforge_shared::plan::Plan;
use keyforge_shared::state::{KeyRecord, KeyStatus, Standing, WorkspaceRecord};
use keyforge_shared::token::TokenDigest;

use super::authenticate::Caller;
use super::origin;
use super::receive::Head;
use super::wanted::Wanted;
use crate::plane::Plane;
use crate::rejection::{Exhausted, Rejection};

/// Leave to call one model with one key, at one moment.
pub struct Permit {
    key: Arc<KeyRecord>,
    presented: TokenDigest,
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

    /// The workspace's plan, if a limit of `limit` on this counter is the plan's and not the workspace's own.
    #[must_use]
    pub fn plan_behind(&self, counter: &CounterId, limit: u64) -> Option<Plan> {
        self.workspace.plan.behind(counter, limit)
    }

    /// The date that the request is charged to, in the calendar of its key.
    #[must_use]
    pub fn day(&self) -> CivilDay {
        self.key.policy.calendar().day_at(self.at)
    }

    /// The same permit, for the reservation made with it.
    pub(super) fn again(&self) -> Self {
        let (key, workspace) = (Arc::clone(&self.key), Arc::clone(&self.workspace));
        Self { key, presented: self.presented, workspace, model: Arc::clone(&self.model), at: self.at }
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

/// Whether the key works at all, from here and at this endpoint, and the node can know it. Checked before the body is read, so that a dead or stolen
/// key costs nothing.
///
/// # Errors
/// A rejection with status 403, or as those of [`standing`].
pub fn entry(plane: &Plane, caller: &Caller, head: &Head, endpoint: Endpoint) -> Result<(), Rejection> {
    enter(plane, caller.key(), caller.presented(), head, endpoint)
}

fn enter(
    plane: &Plane,
    key: &KeyRecord,
    presented: &TokenDigest,
    head: &Head,
    endpoint: Endpoint,
) -> Result<(), Rejection> {
    standing(plane, key, presented)?;
    admission::address(&key.policy, || origin::client(&plane.trusted_proxies, head.peer.ip(), &head.parts.headers))?;
    Ok(admission::endpoint(&key.policy, endpoint)?)
}

/// Whether the key works at all, and the token of it that was presented, and the node can know it.
///
/// # Errors
/// A rejection with status 401, or 402 when what the key has left was set to nothing, or 503 when the node has not heard from the control plane for
/// longer than the key may be served without it.
fn standing(plane: &Plane, key: &KeyRecord, presented: &TokenDigest) -> Result<(), Rejection> {
    let now = plane.clock.now();
    admission::standing(key, now)?;
    admission::token(key, presented, now)?;
    if !plane.replica.freshness.covers(&key.policy, &*plane.clock) {
        plane.metrics.failed_closed("state");
        return Err(Rejection::StateStale);
    }
    if key.policy.has_nothing_left() {
        return Err(nothing_left());
    }
    Ok(())
}

/// What a key that was set to nothing is told.
fn nothing_left() -> Rejection {
    Rejection::Exhausted(Box::new(Exhausted::NOTHING_LEFT))
}

/// The key as it is now, found by the token that was presented. A token that no longer leads to its key was replaced more than once.
fn again(plane: &Plane, presented: &TokenDigest, id: KeyId) -> Result<Arc<KeyRecord>, Rejection> {
    plane.replica.key_by_digest(presented).ok_or_else(|| match plane.replica.key(id) {
        Some(_) => Rejection::TokenReplaced(None),
        None => Rejection::KeyRevoked,
    })
}

/// Whether the key may make this request. The key is looked up again: reading the body took time, and it may have been revoked meanwhile.
///
/// # Errors
/// A rejection with status 401, 403, 404 or 503.
pub fn authorize(plane: &Plane, caller: &Caller, head: &Head, wanted: &Wanted) -> Result<Permit, Rejection> {
    let _step = tracing::debug_span!("authorize").entered();
    let at = plane.clock.now();
    let key = again(plane, caller.presented(), caller.key().id)?;
    let (name, endpoint) = (wanted.model(), wanted.endpoint().named());
    enter(plane, &key, caller.presented(), head, endpoint)?;
    let model = admission::model(&key.policy, name, plane.replica.model_called(name), endpoint, brief)?;
    permit(plane, key, *caller.presented(), model, at)
}

/// Leave for this key and this model, at this moment.
pub(super) fn permit(
    plane: &Plane,
    key: Arc<KeyRecord>,
    presented: TokenDigest,
    model: Arc<Model>,
    at: Timestamp,
) -> Result<Permit, Rejection> {
    // Without its workspace nobody knows the key's limits.
    let workspace = plane.replica.workspace(key.workspace).ok_or_else(|| {
        plane.metrics.failed_closed("workspace");
        Rejection::EnforcementUnavailable
    })?;
    Ok(Permit { key, presented, workspace, model, at })
}

/// Whether the key of a permit still works.
///
/// # Errors
/// A rejection with status 401.
pub fn still_stands(plane: &Plane, permit: &Permit) -> Result<(), Rejection> {
    let key = again(plane, &permit.presented, permit.key.id)?;
    standing(plane, &key, &permit.presented)
}

/// Why the streams of a permit's key are cut.
pub(super) fn why_cut(plane: &Plane, permit: &Permit) -> (Rejection, Flags) {
    match plane.replica.key(permit.key.id).map(|key| key.standing()) {
        Some(Standing { status: KeyStatus::Paused, .. }) => (Rejection::KeyPaused, Flags(0)),
        Some(Standing { status: KeyStatus::Active, spent: true }) => (nothing_left(), Flags(0)),
        Some(Standing { .. }) | None => (Rejection::KeyRevoked, Flags::REVOKED),
    }
}

/// Whether a model can be called through any endpoint of this version.
#[must_use]
pub const fn can_be_called(model: &Model) -> bool {
    match model.operation {
        Operation::Chat | Operation::Embedding => true,
        Operation::Responses => false,
    }
}

fn brief(name: &str) -> String {
    redact::message(&name.chars().take(64).collect::<String>())
}
