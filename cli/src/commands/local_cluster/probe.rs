//! Whether a process of the cluster answers a GET with 200.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

const LOOK: Duration = Duration::from_millis(20);
const CALL: Duration = Duration::from_secs(2);

/// Asks again and again until the answer is 200. `token` is sent as a bearer token when there is one.
pub(super) async fn until_ok(addr: SocketAddr, path: &str, token: Option<&str>) {
    while !is_ok(addr, path, token).await {
        sleep(LOOK).await;
    }
}

async fn is_ok(addr: SocketAddr, path: &str, token: Option<&str>) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(addr).await?;
        let bearer = token.map(|token| Zeroizing::new(format!("authorization: Bearer {token}\r\n")));
        let bearer = bearer.as_ref().map_or("", |line| line.as_str());
        let head = Zeroizing::new(format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\n{bearer}connection: close\r\n\r\n"));
        stream.write_all(head.as_bytes()).await?;
        let mut status = [0; b"HTTP/1.1 200".len()];
        stream.read_exact(&mut status).await?;
        std::io::Result::Ok(status == *b"HTTP/1.1 200")
    };
    timeout(CALL, ask).await.is_ok_and(|asked| asked.unwrap_or(false))
}
