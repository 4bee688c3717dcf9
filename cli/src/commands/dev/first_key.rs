//! The first virtual key, made when there is none, and handed over once the node was seen to accept it.

use std::net::SocketAddr;
use std::time::Duration;

use keyforge_proto::admin::v1 as proto;
use keyforge_shared::money::NanoUsd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::client::AdminClient;
use crate::errors::Failure;

/// Enough to try everything, too little to regret.
const REQUESTS_PER_MONTH: u64 = 10_000;
const NANO_USD_PER_MONTH: u64 = 5_000_000_000;
/// How long a new key may take to reach the node.
const PROPAGATION: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(10);

/// A key that was just made.
pub(in crate::commands) struct FirstKey {
    pub(in crate::commands) id: String,
    pub(in crate::commands) token: Zeroizing<String>,
}

/// The limits of a first key in words.
pub(super) fn limits() -> String {
    format!("at most {REQUESTS_PER_MONTH} requests and {} in a month", NanoUsd::new(NANO_USD_PER_MONTH))
}

/// Makes a key when the deployment never had one, and waits until the node at `agents` knows it.
pub(in crate::commands) async fn make(client: &AdminClient, agents: SocketAddr) -> Result<Option<FirstKey>, Failure> {
    let one = proto::ListKeysRequest { page_size: 1, ..Default::default() };
    if !client.keys().list_keys(one).await?.into_inner().keys.is_empty() {
        return Ok(None);
    }
    let month = proto::Window::Month.into();
    let policy = proto::Policy {
        request_limits: vec![proto::RequestLimit { requests: REQUESTS_PER_MONTH, window: month }],
        spend_limits: vec![proto::SpendLimit { nano_usd: NANO_USD_PER_MONTH, window: month }],
        ..proto::Policy::default()
    };
    let request = proto::CreateKeyRequest { name: "first key".to_owned(), policy: Some(policy), ..Default::default() };
    let created = client.keys().create_key(request).await?.into_inner();
    let key = FirstKey { id: created.key.unwrap_or_default().id, token: Zeroizing::new(created.token) };
    let known = async {
        while !accepted(agents, &key.token).await {
            tokio::time::sleep(RETRY).await;
        }
    };
    if tokio::time::timeout(PROPAGATION, known).await.is_err() {
        // The token must not be lost: it is shown nevertheless.
        tracing::warn!(key = key.id, "the node does not know the first key yet");
    }
    Ok(Some(key))
}

/// Whether the node lists models to the holder of `token`.
async fn accepted(agents: SocketAddr, token: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(reachable(agents)).await?;
        let head = format!(
            "GET /v1/models HTTP/1.1\r\nhost: {agents}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(Zeroizing::new(head).as_bytes()).await?;
        let mut status = [0; b"HTTP/1.1 200".len()];
        stream.read_exact(&mut status).await?;
        std::io::Result::Ok(status == *b"HTTP/1.1 200")
    };
    ask.await.unwrap_or(false)
}

/// An address on this host that leads to a listener on `address`, which may be all addresses.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_loopback() {
        for (listens, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("10.1.2.3:1", "10.1.2.3:1"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
