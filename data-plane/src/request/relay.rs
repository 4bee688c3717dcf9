//! The stream to the client: events as they come, keep-alives in silence, and a well-formed end whatever happens.
//!
//! It begins with the first content, so that what fails before is still an error status. The client's connection polls the provider's directly: no
//! task, no channel between them. When the client hangs up, a task listens on for a moment; when the key is revoked, both sides are cut at once.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use keyforge_providers::dialect::Dialect;
use keyforge_providers::exchange::StreamReader;
use keyforge_shared::audit::request::Flags;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::usage::Usage;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::authorize::{Permit, why_cut};
use super::carry_on::ClientGone;
use super::feed::{Failure, Feed, Step};
use super::outcome::{Failed, Stood, charge_for, cut_short, rejection_for};
use super::receive::Head;
use super::settle::{Charge, Commitment, Ending};
use crate::plane::Plane;
use crate::pool::Served;
use crate::rejection::Rejection;
use crate::replica::running::Place;

/// A silent stream gets a comment this often, so that nothing in between takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Most bytes of one event.
const MOST_EVENT_BYTES: u64 = 16 << 20;
/// Events without content are held back for this long after the first of them.
const HELD_BACK: Duration = Duration::from_secs(2);
/// Of these, at most so many bytes.
const MOST_HELD_BACK: usize = 64 * 1024;

/// What came of a stream's beginning.
pub enum Started {
    /// It is running.
    Stream(Box<Relay>),
    /// It failed before anything was sent to the client.
    Failed(Box<Failed>),
}

/// What a stream runs with.
pub struct Running {
    /// For whom.
    pub permit: Permit,
    /// What it will be charged to.
    pub commitment: Commitment,
    /// What it says, and to whom.
    pub reader: StreamReader,
    /// Whether its client is still there.
    pub gone: ClientGone,
    /// When it must have ended.
    pub deadline: Instant,
}

/// A stream to the client. Dropped before its end, it is listened to for a moment all the same.
pub struct Relay(Option<LiveStream>);

/// A stream that is running.
struct LiveStream {
    plane: Arc<Plane>,
    permit: Permit,
    dialect: Dialect,
    feed: Option<Feed>,
    commitment: Option<Commitment>,
    /// Whose answer it is, once the client gets it.
    served: Option<Served>,
    gone: ClientGone,
    queue: VecDeque<Bytes>,
    /// Whether what was held beyond the input that the provider reported was let go.
    input_known: bool,
    _place: Place,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    keep_alive: Pin<Box<Sleep>>,
    last_sent: Instant,
}

/// What comes next, from the provider or from whoever revokes the key.
enum Next {
    Step(Step),
    Cut,
}

/// Why a stream does not begin.
enum Stopped {
    Failed(Failure),
    Cut,
}

impl Relay {
    /// The next bytes for the client; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.0 {
            Some(stream) => stream.poll_next(cx),
            None => Poll::Ready(None),
        }
    }

    /// It is this credential's answer. An error within it comes too late for its own client, who has seen a part, and in time for others.
    pub fn served_by(&mut self, served: Served) {
        if let Some(stream) = &mut self.0 {
            stream.served = Some(served);
        }
    }

    /// Waits for the first content: an error that comes before it is still an error status.
    pub async fn start(plane: &Arc<Plane>, head: &Head, body: Incoming, running: Running) -> Started {
        let Running { permit, commitment, reader, gone, deadline } = running;
        let times = (plane.times.idle, deadline);
        let most = usize::try_from(plane.times.answer_bytes.min(MOST_EVENT_BYTES)).unwrap_or(usize::MAX);
        let place = plane.replica.running.enter(permit.key().id);
        let mut stream = LiveStream {
            plane: Arc::clone(plane),
            permit,
            dialect: head.dialect,
            feed: Some(Feed::new(body, reader, plane.body_digests, times, most)),
            commitment: Some(commitment),
            served: None,
            gone,
            queue: VecDeque::new(),
            input_known: false,
            cut: Box::pin(place.cut().cancelled_owned()),
            _place: place,
            keep_alive: Box::pin(tokio::time::sleep(KEEP_ALIVE)),
            last_sent: Instant::now(),
        };
        // The key may have been revoked between its admission and its place among the running streams.
        let key = plane.replica.key(stream.permit.key().id);
        let alive = key.is_some_and(|key| key.standing().works());
        let begun = if alive { stream.hold_back().await } else { Err(Stopped::Cut) };
        match begun.map_err(|stopped| stream.stopped(stopped)) {
            Err(Some(failed)) => Started::Failed(Box::new(failed)),
            Ok(()) | Err(None) => Started::Stream(Box::new(Self(Some(stream)))),
        }
    }
}

impl LiveStream {
    /// Keeps what comes before the first content, so that nothing has been sent if it fails; but no longer than a client may be left in silence.
    async fn hold_back(&mut self) -> Result<(), Stopped> {
        let mut until = Instant::now() + KEEP_ALIVE;
        let mut held = 0;
        loop {
            let next = std::future::poll_fn(|cx| self.poll_step(cx));
            let Ok(next) = tokio::time::timeout_at(until, next).await else { return Ok(()) };
            match next {
                Next::Cut => return Err(Stopped::Cut),
                Next::Step(Step::Failed(failure)) => return Err(Stopped::Failed(failure)),
                Next::Step(Step::Done(bytes)) => {
                    self.done(bytes);
                    return Ok(());
                }
                Next::Step(Step::Forward(bytes)) => {
                    if self.queue.is_empty() {
                        until = until.min(Instant::now() + HELD_BACK);
                    }
                    held += bytes.len();
                    self.queue.push_back(bytes);
                }
            }
            if held > MOST_HELD_BACK || self.has_content() {
                return Ok(());
            }
        }
    }

    /// A stream that does not begin. `None` if it is settled.
    fn stopped(&mut self, stopped: Stopped) -> Option<Failed> {
        let (ending, rejection, failure) = match stopped {
            Stopped::Failed(failure) => {
                let rejection = self.rejection(&failure);
                (self.failed(&failure, &rejection), rejection, Some(failure))
            }
            Stopped::Cut => {
                let (rejection, flags) = why_cut(&self.plane, &self.permit);
                (self.ending(Charge::Unknown, Some(&rejection)).with(flags), rejection, None)
            }
        };
        let fault = match failure {
            Some(Failure::Refused(fault)) => Some(fault),
            Some(Failure::Broken | Failure::Timeout) | None => None,
        };
        let ending = Ending { status: rejection.status().as_u16(), ..ending };
        self.commitment.take().map(|commitment| Failed { commitment, ending, rejection, fault })
    }

    fn has_content(&self) -> bool {
        self.feed.as_ref().is_some_and(|feed| feed.reader().has_content())
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Next::Cut);
        }
        match &mut self.feed {
            Some(feed) => {
                let step = std::task::ready!(feed.poll_step(cx));
                self.note_input();
                Poll::Ready(Next::Step(step))
            }
            None => Poll::Ready(Next::Step(Step::Failed(Failure::Broken))),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(bytes) = self.queue.pop_front() {
                self.last_sent = Instant::now();
                return Poll::Ready(Some(bytes));
            }
            if self.commitment.is_none() {
                self.let_go(cx);
                return Poll::Ready(None);
            }
            match self.poll_step(cx) {
                Poll::Ready(Next::Cut) => self.cut_off(),
                Poll::Ready(Next::Step(Step::Forward(bytes))) => self.queue.push_back(bytes),
                Poll::Ready(Next::Step(Step::Done(bytes))) => self.done(bytes),
                Poll::Ready(Next::Step(Step::Failed(failure))) => self.break_off(&failure),
                Poll::Pending => match self.poll_keep_alive(cx) {
                    Poll::Ready(()) => self.queue.push_back(Bytes::from_static(self.dialect.keep_alive())),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    /// Lets go once of what was held for input that the provider did not count.
    fn note_input(&mut self) {
        if self.input_known {
            return;
        }
        let seen = self.feed.as_ref().and_then(|feed| feed.reader().input_seen());
        if let (Some(input), Some(commitment)) = (seen, &mut self.commitment) {
            self.input_known = true;
            commitment.input_known(&input);
        }
    }

    fn poll_keep_alive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            std::task::ready!(self.keep_alive.as_mut().poll(cx));
            let now = Instant::now();
            let due = self.last_sent + KEEP_ALIVE;
            self.keep_alive.as_mut().reset(if due <= now { now + KEEP_ALIVE } else { due });
            if due <= now {
                return Poll::Ready(());
            }
        }
    }

    fn done(&mut self, last: Bytes) {
        self.queue.push_back(last);
        let ending = self.ending(self.known(), None);
        self.settle(ending);
    }

    fn break_off(&mut self, failure: &Failure) {
        let (rejection, ending) = self.broken(failure);
        self.queue.push_back(rejection.stream_event(self.dialect));
        self.settle(ending);
    }

    /// The provider ended the stream before its end. The pool is told first: what its client is told is how the pool stands then.
    fn broken(&mut self, failure: &Failure) -> (Rejection, Ending) {
        let said = self.rejection(failure);
        let ending = self.failed(failure, &said);
        let rejection = cut_short(said, self.served.as_ref());
        let ending = Ending { rejection: Some(rejection.code()), ..ending };
        (rejection, ending)
    }

    fn cut_off(&mut self) {
        let (rejection, flags) = why_cut(&self.plane, &self.permit);
        self.queue.push_back(rejection.stream_event(self.dialect));
        let ending = self.ending(self.known(), Some(&rejection)).with(flags);
        self.settle(ending);
        // Dropping it closes the connection, at which the provider stops working.
        self.feed = None;
    }

    fn failed(&mut self, failure: &Failure, rejection: &Rejection) -> Ending {
        if let (Failure::Refused(fault), Some(served)) = (failure, &self.served) {
            served.failed_later(fault);
        }
        let charge = match (failure, self.known()) {
            (_, Charge::Known(usage)) => Charge::Known(usage),
            (Failure::Refused(fault), _) => charge_for(fault, self.stood()),
            (Failure::Broken | Failure::Timeout, _) => Charge::Unknown,
        };
        self.ending(charge, Some(rejection)).with(Flags::UPSTREAM_BROKEN)
    }

    /// Where an error stands that comes now.
    fn stood(&self) -> Stood {
        let made = self.feed.as_ref().is_none_or(|feed| feed.reader().has_made_something());
        if made { Stood::Elsewhere } else { Stood::BeforeAnything }
    }

    fn rejection(&self, failure: &Failure) -> Rejection {
        match failure {
            Failure::Refused(fault) => rejection_for(fault, &self.permit),
            Failure::Broken => Rejection::UpstreamBroken,
            Failure::Timeout => Rejection::UpstreamTimeout,
        }
    }

    /// What the provider says that it took. Some report usage as they go, so it counts only once the answer is known to be at its end; and who sent
    /// something cannot have counted nothing.
    fn known(&self) -> Charge {
        let reader = self.feed.as_ref().map(Feed::reader);
        let ended = reader.filter(|reader| reader.finished() || reader.done());
        let counted = |usage: &Usage, reader: &StreamReader| usage.output_total() > 0 || !reader.has_content();
        let usage = ended.and_then(|reader| reader.usage().filter(|usage| counted(usage, reader)));
        usage.map_or(Charge::Unknown, Charge::Known)
    }

    fn ending(&mut self, charge: Charge, rejection: Option<&Rejection>) -> Ending {
        let mut ending = Ending::new(charge, 200);
        ending.rejection = rejection.map(Rejection::code);
        if let Some(feed) = &mut self.feed {
            (ending.tier, ending.in_region) = (feed.reader().tier(), feed.reader().in_region());
            ending.answered_model = feed.reader().model().map(str::to_owned);
            ending.response_digest = feed.take_digest();
        }
        ending
    }

    fn settle(&mut self, ending: Ending) -> NanoUsd {
        self.commitment.take().map_or(NanoUsd::ZERO, |commitment| commitment.settle(ending))
    }

    /// Leaves the finished upstream stream to close by itself, so that its connection can be used again.
    fn let_go(&mut self, cx: &mut Context<'_>) {
        if let Some(mut feed) = self.feed.take()
            && !feed.is_closed(cx)
        {
            drop(self.plane.shutdown.spawn("close_upstream", feed.close()));
        }
    }

    /// Listens for a moment to a stream whose client is gone: one that is nearly at its end says what it cost. Of any other that is not known, and
    /// dropping it closes its connection, at which the provider stops working.
    async fn listen_on(mut self) {
        let let_go = self.gone.set();
        let ending = match tokio::time::timeout_at(let_go, self.end()).await {
            Ok(ending) => ending,
            Err(_) => {
                let ending = self.ending(self.known(), None);
                self.feed = None;
                ending
            }
        };
        self.settle(ending.with(Flags::CLIENT_GONE));
        if let Some(feed) = self.feed.take() {
            feed.close().await;
        }
    }

    /// How the stream ends. The connection stays only if it is at its end.
    async fn end(&mut self) -> Ending {
        let ending = loop {
            match std::future::poll_fn(|cx| self.poll_step(cx)).await {
                Next::Step(Step::Forward(_)) => {}
                Next::Step(Step::Done(_)) => return self.ending(self.known(), None),
                Next::Step(Step::Failed(failure)) => break self.broken(&failure).1,
                Next::Cut => {
                    let (rejection, flags) = why_cut(&self.plane, &self.permit);
                    break self.ending(self.known(), Some(&rejection)).with(flags);
                }
            }
        };
        self.feed = None;
        ending
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take()
            && stream.commitment.is_some()
        {
            let shutdown = stream.plane.shutdown.clone();
            drop(shutdown.spawn("listen_on", stream.listen_on()));
        }
    }
}
