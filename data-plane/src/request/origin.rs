//! From where a request comes: its peer, or the client whose request a proxy passed on.
//!
//! Anybody can write `x-forwarded-for`, so it counts only as far as proxies are trusted that are known by address: read from the right, which is
//! where the last proxy wrote, the first address that is not a trusted proxy's is the client's.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use keyforge_shared::network::Networks;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address; `None` when a trusted proxy wrote something that is no address.
#[must_use]
pub fn client(trusted: &Networks, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
    let mut nearest = peer.to_canonical();
    if !trusted.contain(nearest) {
        return Some(nearest);
    }
    for value in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for item in value.as_bytes().rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            nearest = address(item)?;
            if !trusted.contain(nearest) {
                return Some(nearest);
            }
        }
    }
    Some(nearest)
}

/// An address, alone or with a port, as different proxies write it.
fn address(item: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(item).ok()?;
    let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let alone = unbracketed.parse().ok();
    alone.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip())).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn origin(trusted: &[&str], peer: &str, forwarded: &[&'static str]) -> Option<String> {
        let trusted = Networks::new(trusted.iter().map(|text| text.parse().unwrap()).collect());
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static(value));
        }
        client(&trusted, peer.parse().unwrap(), &headers).map(|address| address.to_string())
    }

    #[test]
    fn nobody_is_believed_who_is_not_a_trusted_proxy() {
        for trusted in [&[][..], &["10.0.0.0/8"]] {
            assert_eq!(origin(trusted, "192.0.2.1", &["203.0.113.9"]).as_deref(), Some("192.0.2.1"));
        }
        assert_eq!(origin(&[], "::ffff:192.0.2.1", &[]).as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxys_is_the_clients() {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"];
        for (forwarded, client) in [
            (&["203.0.113.9"][..], "203.0.113.9"),
            (&["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            (&["1.1.1.1, 203.0.113.9 ,10.0.0.2"], "203.0.113.9"),
            (&["1.1.1.1", "203.0.113.9, 2001:db8::7"], "203.0.113.9"),
            (&["203.0.113.9:4711, [2001:db8::7]:80"], "203.0.113.9"),
            (&["::ffff:203.0.113.9, ::ffff:10.0.0.7"], "203.0.113.9"),
            (&["[2001:db9::7]"], "2001:db9::7"),
            (&["nonsense, 203.0.113.9"], "203.0.113.9"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(origin(&trusted, "10.0.0.1", forwarded).as_deref(), Some(client), "{forwarded:?}");
        }
    }

    #[test]
    fn what_a_proxy_cannot_say_is_nowhere() {
        for forwarded in ["unknown", "203.0.113.9, unknown", "203.0.113.9, ", "10.0.0.1.2"] {
            assert_eq!(origin(&["10.0.0.0/8"], "10.0.0.1", &[forwarded]), None, "{forwarded}");
        }
    }
}
