//! Carries out the replies that are not the script's own answer.
//!
//! Everything here is sent on purpose: nothing falls back to a proper answer.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::body::{ProviderBody, Step};
use super::errors::ApiError;
use super::stream::{Breakage, StreamFault};
use super::wire::{ENDLESS_BYTES, WireFault};

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// A response with one body and one content type.
pub(crate) fn response(status: u16, content_type: HeaderValue, body: ProviderBody) -> Response<ProviderBody> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An error in OpenAI's form.
pub(crate) fn error(error: &ApiError, cut: Option<usize>) -> Response<ProviderBody> {
    response(error.status, JSON, ProviderBody::whole(error.body(), cut))
}

/// A status with its own body and headers.
pub(crate) fn status<'a>(
    code: u16,
    body: Option<&str>,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    cut: Option<usize>,
) -> Response<ProviderBody> {
    let body = body.map_or_else(|| ApiError::of_status(code).body(), |body| Bytes::copy_from_slice(body.as_bytes()));
    let mut response = response(code, JSON, ProviderBody::whole(body, cut));
    add_headers(response.headers_mut(), headers);
    response
}

/// Exactly these bytes.
pub(crate) fn raw<'a>(
    status: u16,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: Bytes,
    cut: Option<usize>,
) -> Response<ProviderBody> {
    let mut response = response(status, JSON, ProviderBody::whole(body, cut));
    response.headers_mut().clear();
    add_headers(response.headers_mut(), headers);
    response
}

/// Adds the headers that the server does not decide itself; what is no header at all is left out.
fn add_headers<'a>(map: &mut HeaderMap, headers: impl Iterator<Item = (&'a str, &'a str)>) {
    for (name, value) in headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else { continue };
        if name == CONTENT_TYPE {
            map.insert(name, value);
        } else if ![CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&name) {
            map.append(name, value);
        }
    }
}

/// 200 that cannot be parsed.
pub(crate) fn garbage(stream: bool, cut: Option<usize>) -> Response<ProviderBody> {
    let (kind, body) = if stream {
        (EVENTS, &b"data: {\"id\": <<< not json >>>\n\n"[..])
    } else {
        (JSON, &b"{\"id\": <<< not json >>>"[..])
    };
    response(200, kind, ProviderBody::whole(Bytes::from_static(body), cut))
}

/// A load balancer's page.
pub(crate) fn html(cut: Option<usize>) -> Response<ProviderBody> {
    let page = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n";
    let kind = HeaderValue::from_static("text/html");
    response(502, kind, ProviderBody::whole(Bytes::from_static(page), cut))
}

/// 200 that claims to be gzip.
pub(crate) fn gzip_garbage(stream: bool, cut: Option<usize>) -> Response<ProviderBody> {
    let bytes: Vec<u8> = [0x1f, 0x8b].into_iter().chain((0..510_u32).map(|at| (at * 73 % 251) as u8)).collect();
    let kind = if stream { EVENTS } else { JSON };
    let mut response = response(200, kind, ProviderBody::whole(bytes.into(), cut));
    response.headers_mut().insert(http::header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
}

/// 200, headers, silence.
pub(crate) fn hang_after_headers(stream: bool) -> Response<ProviderBody> {
    let kind = if stream { EVENTS } else { JSON };
    response(200, kind, ProviderBody::steps([Step::Hang], None))
}

/// One event line without an end.
pub(crate) fn endless_line() -> Response<ProviderBody> {
    let block = Bytes::from(vec![b'a'; 16 << 10]);
    let body = ProviderBody::endless(Bytes::from_static(b"data: {\"endless\":\""), block, ENDLESS_BYTES);
    response(200, EVENTS, body)
}

/// A buffered answer that stops or breaks in the middle; its announced length is that of the whole.
pub(crate) fn broken_answer(whole: &Bytes, fault: StreamFault, cut: Option<usize>) -> Response<ProviderBody> {
    let half = whole.slice(..whole.len() / 2);
    let then = match fault.breakage {
        Breakage::Stall => Step::Hang,
        Breakage::Cut => Step::FlushAndBreak,
        Breakage::Error => return error(&ApiError::of_status(500), cut),
    };
    let steps = VecDeque::from([Step::Data(half), then]);
    let mut response = response(200, JSON, ProviderBody::steps(steps, cut));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
    response
}

/// The fault of a wire that headers dribble over.
pub(crate) fn slow_headers(interval_ms: u64) -> WireFault {
    WireFault::SlowHeaders { interval: Duration::from_millis(interval_ms) }
}
