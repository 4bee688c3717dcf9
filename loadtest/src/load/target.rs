//! Where load is sent: an OpenAI base URL on this machine, and a key.

use std::net::SocketAddr;

use anyhow::{Context, bail};

/// A base URL and the key to use there.
#[derive(Clone, Debug)]
pub struct Target {
    /// Address of the listener; always loopback.
    pub addr: SocketAddr,
    /// Path of chat completions.
    pub path: String,
    /// Bearer token.
    pub key: String,
}

impl Target {
    /// Reads a base URL such as `http://127.0.0.1:8080/v1`.
    ///
    /// # Errors
    /// Not plain HTTP, no address with a port, or not loopback: load is never sent to another machine.
    pub fn parse(base_url: &str, key: &str) -> anyhow::Result<Self> {
        let rest = base_url.strip_prefix("http://").context("url: must begin with http://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = authority.replace("localhost", "127.0.0.1");
        let addr: SocketAddr = authority.parse().with_context(|| format!("url: {authority} is not ADDRESS:PORT"))?;
        if !addr.ip().is_loopback() {
            bail!("url: {addr} is not on this machine; load is sent to loopback addresses only");
        }
        let path = path.trim_end_matches('/');
        let slash = if path.is_empty() { "" } else { "/" };
        Ok(Self { addr, path: format!("{slash}{path}/chat/completions"), key: key.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_names_address_and_path() {
        let target = Target::parse("http://localhost:81/v1/", "k").unwrap();
        assert_eq!((target.addr.to_string(), target.path.as_str()), ("127.0.0.1:81".into(), "/v1/chat/completions"));
        assert_eq!(Target::parse("http://[::1]:81", "k").unwrap().path, "/chat/completions");
    }

    #[test]
    fn other_machines_are_refused() {
        for url in ["http://192.0.2.1:80/v1", "https://127.0.0.1:80", "http://example.com"] {
            assert!(Target::parse(url, "k").is_err(), "{url}");
        }
    }
}
