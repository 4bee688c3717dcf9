//! The question to the counter store whether an attempt may be dispatched, and what is done when nobody answers.
//!
//! A question without an answer may have been admitted. It is asked once more with the same id if there is time, and taken back in the background
//! if the attempt is refused, or if whoever asked is gone. No agent waits for a store that is gone.

use std::sync::Arc;
use std::time::Duration;

use keyforge_counters::{CounterStore, ReservationId, Reserve, Verdict};
use keyforge_shared::id::KeyId;
use tokio::time::Instant;

use crate::audit::Asked;
use crate::plane::Plane;
use crate::settlements::{About, Kept};

/// With less time left there is no second attempt.
const SECOND_ATTEMPT: Duration = Duration::from_millis(10);

/// The store did not answer: nothing may be dispatched.
#[derive(Debug)]
pub(super) struct Unanswered;

/// One attempt's questions.
pub(super) struct Question {
    plane: Arc<Plane>,
    key: KeyId,
    id: ReservationId,
    /// The epoch of a question that nobody knows the answer of.
    doubt: Option<u32>,
    /// What is on disk of it, for a store that outlives this process.
    asked: Option<Asked>,
}

impl Question {
    pub const fn new(plane: Arc<Plane>, key: KeyId, id: ReservationId) -> Self {
        Self { plane, key, id, doubt: None, asked: None }
    }

    /// Asks, twice if need be.
    pub async fn ask(&mut self, reserve: Reserve<'_>) -> Result<Verdict, Unanswered> {
        if self.asked.is_none() && !self.plane.settlements.are_told_at_once() {
            self.asked = self.plane.spool.question(self.key, self.id.request, self.id.attempt);
        }
        let before = self.doubt;
        let deadline = Instant::now() + self.plane.store_patience;
        for again in [false, true] {
            // Whoever is gone while this waits does not get the answer either.
            self.doubt = Some(reserve.epoch);
            match tokio::time::timeout_at(deadline, self.plane.counters.reserve(reserve)).await {
                Ok(Ok(verdict)) => {
                    self.doubt = match verdict {
                        Verdict::Admitted(_) => None,
                        // The first attempt may still arrive.
                        _ if again => Some(reserve.epoch),
                        _ => before,
                    };
                    return Ok(verdict);
                }
                Ok(Err(error)) if error.was_surely_not_asked() => {
                    self.doubt = if again { self.doubt } else { before };
                    return Err(Unanswered);
                }
                Ok(Err(error)) => {
                    tracing::debug!(request = %self.id.request, %error, "the counter store did not answer");
                    if deadline.saturating_duration_since(Instant::now()) < SECOND_ATTEMPT {
                        return Err(Unanswered);
                    }
                }
                Err(_) => return Err(Unanswered),
            }
        }
        Err(Unanswered)
    }

    /// What is on disk of it, once it was admitted.
    pub fn take_asked(&mut self) -> Option<Asked> {
        self.asked.take()
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some(epoch) = self.doubt {
            let kept = self.asked.take().map_or(Kept::Nothing, Kept::Question);
            self.plane.settlements.cancel(About { key: self.key, epoch, id: self.id }, kept);
        }
    }
}
