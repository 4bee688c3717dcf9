//! Beginning segments, and letting go of those whose records are all chained.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::{Journal, Segment};
use crate::audit::frame::Frame;
use crate::audit::intent::AttemptKey;
use crate::audit::spool::SpoolError;

impl Journal {
    /// Continues in `next`.
    pub fn rotate(&mut self, next: Segment) {
        self.used += next.len;
        self.writing.store(next.number, Ordering::Relaxed);
        let next = Segment { last_seq: self.last_seq(), ..next };
        self.sealed.push(std::mem::replace(&mut self.current, next));
    }

    /// How many of the oldest segments hold no record that is not acknowledged. One that the counter store may not have heard of keeps its segment,
    /// too, as long as there is much room: without it, its hold would only end by time should the process die.
    pub fn acked_segments(&self) -> usize {
        let is_roomy = self.committed() < self.limits.max_bytes / 4;
        let is_done = |last: u64| last <= self.acked && !(is_roomy && self.is_untold_through(last));
        self.sealed.iter().take_while(|segment| is_done(segment.last_seq)).count()
    }

    /// Attempts whose intents are in segments up to `number`.
    pub fn open_through(&self, number: u32) -> Vec<AttemptKey> {
        self.open.iter().filter(|(_, open)| open.segment <= number).map(|(key, _)| *key).collect()
    }

    /// Whether the oldest `count` segments are at least twice as long as the intents that would have to be written again;
    /// otherwise carrying could go on for ever without any gain.
    pub fn is_worth_carrying(&self, keys: &[AttemptKey], count: usize) -> bool {
        let carried: usize = keys.iter().filter_map(|key| self.open.get(key)).map(|open| open.frame.len()).sum();
        let freed: u64 = self.sealed.iter().take(count).map(|segment| segment.len).sum();
        freed >= 2 * carried as u64
    }

    /// Writes the intents of attempts that are still open once more, so that their old segment can go.
    pub fn carry(&mut self, keys: &[AttemptKey]) -> Result<(), SpoolError> {
        for key in keys {
            let Some(mut open) = self.open.remove(key) else { continue };
            let carried = self.append(&open.frame);
            if carried.is_ok() {
                open.segment = self.current.number;
            }
            self.open.insert(*key, open);
            carried?;
        }
        Ok(())
    }

    /// Writes down how far the control plane has acknowledged.
    pub fn mark_acked(&mut self) -> Result<(), SpoolError> {
        self.append(&Frame::acked(self.acked))
    }

    /// Forgets the oldest `count` segments; their files are to be removed.
    pub fn forget_segments(&mut self, count: usize) -> Vec<PathBuf> {
        let gone: Vec<Segment> = self.sealed.drain(..count.min(self.sealed.len())).collect();
        self.forget_mark();
        self.used -= gone.iter().map(|segment| segment.len).sum::<u64>();
        gone.into_iter().map(|segment| segment.path).collect()
    }
}
