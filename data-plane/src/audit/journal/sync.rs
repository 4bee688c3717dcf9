//! Making what was written durable, in groups.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::{Health, Journal};

/// The state that a sync makes durable.
#[derive(Clone, Copy)]
pub(in crate::audit) struct SyncPoint {
    seq: u64,
    frames: u64,
}

impl Journal {
    /// What must be synced, and what is durable once it is.
    pub fn begin_sync(&mut self) -> (Vec<Arc<File>>, SyncPoint) {
        (std::mem::take(&mut self.unsynced), SyncPoint { seq: self.last_seq(), frames: self.frames })
    }

    pub fn synced(&mut self, point: SyncPoint) {
        if self.health != Health::SyncFailed {
            self.durable_seq = point.seq;
            self.durable_frames = point.frames;
        }
    }

    pub fn sync_failed(&mut self, error: &io::Error) {
        if self.health != Health::SyncFailed {
            tracing::error!(%error, "the audit spool cannot be made durable; requests are refused until the node restarts");
            self.health = Health::SyncFailed;
        }
    }
}
