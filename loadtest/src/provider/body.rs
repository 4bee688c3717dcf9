//! Response bodies as programs of steps: bytes, waits, silence, and a connection that breaks.
//!
//! A body can be cut into pieces of a fixed size. Each piece is flushed before the next, so that a reader sees bytes
//! end at awkward places. A broken body closes the connection after what was written before has left.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::stream::TokenStream;
use super::voice::speech::Speech;

/// One thing that a body does.
#[derive(Debug)]
pub(crate) enum Step {
    /// Hands these bytes to the connection.
    Data(Bytes),
    /// Waits until this moment.
    WaitUntil(Instant),
    /// Says nothing more and stays open.
    Hang,
    /// Lets the connection write out what it has, then breaks it.
    FlushAndBreak,
    /// Ends as it should.
    End,
}

/// Where the steps come from.
enum Source {
    Fixed(VecDeque<Step>),
    Tokens(Box<TokenStream>),
    Speech(Box<Speech>),
    Endless { block: Bytes, left: usize },
}

/// The body of any response of the provider.
pub(crate) struct ProviderBody {
    source: Source,
    rest: Bytes,
    cut: Option<usize>,
    flush: bool,
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    breaking: bool,
    length: Option<u64>,
}

/// The error of a body that breaks on purpose.
#[derive(Debug)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the script breaks the connection here")
    }
}

impl std::error::Error for Broken {}

impl ProviderBody {
    fn new(source: Source, cut: Option<usize>) -> Self {
        Self {
            source,
            rest: Bytes::new(),
            cut,
            flush: false,
            sleep: None,
            waiting: false,
            breaking: false,
            length: None,
        }
    }

    /// These bytes, with their length told in advance.
    pub(crate) fn whole(bytes: Bytes, cut: Option<usize>) -> Self {
        let length = Some(bytes.len() as u64);
        Self { rest: bytes, length, ..Self::new(Source::Fixed(VecDeque::new()), cut) }
    }

    /// These steps; the length is not told.
    pub(crate) fn steps(steps: impl Into<VecDeque<Step>>, cut: Option<usize>) -> Self {
        Self::new(Source::Fixed(steps.into()), cut)
    }

    /// An event stream.
    pub(crate) fn tokens(stream: TokenStream, cut: Option<usize>) -> Self {
        Self::new(Source::Tokens(Box::new(stream)), cut)
    }

    /// An event stream in another language.
    pub(crate) fn speech(stream: Speech, cut: Option<usize>) -> Self {
        Self::new(Source::Speech(Box::new(stream)), cut)
    }

    /// `head`, then so many bytes of `block` over and over, then silence.
    pub(crate) fn endless(head: Bytes, block: Bytes, bytes: usize) -> Self {
        Self { rest: head, ..Self::new(Source::Endless { block, left: bytes }, None) }
    }

    fn next_step(&mut self) -> Step {
        match &mut self.source {
            Source::Fixed(steps) => steps.pop_front().unwrap_or(Step::End),
            Source::Tokens(stream) => stream.next_step(),
            Source::Speech(stream) => stream.next_step(),
            Source::Endless { block, left } => {
                if *left < block.len() {
                    return Step::Hang;
                }
                *left -= block.len();
                Step::Data(block.clone())
            }
        }
    }

    fn next_piece(&mut self) -> Bytes {
        match self.cut {
            Some(size) if size < self.rest.len() => {
                self.flush = true;
                self.rest.split_to(size)
            }
            cut => {
                self.flush = cut.is_some();
                std::mem::take(&mut self.rest)
            }
        }
    }

    fn arm(&mut self, until: Instant) {
        self.waiting = true;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(until),
            None => self.sleep = Some(Box::pin(sleep_until(until))),
        }
    }
}

/// Comes back in the same turn of the executor, after the connection has flushed.
fn flushed(context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
    context.waker().wake_by_ref();
    Poll::Pending
}

impl Body for ProviderBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        loop {
            if this.waiting {
                if let Some(sleep) = &mut this.sleep {
                    ready!(sleep.as_mut().poll(context));
                }
                this.waiting = false;
            }
            if std::mem::take(&mut this.flush) {
                return flushed(context);
            }
            if !this.rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(this.next_piece()))));
            }
            if this.breaking {
                return Poll::Ready(Some(Err(Broken)));
            }
            match this.next_step() {
                Step::Data(bytes) => this.rest = bytes,
                Step::WaitUntil(moment) => this.arm(moment),
                Step::FlushAndBreak => {
                    this.breaking = true;
                    return flushed(context);
                }
                Step::Hang => {
                    this.source = Source::Fixed(VecDeque::from([Step::Hang]));
                    return Poll::Pending;
                }
                Step::End => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.length.is_some()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(_) => SizeHint::with_exact(self.rest.len() as u64),
            None => SizeHint::default(),
        }
    }
}

/// A buffer from which the events of a stream are split off without an allocation each.
#[derive(Debug, Default)]
pub(crate) struct EventBuffer {
    block: BytesMut,
}

impl EventBuffer {
    /// Bytes of one block of memory.
    const BLOCK: usize = 16 << 10;

    /// Copies the parts one after another and gives them as one.
    pub(crate) fn join(&mut self, parts: &[&[u8]]) -> Bytes {
        let size: usize = parts.iter().map(|part| part.len()).sum();
        if self.block.capacity() < size {
            self.block = BytesMut::with_capacity(Self::BLOCK.max(size));
        }
        for part in parts {
            self.block.extend_from_slice(part);
        }
        self.block.split().freeze()
    }
}
