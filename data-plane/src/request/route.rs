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

/// By which clients say how many seconds they wait: those for Node.js, and those for Python.
const TIMEOUTS: [&str; 2] = ["x-stainless-timeout", "x-stainless-read-timeout"];

/// How long the request may wait for a credential: as long as its client says that it waits, but never longer than is sensible.
pub fn patience(head: &Head) -> std::time::Duration {
    let seconds = |name: &str| head.parts.headers.get(name)?.to_str().ok()?.trim().parse().ok();
    let said = TIMEOUTS.into_iter().find_map(seconds);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyforge_providers::dialect::Dialect;
    use keyforge_shared::clock::Timestamp;
    use keyforge_shared::id::RequestId;

    use super::*;

    #[test]
    fn a_client_waits_for_half_of_what_it_says_in_either_way() {
        for (name, value, expected) in [
            ("x-stainless-timeout", "6", Duration::from_secs(3)),
            ("x-stainless-read-timeout", "0.5", Duration::from_millis(250)),
            ("x-stainless-read-timeout", "600", LONGEST_WAIT),
            ("x-stainless-timeout", "soon", LONGEST_WAIT),
            ("x-stainless-timeout", "-1", LONGEST_WAIT),
            ("x-another-timeout", "1", LONGEST_WAIT),
        ] {
            let (parts, ()) = http::Request::builder().header(name, value).body(()).unwrap().into_parts();
            let id = RequestId::generate_at(Timestamp::from_millis(0)).unwrap();
            let peer = "127.0.0.1:1".parse().unwrap();
            let head = Head { parts, peer, id, started: 0, dialect: Dialect::ChatCompletions };
            assert_eq!(patience(&head), expected, "{name}: {value}");
        }
    }
}
