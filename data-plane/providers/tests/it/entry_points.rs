//! Every way into the crate that takes bytes of somebody else's, each with what must hold whatever the bytes are: nothing panics, memory is
//! bounded by the input, and where a stream is cut changes nothing.
//!
//! The fuzz targets in `fuzz/` and the properties in `arbitrary.rs` call the same functions, the ones without end, the others within each
//! run of the tests.

use std::hint::black_box;
use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use keyforge_providers::bound::{embedding_bound, input_bound};
use keyforge_providers::exchange::{self, Answer, Destination, Exchange, Outgoing, Stamp, StreamReader};
use keyforge_providers::metering;
use keyforge_providers::openai::request::scan;
use keyforge_providers::openai::rewrite::MaxTokensField;
use keyforge_providers::openai::{conversation, embeddings};
use keyforge_providers::refusal::RequestError;
use keyforge_providers::sse::{Event, Splitter};
use keyforge_providers::translate::Target;
use keyforge_providers::verdict::Verdict;
use keyforge_providers::{anthropic, openai};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::provider::Api;

/// Destinations that differ in what is written for them: API, provider, and model.
const DESTINATIONS: [(Api, &str, &str); 8] = [
    (Api::OpenAi, "openai", "gpt-5-mini"),
    (Api::OpenAi, "mistral", "mistral-small-latest"),
    (Api::Anthropic, "anthropic", "claude-3-5-haiku-latest"),
    (Api::Anthropic, "anthropic", "claude-haiku-4-5"),
    (Api::Anthropic, "anthropic", "claude-sonnet-5"),
    (Api::Google, "google", "gemini-2.0-flash"),
    (Api::Google, "google", "gemini-2.5-flash"),
    (Api::Google, "google", "gemini-3-pro-preview"),
];

/// The most bytes that come out for each byte that goes in, and beside them. The dearest are the smallest: each candidate `{}` of an answer,
/// three bytes with its comma, becomes a whole choice; each piece of a stream, a whole chunk.
const MOST_PER_BYTE: usize = 96;
const MOST_BESIDE: usize = 8192;

/// The longest event that is read: short, so that longer ones are met.
const MAX_EVENT_BYTES: usize = 1 << 14;

fn assert_bounded(input: usize, output: usize) {
    let most = input.saturating_mul(MOST_PER_BYTE).saturating_add(MOST_BESIDE);
    assert!(output <= most, "{output} bytes were made of {input}");
}

fn destination(at: usize, limit: Option<u64>) -> Destination<'static> {
    let (api, provider, model) = DESTINATIONS[at];
    let is_legacy = provider == "mistral";
    Destination {
        api,
        target: Target { model, limit, model_limit: limit.map(|limit| limit.saturating_mul(2)) },
        limit_field: if is_legacy { MaxTokensField::Legacy } else { MaxTokensField::Current },
        usage_option: !is_legacy,
    }
}

fn stamp() -> Stamp {
    Stamp { id: "1".to_owned(), created: 1, model: "m".to_owned(), most_input: None }
}

fn assert_sound_refusal(input: usize, refusal: &RequestError) {
    assert!(!refusal.message.is_empty());
    assert_bounded(input, refusal.message.len() + refusal.field.as_ref().map_or(0, String::len));
}

fn assert_sendable(input: usize, sent: Result<(Outgoing, Exchange), RequestError>) {
    let (outgoing, _) = match sent {
        Ok(sent) => sent,
        Err(refusal) => return assert_sound_refusal(input, &refusal),
    };
    assert!(outgoing.path.starts_with('/') && outgoing.path.bytes().all(|byte| byte.is_ascii_graphic()));
    let body = outgoing.body.to_bytes();
    assert_bounded(input, body.len());
    // Not read into values: those have a limit to their depth, which bodies do not.
    assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&body).is_ok(), "what is sent is JSON");
}

/// A body of a request, for chat and for embeddings.
pub fn request(bytes: &[u8]) {
    match scan(bytes) {
        Ok(request) => {
            for (at, (_, provider, model)) in DESTINATIONS.iter().enumerate() {
                black_box(input_bound(&request, &metering::of(provider, model), Some(1000)));
                black_box(input_bound(&request, &metering::of(provider, model), None));
                for limit in [None, Some(1), Some(40_000)] {
                    let body = Bytes::copy_from_slice(bytes);
                    let sent = exchange::chat(&request, body, &destination(at, limit), stamp());
                    assert!(sent.is_ok() || DESTINATIONS[at].0 != Api::OpenAi, "what was admitted is passed on");
                    assert_sendable(bytes.len(), sent);
                }
            }
        }
        Err(refusal) => {
            assert_sound_refusal(bytes.len(), &refusal);
            black_box(conversation::read(bytes).is_ok());
        }
    }
    match embeddings::scan(bytes) {
        Ok(request) => {
            for (at, (_, provider, model)) in DESTINATIONS.iter().enumerate() {
                black_box(embedding_bound(&request, &metering::of(provider, model), Some(1000)));
                let body = Bytes::copy_from_slice(bytes);
                assert_sendable(bytes.len(), exchange::embeddings(&request, body, &destination(at, Some(1)), stamp()));
            }
        }
        Err(refusal) => assert_sound_refusal(bytes.len(), &refusal),
    }
}

/// Exchanges of each API, and of those with a form that a function stands for; `usage`: whether the client asks for it.
fn exchanges(usage: bool) -> &'static [Exchange] {
    static EXCHANGES: LazyLock<[Vec<Exchange>; 2]> = LazyLock::new(|| [false, true].map(chat_exchanges));
    &EXCHANGES[usize::from(usage)]
}

fn chat_exchanges(usage: bool) -> Vec<Exchange> {
    const MESSAGES: &str = r#""messages":[{"role":"user","content":"a"}],"stream":true"#;
    let forms = ["", r#","response_format":{"type":"json_object"}"#];
    let asked = [(0, forms[0]), (4, forms[0]), (4, forms[1]), (6, forms[0])].into_iter();
    let exchanges = asked.map(|(at, form)| {
        let body = format!(r#"{{"model":"m",{MESSAGES},"stream_options":{{"include_usage":{usage}}}{form}}}"#);
        let request = scan(body.as_bytes()).unwrap();
        exchange::chat(&request, Bytes::from(body), &destination(at, None), stamp()).unwrap().1
    });
    exchanges.collect()
}

/// Exchanges of embeddings, with each API that has them and each way to write vectors.
fn embedding_exchanges() -> &'static [Exchange] {
    static EXCHANGES: LazyLock<Vec<Exchange>> = LazyLock::new(|| {
        let asked = ["float", "base64"].into_iter().flat_map(|encoding| [0, 6].map(|at| (at, encoding)));
        let exchanges = asked.map(|(at, encoding)| {
            let body = format!(r#"{{"model":"m","input":["a","b"],"encoding_format":"{encoding}"}}"#);
            let request = embeddings::scan(body.as_bytes()).unwrap();
            exchange::embeddings(&request, Bytes::from(body), &destination(at, None), stamp()).unwrap().1
        });
        exchanges.collect()
    });
    &EXCHANGES
}

/// A whole answer, with a status of success.
pub fn answer(bytes: &[u8]) {
    for exchange in exchanges(true).iter().chain(embedding_exchanges()) {
        match exchange.answer(Bytes::copy_from_slice(bytes)) {
            Ok(Answer { body, model, .. }) => {
                assert_bounded(bytes.len(), body.len() + model.map_or(0, |model| model.len()));
                assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&body).is_ok(), "an answer is JSON");
            }
            Err(error) => assert_bounded(bytes.len(), error.to_string().len()),
        }
    }
}

/// What came of a stream.
#[derive(Debug, Default, PartialEq)]
struct Followed {
    /// What the client gets.
    told: Vec<u8>,
    /// Each verdict, in a letter.
    verdicts: String,
    /// Why it broke off.
    broken: Option<String>,
    /// What the reader says at the end.
    state: String,
}

impl Followed {
    fn verdict(&mut self, verdict: Verdict, event: &Event) {
        let (letter, told) = match verdict {
            Verdict::Forward => ('f', event.raw.clone()),
            Verdict::ForwardTrimmed(pieces) => ('t', pieces.to_bytes()),
            Verdict::Replace(bytes) => ('r', bytes),
            Verdict::Drop => ('-', Bytes::new()),
            Verdict::Done => ('d', event.raw.clone()),
            Verdict::DoneWith(bytes) => ('D', bytes),
            Verdict::UpstreamError(fault) => {
                self.broken = Some(format!("{fault:?}"));
                ('e', Bytes::new())
            }
        };
        self.verdicts.push(letter);
        self.told.extend_from_slice(&told);
    }

    fn close(mut self, reader: &mut StreamReader) -> Self {
        if self.broken.is_none()
            && let Some(last) = reader.on_end()
        {
            assert!(last.ends_with(b"data: [DONE]\n\n"));
            self.told.extend_from_slice(&last);
        }
        let seen = (reader.has_content(), reader.has_made_something(), reader.finished(), reader.done());
        self.state =
            format!("{:?} {:?} {:?} {:?} {seen:?}", reader.usage(), reader.input_seen(), reader.tier(), reader.model());
        self
    }
}

/// Follows a stream that comes in pieces of these sizes.
fn follow(exchange: &Exchange, bytes: &[u8], mut sizes: impl Iterator<Item = usize>) -> Followed {
    let (mut splitter, mut reader, mut followed) =
        (Splitter::new(MAX_EVENT_BYTES), exchange.stream(), Followed::default());
    let mut rest = bytes;
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len());
        let (piece, after) = rest.split_at(size);
        rest = after;
        splitter.feed(Bytes::copy_from_slice(piece));
        while let Some(event) = splitter.next_event() {
            match event {
                Ok(event) => {
                    let verdict = reader.on_event(&event);
                    followed.verdict(verdict, &event);
                }
                Err(error) => followed.broken = Some(error.to_string()),
            }
            if followed.broken.is_some() {
                return followed.close(&mut reader);
            }
        }
    }
    if let Some(event) = splitter.finish() {
        let verdict = reader.on_event(&event);
        followed.verdict(verdict, &event);
    }
    followed.close(&mut reader)
}

/// A stream of events, whole and in pieces, whose sizes are taken from its last bytes.
pub fn stream(bytes: &[u8]) {
    let sizes = || bytes.iter().rev().map(|byte| usize::from(byte & 31) + 1).cycle();
    for usage in [true, false] {
        for exchange in exchanges(usage) {
            let whole = follow(exchange, bytes, std::iter::empty());
            assert_bounded(bytes.len(), whole.told.len());
            assert_eq!(follow(exchange, bytes, sizes()), whole, "in pieces");
            assert_eq!(follow(exchange, bytes, std::iter::repeat(1)), whole, "byte by byte");
        }
    }
}

/// A response that is no success: its status in the first line, a header in each that follows, and after an empty line its body.
pub fn fault(bytes: &[u8]) {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = end.map_or((&b"500"[..], bytes), |end| (&bytes[..end], &bytes[end + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let status = lines.next().and_then(|line| std::str::from_utf8(line).ok()?.trim().parse().ok()).unwrap_or(500);
    let mut headers = HeaderMap::new();
    for line in lines.take(100) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line.get(colon + 1..).unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    for now in [0, 1_790_000_000_000, i64::MAX].map(Timestamp::from_millis) {
        for exchange in exchanges(false) {
            let fault = exchange.fault(status, &headers, body, now);
            let is_letter = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
            for word in [&fault.code, &fault.error_type].into_iter().flatten() {
                assert!(!word.is_empty() && word.chars().all(is_letter), "{fault:?}");
            }
            assert!(!fault.message.is_empty() && fault.retry_after.is_none_or(|wait| !wait.is_zero()), "{fault:?}");
            assert_bounded(bytes.len(), fault.message.len() + fault.param.as_ref().map_or(0, String::len));
            black_box(fault.billed());
        }
        let windows = [openai::headroom::read(&headers, now), anthropic::headroom::read(&headers, now)];
        for window in windows.iter().flatten() {
            assert!(window.limit > 0 && window.remaining <= window.limit, "{window:?}");
            assert!(window.resets_at.is_none_or(|reset| reset > now), "{window:?}");
        }
    }
}
