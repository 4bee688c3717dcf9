//! Exporting to a collector, and traces that cross the process.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use keyforge_runtime::accept::AcceptOptions;
use keyforge_runtime::propagation;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_runtime::telemetry::{Telemetry, TelemetryConfig};
use keyforge_shared::secret::SecretBytes;

use crate::server::{LONG, start, text};

type Received = Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>;

/// A collector that keeps whatever it is sent.
fn collector(shutdown: &Shutdown) -> (SocketAddr, Received) {
    let received = Received::default();
    let keep = Arc::clone(&received);
    let address = start(AcceptOptions::default(), shutdown, move |request: Request<Incoming>| {
        let keep = Arc::clone(&keep);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            keep.lock().unwrap().push((head.uri.path().to_owned(), head.headers, body));
            text("")
        }
    });
    (address, received)
}

fn config(collector: SocketAddr) -> TelemetryConfig {
    let mut config = TelemetryConfig::new("keyforge-test");
    config.otlp_endpoint = Some(format!("http://{collector}/"));
    config.otlp_headers = vec![("x-tenant".to_owned(), SecretBytes::new(b"blue".to_vec()))];
    config
}

fn contains(body: &Bytes, text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn spans_and_metrics_reach_the_collector_as_protobuf_before_shutdown_returns() {
    let shutdown = Shutdown::new();
    let (address, received) = collector(&shutdown);
    let (telemetry, dispatch) = Telemetry::prepare(config(address)).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info_span!(target: "keyforge_it", "exported-span").in_scope(|| ());
        tracing::info_span!(target: "hyper", "foreign-span").in_scope(|| ());
    });
    telemetry.meter().u64_counter("keyforge.exported").build().add(1, &[]);
    telemetry.shutdown(LONG).await;

    let received = received.lock().unwrap();
    for (path, name) in [("/v1/traces", "exported-span"), ("/v1/metrics", "keyforge.exported")] {
        let (_, headers, body) = received.iter().find(|(at, ..)| at == path).expect(path);
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert_eq!(headers["x-tenant"], "blue");
        assert!(contains(body, name) && contains(body, "keyforge-test"), "{path} without {name}");
    }
    assert!(!received.iter().any(|(.., body)| contains(body, "foreign-span")));
}

#[tokio::test]
async fn shutdown_ends_at_its_deadline_when_the_collector_is_gone() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (telemetry, dispatch) = Telemetry::prepare(config(gone)).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info_span!(target: "keyforge_it", "lost-span").in_scope(|| ());
    });
    tokio::time::timeout(LONG, telemetry.shutdown(std::time::Duration::from_secs(1))).await.unwrap();
}

#[tokio::test]
async fn trace_of_the_caller_continues_upstream_under_a_span_of_ours() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let shutdown = Shutdown::new();
    let (address, received) = collector(&shutdown);
    let (telemetry, dispatch) = Telemetry::prepare(config(address)).unwrap();
    let mut incoming = HeaderMap::new();
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    incoming.insert("traceparent", HeaderValue::try_from(traceparent.clone()).unwrap());

    let mut upstream = HeaderMap::new();
    let mut unrelated = HeaderMap::new();
    tracing::dispatcher::with_default(&dispatch, || {
        let span = tracing::info_span!(target: "keyforge_it", "request");
        propagation::continue_trace(&span, &incoming);
        propagation::inject(&span, &mut upstream);
        let own = tracing::info_span!(target: "keyforge_it", "request");
        propagation::continue_trace(&own, &HeaderMap::new());
        propagation::inject(&own, &mut unrelated);
    });
    let forwarded = upstream["traceparent"].to_str().unwrap();
    assert!(forwarded.starts_with(&format!("00-{TRACE}-")) && forwarded.ends_with("-01"), "{forwarded}");
    assert_ne!(forwarded, traceparent);
    assert!(!upstream.contains_key("tracestate"));
    assert!(!unrelated["traceparent"].to_str().unwrap().contains(TRACE));

    telemetry.shutdown(LONG).await;
    assert!(received.lock().unwrap().iter().any(|(path, ..)| path == "/v1/traces"));
}

#[tokio::test]
async fn malformed_traceparent_is_no_parent() {
    let shutdown = Shutdown::new();
    let (address, _received) = collector(&shutdown);
    let (_telemetry, _dispatch) = Telemetry::prepare(config(address)).unwrap();
    for malformed in ["", "00-zz-00f067aa0ba902b7-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static(malformed));
        assert!(propagation::extract(&headers).is_none(), "{malformed:?}");
    }
}
