//! Where to: the credentials that can serve the model, all of the same provider and the same model.

use std::sync::Arc;

use super::authorize::Permit;
use super::receive::Head;
use crate::plane::Plane;
use crate::pool::{LONGEST_WAIT, Pool, Unserved};
use crate::rejection::Rejection;

/// Finds the credentials that can serve a permit.
///
/// # Errors
/// [`Rejection::NoCredential`] when there is none, or none that is of any use.
pub fn route(plane: &Plane, permit: &Permit, head: &Head) -> Result<Arc<Pool>, Rejection> {
    let _step = tracing::debug_span!("route").entered();
    let pool = plane.pools.of(permit.model());
    match plane.pools.glance(&pool, patience(head)) {
        Err(Unserved::Hopeless) => Err(Rejection::NoCredential(pool.provider.clone())),
        Ok(()) | Err(Unserved::Later(_)) => Ok(pool),
    }
}

/// How long the request may wait for a credential: as long as its client says that it waits, but never longer than is sensible.
pub fn patience(head: &Head) -> std::time::Duration {
    let said = head.parts.headers.get("x-stainless-timeout").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let said = said.and_then(|seconds: f64| std::time::Duration::try_from_secs_f64(seconds / 2.0).ok());
    said.map_or(LONGEST_WAIT, |half| half.min(LONGEST_WAIT))
}

/// What the client is told when no credential serves its request.
pub fn unserved(pool: &Pool, unserved: Unserved) -> Rejection {
    match unserved {
        Unserved::Later(retry_after) => Rejection::PoolExhausted { retry_after },
        Unserved::Hopeless => Rejection::NoCredential(pool.provider.clone()),
    }
}
