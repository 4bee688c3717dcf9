//! Which records the counter store may not have heard of, and how far it surely has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::{Health, Journal};
use crate::audit::Intent;
use crate::audit::frame::Frame;
use crate::audit::spool::SpoolError;

/// Numbers of records whose attempts held something in a store outside of the process.
#[derive(Default)]
pub(super) struct Untold {
    /// Of those, the ones that the store may not have heard of. No more than the store's messages that wait or are on their way.
    waiting: BTreeSet<u64>,
    /// The newest of all.
    newest: u64,
    /// The last one that was written down as told.
    written: u64,
}

impl Untold {
    pub fn add(&mut self, seq: u64) {
        self.waiting.insert(seq);
        self.newest = seq;
    }

    pub fn count(&self) -> usize {
        self.waiting.len()
    }

    /// Every one up to here was told.
    fn through(&self) -> u64 {
        self.waiting.first().map_or(self.newest, |first| first - 1)
    }
}

impl Journal {
    /// The store knows how the attempt of record `seq` ended, or nobody will tell it.
    pub fn told(&mut self, seq: u64) {
        self.untold.waiting.remove(&seq);
    }

    /// Whether the store may not have heard of a record with this number or a lower one.
    pub(super) fn is_untold_through(&self, seq: u64) -> bool {
        self.untold.waiting.first().is_some_and(|first| *first <= seq)
    }

    /// What was written about it is gone with its segment.
    pub(super) const fn forget_mark(&mut self) {
        self.untold.written = 0;
    }

    /// Writes down how far the store was told, if that changed. Whoever calls it syncs afterwards: it makes no work of its own.
    pub fn mark_told(&mut self) -> Result<(), SpoolError> {
        let through = self.untold.through();
        if through <= self.untold.written || self.has_ended() || self.health() != Health::Healthy {
            return Ok(());
        }
        let had_work = self.work;
        self.append(&Frame::told(through))?;
        self.work = had_work;
        self.untold.written = through;
        Ok(())
    }

    /// Writes an open intent again, with a lower bound.
    pub fn lower(&mut self, intent: &Intent) -> Result<(), SpoolError> {
        // An intent without a record would be charged once more.
        if self.health() != Health::Healthy || !self.open.contains_key(&intent.attempt_key()) {
            return Err(SpoolError::Failed);
        }
        let frame = super::sized(Frame::intent(intent))?;
        self.room(frame.len() as u64)?;
        self.append(&frame)?;
        let segment = self.current.number;
        if let Some(open) = self.open.get_mut(&intent.attempt_key()) {
            open.segment = segment;
            open.frame = frame;
        }
        Ok(())
    }

    /// The number of the segment that is written, kept up to date.
    pub fn writing(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.writing)
    }
}
