//! One stream of a provider that speaks something else, as the client gets it: decoded, noted, and written as chunks.

use bytes::Bytes;
use keyforge_shared::usage::{ServiceTier, Usage};

use crate::chat::event::{Delta, Event as ChatEvent};
use crate::openai::chunk::ChunkWriter;
use crate::sse::Event;
use crate::translate::Decoder;
use crate::verdict::Verdict;

/// A stream that is being translated.
pub(crate) struct Translated {
    decoder: Box<dyn Decoder>,
    writer: ChunkWriter,
    /// What the last event meant; empty between events.
    pending: Vec<ChatEvent>,
    seen: Seen,
    /// Whether the client has been given the end.
    done: bool,
}

/// What the stream has said so far.
#[derive(Default)]
struct Seen {
    usage: Option<Usage>,
    tier: Option<ServiceTier>,
    in_region: bool,
    model: Option<String>,
    has_content: bool,
    finished: bool,
}

impl Seen {
    fn note(&mut self, event: &ChatEvent) {
        match event {
            ChatEvent::Start { model, .. } => self.model = Some(model.clone()).filter(|model| !model.is_empty()),
            ChatEvent::Delta { delta, .. } => self.note_delta(delta),
            ChatEvent::Finish { .. } => self.finished = true,
            ChatEvent::Usage { usage, tier, in_region } => {
                (self.usage, self.tier, self.in_region) = (Some(*usage), *tier, *in_region);
            }
        }
    }

    fn note_delta(&mut self, delta: &Delta) {
        self.has_content |= match delta {
            Delta::Text(text) | Delta::Refusal(text) | Delta::Thinking(text) => !text.is_empty(),
            Delta::Arguments { fragment, .. } => !fragment.is_empty(),
            Delta::ToolCall { .. } => true,
            // Nothing that a client would show or act on.
            Delta::Signature(_) | Delta::RedactedThinking(_) | Delta::Logprobs(_) => false,
        };
    }
}

impl Translated {
    pub(crate) fn new(decoder: Box<dyn Decoder>, writer: ChunkWriter) -> Self {
        Self { decoder, writer, pending: Vec::new(), seen: Seen::default(), done: false }
    }

    /// Reads the next event. What follows the end is nothing.
    pub(crate) fn event(&mut self, event: &Event) -> Verdict {
        if self.done {
            return Verdict::Drop;
        }
        if let Err(fault) = self.decoder.event(event, &mut self.pending) {
            // What came with the fault is counted and not shown.
            self.pending.drain(..).for_each(|event| self.seen.note(&event));
            return Verdict::UpstreamError(*fault);
        }
        self.note_and_write();
        if self.decoder.is_done() {
            return Verdict::DoneWith(self.finish());
        }
        let written = self.writer.take();
        if written.is_empty() { Verdict::Drop } else { Verdict::Replace(written) }
    }

    /// There is no more. The last bytes for the client, if the answer is complete and the end has not been given before.
    pub(crate) fn end(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        self.decoder.end(&mut self.pending);
        self.note_and_write();
        self.seen.finished.then(|| self.finish())
    }

    fn note_and_write(&mut self) {
        for event in self.pending.drain(..) {
            self.seen.note(&event);
            self.writer.event(event);
        }
    }

    fn finish(&mut self) -> Bytes {
        self.done = true;
        self.writer.done();
        self.writer.take()
    }

    pub(crate) fn usage(&self) -> Option<Usage> {
        self.seen.usage
    }

    pub(crate) fn input_seen(&self) -> Option<Usage> {
        self.decoder.input_seen()
    }

    pub(crate) fn tier(&self) -> Option<ServiceTier> {
        self.seen.tier
    }

    pub(crate) fn in_region(&self) -> bool {
        self.seen.in_region
    }

    pub(crate) fn model(&self) -> Option<&str> {
        self.seen.model.as_deref()
    }

    pub(crate) fn has_made_something(&self) -> bool {
        self.seen.has_content || self.decoder.has_made_something()
    }

    pub(crate) fn has_content(&self) -> bool {
        self.seen.has_content
    }

    pub(crate) fn finished(&self) -> bool {
        self.seen.finished
    }

    pub(crate) fn done(&self) -> bool {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::chat::request::{Maker, Signature};
    use crate::chat::response::Finish;
    use crate::exchange::Stamp;
    use crate::fault::Fault;
    use crate::openai::fault;

    /// What an event means, and whether that is the end.
    type Step = (Result<Vec<ChatEvent>, Box<Fault>>, bool);

    /// Answers each event with the next of a list.
    struct Script {
        steps: VecDeque<Step>,
        at_end: Vec<ChatEvent>,
        done: bool,
    }

    impl Decoder for Script {
        fn event(&mut self, _: &Event, out: &mut Vec<ChatEvent>) -> Result<(), Box<Fault>> {
            let (step, done) = self.steps.pop_front().unwrap();
            self.done = done;
            out.extend(step?);
            Ok(())
        }

        fn end(&mut self, out: &mut Vec<ChatEvent>) {
            out.append(&mut self.at_end);
        }

        fn is_done(&self) -> bool {
            self.done
        }

        fn has_made_something(&self) -> bool {
            false
        }

        fn input_seen(&self) -> Option<Usage> {
            None
        }
    }

    fn stream(steps: Vec<Step>, at_end: Vec<ChatEvent>) -> Translated {
        let script = Script { steps: steps.into(), at_end, done: false };
        Translated::new(Box::new(script), ChunkWriter::new(Stamp::default(), false))
    }

    fn of(delta: Delta) -> ChatEvent {
        ChatEvent::Delta { choice: 0, delta }
    }

    fn text(text: &str) -> ChatEvent {
        of(Delta::Text(text.to_owned()))
    }

    fn finish() -> ChatEvent {
        ChatEvent::Finish { choice: 0, finish: Finish::Stop }
    }

    fn used() -> ChatEvent {
        ChatEvent::Usage { usage: Usage { input: 3, output: 4, ..Usage::default() }, tier: None, in_region: false }
    }

    fn any() -> Event {
        Event { raw: Bytes::from_static(b"data: x\n\n") }
    }

    #[test]
    fn only_what_a_client_would_show_or_act_on_is_content() {
        let signature = || Signature { maker: Maker::Google, value: "s".into() };
        for nothing in [
            ChatEvent::Start { id: String::new(), model: "m".to_owned() },
            text(""),
            of(Delta::Thinking(String::new())),
            of(Delta::Signature(signature())),
            of(Delta::RedactedThinking(signature())),
        ] {
            let mut stream = stream(vec![(Ok(vec![nothing.clone()]), false)], vec![]);
            stream.event(&any());
            assert!(!stream.has_content(), "{nothing:?}");
        }
        let call = Delta::ToolCall { index: 0, id: "a".to_owned(), name: "f".to_owned(), signature: None };
        for something in [text("x"), of(Delta::Thinking("x".to_owned())), of(Delta::Refusal("x".to_owned())), of(call)]
        {
            let mut stream = stream(vec![(Ok(vec![something.clone()]), false)], vec![]);
            stream.event(&any());
            assert!(stream.has_content() && stream.has_made_something(), "{something:?}");
        }
    }

    #[test]
    fn the_end_is_given_once_whoever_says_it() {
        let mut said = stream(vec![(Ok(vec![text("a"), finish()]), false), (Ok(vec![used()]), true)], vec![]);
        assert!(matches!(said.event(&any()), Verdict::Replace(_)));
        assert!(!said.done() && said.finished());
        let Verdict::DoneWith(last) = said.event(&any()) else { panic!() };
        assert_eq!(last, "data: [DONE]\n\n");
        assert!(said.done() && said.end().is_none());
        assert!(matches!(said.event(&any()), Verdict::Drop));
        assert_eq!(said.usage().map(|usage| usage.output), Some(4));

        let mut closed = stream(vec![(Ok(vec![text("a")]), false)], vec![finish(), used()]);
        closed.event(&any());
        let last = closed.end().unwrap();
        assert!(last.ends_with(b"data: [DONE]\n\n") && last.len() > 20);
        assert!(closed.done() && closed.end().is_none());
    }

    #[test]
    fn a_stream_that_breaks_off_has_no_end_but_its_usage_counts() {
        let mut cut = stream(vec![(Ok(vec![text("a")]), false)], vec![used()]);
        cut.event(&any());
        assert!(cut.end().is_none() && !cut.done());
        assert_eq!(cut.usage().map(|usage| usage.input), Some(3));

        let mut broken = stream(vec![(Ok(vec![]), false), (Err(Box::new(fault::in_stream("{}"))), false)], vec![]);
        assert!(matches!(broken.event(&any()), Verdict::Drop));
        assert!(matches!(broken.event(&any()), Verdict::UpstreamError(_)));
    }
}
