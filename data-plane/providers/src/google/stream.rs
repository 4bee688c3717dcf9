//! Reads a stream of chunks, each of them an answer's next piece in the form of a whole one.
//!
//! No chunk says that it is the last: the end of the body does, if every candidate has by then said why it ended. Counts change from
//! chunk to chunk, and jump; the last are the answer's, and none before are relied on.

use std::collections::BTreeMap;

use keyforge_shared::usage::{ServiceTier, Usage};
use serde::de::Error as _;

use super::candidate::{self, CallIds, Said};
use super::reply::{self, Candidate, Reply};
use super::{fault, logprobs, usage};
use crate::chat::event::{Delta, Event};
use crate::chat::request::{MOST_CHOICES, Signature};
use crate::chat::response::Finish;
use crate::fault::Fault;
use crate::form;
use crate::sse;
use crate::translate::{Decoder, Memo};

/// A stream that is being read.
#[derive(Debug, Default)]
pub(super) struct Stream {
    memo: Memo,
    /// Made when the first chunk names the answer.
    ids: Option<CallIds>,
    choices: BTreeMap<u32, Seen>,
    usage: Option<(Usage, Option<ServiceTier>)>,
    is_blocked: bool,
    has_content: bool,
    has_parts: bool,
}

/// What has come of one choice.
#[derive(Debug, Default)]
struct Seen {
    calls: u32,
    has_text: bool,
    /// Whether the function that stands for the form of the answer was called.
    has_answer: bool,
    /// What was said in words where there is such a function: it is the answer only if that is never called.
    preamble: String,
    /// Some models say it in every chunk.
    reason: Option<String>,
}

impl Decoder for Stream {
    fn event(&mut self, event: &sse::Event, out: &mut Vec<Event>) -> Result<(), Box<Fault>> {
        // A host that answers with JSON instead of events has failed, or not understood what was asked for.
        let raw = event.raw.trim_ascii_start();
        let data =
            if raw.starts_with(b"{") || raw.starts_with(b"[") { event.raw.as_ref().into() } else { event.data() };
        let text = std::str::from_utf8(&data).map_err(|_| damaged())?.trim_ascii();
        if text.is_empty() || text == "[DONE]" {
            return Ok(());
        }
        if fault::is_error(text) {
            return Err(Box::new(fault::in_answer(text)));
        }
        let reply: Reply<'_> = reply::object(text).ok_or_else(damaged)?;
        self.reply(reply, out).map_err(|_| damaged())?;
        self.failure().map_or(Ok(()), |fault| Err(Box::new(fault)))
    }

    fn end(&mut self, out: &mut Vec<Event>) {
        if self.choices.is_empty() && self.is_blocked {
            out.push(Event::Finish { choice: 0, finish: Finish::ContentFilter });
        } else if self.choices.is_empty() || self.choices.values().any(|seen| seen.reason.is_none()) {
            return;
        }
        for (&choice, seen) in &mut self.choices {
            if !seen.has_answer && !seen.preamble.is_empty() {
                out.push(Event::Delta { choice, delta: Delta::Text(std::mem::take(&mut seen.preamble)) });
            }
            let reason = seen.reason.as_deref().unwrap_or_default();
            out.push(Event::Finish { choice, finish: candidate::finish(reason, seen.calls > 0) });
        }
        if let Some((usage, tier)) = self.usage() {
            out.push(Event::Usage { usage, tier, in_region: false });
        }
    }

    fn is_done(&self) -> bool {
        false
    }

    fn has_made_something(&self) -> bool {
        self.has_parts
    }

    fn input_seen(&self) -> Option<Usage> {
        None
    }
}

fn damaged() -> Box<Fault> {
    Box::new(fault::damaged())
}

impl Stream {
    pub(super) fn new(memo: &Memo) -> Self {
        Self { memo: memo.clone(), ..Self::default() }
    }

    fn reply(&mut self, mut reply: Reply<'_>, out: &mut Vec<Event>) -> Result<(), serde_json::Error> {
        self.is_blocked |= reply.is_blocked();
        if let Some(json) = reply.usage_metadata {
            self.usage = usage::read(json.get());
        }
        if self.ids.is_none() {
            let (id, model) = reply.names();
            self.ids = Some(CallIds::of(&id, &self.memo.own_id));
            out.push(Event::Start { id, model });
        }
        for candidate in reply.candidates.unwrap_or_default() {
            self.candidate(candidate, out)?;
        }
        Ok(())
    }

    /// Why there will be no answer, once no choice can become one.
    fn failure(&self) -> Option<Fault> {
        let is_none = |seen: &Seen| {
            let has_calls = seen.calls > 0 || seen.has_answer;
            seen.reason.as_deref().is_some_and(|reason| candidate::is_none(reason, has_calls, seen.has_text))
        };
        let first = self.choices.values().next().filter(|_| self.choices.values().all(is_none))?;
        Some(fault::no_answer(first.reason.as_deref().unwrap_or_default(), self.usage().map(|(usage, _)| usage)))
    }

    /// Who said something cannot have counted nothing.
    fn usage(&self) -> Option<(Usage, Option<ServiceTier>)> {
        self.usage.filter(|(usage, _)| usage.output_total() > 0 || !self.has_content)
    }

    fn candidate(&mut self, candidate: Candidate<'_>, out: &mut Vec<Event>) -> Result<(), serde_json::Error> {
        let choice = candidate.index.unwrap_or(0);
        if self.choices.len() >= MOST_CHOICES && !self.choices.contains_key(&choice) {
            return Err(serde_json::Error::custom("more candidates than can be asked for"));
        }
        let seen = self.choices.entry(choice).or_default();
        let ids = self.ids.get_or_insert_default();
        for raw in candidate.parts() {
            let Some(said) = candidate::read(raw, ids)? else { continue };
            self.has_parts = true;
            seen.has_text |= matches!(&said, Said::Text { text, .. } if !text.is_empty());
            let mut give = |delta| out.push(Event::Delta { choice, delta });
            self.has_content |= match said {
                Said::Text { text, .. } if self.memo.json_tool.is_some() => {
                    seen.preamble.push_str(&text);
                    !text.is_empty()
                }
                Said::Call { name, arguments, .. } if self.memo.json_tool.as_ref() == Some(&name) => {
                    if !std::mem::replace(&mut seen.has_answer, true) {
                        give(Delta::Text(form::unwrapped(arguments, self.memo.wrapped)));
                    }
                    true
                }
                // One at a time is what the client wants.
                Said::Call { .. } if self.memo.one_call && seen.calls > 0 => true,
                said => deltas(said, seen, give),
            };
        }
        if let Some(logprobs) = candidate.logprobs_result.and_then(logprobs::written) {
            out.push(Event::Delta { choice, delta: Delta::Logprobs(logprobs) });
        }
        if let Some(reason) = candidate.finish_reason {
            seen.reason = Some(reason.into_word());
        }
        Ok(())
    }
}

/// Gives what a part means to `give`; true if it is something that a client would show or act on.
fn deltas(said: Said<'_>, seen: &mut Seen, mut give: impl FnMut(Delta)) -> bool {
    let mut words = |text: String, signature: Option<Signature<'static>>, kind: fn(String) -> Delta| {
        let says_something = !text.is_empty();
        // An empty text says whose signature follows: its own, and not that of the thought before it.
        if says_something || signature.is_some() {
            give(kind(text));
        }
        if let Some(signature) = signature {
            give(Delta::Signature(signature));
        }
        says_something
    };
    match said {
        Said::Text { text, signature } => words(text, signature, Delta::Text),
        Said::Thinking { text, signature } => words(text, signature, Delta::Thinking),
        Said::Call { id, name, arguments, signature } => {
            let index = seen.calls;
            seen.calls = seen.calls.saturating_add(1);
            give(Delta::ToolCall { index, id, name, signature });
            give(Delta::Arguments { index, fragment: arguments });
            true
        }
        // Only text and calls are asked for. What comes beside them all the same is output that the usage must count.
        Said::Media { .. } | Said::Native(_) => true,
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
