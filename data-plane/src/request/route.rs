//! Where to: the credentials that can serve the model now, all of the same provider and the same model.

use super::authorize::Permit;
use super::receive::Head;
use crate::plane::Plane;
use crate::pool::{self, Candidate};
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
pub fn route(plane: &Plane, permit: &Permit, head: &Head) -> Result<Candidates, Rejection> {
    let _step = tracing::debug_span!("route").entered();
    let provider = &permit.model().provider;
    // The last bytes of a request's id are random.
    let spread = head.id.as_bytes().last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let candidates = pool::candidates(&plane.replica, provider, spread);
    if candidates.is_empty() {
        return Err(Rejection::NoCredential(provider.to_string()));
    }
    Ok(Candidates(candidates))
}
