//! The accept loop: versions, limits, panics and the drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyforge_runtime::accept::{self, AcceptOptions, BindError, OnRefusedPeer, PerPeer};
use keyforge_runtime::shutdown::{Drained, Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::server::{LONG, any_port, get, send_and_read_to_end, start, text};

async fn hello(_request: Request<Incoming>) -> http::Response<http_body_util::Full<bytes::Bytes>> {
    text("hello")
}

fn impatient() -> AcceptOptions {
    AcceptOptions { header_read_timeout: Duration::from_millis(100), ..AcceptOptions::default() }
}

#[tokio::test]
async fn one_port_serves_http_1_and_http_2_by_prior_knowledge() {
    let shutdown = Shutdown::new();
    let address = start(AcceptOptions::default(), &shutdown, hello);
    for (h2, version) in [(false, Version::HTTP_11), (true, Version::HTTP_2)] {
        let answer = get(address, "/", h2).await.unwrap();
        assert_eq!((answer.status, answer.version, answer.body.as_str()), (200, version, "hello"));
    }
}

#[tokio::test]
async fn drain_waits_for_a_running_request_and_refuses_new_connections() {
    for h2 in [false, true] {
        let shutdown = Shutdown::new();
        let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begins, finishes) = (Arc::clone(&begun), Arc::clone(&finish));
        let address = start(AcceptOptions::default(), &shutdown, move |_request| {
            let (begins, finishes) = (Arc::clone(&begins), Arc::clone(&finishes));
            async move {
                begins.notify_one();
                finishes.notified().await;
                text("finished")
            }
        });
        let drained = shutdown.clone();
        let (answer, outcome, ()) = tokio::join!(get(address, "/", h2), drained.drained(LONG), async {
            begun.notified().await;
            shutdown.trigger();
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
            finish.notify_one();
        });
        assert_eq!(answer.unwrap().body, "finished");
        assert_eq!(outcome, Drained::Clean);
    }
}

#[tokio::test]
async fn drain_closes_idle_connections() {
    let shutdown = Shutdown::new();
    let address = start(AcceptOptions::default(), &shutdown, hello);
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    shutdown.trigger();
    assert_eq!(shutdown.drained(LONG).await, Drained::Clean);
}

#[tokio::test]
async fn force_cuts_a_request_that_never_ends() {
    let shutdown = Shutdown::new();
    let begun = Arc::new(Notify::new());
    let begins = Arc::clone(&begun);
    let address = start(AcceptOptions::default(), &shutdown, move |_request| {
        begins.notify_one();
        std::future::pending::<http::Response<http_body_util::Full<bytes::Bytes>>>()
    });
    let (answer, ()) = tokio::join!(get(address, "/", false), async {
        begun.notified().await;
        shutdown.trigger();
        assert!(matches!(shutdown.drained(Duration::ZERO).await, Drained::TimedOut { tasks: 1.. }));
    });
    assert!(answer.is_err());
}

#[tokio::test]
async fn connection_that_never_completes_a_head_is_cut() {
    let shutdown = Shutdown::new();
    let address = start(impatient(), &shutdown, hello);
    for dawdling in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nhost: a\r\nx-slow: "] {
        let received = send_and_read_to_end(address, dawdling.as_bytes()).await;
        assert!(!received.contains("200 OK"), "{dawdling:?} was answered {received:?}");
    }
}

#[tokio::test]
async fn request_that_runs_longer_than_a_head_may_take_is_not_cut() {
    let shutdown = Shutdown::new();
    let address = start(impatient(), &shutdown, |_request| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text("slow but whole")
    });
    for h2 in [false, true] {
        assert_eq!(get(address, "/", h2).await.unwrap().body, "slow but whole");
    }
}

#[tokio::test]
async fn head_larger_than_the_limit_is_refused() {
    let shutdown = Shutdown::new();
    let options = AcceptOptions { max_header_bytes: 8 * 1024, ..AcceptOptions::default() };
    let address = start(options, &shutdown, hello);
    let huge = format!("GET / HTTP/1.1\r\nhost: a\r\nx-huge: {}\r\n\r\n", "a".repeat(32 * 1024));
    let received = send_and_read_to_end(address, huge.as_bytes()).await;
    assert!(!received.contains("200 OK"), "{received:?}");
    assert!(received.is_empty() || received.starts_with("HTTP/1.1 431"), "{received:?}");
}

#[tokio::test]
async fn connection_over_the_limit_waits_for_a_slot() {
    let shutdown = Shutdown::new();
    let options = AcceptOptions { max_connections: 1, ..AcceptOptions::default() };
    let address = start(options, &shutdown, hello);
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    first.read_exact(&mut [0; 15]).await.unwrap();

    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    assert!(timeout(Duration::from_millis(100), second.read_exact(&mut head)).await.is_err());
    drop(first);
    timeout(LONG, second.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
}

/// A connection from this address of the host's own.
async fn connect_from(host: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((host, 0))).unwrap();
    socket.connect(address).await.unwrap()
}

/// Whether the connection is served.
async fn is_served(stream: &mut TcpStream) -> bool {
    // A reset is as good a refusal as a close.
    let mut head = [0; 15];
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.is_ok();
    asked && timeout(LONG, stream.read_exact(&mut head)).await.unwrap().is_ok()
}

#[tokio::test]
async fn an_address_that_holds_all_it_may_is_refused_at_once_and_others_are_served() {
    let shutdown = Shutdown::new();
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refused);
    let on_refused: OnRefusedPeer = Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let per_peer = Some(PerPeer { of_certificate: 1, of_address: 2, on_refused });
    let address = start(AcceptOptions { per_peer, ..AcceptOptions::default() }, &shutdown, hello);
    let (flood, other) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    let (mut first, mut silent) = (connect_from(flood, address).await, connect_from(flood, address).await);
    assert!(is_served(&mut first).await);
    for _ in 0..3 {
        let mut further = connect_from(flood, address).await;
        assert!(!is_served(&mut further).await);
    }
    assert_eq!(refused.load(Ordering::Relaxed), 3);
    assert!(is_served(&mut connect_from(other, address).await).await);
    assert!(is_served(&mut silent).await, "it had its place");
    drop(first);
    let freed = async { while !is_served(&mut connect_from(flood, address).await).await {} };
    timeout(LONG, freed).await.expect("the place of a connection that has ended is never free again");
}

#[tokio::test]
async fn connection_that_answers_and_asks_nothing_is_closed_once_it_is_idle() {
    let shutdown = Shutdown::new();
    let idle_timeout = Some(Duration::from_millis(100));
    let address = start(AcceptOptions { idle_timeout, ..AcceptOptions::default() }, &shutdown, |_request| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        text("longer than it may idle")
    });
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = shutdown.spawn("client", async move { connection.await.unwrap() });
    let request = Request::get(format!("http://{address}/")).body(Empty::<Bytes>::new()).unwrap();
    let answer = timeout(LONG, client.send_request(request)).await.unwrap().unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "longer than it may idle", "a request that runs is no idleness");
    timeout(LONG, connection).await.expect("it is still open").unwrap();
}

#[tokio::test]
async fn panic_in_a_service_is_a_500_and_the_next_request_is_served() {
    let shutdown = Shutdown::new();
    let address = start(AcceptOptions::default(), &shutdown, |request: Request<Incoming>| {
        assert_ne!(request.uri().path(), "/at-once", "broken before there is a future");
        async move {
            assert_ne!(request.uri().path(), "/later", "broken in the future");
            text("fine")
        }
    });
    for h2 in [false, true] {
        for path in ["/at-once", "/later"] {
            let answer = get(address, path, h2).await.unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (500, "internal error\n"));
        }
        assert_eq!(get(address, "/", h2).await.unwrap().body, "fine");
    }
    assert_eq!(shutdown.panics(), 4);
}

#[tokio::test]
async fn service_is_made_for_its_peer() {
    let shutdown = Shutdown::new();
    let listener = accept::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    let make = |peer: &accept::Peer| {
        let address = peer.address;
        service_fn(move |_request| async move { Ok::<_, std::convert::Infallible>(text(address.to_string())) })
    };
    let serving = accept::serve_with(listener, AcceptOptions::default(), make, shutdown.clone());
    drop(shutdown.spawn("listener", serving));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).await.unwrap();
    assert!(received.ends_with(&stream.local_addr().unwrap().to_string()), "{received}");
}

#[tokio::test]
async fn port_in_use_is_named_with_what_to_do() {
    let first = accept::bind(any_port()).unwrap();
    let address = first.local_addr().unwrap();
    let error = accept::bind(address).unwrap_err();
    assert!(matches!(error, BindError::InUse(_)));
    assert_eq!(
        error.to_string(),
        format!("{address} is in use by another listener: stop that one, or configure another port")
    );
    let foreign = accept::bind("192.0.2.1:9".parse().unwrap()).unwrap_err();
    assert!(matches!(foreign, BindError::NotLocal(_)), "{foreign}");
}
