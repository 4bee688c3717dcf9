//! Telemetry: one trace per request, with a span per step, that continues the caller's trace and goes on at the provider; metrics beside it.

use hyper::Request;
use keyforge_loadtest::provider::Script;

use crate::collector::Collector;
use crate::harness::{Gateway, hello, provider, read};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn a_request_is_a_trace_with_a_span_per_step_from_the_caller_to_the_provider() {
    let (provider, collector) = (provider(Script::default()), Collector::start().await);
    let mut gateway = Gateway::start_with(&provider, &[("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str())]).await;
    let request = Request::post(format!("{}/v1/chat/completions", gateway.url))
        .header("authorization", format!("Bearer {}", gateway.key))
        .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
        .body(http_body_util::Full::new(bytes::Bytes::from(hello().to_string())))
        .unwrap();
    assert_eq!(read(gateway.request(request).await).await.status, 200);
    let sent_on = provider.requests().pop().unwrap();
    let parent = sent_on.header("traceparent").expect("the trace goes on at the provider").to_owned();
    assert!(parent.contains(TRACE) && !parent.contains("00f067aa0ba902b7"), "{parent}");

    // What is not exported yet is exported by a graceful end.
    gateway.stop().await;
    let traces = collector.of("/v1/traces");
    let has = |bytes: &[u8]| traces.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(&hex(TRACE)), "the caller's trace is continued");
    for span in ["authenticate", "receive", "authorize", "route", "bound", "reserve", "dispatch", "settle"] {
        assert!(has(span.as_bytes()), "{span}");
    }
    assert!(has(b"gen_ai.request.model") && has(b"gpt-4o-mini"));
    let metrics = collector.of("/v1/metrics");
    let has = |text: &str| metrics.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("gen_ai.client.token.usage") && has("keyforge.requests"));
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
