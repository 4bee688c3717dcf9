//! The life of one request at the provider: read, remember, choose a reply, carry it out.
//!
//! A reply is chosen in this order: the recording that `x-recording-id` names, the next queued one-shot reply (POST
//! only), the first standing fault that matches, the script's own answer. Keys and limits bind answers only.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::answer::{Answer, CREATED};
use super::body::ProviderBody;
use super::chat;
use super::errors::ApiError;
use super::faults;
use super::ratelimit::{Window, duration_text};
use super::reply::Reply;
use super::request::{self, ChatRequest};
use super::script::Script;
use super::seen::SeenRequest;
use super::server::State;
use super::stream::{Breakage, Pace, StreamFault, TokenStream};
use super::voice::Voice;
use super::voice::speech::Speech;
use super::wire::{GivenUp, Slot, WireFault};

/// The longest request body that is read, in bytes.
const MAX_BODY: usize = 64 << 20;

const RECORDING_ID: &str = "x-recording-id";
const SANDBOX: HeaderName = HeaderName::from_static("x-keyforge-sandbox");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");

/// What a request is, once its body has been read.
struct Inbound {
    method: Method,
    path: String,
    headers: HeaderMap,
    credential: String,
    body: Bytes,
    id: u64,
}

/// Answers one request.
pub(crate) async fn serve(
    state: Arc<State>,
    slot: Slot,
    request: Request<Incoming>,
) -> Result<Response<ProviderBody>, GivenUp> {
    let script = state.script();
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        let too_large = ApiError { status: 413, ..ApiError::invalid("The request body is too large.", None, None) };
        return Ok(faults::error(&too_large, None));
    };
    let body = body.to_bytes();
    if parts.uri.path() == super::server::BILL_PATH {
        let bill = serde_json::to_vec(&state.ledger.bill()).unwrap_or_default();
        return Ok(faults::response(200, faults::JSON, ProviderBody::whole(bill.into(), None)));
    }
    let inbound = Inbound {
        path: parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        credential: credential(&parts.headers),
        headers: parts.headers,
        id: state.next_id.fetch_add(1, Ordering::Relaxed),
        method: parts.method,
        body,
    };
    let reply = choose(&state, &script, &inbound);
    let record = script.record_requests;
    state.seen.arrived(record.then(|| SeenRequest {
        method: inbound.method.clone(),
        path: inbound.path.clone(),
        headers: inbound.headers.clone(),
        body: inbound.body.clone(),
        credential: inbound.credential.clone(),
        at: Instant::now(),
    }));
    let mut response = perform(&state, &script, &slot, &inbound, reply).await?;
    if script.sandbox {
        response.headers_mut().insert(SANDBOX, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The key a request carries, wherever providers look for it; empty if none.
fn credential(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text(AUTHORIZATION.as_str()).map(|value| value.strip_prefix("Bearer ").unwrap_or(value));
    bearer.or_else(|| ["x-api-key", "api-key", "x-goog-api-key"].into_iter().find_map(text)).unwrap_or("").to_owned()
}

fn choose(state: &State, script: &Script, inbound: &Inbound) -> Reply {
    if let Some(id) = inbound.headers.get(RECORDING_ID).and_then(|id| id.to_str().ok()) {
        let missing = || Reply::Status {
            code: 404,
            body: Some(format!("{{\"error\":{{\"message\":\"no recording {id:?}\"}}}}")),
            headers: std::collections::BTreeMap::new(),
        };
        return state.recording(id).unwrap_or_else(missing);
    }
    if inbound.method == Method::POST {
        let voice = Voice::of(&inbound.path);
        let named = voice.as_ref().and_then(Voice::model);
        if let Some(queued) = state.next_queued() {
            return queued;
        }
        if let Some(standing) = state.standing_fault(script, &inbound.credential, named, &inbound.body) {
            return standing;
        }
    }
    Reply::Answer
}

async fn perform(
    state: &State,
    script: &Script,
    slot: &Slot,
    inbound: &Inbound,
    mut reply: Reply,
) -> Result<Response<ProviderBody>, GivenUp> {
    while let Reply::Delay { ms, then } = reply {
        sleep(Duration::from_millis(ms)).await;
        reply = *then;
    }
    let cut = script.cut();
    let stream = || match Voice::of(&inbound.path) {
        Some(Voice::Google { stream, .. }) => stream,
        _ => request::wants_stream(&inbound.body),
    };
    let give_up = |fault: WireFault| {
        *slot.lock() = Some(fault);
        Err(GivenUp)
    };
    let broken = |after_events, breakage| Some(StreamFault { after_events, breakage });
    let fault = match reply {
        Reply::Answer | Reply::Delay { .. } => None,
        Reply::CutStream { after_events } => broken(after_events, Breakage::Cut),
        Reply::StallStream { after_events } => broken(after_events, Breakage::Stall),
        Reply::ErrorEvent { after_events } => broken(after_events, Breakage::Error),
        Reply::Status { code, body, headers } => {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            return Ok(faults::status(code, body.as_deref(), headers, cut));
        }
        Reply::Raw { status, headers, body, chunk_bytes } => {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            return Ok(faults::raw(status, headers, body.into(), chunk_bytes.filter(|size| *size > 0).or(cut)));
        }
        Reply::Garbage => return Ok(faults::garbage(stream(), cut)),
        Reply::Html => return Ok(faults::html(cut)),
        Reply::Hang => std::future::pending().await,
        Reply::HangAfterHeaders => return Ok(faults::hang_after_headers(stream())),
        Reply::GzipGarbage => return Ok(faults::gzip_garbage(stream(), cut)),
        Reply::EndlessLine => return Ok(faults::endless_line()),
        Reply::CloseBeforeResponse => return give_up(WireFault::Close),
        Reply::SlowHeaders { interval_ms } => return give_up(faults::slow_headers(interval_ms)),
        Reply::EndlessHeader => return give_up(WireFault::EndlessHeader),
    };
    Ok(answer(state, script, inbound, fault).await)
}

/// The script's own answer: routes, keys, limits, and a chat completion.
async fn answer(
    state: &State,
    script: &Script,
    inbound: &Inbound,
    fault: Option<StreamFault>,
) -> Response<ProviderBody> {
    let cut = script.cut();
    let voice = Voice::of(&inbound.path).filter(|_| inbound.method == Method::POST);
    let refuse = |error: &ApiError, window| match &voice {
        Some(voice) => voice.error(error, window, cut),
        None => faults::error(error, cut),
    };
    if !script.accepted_keys.is_empty() && !script.accepted_keys.contains(&inbound.credential) {
        return refuse(&ApiError::invalid_key(&inbound.credential), None);
    }
    if let Some(voice) = &voice {
        return match spoken(state, script, inbound, voice, fault).await {
            Ok(response) => response,
            Err((error, window)) => {
                let mut response = refuse(&error, window);
                limit_headers(response.headers_mut(), window);
                response
            }
        };
    }
    let path = inbound.path.split('?').next().unwrap_or_default();
    match (&inbound.method, path) {
        (&Method::GET, "/v1/models") => models(script),
        (&Method::POST, "/v1/chat/completions") => match completion(state, script, inbound, fault).await {
            Ok(response) => response,
            Err((error, window)) => {
                let mut response = faults::error(&error, cut);
                limit_headers(response.headers_mut(), window);
                response
            }
        },
        _ => faults::error(&ApiError::unknown_url(&inbound.method, path), cut),
    }
}

fn models(script: &Script) -> Response<ProviderBody> {
    let entry = |id: &String| json!({"id": id, "object": "model", "created": CREATED, "owned_by": "scripted"});
    let list = json!({"object": "list", "data": script.models.iter().map(entry).collect::<Vec<_>>()});
    faults::response(200, faults::JSON, ProviderBody::whole(list.to_string().into(), script.cut()))
}

async fn completion(
    state: &State,
    script: &Script,
    inbound: &Inbound,
    fault: Option<StreamFault>,
) -> Result<Response<ProviderBody>, (ApiError, Option<Window>)> {
    let asked = ChatRequest::parse(&inbound.body).map_err(|error| (error, None))?;
    let window = state.take(script, &inbound.credential, Instant::now());
    if let Some(full) = window.filter(|window| !window.admitted) {
        let retry = duration_text(full.retry_ms);
        return Err((ApiError::rate_limited(&asked.model, full.limit, &retry), window));
    }
    let answer = Answer::plan(&asked, script, inbound.id).map_err(|error| (error, window))?;
    let account = state.ledger.account(&inbound.credential, &asked.model);
    let (stream, include_usage) = (asked.stream, asked.include_usage);
    drop(asked);
    let mut response = if stream {
        if script.latency_ms > 0 {
            sleep(Duration::from_millis(script.latency_ms)).await;
        }
        let tokens = TokenStream::begin(answer, account, include_usage, Pace::from(script), fault);
        faults::response(200, faults::EVENTS, ProviderBody::tokens(tokens, script.cut()))
    } else {
        account.begin(answer.usage.prompt, answer.usage.cached);
        account.made(answer.usage.completion, answer.usage.reasoning);
        if script.latency_ms > 0 {
            sleep(Duration::from_millis(script.latency_ms)).await;
        }
        let body = chat::body(&answer);
        match fault {
            Some(fault) => faults::broken_answer(&body, fault, script.cut()),
            None => faults::response(200, faults::JSON, ProviderBody::whole(body, script.cut())),
        }
    };
    let headers = response.headers_mut();
    headers.insert(PROCESSING_MS, HeaderValue::from(script.latency_ms));
    let request_id = HeaderValue::try_from(format!("req_{:032x}", inbound.id));
    headers.extend(request_id.ok().map(|id| (REQUEST_ID, id)));
    limit_headers(headers, window);
    Ok(response)
}

/// The answer to a request in another language than chat completions.
async fn spoken(
    state: &State,
    script: &Script,
    inbound: &Inbound,
    voice: &Voice,
    fault: Option<StreamFault>,
) -> Result<Response<ProviderBody>, (ApiError, Option<Window>)> {
    let chat = voice.as_chat(&inbound.headers, &inbound.body).map_err(|error| (error, None))?;
    let asked = ChatRequest::parse(&chat).map_err(|error| (error, None))?;
    let window = state.take(script, &inbound.credential, Instant::now());
    if let Some(full) = window.filter(|window| !window.admitted) {
        let retry = duration_text(full.reset_ms);
        return Err((ApiError::rate_limited(&asked.model, full.limit, &retry), window));
    }
    let answer = Answer::plan(&asked, script, inbound.id).map_err(|error| (error, window))?;
    let account = state.ledger.account(&inbound.credential, &asked.model);
    account.begin(answer.usage.prompt, answer.usage.cached);
    if script.latency_ms > 0 {
        sleep(Duration::from_millis(script.latency_ms)).await;
    }
    let mut response = if asked.stream {
        let pieces = voice.pieces(&answer, &inbound.body);
        let speech = Speech::begin(voice.clone(), pieces, account, Pace::from(script), fault);
        faults::response(200, faults::EVENTS, ProviderBody::speech(speech, script.cut()))
    } else {
        account.made(answer.usage.completion, answer.usage.reasoning);
        let body = voice.body(&answer, &inbound.body);
        match fault {
            Some(fault) => faults::broken_answer(&body, fault, script.cut()),
            None => faults::response(200, faults::JSON, ProviderBody::whole(body, script.cut())),
        }
    };
    limit_headers(response.headers_mut(), window);
    Ok(response)
}

fn limit_headers(headers: &mut HeaderMap, window: Option<Window>) {
    let Some(window) = window else { return };
    headers.insert(LIMIT, HeaderValue::from(window.limit));
    headers.insert(REMAINING, HeaderValue::from(window.remaining));
    headers.extend(HeaderValue::try_from(duration_text(window.reset_ms)).ok().map(|reset| (RESET, reset)));
    if !window.admitted {
        headers.insert(RETRY_AFTER, HeaderValue::from(window.retry_ms.div_ceil(1000)));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(window.retry_ms));
    }
}
