//! Who calls: token → digest → key record. No await, no look-up for what cannot be a key.

use std::sync::Arc;

use http::{HeaderMap, header};
use keyforge_shared::admission;
use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::state::KeyRecord;
use keyforge_shared::token::{self, TokenDigest, TokenError};

use super::receive::Head;
use crate::plane::Plane;
use crate::rejection::Rejection;

/// Headers that may carry a key, besides `authorization`: what the SDKs of other dialects use.
const KEY_HEADERS: [&str; 3] = ["x-api-key", "api-key", "x-goog-api-key"];

/// Someone who holds the token of a key. Says nothing yet about what they may do.
pub struct Caller {
    key: Arc<KeyRecord>,
    presented: TokenDigest,
}

impl Caller {
    /// Their key.
    #[must_use]
    pub const fn key(&self) -> &Arc<KeyRecord> {
        &self.key
    }

    /// The digest of the token that they hold: the key's, or the one before its rotation.
    #[must_use]
    pub const fn presented(&self) -> &TokenDigest {
        &self.presented
    }

    /// Until when that token works, if the key was rotated and it still does.
    #[must_use]
    pub fn token_until(&self, clock: &dyn Clock) -> Option<Timestamp> {
        if self.key.digest == self.presented {
            return None;
        }
        admission::token(&self.key, &self.presented, clock.now()).ok().flatten()
    }
}

/// Finds out who calls.
///
/// # Errors
/// A rejection with status 401 that does not tell an unknown key from a garbled one.
pub fn authenticate(plane: &Plane, head: &Head) -> Result<Caller, Rejection> {
    authenticate_headers(plane, &head.parts.headers)
}

/// Finds out who calls from the headers alone.
///
/// # Errors
/// As [`authenticate`].
pub fn authenticate_headers(plane: &Plane, headers: &HeaderMap) -> Result<Caller, Rejection> {
    let _step = tracing::debug_span!("authenticate").entered();
    let presented = presented_key(headers)?;
    let (_, digest) = token::parse(presented).map_err(|error| match error {
        TokenError::Prefix => Rejection::KeyForeign,
        TokenError::Garbled => Rejection::KeyUnknown,
    })?;
    let key = plane.replica.key_by_digest(&digest).ok_or(Rejection::KeyUnknown)?;
    Ok(Caller { key, presented: digest })
}

/// The one key in any of the headers. Some clients send the same key twice; different keys are refused rather than guessed among.
fn presented_key(headers: &HeaderMap) -> Result<&[u8], Rejection> {
    let bearer = headers.get_all(header::AUTHORIZATION).iter().map(|value| {
        let value = value.as_bytes();
        match value.split_at_checked(7) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest,
            _ => value,
        }
    });
    let others = KEY_HEADERS.iter().flat_map(|name| headers.get_all(*name)).map(|value| value.as_bytes());
    let mut keys = bearer.chain(others).map(<[u8]>::trim_ascii).filter(|key| !key.is_empty());
    let first = keys.next().ok_or(Rejection::KeyMissing)?;
    if keys.all(|key| key == first) { Ok(first) } else { Err(Rejection::KeysConflict) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_key_is_found_in_each_of_the_four_headers() {
        let places = [
            ("authorization", "Bearer vk_a"),
            ("authorization", "bearer   vk_a"),
            ("authorization", "vk_a"),
            ("x-api-key", "vk_a"),
            ("api-key", "vk_a"),
            ("x-goog-api-key", " vk_a "),
        ];
        for place in places {
            assert_eq!(presented_key(&headers(&[place])), Ok(b"vk_a".as_slice()), "{place:?}");
        }
    }

    #[test]
    fn equal_duplicates_are_taken_and_different_keys_are_refused() {
        let same = headers(&[("authorization", "Bearer vk_a"), ("api-key", "vk_a")]);
        assert_eq!(presented_key(&same), Ok(b"vk_a".as_slice()));
        let different = headers(&[("authorization", "Bearer vk_a"), ("x-api-key", "vk_b")]);
        assert_eq!(presented_key(&different), Err(Rejection::KeysConflict));
        assert_eq!(presented_key(&headers(&[("authorization", "Bearer ")])), Err(Rejection::KeyMissing));
    }
}
