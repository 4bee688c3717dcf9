//! One upstream stream, cut into events and metered: what the client gets to see of it, and how it ends.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;
use keyforge_providers::exchange::StreamReader;
use keyforge_providers::fault::Fault;
use keyforge_providers::sse::{Event, Splitter};
use keyforge_providers::verdict::Verdict;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, Sleep};

/// How long a provider may take to close its stream after the last event, so that the connection can be used again.
const CLOSING: Duration = Duration::from_secs(2);

/// What comes next.
pub enum Step {
    /// The client gets this.
    Forward(Bytes),
    /// The client gets this, and it is the last event.
    Done(Bytes),
    /// The stream will not go on.
    Failed(Failure),
}

/// Why a stream will not go on.
pub enum Failure {
    /// The provider says so.
    Refused(Box<Fault>),
    /// It broke off, or cannot be read.
    Broken,
    /// Nothing came in time.
    Timeout,
}

/// One upstream stream.
pub struct Feed {
    body: Incoming,
    splitter: Splitter,
    reader: StreamReader,
    digest: Option<Sha256>,
    alarm: Pin<Box<Sleep>>,
    last_heard: Instant,
    idle: Duration,
    deadline: Instant,
    closed: bool,
}

impl Feed {
    /// Follows `body`. A silence longer than `idle`, or the deadline, ends it; so does an event of more than `max_event_bytes`.
    #[must_use]
    pub fn new(
        body: Incoming,
        reader: StreamReader,
        digest: bool,
        (idle, deadline): (Duration, Instant),
        max_event_bytes: usize,
    ) -> Self {
        let last_heard = Instant::now();
        Self {
            body,
            splitter: Splitter::new(max_event_bytes),
            reader,
            digest: digest.then(Sha256::new),
            alarm: Box::pin(tokio::time::sleep_until(deadline.min(last_heard + idle))),
            last_heard,
            idle,
            deadline,
            closed: false,
        }
    }

    /// What was read so far.
    #[must_use]
    pub const fn reader(&self) -> &StreamReader {
        &self.reader
    }

    /// SHA-256 of what came, where digests are kept.
    pub fn take_digest(&mut self) -> Option<[u8; 32]> {
        self.digest.take().map(|digest| digest.finalize().into())
    }

    /// The next step. Not to be called again after any other than [`Step::Forward`].
    pub fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            if let Some(event) = self.splitter.next_event() {
                match event.map(|event| self.judge(event)) {
                    Ok(Some(step)) => return Poll::Ready(step),
                    Ok(None) => continue,
                    Err(_) => return Poll::Ready(Step::Failed(Failure::Broken)),
                }
            }
            if self.closed {
                let tail = self.splitter.finish().and_then(|event| self.judge(event));
                return Poll::Ready(tail.unwrap_or_else(|| self.end()));
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.last_heard = Instant::now();
                    if let Ok(data) = frame.into_data() {
                        if let Some(digest) = &mut self.digest {
                            digest.update(&data);
                        }
                        self.splitter.feed(data);
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Step::Failed(Failure::Broken)),
                Poll::Ready(None) => self.closed = true,
                Poll::Pending => {
                    ready!(self.poll_alarm(cx));
                    return Poll::Ready(Step::Failed(Failure::Timeout));
                }
            }
        }
    }

    fn judge(&mut self, event: Event) -> Option<Step> {
        match self.reader.on_event(&event) {
            Verdict::Forward => Some(Step::Forward(event.raw)),
            Verdict::ForwardTrimmed(pieces) => Some(Step::Forward(pieces.to_bytes())),
            Verdict::Replace(bytes) => Some(Step::Forward(bytes)),
            Verdict::Drop => None,
            Verdict::Done => Some(Step::Done(event.raw)),
            Verdict::DoneWith(bytes) => Some(Step::Done(bytes)),
            Verdict::UpstreamError(fault) => Some(Step::Failed(Failure::Refused(Box::new(fault)))),
        }
    }

    /// The provider closed the stream. If it said before why it stopped, that was the end; else it broke off.
    fn end(&mut self) -> Step {
        self.reader.on_end().map_or(Step::Failed(Failure::Broken), Step::Done)
    }

    /// Ready when it has been silent for too long, or the deadline has passed. The timer is moved only when it goes off, not with each event.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let due = self.deadline.min(self.last_heard + self.idle);
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(due);
        }
    }

    /// Whether the provider has closed the stream by now.
    pub fn is_closed(&mut self, cx: &mut Context<'_>) -> bool {
        while !self.closed {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => self.closed = true,
                Poll::Pending => return false,
            }
        }
        true
    }

    /// Waits a moment for the provider to close the stream.
    pub async fn close(mut self) {
        let closed = std::future::poll_fn(|cx| if self.is_closed(cx) { Poll::Ready(()) } else { Poll::Pending });
        // One that does not close costs a connection, nothing else.
        drop(tokio::time::timeout(CLOSING, closed).await);
    }
}
