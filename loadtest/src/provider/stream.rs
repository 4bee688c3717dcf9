//! The events of a streamed answer, one step at a time, charged as they are made.
//!
//! Order: a role chunk per choice, the tokens (choices in turn), a finish chunk per choice, the usage chunk if it was
//! asked for, `[DONE]`. A fault ends this order after a number of events and never sends `[DONE]`. Dropped before its
//! end, a stream counts as left by the client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::answer::{Answer, CREATED, Content};
use super::bill::Account;
use super::body::{EventBuffer, Step};
use super::chat::{self, hex, number, quoted, text};
use super::errors::ApiError;
use super::filler;
use super::script::Script;
use super::tools::ToolCall;

/// How a stream goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breakage {
    /// The connection closes.
    Cut,
    /// Silence.
    Stall,
    /// An error event, then the end.
    Error,
}

/// A stream that goes wrong after so many events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamFault {
    pub after_events: u64,
    pub breakage: Breakage,
}

/// Waits between the events of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    first: Duration,
    interval: Duration,
}

impl Pace {
    /// The wait before the first event.
    pub(crate) fn first(self) -> Duration {
        self.first
    }

    /// The wait before each further one.
    pub(crate) fn interval(self) -> Duration {
        self.interval
    }
}

impl From<&Script> for Pace {
    fn from(script: &Script) -> Self {
        Self {
            first: Duration::from_millis(script.first_token_ms),
            interval: Duration::from_millis(script.token_interval_ms),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Role(u64),
    Token {
        token: u64,
        choice: u64,
    },
    Finish(u64),
    Usage,
    Done,
    /// `[DONE]` is out, or the provider itself ended the stream.
    Over,
}

/// A streamed answer under way.
#[derive(Debug)]
pub(crate) struct TokenStream {
    answer: Answer,
    account: Arc<Account>,
    fault: Option<StreamFault>,
    include_usage: bool,
    interval: Duration,
    /// When the last paced event was due; the next one is reckoned from it, so late timers do not add up.
    clock: Instant,
    /// The wait that comes before the next event, if it has not been made yet.
    wait: Duration,
    phase: Phase,
    tokens: u64,
    calls: Vec<CallToken>,
    events: u64,
    /// The start of every chunk, up to its choices.
    head: Vec<u8>,
    scratch: Vec<u8>,
    buffer: EventBuffer,
}

/// A token of a tool call: its name, or a piece of its arguments.
#[derive(Clone, Copy, Debug)]
struct CallToken {
    call: usize,
    piece: Option<usize>,
}

impl TokenStream {
    /// Begins a stream now and charges its prompt.
    pub(crate) fn begin(
        answer: Answer,
        account: Arc<Account>,
        include_usage: bool,
        pace: Pace,
        fault: Option<StreamFault>,
    ) -> Self {
        account.begin(answer.usage.prompt, answer.usage.cached);
        Self {
            head: head(&answer),
            tokens: answer.content.tokens(),
            calls: call_tokens(&answer.content),
            include_usage: include_usage && !answer.omit_usage,
            account,
            fault,
            interval: pace.interval,
            clock: Instant::now(),
            wait: pace.first,
            phase: Phase::Role(0),
            events: 0,
            scratch: Vec::with_capacity(256),
            buffer: EventBuffer::default(),
            answer,
        }
    }

    /// The next step of the body.
    pub(crate) fn next_step(&mut self) -> Step {
        if matches!(self.phase, Phase::Over) {
            return Step::End;
        }
        if !self.wait.is_zero() {
            self.clock += std::mem::take(&mut self.wait);
            return Step::WaitUntil(self.clock);
        }
        if let Some(fault) = self.fault.filter(|fault| fault.after_events == self.events) {
            return self.go_wrong(fault.breakage);
        }
        self.events += 1;
        match self.phase {
            Phase::Role(choice) => self.role(choice),
            Phase::Token { token, choice } => self.token(token, choice),
            Phase::Finish(choice) => self.finish(choice),
            Phase::Usage => self.usage(),
            Phase::Done | Phase::Over => {
                self.phase = Phase::Over;
                Step::Data(Bytes::from_static(b"data: [DONE]\n\n"))
            }
        }
    }

    fn go_wrong(&mut self, breakage: Breakage) -> Step {
        match breakage {
            Breakage::Stall => Step::Hang,
            // What was written must leave before the connection breaks: flush first, break when asked again.
            Breakage::Cut => {
                self.fault = None;
                self.phase = Phase::Over;
                Step::FlushAndBreak
            }
            Breakage::Error => {
                self.phase = Phase::Over;
                let error = ApiError::of_status(500).line();
                Step::Data(self.buffer.join(&[b"data: ", &error, b"\n\n"]))
            }
        }
    }

    fn role(&mut self, choice: u64) -> Step {
        if choice == 0 {
            let reasoning = self.answer.usage.reasoning;
            self.account.made(reasoning, reasoning);
        }
        let next = choice + 1;
        self.phase = if next < self.answer.choices { Phase::Role(next) } else { self.token_phase(0, 0) };
        self.chunk(choice, None, |out, _| text(out, "{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null}"))
    }

    fn token(&mut self, token: u64, choice: u64) -> Step {
        self.account.made(1, 0);
        let next = choice + 1;
        if next < self.answer.choices {
            self.phase = Phase::Token { token, choice: next };
        } else {
            self.phase = self.token_phase(token + 1, 0);
            if matches!(self.phase, Phase::Token { .. }) {
                self.wait = self.interval;
            }
        }
        self.chunk(choice, None, |out, stream| stream.delta(out, token, choice))
    }

    fn finish(&mut self, choice: u64) -> Step {
        let next = choice + 1;
        self.phase = match self.include_usage {
            _ if next < self.answer.choices => Phase::Finish(next),
            true => Phase::Usage,
            false => Phase::Done,
        };
        self.chunk(choice, Some(self.answer.finish), |out, _| text(out, "{}"))
    }

    fn usage(&mut self) -> Step {
        self.phase = Phase::Done;
        let mut tail = std::mem::take(&mut self.scratch);
        tail.clear();
        text(&mut tail, "],\"usage\":");
        chat::usage(&mut tail, &self.answer.usage);
        text(&mut tail, "}\n\n");
        let event = self.buffer.join(&[&self.head, &tail]);
        self.scratch = tail;
        Step::Data(event)
    }

    fn token_phase(&self, token: u64, choice: u64) -> Phase {
        if token < self.tokens { Phase::Token { token, choice } } else { Phase::Finish(0) }
    }

    /// One chunk with one choice.
    fn chunk(&mut self, choice: u64, finish: Option<&str>, delta: impl FnOnce(&mut Vec<u8>, &Self)) -> Step {
        let mut tail = std::mem::take(&mut self.scratch);
        tail.clear();
        text(&mut tail, "{\"index\":");
        number(&mut tail, choice);
        text(&mut tail, ",\"delta\":");
        delta(&mut tail, self);
        text(&mut tail, ",\"logprobs\":null,\"finish_reason\":");
        match finish {
            Some(reason) => quoted(&mut tail, reason),
            None => text(&mut tail, "null"),
        }
        text(&mut tail, if self.include_usage { "}],\"usage\":null}\n\n" } else { "}]}\n\n" });
        let event = self.buffer.join(&[&self.head, &tail]);
        self.scratch = tail;
        Step::Data(event)
    }

    fn delta(&self, out: &mut Vec<u8>, token: u64, choice: u64) {
        let position = usize::try_from(token).unwrap_or(usize::MAX);
        match &self.answer.content {
            Content::Filler(_) => {
                text(out, "{\"content\":\"");
                text(out, filler::word(token));
                text(out, "\"}");
            }
            Content::Pieces(pieces) => {
                text(out, "{\"content\":");
                quoted(out, pieces.get(position).map_or("", String::as_str));
                text(out, "}");
            }
            Content::Calls(calls) => {
                if let Some(part) = self.calls.get(position) {
                    call_delta(out, &calls[part.call], *part, choice);
                }
            }
        }
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        if !matches!(self.phase, Phase::Over) {
            self.account.aborted();
        }
    }
}

fn head(answer: &Answer) -> Vec<u8> {
    let mut head = Vec::with_capacity(256);
    text(&mut head, "data: {\"id\":\"chatcmpl-");
    hex(&mut head, answer.id);
    text(&mut head, "\",\"object\":\"chat.completion.chunk\",\"created\":");
    number(&mut head, CREATED);
    text(&mut head, ",\"model\":");
    quoted(&mut head, &answer.model);
    text(&mut head, ",\"service_tier\":\"default\",\"system_fingerprint\":");
    quoted(&mut head, answer.fingerprint());
    text(&mut head, ",\"choices\":[");
    head
}

fn call_tokens(content: &Content) -> Vec<CallToken> {
    let Content::Calls(calls) = content else { return Vec::new() };
    let parts = |(call, whole): (usize, &ToolCall)| {
        let pieces = (0..whole.arguments.len()).map(Some);
        std::iter::once(None).chain(pieces).map(move |piece| CallToken { call, piece }).collect::<Vec<_>>()
    };
    calls.iter().enumerate().flat_map(parts).collect()
}

/// Id and name come once per call, with empty arguments; then only pieces of arguments, told apart by index.
fn call_delta(out: &mut Vec<u8>, call: &ToolCall, part: CallToken, choice: u64) {
    text(out, "{\"tool_calls\":[{\"index\":");
    number(out, part.call as u64);
    match part.piece {
        None => {
            text(out, ",\"id\":");
            quoted(out, &chat::unique(&call.id, choice));
            text(out, ",\"type\":\"function\",\"function\":{\"name\":");
            quoted(out, &call.name);
            text(out, ",\"arguments\":\"\"}");
        }
        Some(piece) => {
            text(out, ",\"function\":{\"arguments\":");
            quoted(out, &call.arguments[piece]);
            text(out, "}");
        }
    }
    text(out, "}]}");
}
