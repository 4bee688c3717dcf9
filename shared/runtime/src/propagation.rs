//! How a trace crosses this process: from the request's headers onto a span, from a span onto the upstream request.
//!
//! The format is W3C Trace Context (`traceparent`, `tracestate`). While no traces are exported both directions cost one
//! atomic load and change nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

static ON: AtomicBool = AtomicBool::new(false);

/// From now on traces are exported, and therefore propagated.
pub(crate) fn switch_on() {
    ON.store(true, Ordering::Relaxed);
}

fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// The caller's span, if the headers name one and traces are exported.
#[must_use]
pub fn extract(headers: &HeaderMap) -> Option<SpanContext> {
    if !is_on() || !headers.contains_key(TRACEPARENT) {
        return None;
    }
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers));
    let caller = context.span().span_context().clone();
    caller.is_valid().then_some(caller)
}

/// Makes a span continue the caller's trace, if the headers name one. Call it before the span is entered.
pub fn continue_trace(span: &Span, headers: &HeaderMap) {
    if let Some(caller) = extract(headers) {
        let parent = Context::new().with_remote_span_context(caller);
        if span.set_parent(parent).is_err() {
            tracing::debug!("a span was entered before its parent was known; it begins a trace of its own");
        }
    }
}

/// Names a span as the parent of the request that will carry these headers.
pub fn inject(span: &Span, headers: &mut HeaderMap) {
    if !is_on() {
        return;
    }
    TraceContextPropagator::new().inject_context(&span.context(), &mut HeaderInjector(headers));
    // An empty list is a header without meaning.
    if headers.get(TRACESTATE).is_some_and(|state| state.is_empty()) {
        headers.remove(TRACESTATE);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn nothing_is_read_or_written_while_traces_are_not_exported() {
        let traceparent = HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let mut headers = HeaderMap::from_iter([(http::HeaderName::from_static(TRACEPARENT), traceparent)]);
        assert!(extract(&headers).is_none());
        headers.clear();
        inject(&Span::none(), &mut headers);
        assert!(headers.is_empty());
    }
}
