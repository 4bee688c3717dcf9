//! TLS to Redis: with the roots of the system, and never without checking the certificate.

use std::process::Command;

use keyforge_counters::RedisCounters;
use keyforge_runtime::shutdown::Shutdown;

use super::{Account, PATIENT, settings};
use crate::redis_server::RedisServer;

/// Where the inner test finds its server.
const ADDRESS_FILE: &str = "address";

/// A server that speaks TLS, and the directory with its certificate.
fn server() -> (RedisServer, tempfile::TempDir, String) {
    let directory = tempfile::TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("certificate.pem"), certified.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let options = [
        ["--tls-port", &port],
        ["--tls-cert-file", &path("certificate.pem")],
        ["--tls-key-file", &path("key.pem")],
        ["--tls-ca-cert-file", &path("certificate.pem")],
        ["--tls-auth-clients", "no"],
    ];
    let server = RedisServer::start_with(options.as_flattened());
    let url = format!("rediss://localhost:{port}");
    std::fs::write(path(ADDRESS_FILE), &url).unwrap();
    (server, directory, url)
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let (_server, _directory, url) = server();
    let store = RedisCounters::start(settings(vec![url], PATIENT), &Shutdown::new()).await.unwrap();
    assert!(!*store.availability().borrow());
}

/// Roots come from the environment of a process, so this one needs a process of its own.
#[test]
fn a_certificate_of_the_systems_roots_is_accepted() {
    let (_server, directory, _url) = server();
    let inner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "redis::tls::inside_with_those_roots", "--include-ignored"])
        .env("SSL_CERT_FILE", directory.path().join("certificate.pem"))
        .current_dir(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inner.stdout);
    assert!(inner.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "part of the test above, which gives it its roots"]
async fn inside_with_those_roots() {
    // Run by itself it has nothing to connect to.
    let Ok(url) = std::fs::read_to_string(ADDRESS_FILE) else { return };
    let store = RedisCounters::start(settings(vec![url], PATIENT), &Shutdown::new()).await.unwrap();
    let account = Account::open(&store, "encrypted000", 1).await;
    assert!(account.is_admitted(1).await);
}
