//! The stream to the client: events as they come, keep-alives in silence, and a well-formed end whatever happens.
//!
//! The client's connection polls the provider's directly: no task, no channel between them. When the client hangs up, the provider's stream is read to
//! its end by a task, because it is charged to its end; when the key is revoked, both are cut at once.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use keyforge_providers::dialect::Dialect;
use keyforge_providers::openai::stream::StreamMeter;
use keyforge_shared::audit::request::Flags;
use keyforge_shared::money::NanoUsd;
use keyforge_shared::state::KeyStatus;
use keyforge_shared::usage::Usage;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::authorize::Permit;
use super::dispatch::{charge_for, rejection_for};
use super::feed::{Failure, Feed, Step};
use super::receive::Head;
use super::settle::{Charge, Commitment, Ending};
use crate::plane::Plane;
use crate::rejection::Rejection;
use crate::replica::running::Place;

/// A silent stream gets a comment this often, so that nothing in between takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Most bytes of one event.
const MOST_EVENT_BYTES: u64 = 16 << 20;

/// What came of a stream's first event.
pub enum Started {
    /// It is running.
    Stream(Box<Relay>),
    /// It failed before anything was sent to the client, and this was charged.
    Failed(Rejection, NanoUsd),
}

/// What a stream runs with.
pub struct Running {
    /// For whom.
    pub permit: Permit,
    /// What it will be charged to.
    pub commitment: Commitment,
    /// Whether the client asked for usage.
    pub usage_asked: bool,
    /// When it must have ended.
    pub deadline: Instant,
}

/// A stream to the client. Dropped before its end, it is followed to its end all the same.
pub struct Relay(Option<LiveStream>);

/// A stream that is running.
struct LiveStream {
    plane: Arc<Plane>,
    permit: Permit,
    dialect: Dialect,
    feed: Option<Feed>,
    commitment: Option<Commitment>,
    queue: VecDeque<Bytes>,
    /// Whether what was held beyond the input that the provider reported was let go.
    input_known: bool,
    _place: Place,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    keep_alive: Pin<Box<Sleep>>,
    last_sent: Instant,
}

impl Relay {
    /// The next bytes for the client; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.0 {
            Some(stream) => stream.poll_next(cx),
            None => Poll::Ready(None),
        }
    }

    /// Waits for the first event: an error that comes before it is still an error status.
    pub async fn start(plane: &Arc<Plane>, head: &Head, body: Incoming, running: Running) -> Started {
        let Running { permit, commitment, usage_asked, deadline } = running;
        let times = (plane.times.idle, deadline);
        let most = usize::try_from(plane.times.answer_bytes.min(MOST_EVENT_BYTES)).unwrap_or(usize::MAX);
        let place = plane.replica.running.enter(permit.key().id);
        let mut relay = LiveStream {
            plane: Arc::clone(plane),
            permit,
            dialect: head.dialect,
            feed: Some(Feed::new(body, StreamMeter::new(usage_asked), plane.body_digests, times, most)),
            commitment: Some(commitment),
            queue: VecDeque::new(),
            input_known: false,
            cut: Box::pin(place.cut().cancelled_owned()),
            _place: place,
            keep_alive: Box::pin(tokio::time::sleep(KEEP_ALIVE)),
            last_sent: Instant::now(),
        };
        // The key may have been revoked between its admission and its place among the running streams.
        let key = plane.replica.key(relay.permit.key().id);
        let alive = key.is_some_and(|key| key.status == KeyStatus::Active);
        let first = if alive { std::future::poll_fn(|cx| relay.poll_first(cx)).await } else { First::Cut };
        match first {
            First::Step(Step::Forward(bytes)) => relay.queue.push_back(bytes),
            First::Step(Step::Done(bytes)) => relay.done(bytes),
            First::Step(Step::Failed(failure)) => {
                let rejection = relay.rejection(&failure);
                let cost = relay.fail(&failure, &rejection);
                return Started::Failed(rejection, cost);
            }
            First::Step(Step::Ended) => {
                let cost = relay.fail(&Failure::Broken, &Rejection::UpstreamBroken);
                return Started::Failed(Rejection::UpstreamBroken, cost);
            }
            First::Cut => {
                let (rejection, flags) = relay.cut_rejection();
                let mut ending = relay.ending(Charge::Unknown, Some(&rejection)).with(flags);
                ending.status = rejection.status().as_u16();
                let cost = relay.settle(ending);
                return Started::Failed(rejection, cost);
            }
        }
        Started::Stream(Box::new(Self(Some(relay))))
    }
}

impl LiveStream {
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<First> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(First::Cut);
        }
        match &mut self.feed {
            Some(feed) => {
                let step = std::task::ready!(feed.poll_step(cx));
                self.note_input();
                Poll::Ready(First::Step(step))
            }
            None => Poll::Ready(First::Step(Step::Ended)),
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
            match self.poll_first(cx) {
                Poll::Ready(First::Cut) => self.cut_off(),
                Poll::Ready(First::Step(Step::Forward(bytes))) => self.queue.push_back(bytes),
                Poll::Ready(First::Step(Step::Done(bytes))) => self.done(bytes),
                Poll::Ready(First::Step(Step::Failed(failure))) => self.break_off(&failure),
                Poll::Ready(First::Step(Step::Ended)) => self.ended(),
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
        let seen = self.feed.as_ref().and_then(|feed| feed.meter().input_seen());
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

    /// The provider closed without its last event. If it said before why it stopped, that was the end; else it broke off.
    fn ended(&mut self) {
        let ending = self.end_of_body();
        if ending.rejection.is_some() {
            self.queue.push_back(Rejection::UpstreamBroken.stream_event(self.dialect));
        }
        self.settle(ending);
    }

    fn end_of_body(&mut self) -> Ending {
        if self.feed.as_ref().is_some_and(|feed| feed.meter().finished()) {
            return self.ending(self.known(), None);
        }
        self.failed(&Failure::Broken, &Rejection::UpstreamBroken)
    }

    fn break_off(&mut self, failure: &Failure) {
        let rejection = self.rejection(failure);
        self.queue.push_back(rejection.stream_event(self.dialect));
        let ending = self.failed(failure, &rejection);
        self.settle(ending);
    }

    fn cut_off(&mut self) {
        let (rejection, flags) = self.cut_rejection();
        self.queue.push_back(rejection.stream_event(self.dialect));
        let ending = self.ending(self.known(), Some(&rejection)).with(flags);
        self.settle(ending);
        // Dropping it closes the connection, at which the provider stops working.
        self.feed = None;
    }

    fn fail(&mut self, failure: &Failure, rejection: &Rejection) -> NanoUsd {
        let mut ending = self.failed(failure, rejection);
        ending.status = rejection.status().as_u16();
        self.settle(ending)
    }

    fn failed(&mut self, failure: &Failure, rejection: &Rejection) -> Ending {
        let charge = match (failure, self.known()) {
            (_, Charge::Known(usage)) => Charge::Known(usage),
            (Failure::Refused(fault), _) => charge_for(fault),
            (Failure::Broken | Failure::Timeout, _) => Charge::Unknown,
        };
        self.ending(charge, Some(rejection)).with(Flags::UPSTREAM_BROKEN)
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
        let meter = self.feed.as_ref().map(Feed::meter);
        let ended = meter.filter(|meter| meter.finished() || meter.done());
        let counted = |usage: &Usage, meter: &StreamMeter| usage.output_total() > 0 || !meter.has_content();
        let usage = ended.and_then(|meter| meter.usage().filter(|usage| counted(usage, meter)));
        usage.map_or(Charge::Unknown, Charge::Known)
    }

    /// Why the key's streams are cut.
    fn cut_rejection(&self) -> (Rejection, Flags) {
        match self.plane.replica.key(self.permit.key().id).map(|key| key.status) {
            Some(KeyStatus::Frozen) => (Rejection::KeyFrozen, Flags(0)),
            Some(KeyStatus::Active | KeyStatus::Revoked) | None => (Rejection::KeyRevoked, Flags::REVOKED),
        }
    }

    fn ending(&mut self, charge: Charge, rejection: Option<&Rejection>) -> Ending {
        let mut ending = Ending::new(charge, 200);
        ending.rejection = rejection.map(Rejection::code);
        if let Some(feed) = &mut self.feed {
            ending.tier = feed.meter().tier();
            ending.answered_model = feed.meter().model().map(str::to_owned);
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

    /// Follows a stream whose client is gone to its end.
    async fn follow(mut self) {
        let ending = loop {
            match std::future::poll_fn(|cx| self.poll_first(cx)).await {
                First::Step(Step::Forward(_)) => {}
                First::Step(Step::Done(_)) => break self.ending(self.known(), None),
                First::Step(Step::Ended) => break self.end_of_body(),
                First::Step(Step::Failed(failure)) => {
                    let rejection = self.rejection(&failure);
                    break self.failed(&failure, &rejection);
                }
                First::Cut => {
                    let (rejection, flags) = self.cut_rejection();
                    break self.ending(self.known(), Some(&rejection)).with(flags);
                }
            }
        };
        self.settle(ending.with(Flags::CLIENT_GONE));
        if let Some(feed) = self.feed.take() {
            feed.close().await;
        }
    }
}

enum First {
    Step(Step),
    Cut,
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take()
            && stream.commitment.is_some()
        {
            let shutdown = stream.plane.shutdown.clone();
            drop(shutdown.spawn("follow_stream", stream.follow()));
        }
    }
}
