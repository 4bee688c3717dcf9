//! What the head of a call says of its caller: where they call from, and the token that they carry.

use http::{Extensions, HeaderMap};
use keyforge_shared::secret::SecretBytes;
use tonic::transport::server::TcpConnectInfo;

/// The network address that a call came from, as entries name it.
pub(super) fn peer(extensions: &Extensions) -> String {
    let address = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    address.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}

/// The token of `authorization: Bearer`.
pub(super) fn bearer_token(headers: &HeaderMap) -> Option<SecretBytes> {
    let (scheme, token) = headers.get("authorization")?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| SecretBytes::new(token.trim_ascii().to_vec()))
}
