//! Where requests wait for a pool that can serve none of them now: first come, first served for each virtual key, and the keys in turn.
//!
//! It is short: whoever would have to wait longer than is sensible is told when to come back instead, and that moment is kept free. So those who come back
//! when they were told to are served, also while the pool is asked for more than it has.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use keyforge_shared::id::KeyId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::moment::Moment;

/// Most requests that wait for one pool; each holds its body and its connection.
const MOST_WAITING: usize = 1_024;
/// Most of one key.
const MOST_OF_KEY: usize = 256;
/// Most moments that are kept free for one key, and for all.
const MOST_PROMISES_OF_KEY: usize = 64;
const MOST_PROMISES: usize = 8_192;
/// Of what a pool serves, at most so much is kept free for one key, beyond one moment: half of the longest wait, so that another's request can wait it out.
const KEPT_FOR_KEY: Duration = Duration::from_secs(5);
/// A moment is kept free for so long.
const KEPT_FREE: Duration = Duration::from_secs(10);
/// No moment later than this is kept free. Who must wait for longer is told the truth and has no moment: what is that far away may come otherwise, and
/// would keep others out until then.
const LONGEST_KEPT: Duration = Duration::from_secs(60);
/// How fast the line moves is measured over this long, once somebody has waited for [`MEASURED_FROM`].
const MEASURED: Duration = Duration::from_secs(5);
const MEASURED_FROM: Duration = Duration::from_secs(1);
/// Most departures that are remembered for that.
const MOST_LEFT: usize = 4_096;
/// Rates beyond these are taken for them.
const RATES: (f64, f64) = (0.1, 100_000.0);

/// A line of requests.
#[derive(Default)]
pub struct Line(Mutex<State>);

#[derive(Default)]
struct State {
    /// Keys that wait; the first one's first request is next.
    keys: VecDeque<KeyId>,
    waiting: HashMap<KeyId, VecDeque<Arc<Waiter>>>,
    count: usize,
    promises: HashMap<KeyId, VecDeque<Promise>>,
    promised: usize,
    /// The first moment that is not taken.
    free_from: Moment,
    /// Since when somebody waits and could be served: how little a pool serves while it is shut says nothing about it.
    busy_since: Moment,
    /// When those who were served left, of late.
    left: VecDeque<Moment>,
}

/// A moment that is kept free.
#[derive(Clone, Copy, Debug)]
struct Promise {
    at: Moment,
    /// How much of what the pool serves it takes.
    takes: Duration,
}

#[derive(Default)]
struct Waiter {
    next: Notify,
}

/// What a request that cannot be served now asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Whose it is.
    pub key: KeyId,
    /// Now.
    pub now: Moment,
    /// When the pool can serve something again.
    pub ready: Moment,
    /// Requests a second that the pool can then serve, if nobody else uses it.
    pub per_second: f64,
    /// How long it may wait.
    pub patience: Duration,
}

/// What it gets.
pub enum Granted {
    /// A place.
    Place(Place),
    /// A moment, so long from now, at which it will be served.
    Later(Duration),
}

/// A place in the line. Dropped, it is left.
pub struct Place {
    line: Arc<Line>,
    key: KeyId,
    waiter: Arc<Waiter>,
    /// What others may have of what the pool serves if this is left unserved.
    takes: Duration,
}

impl Line {
    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().count == 0
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.lock().count
    }

    /// Takes a place, or is told when to come back.
    #[must_use]
    pub fn join(self: &Arc<Self>, wish: Wish) -> Granted {
        let mut state = self.0.lock();
        let wish = state.measured(wish);
        state.let_go_of_what_nobody_came_for(wish.now);
        let has_room = state.count < MOST_WAITING && state.waiting_of(wish.key) < MOST_OF_KEY;
        let taken = if has_room { state.take_promise(wish).or_else(|| state.take_moment(wish)) } else { None };
        if let Some(takes) = taken {
            let waiter = Arc::new(Waiter::default());
            state.enter(wish, Arc::clone(&waiter));
            return Granted::Place(Place { line: Arc::clone(self), key: wish.key, waiter, takes });
        }
        Granted::Later(state.promise(wish))
    }

    /// Tells a request that waited in vain when to come back.
    #[must_use]
    pub fn later(&self, mut place: Place, wish: Wish) -> Duration {
        // The line is slower than was thought: what its moment took is gone.
        place.takes = Duration::ZERO;
        drop(place);
        let mut state = self.0.lock();
        let wish = state.measured(wish);
        state.let_go_of_what_nobody_came_for(wish.now);
        state.promise(wish)
    }
}

impl Place {
    /// Whether its request is next.
    #[must_use]
    pub fn is_next(&self) -> bool {
        self.line.0.lock().is_next(&self.waiter)
    }

    /// Its request is served.
    pub fn served(mut self, now: Moment) {
        self.takes = Duration::ZERO;
        let mut state = self.line.0.lock();
        if state.left.len() == MOST_LEFT {
            state.left.pop_front();
        }
        state.left.push_back(now);
        drop(state);
    }

    /// Waits until its request is next.
    pub async fn next(&self) {
        while !self.is_next() {
            self.waiter.next.notified().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.line.0.lock();
        state.free_from = state.free_from.minus(self.takes);
        state.leave(self.key, &self.waiter);
    }
}

impl State {
    fn waiting_of(&self, key: KeyId) -> usize {
        self.waiting.get(&key).map_or(0, VecDeque::len)
    }

    fn next(&self) -> Option<&Arc<Waiter>> {
        self.waiting.get(self.keys.front()?)?.front()
    }

    fn is_next(&self, waiter: &Arc<Waiter>) -> bool {
        self.next().is_some_and(|next| Arc::ptr_eq(next, waiter))
    }

    /// The wish with the rate at which the line really moves, once that is known: others may use the same limits.
    fn measured(&self, wish: Wish) -> Wish {
        let since =
            self.busy_since.max(Moment::default().plus(wish.now.since(Moment::default()).saturating_sub(MEASURED)));
        let elapsed = wish.now.since(since);
        if self.count == 0 || elapsed < MEASURED_FROM {
            return wish;
        }
        let left = self.left.iter().rev().take_while(|left| **left >= since).count();
        Wish { per_second: wish.per_second.min(left as f64 / elapsed.as_secs_f64()), ..wish }
    }

    fn enter(&mut self, Wish { key, now, ready, .. }: Wish, waiter: Arc<Waiter>) {
        if self.count == 0 {
            self.busy_since = now.max(ready);
        }
        self.count += 1;
        let queue = self.waiting.entry(key).or_default();
        if queue.is_empty() {
            self.keys.push_back(key);
        }
        queue.push_back(waiter);
    }

    fn leave(&mut self, key: KeyId, waiter: &Arc<Waiter>) {
        let was_next = self.is_next(waiter);
        let Some(queue) = self.waiting.get_mut(&key) else { return };
        let Some(at) = queue.iter().position(|other| Arc::ptr_eq(other, waiter)) else { return };
        queue.remove(at);
        self.count -= 1;
        let is_empty = queue.is_empty();
        if is_empty {
            self.waiting.remove(&key);
            self.keys.retain(|other| *other != key);
        } else if was_next {
            // The other keys' turn.
            self.keys.rotate_left(1);
        }
        if let (true, Some(next)) = (was_next, self.next()) {
            next.next.notify_one();
        }
    }

    /// The moment that was kept free for the key, if it has come or comes soon enough, as what it takes.
    fn take_promise(&mut self, wish: Wish) -> Option<Duration> {
        let promises = self.promises.get_mut(&wish.key)?;
        let promise = promises.pop_front_if(|promise| promise.at <= wish.now.plus(wish.patience))?;
        if promises.is_empty() {
            self.promises.remove(&wish.key);
        }
        self.promised -= 1;
        Some(promise.takes)
    }

    /// The next moment that nobody has, if it comes soon enough, as what it takes.
    fn take_moment(&mut self, wish: Wish) -> Option<Duration> {
        let moment = self.free_from.max(wish.ready);
        if moment > wish.now.plus(wish.patience) {
            return None;
        }
        let takes = gap(wish.per_second);
        self.free_from = moment.max(wish.now).plus(takes);
        Some(takes)
    }

    /// Keeps a moment free, and says how long it is until then.
    fn promise(&mut self, wish: Wish) -> Duration {
        let latest = wish.now.plus(LONGEST_KEPT);
        if wish.ready > latest {
            return wish.ready.since(wish.now);
        }
        let moment = self.free_from.max(wish.ready).max(wish.now).min(latest);
        let is_full = self.promised >= MOST_PROMISES;
        let promises = self.promises.entry(wish.key).or_default();
        let takes = gap(wish.per_second);
        let kept = promises.iter().fold(takes, |sum, promise| sum.saturating_add(promise.takes));
        let has_enough = promises.len() >= MOST_PROMISES_OF_KEY || (kept > KEPT_FOR_KEY && !promises.is_empty());
        if has_enough || is_full {
            // Who asks again and again gets no more than that.
            let last = promises.back().map_or(moment, |promise| promise.at);
            if promises.is_empty() {
                self.promises.remove(&wish.key);
            }
            return last.max(moment).since(wish.now);
        }
        promises.push_back(Promise { at: moment, takes });
        self.promised += 1;
        self.free_from = moment.plus(takes).min(latest);
        moment.since(wish.now)
    }

    /// Moments that were kept free in vain go to others, and when nobody waits or comes back all do.
    fn let_go_of_what_nobody_came_for(&mut self, now: Moment) {
        let (mut forgotten, mut took) = (0, Duration::ZERO);
        self.promises.retain(|_, promises| {
            while let Some(promise) = promises.pop_front_if(|promise| promise.at.plus(KEPT_FREE) < now) {
                forgotten += 1;
                took = took.saturating_add(promise.takes);
            }
            !promises.is_empty()
        });
        self.promised -= forgotten;
        self.free_from = if self.count == 0 && self.promised == 0 { now } else { self.free_from.minus(took) };
    }
}

fn gap(per_second: f64) -> Duration {
    Duration::from_secs_f64(1.0 / per_second.clamp(RATES.0, RATES.1))
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
