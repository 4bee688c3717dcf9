//! Where to: the credentials that can serve the model now, all of the same provider and the same model.

use super::authorize::Permit;
use crate::plane::Plane;
use crate::pool::Candidate;
use crate::rejection::Rejection;

/// At least one credential, the one whose turn it is first.
pub struct Candidates(Vec<Candidate>);

impl Candidates {
    /// The credential whose turn it is.
    #[must_use]
    pub fn first(&self) -> &Candidate {
        // `route` made this with at least one.
        &self.0[0]
    }
}

/// Finds the credentials that can serve a permit.
///
/// # Errors
/// [`Rejection::NoCredential`] when there is none.
pub fn route(plane: &Plane, permit: &Permit) -> Result<Candidates, Rejection> {
    let _step = tracing::debug_span!("route").entered();
    let provider = &permit.model().provider;
    let candidates = plane.pools.candidates(&plane.replica, provider);
    if candidates.is_empty() {
        return Err(Rejection::NoCredential(provider.to_string()));
    }
    Ok(Candidates(candidates))
}
