//! Follows one upstream stream of chat completion chunks: meters it, and takes out of it what the client did not ask for.
//!
//! Every streaming request asks for usage upstream. A client that did not ask for it gets the stream it would have got: the
//! chunk that holds nothing but usage is dropped, and `usage` members are cut out of the others, no other byte changed.

use std::borrow::Cow;
use std::ops::Range;

use keyforge_shared::usage::{ServiceTier, Usage};

use super::fault;
use super::produced::Produced;
use super::reading::Reading;
use crate::json::{Cursor, JsonError, Kind, Text};
use crate::patch::{Patch, Pieces};
use crate::redact;
use crate::sse::Event;
use crate::verdict::Verdict;

/// The meter of one stream.
#[derive(Clone, Debug)]
pub struct StreamMeter {
    client_asked_for_usage: bool,
    reading: Reading,
    produced: Produced,
    /// Whether anything was produced after the latest usage, which then is not the last word.
    usage_is_old: bool,
    input: InputSeen,
    finished: bool,
    failed: bool,
    done: bool,
}

/// What a stream has said of its input so far.
#[derive(Clone, Copy, Debug)]
enum InputSeen {
    Nothing,
    Same(Usage),
    /// Two counts that differ: none of them is to be relied on before the end.
    Contradictory,
}

impl StreamMeter {
    /// A meter for a stream whose client asked for usage, or did not.
    #[must_use]
    pub fn new(client_asked_for_usage: bool) -> Self {
        Self {
            client_asked_for_usage,
            reading: Reading::default(),
            produced: Produced::default(),
            usage_is_old: false,
            input: InputSeen::Nothing,
            finished: false,
            failed: false,
            done: false,
        }
    }

    /// Reads the next event of the stream. An event that is not understood is forwarded: the client may understand it.
    pub fn on_event(&mut self, event: &Event) -> Verdict {
        let span = event.data_span();
        let data = match &span {
            Some(span) => event.raw.get(span.clone()).map(Cow::Borrowed).unwrap_or_default(),
            None => event.data(),
        };
        if data.trim_ascii() == b"[DONE]" {
            self.done = true;
            return Verdict::Done;
        }
        let Ok(text) = std::str::from_utf8(&data) else { return Verdict::Drop };
        let is_named_error = || event.name() == Some("error");
        let Ok(Some(chunk)) = self.chunk(text) else {
            self.failed |= is_named_error();
            return match is_named_error() {
                true => Verdict::UpstreamError(fault::in_stream(text)),
                false => harmless(event),
            };
        };
        if chunk.error || (chunk.choices.is_none() && is_named_error()) {
            self.failed = true;
            return Verdict::UpstreamError(fault::in_stream(text));
        }
        if self.client_asked_for_usage || chunk.cuts.is_empty() {
            return Verdict::Forward;
        }
        if chunk.only_usage() {
            return Verdict::Drop;
        }
        Verdict::ForwardTrimmed(trim(event, span, text, &chunk.cuts))
    }

    /// The provider closed the stream without `[DONE]`. If a choice has said why it ended, that was the end, and the client gets the
    /// `[DONE]` that it waits for.
    #[must_use]
    pub fn on_end(&mut self) -> Option<bytes::Bytes> {
        let is_missing = self.finished && !self.failed && !self.done;
        is_missing.then(|| bytes::Bytes::from_static(b"data: [DONE]\n\n"))
    }

    /// The last usage that the stream gave, if it can be trusted: it counts all that was produced.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.reading.usage.filter(|_| !self.usage_is_old)
    }

    /// The input that the stream says it took, before it is at its end: the same in every chunk that said so, with no output counted.
    /// Some hosts' first counts are not their last: see [`crate::metering::Metering::reports_input_early`].
    #[must_use]
    pub fn input_seen(&self) -> Option<Usage> {
        match self.input {
            InputSeen::Same(usage) => Some(usage),
            InputSeen::Nothing | InputSeen::Contradictory => None,
        }
    }

    /// The class of service that is billed, if the stream says so.
    #[must_use]
    pub fn tier(&self) -> Option<ServiceTier> {
        self.reading.tier
    }

    /// The model that answers, by its dated name.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.reading.model.as_deref()
    }

    /// Whether anything has come that may be billed, also what no client would show.
    #[must_use]
    pub fn has_made_something(&self) -> bool {
        self.produced.any || self.produced.other
    }

    /// Whether anything has come that a client would show or act on; a role alone is nothing.
    #[must_use]
    pub fn has_content(&self) -> bool {
        self.produced.any
    }

    /// Whether a choice has said why it ended.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.finished
    }

    /// Whether the stream's end has come.
    #[must_use]
    pub fn done(&self) -> bool {
        self.done
    }

    /// Walks one chunk. `None`: it is not an object.
    fn chunk(&mut self, text: &str) -> Result<Option<Chunk>, JsonError> {
        let (counted, produced) = (self.reading.usage, std::mem::take(&mut self.produced));
        let chunk = self.read_chunk(text);
        let says_usage = chunk.as_ref().is_ok_and(|chunk| chunk.as_ref().is_some_and(|chunk| chunk.usage));
        // Output that was counted once is not taken back.
        if let (Some(before), Some(now)) = (counted, self.reading.usage)
            && before.output_total() > now.output_total()
        {
            self.reading.usage = counted;
        }
        let counts_all = says_usage || self.reading.usage != counted;
        self.usage_is_old = !counts_all && (self.usage_is_old || self.produced.any);
        self.produced.any |= produced.any;
        self.produced.other |= produced.other;
        chunk
    }

    fn read_chunk(&mut self, text: &str) -> Result<Option<Chunk>, JsonError> {
        let mut cursor = Cursor::new(text);
        if cursor.peek()? != Kind::Object {
            return Ok(None);
        }
        let mut chunk = Chunk::default();
        let mut cutter = Cutter::default();
        let mut members = cursor.enter();
        while let Some(key) = cursor.key(&mut members)? {
            let kind = cursor.peek()?;
            let is_usage = key.is("usage");
            chunk.usage |= is_usage && kind != Kind::Null;
            chunk.error |= key.is("error") && is_something(kind, &cursor);
            if !self.reading.member(key, &mut cursor)? {
                self.member(key, kind, &mut cursor, &mut chunk)?;
            }
            cutter.member(key.start..cursor.at(), is_usage, &mut chunk.cuts);
        }
        cutter.end(&mut chunk.cuts);
        cursor.end()?;
        if chunk.usage {
            self.note_input();
        }
        Ok(Some(chunk))
    }

    fn note_input(&mut self) {
        let said = self.reading.usage.map(|usage| Usage { output: 0, output_audio: 0, reasoning: 0, ..usage });
        self.input = match (self.input, said) {
            (InputSeen::Nothing, Some(usage)) => InputSeen::Same(usage),
            (InputSeen::Same(before), Some(usage)) if before == usage => InputSeen::Same(usage),
            (InputSeen::Nothing | InputSeen::Same(_) | InputSeen::Contradictory, _) => InputSeen::Contradictory,
        };
    }

    fn member(
        &mut self,
        key: Text<'_>,
        kind: Kind,
        cursor: &mut Cursor<'_>,
        chunk: &mut Chunk,
    ) -> Result<(), JsonError> {
        if key.is("choices") && kind == Kind::Array {
            chunk.choices = Some(self.choices(cursor)?);
        } else if key.is("object") && kind == Kind::String {
            chunk.error |= cursor.string()?.is("error");
        } else {
            cursor.skip()?;
        }
        Ok(())
    }

    /// Walks the list of choices and returns how many there are.
    fn choices(&mut self, cursor: &mut Cursor<'_>) -> Result<usize, JsonError> {
        let mut count = 0;
        let mut elements = cursor.enter();
        while cursor.element(&mut elements)? {
            count += 1;
            if cursor.peek()? != Kind::Object {
                cursor.skip()?;
                continue;
            }
            let mut members = cursor.enter();
            while let Some(key) = cursor.key(&mut members)? {
                let kind = cursor.peek()?;
                if key.is("delta") && kind == Kind::Object {
                    self.produced.message(cursor)?;
                } else if key.is("text") {
                    self.produced.output(cursor)?;
                } else {
                    self.finished |= key.is("finish_reason") && kind != Kind::Null;
                    cursor.skip()?;
                }
            }
        }
        Ok(count)
    }
}

/// What one chunk holds.
#[derive(Default)]
struct Chunk {
    /// How many choices its list has; `None` without a list, which some hosts leave out beside usage.
    choices: Option<usize>,
    /// Whether it gives usage, not null.
    usage: bool,
    error: bool,
    /// What to remove so that no `usage` member is left, in order, not overlapping.
    cuts: Vec<Range<usize>>,
}

impl Chunk {
    fn only_usage(&self) -> bool {
        self.usage && self.choices.unwrap_or(0) == 0
    }
}

/// Works out what to remove from an object so that some members are gone, each with one comma.
#[derive(Default)]
struct Cutter {
    /// End of the previous member.
    previous_end: usize,
    /// Whether a member before this one stays.
    kept: bool,
    /// A member to be removed that no kept one precedes: it goes up to the next member's start.
    leading: Option<Range<usize>>,
}

impl Cutter {
    fn member(&mut self, member: Range<usize>, cut: bool, cuts: &mut Vec<Range<usize>>) {
        if let Some(leading) = self.leading.take() {
            cuts.push(leading.start..member.start);
        }
        let end = member.end;
        if !cut {
            self.kept = true;
        } else if self.kept {
            cuts.push(self.previous_end..end);
        } else {
            self.leading = Some(member);
        }
        self.previous_end = end;
    }

    fn end(self, cuts: &mut Vec<Range<usize>>) {
        cuts.extend(self.leading);
    }
}

/// Whether the value that the cursor stands before says anything: null, false and an empty text do not.
fn is_something(kind: Kind, cursor: &Cursor<'_>) -> bool {
    match kind {
        Kind::Null | Kind::Bool(false) => false,
        Kind::String => cursor.clone().string().is_ok_and(|text| !text.raw().is_empty()),
        Kind::Bool(true) | Kind::Number | Kind::Array | Kind::Object => true,
    }
}

/// What holds no chunk, such as a comment, is free text of the host's: the client gets it unless it names the account.
fn harmless(event: &Event) -> Verdict {
    match std::str::from_utf8(&event.raw) {
        Ok(text) if text.lines().all(|line| redact::message(line) == line) => Verdict::Forward,
        _ => Verdict::Drop,
    }
}

/// The event without the spans `cuts` of its data `text`, which lies at `span` if it is one line.
fn trim(event: &Event, span: Option<Range<usize>>, text: &str, cuts: &[Range<usize>]) -> Pieces {
    let offset = span.as_ref().map_or(0, |span| span.start);
    let mut patch = Patch::new();
    for cut in cuts {
        patch.replace(offset.saturating_add(cut.start)..offset.saturating_add(cut.end), "");
    }
    if span.is_some() {
        return patch.apply(event.raw.clone());
    }
    let data = patch.apply(bytes::Bytes::copy_from_slice(text.as_bytes())).to_bytes();
    Pieces::from(event.with_data(&data))
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
