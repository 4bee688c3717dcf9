//! Redis servers: how they are started, whether they answer, and how three of them become a Redis Cluster. Only a few commands are spoken,
//! in the inline form of the protocol.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::ports::local;
use crate::errors::Failure;

/// Hash slots of a Redis Cluster.
const SLOTS: usize = 16_384;
const CALL: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// Most bytes of an answer that is read.
const ANSWER: u64 = 64 * 1024;

/// Arguments of a server that loses at most a second of writes, and refuses to forget for want of memory.
pub(super) fn arguments(port: u16, directory: &Path, member: bool) -> Vec<OsString> {
    let port = port.to_string();
    let mut words = vec!["--bind", "127.0.0.1", "--port", &port, "--daemonize", "no", "--save", ""];
    words.extend(["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]);
    if member {
        words.extend(["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]);
    }
    let mut arguments: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    arguments.extend(["--dir".into(), directory.into()]);
    arguments
}

/// Runs the server's `--version`, so that a missing one is found before anything starts.
pub(super) async fn find(server: &Path) -> Result<(), Failure> {
    let ran = tokio::process::Command::new(server).arg("--version").output().await;
    let problem = match ran {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => output.status.to_string(),
        Err(error) => error.to_string(),
    };
    Err(Failure::refused(format!("cannot run {}: {problem}", server.display()))
        .hint("install Redis 7 (Debian package redis-server), or name its server with --redis-server PATH"))
}

/// Waits until a server answers.
pub(super) async fn answers(port: u16) {
    while !ask(port, "PING").await.is_ok_and(|answer| answer == "PONG") {
        sleep(LOOK).await;
    }
}

/// Makes one Redis Cluster of these masters, unless they are one already, and waits until all of them say so.
pub(super) async fn form_cluster(ports: &[u16]) {
    let (share, last) = (SLOTS.div_ceil(ports.len().max(1)), SLOTS);
    for (index, port) in ports.iter().enumerate() {
        let slots: Vec<String> = (index * share..last.min((index + 1) * share)).map(|slot| slot.to_string()).collect();
        // Refused where it was done at an earlier start.
        drop(ask(*port, &format!("CLUSTER ADDSLOTS {}", slots.join(" "))).await);
        drop(ask(*port, &format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1)).await);
    }
    loop {
        let mut whole = true;
        for port in ports {
            let info = ask(*port, "CLUSTER INFO").await.unwrap_or_default();
            let says = |line: &str| info.lines().any(|found| found == line);
            whole &= says("cluster_state:ok") && says(&format!("cluster_known_nodes:{}", ports.len()));
        }
        if whole {
            return;
        }
        for (one, other) in ports.iter().flat_map(|one| ports.iter().map(move |other| (one, other))) {
            if one < other {
                drop(ask(*one, &format!("CLUSTER MEET 127.0.0.1 {other}")).await);
            }
        }
        sleep(10 * LOOK).await;
    }
}

/// Sends one command and reads its answer: a status, an error, or a text.
async fn ask(port: u16, command: &str) -> io::Result<String> {
    let asking = async {
        let mut stream = BufReader::new(TcpStream::connect(local(port)).await?).take(ANSWER);
        stream.get_mut().get_mut().write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut head = String::new();
        stream.read_line(&mut head).await?;
        let head = head.trim_end();
        if let Some(error) = head.strip_prefix('-') {
            return Err(io::Error::other(error.to_owned()));
        }
        let Some(length) = head.strip_prefix('$').and_then(|length| length.parse().ok()) else {
            return Ok(head.trim_start_matches(['+', ':']).to_owned());
        };
        let mut body = Vec::new();
        stream.take(length).read_to_end(&mut body).await?;
        if body.len() as u64 == length {
            Ok(String::from_utf8_lossy(&body).into_owned())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    };
    timeout(CALL, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answered(answer: &'static str) -> io::Result<String> {
        let listener = TcpListener::bind(local(0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut command = [0; 6];
            socket.read_exact(&mut command).await.unwrap();
            assert_eq!(&command, b"PING\r\n");
            socket.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(ask(port, "PING"), server).0
    }

    #[tokio::test]
    async fn statuses_texts_and_errors_are_told_apart() {
        assert_eq!(answered("+PONG\r\n").await.unwrap(), "PONG");
        assert_eq!(answered("$7\r\na:1\r\nb:\r\n").await.unwrap(), "a:1\r\nb:");
        assert_eq!(answered("-LOADING it is\r\n").await.unwrap_err().to_string(), "LOADING it is");
        assert!(answered("$99999999\r\n").await.is_err());
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_what_to_install() {
        let error = find(Path::new("/does/not/exist")).await.unwrap_err().to_string();
        assert!(error.contains("/does/not/exist") && error.contains("--redis-server"), "{error}");
    }
}
