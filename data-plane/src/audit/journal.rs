//! The spool's state under its lock: the segment being written, what is open, what is owed, and the room that is left.
//!
//! Records get their number here, at the moment they are written, so the order of numbers is the order of the file.

mod segment;
mod sync;
mod told;
mod trim;

use std::fs::File;
#[cfg(test)]
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use hashbrown::HashMap;
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::id::KeyId;

use crate::audit::frame::{self, Frame};
use crate::audit::intent::AttemptKey;
use crate::audit::recent::Recent;
use crate::audit::spool::{Health, Progress, SpoolError, SpoolLimits, SpoolStatus};
use crate::audit::{Identity, Intent, leftover};

use told::Untold;

pub(super) use segment::{Segment, create_segment};

/// Room kept for the record of an open intent besides its model's name: the fixed fields take 270 bytes, the rest is for
/// private values.
const RESERVE: u64 = 1024;

/// An intent without a record.
struct Open {
    segment: u32,
    frame: Vec<u8>,
    reserve: u64,
    owner: Option<KeyId>,
}

pub(super) struct Journal {
    pub identity: Identity,
    pub limits: SpoolLimits,
    pub folder: PathBuf,
    pub current: Segment,
    /// Earlier segments that still hold something, oldest first.
    pub sealed: Vec<Segment>,
    /// Written to since they were last synced.
    unsynced: Vec<Arc<File>>,
    open: HashMap<AttemptKey, Open>,
    /// Records of open intents that the disk refused; there are never more than open intents.
    owed: HashMap<AttemptKey, RequestRecord>,
    untold: Untold,
    /// Number of [`Self::current`], for those who do not hold the lock.
    writing: Arc<AtomicU32>,
    recent: Recent,
    next_seq: u64,
    durable_seq: u64,
    durable_frames: u64,
    acked: u64,
    frames: u64,
    used: u64,
    reserved: u64,
    elsewhere: Arc<AtomicU64>,
    health: Health,
    full: bool,
    closing: bool,
    ended: bool,
    removed: bool,
    stopping: bool,
    /// Something happened that the background thread has not seen.
    work: bool,
    _lock: File,
}

impl Journal {
    /// Makes the folder of a new life and its first segment.
    pub fn create(
        dir: &Path,
        limits: SpoolLimits,
        identity: Identity,
        elsewhere: Arc<AtomicU64>,
        lock: File,
    ) -> Result<Self, SpoolError> {
        let segment_bytes = limits.segment_bytes.min(limits.max_bytes / 8).max(1);
        let folder = leftover::create_folder(dir, identity.boot)?;
        let current = create_segment(&folder, &identity, 1)?;
        Ok(Self {
            identity,
            limits: SpoolLimits { segment_bytes, ..limits },
            used: current.len,
            folder,
            current,
            sealed: Vec::new(),
            unsynced: Vec::new(),
            open: HashMap::new(),
            owed: HashMap::new(),
            untold: Untold::default(),
            writing: Arc::new(AtomicU32::new(1)),
            recent: Recent::starting_at(1),
            next_seq: 1,
            durable_seq: 0,
            durable_frames: 0,
            acked: 0,
            frames: 0,
            reserved: 0,
            elsewhere,
            health: Health::Healthy,
            full: false,
            closing: false,
            ended: false,
            removed: false,
            stopping: false,
            work: false,
            _lock: lock,
        })
    }

    pub fn intend(&mut self, intent: &Intent) -> Result<(), SpoolError> {
        if self.closing {
            return Err(SpoolError::Closed);
        }
        if self.health != Health::Healthy {
            return Err(SpoolError::Failed);
        }
        let frame = sized(Frame::intent(intent))?;
        let reserve = RESERVE + intent.model.len() as u64;
        self.room(frame.len() as u64 + reserve)?;
        self.append(&frame)?;
        self.reserved += reserve;
        let open = Open { segment: self.current.number, frame, reserve, owner: intent.owner() };
        if let Some(twice) = self.open.insert(intent.attempt_key(), open) {
            self.reserved -= twice.reserve;
        }
        Ok(())
    }

    pub fn complete(&mut self, record: RequestRecord, t_mono_ns: u64) -> Result<u64, SpoolError> {
        let key = (record.request, record.attempt);
        let open = self.open.contains_key(&key);
        if self.ended {
            return Err(SpoolError::Closed);
        }
        if self.health == Health::WriteFailed {
            if open {
                self.owed.insert(key, record);
            }
            return Err(SpoolError::Failed);
        }
        let owner = self.open.get(&key).and_then(|open| open.owner);
        match self.append_record(record, owner, t_mono_ns) {
            Err((error @ SpoolError::Disk { .. }, record)) if open => {
                self.owed.insert(key, *record);
                Err(error)
            }
            Err((error, _)) => Err(error),
            Ok(seq) => Ok(seq),
        }
    }

    pub fn refuse(&mut self, record: RequestRecord, t_mono_ns: u64) -> Option<u64> {
        let half_full = self.committed() >= self.limits.max_bytes / 2;
        if half_full || self.health != Health::Healthy || self.ended {
            return None;
        }
        self.append_record(record, None, t_mono_ns).ok()
    }

    /// Writes a record under the next number. Hands the record back if it could not.
    fn append_record(
        &mut self,
        mut record: RequestRecord,
        owner: Option<KeyId>,
        t_mono_ns: u64,
    ) -> Result<u64, (SpoolError, Box<RequestRecord>)> {
        let seq = self.next_seq;
        let room_is_kept = self.open.contains_key(&(record.request, record.attempt));
        record.deployment = self.identity.deployment;
        record.node = self.identity.node;
        record.boot = self.identity.boot;
        record.node_seq = seq;
        record.t_mono_ns = t_mono_ns;
        let bytes = record.encode();
        let written = sized(Frame::record(seq, owner, &bytes)).and_then(|frame| {
            if !room_is_kept {
                self.room(frame.len() as u64)?;
            }
            self.append(&frame)
        });
        if let Err(error) = written {
            return Err((error, Box::new(record)));
        }
        self.recent.push(Bytes::from(bytes));
        if owner.is_some() {
            self.untold.add(seq);
        }
        self.current.last_seq = seq;
        self.next_seq += 1;
        if let Some(open) = self.open.remove(&(record.request, record.attempt)) {
            self.reserved -= open.reserve;
        }
        Ok(seq)
    }

    /// Tries again to write what the disk refused; with nothing owed, tries whether it writes at all.
    pub fn retry(&mut self, t_mono_ns: u64) {
        if self.health != Health::WriteFailed || self.ended {
            return;
        }
        let keys: Vec<AttemptKey> = self.owed.keys().copied().collect();
        for key in keys {
            let Some(record) = self.owed.remove(&key) else { continue };
            // Its end was told to the counter store when the disk refused it, or waits to be: its number is not known there.
            if let Err((error, record)) = self.append_record(record, None, t_mono_ns) {
                if matches!(error, SpoolError::Disk { .. }) {
                    self.owed.insert(key, *record);
                    return;
                }
                tracing::error!(%error, "a record could not be written; its attempt will be charged at its bound");
            }
        }
        if self.append(&Frame::acked(self.acked)).is_ok() {
            self.health = Health::Healthy;
            tracing::info!("the audit spool's disk takes writes again");
        }
    }

    /// One `write(2)` at the end of the last whole frame. A frame that was written in part is cut off or overwritten.
    fn append(&mut self, frame: &[u8]) -> Result<(), SpoolError> {
        let segment = &mut self.current;
        if let Err(source) = segment.file.write_all_at(frame, segment.len) {
            drop(segment.file.set_len(segment.len));
            if self.health == Health::Healthy {
                tracing::error!(error = %source, "the audit spool cannot be written; requests are refused until it can");
                self.health = Health::WriteFailed;
                self.work = true;
            }
            return Err(SpoolError::disk("write", &segment.path, source));
        }
        segment.len += frame.len() as u64;
        if self.unsynced.last().is_none_or(|file| !Arc::ptr_eq(file, &segment.file)) {
            self.unsynced.push(Arc::clone(&segment.file));
        }
        self.used += frame.len() as u64;
        self.frames += 1;
        self.work = true;
        Ok(())
    }

    fn committed(&self) -> u64 {
        self.used + self.reserved + self.elsewhere.load(Ordering::Relaxed)
    }

    fn room(&mut self, bytes: u64) -> Result<(), SpoolError> {
        let (used, max) = (self.committed(), self.limits.max_bytes);
        if used + bytes > max {
            if !self.full {
                self.full = true;
                tracing::error!(used, max, "the audit spool is full; requests are refused until records are shipped");
            }
            return Err(SpoolError::Full { used, max });
        }
        // Well below the limit, so that a spool at its edge does not fill the log.
        if self.full && used < max - max / 16 {
            self.full = false;
            tracing::info!(used, max, "the audit spool has room again");
        }
        Ok(())
    }

    /// Every record up to `watermark` is chained.
    pub fn acknowledge(&mut self, watermark: u64) {
        let watermark = watermark.min(self.next_seq - 1);
        if watermark > self.acked {
            self.acked = watermark;
            self.recent.forget_through(watermark);
            self.work = true;
        }
    }

    /// Records after `watermark` are not chained any more: their segments stay from now on.
    pub fn put_back(&mut self, watermark: u64) {
        self.acked = self.acked.min(watermark);
    }

    /// Records from `from` that are durable, if they are still in memory.
    pub fn recent(&self, from: u64, max_records: usize, max_bytes: usize) -> Option<Vec<Bytes>> {
        self.recent.batch(from, self.durable_seq, max_records, max_bytes)
    }

    /// All segments, oldest first.
    pub fn segments(&self) -> Vec<(u32, PathBuf)> {
        let all = self.sealed.iter().chain([&self.current]);
        all.map(|segment| (segment.number, segment.path.clone())).collect()
    }

    pub fn begin_closing(&mut self) {
        self.closing = true;
        self.work = true;
    }

    /// Takes nothing more, if this life is closing and all of it is acknowledged; whether that is so.
    pub fn end(&mut self) -> bool {
        self.ended = self.progress().finished;
        self.ended
    }

    pub fn mark_removed(&mut self) {
        self.removed = true;
        self.work = true;
    }

    pub fn stop(&mut self) {
        self.stopping = true;
        self.work = true;
    }

    pub const fn is_stopping(&self) -> bool {
        self.stopping
    }

    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    pub const fn has_work(&self) -> bool {
        self.work
    }

    pub const fn work_seen(&mut self) {
        self.work = false;
    }

    pub const fn health(&self) -> Health {
        self.health
    }

    pub const fn frames(&self) -> u64 {
        self.frames
    }

    pub const fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    pub fn status(&self) -> SpoolStatus {
        SpoolStatus {
            bytes: self.used + self.elsewhere.load(Ordering::Relaxed),
            reserved: self.reserved,
            open: self.open.len(),
            unshipped: self.last_seq() - self.acked,
            next_seq: self.next_seq,
            acked: self.acked,
            untold: self.untold.count(),
            health: self.health,
        }
    }

    pub fn progress(&self) -> Progress {
        Progress {
            durable_seq: self.durable_seq,
            durable_frames: self.durable_frames,
            finished: self.closing && self.open.is_empty() && self.acked == self.last_seq(),
            removed: self.removed,
            health: self.health,
        }
    }

    #[cfg(test)]
    pub fn break_disk(&mut self) -> io::Result<()> {
        self.current.file = Arc::new(File::open(&self.current.path)?);
        Ok(())
    }

    #[cfg(test)]
    pub fn repair_disk(&mut self) -> io::Result<()> {
        self.current.file = Arc::new(File::options().write(true).open(&self.current.path)?);
        Ok(())
    }
}

fn sized(frame: Vec<u8>) -> Result<Vec<u8>, SpoolError> {
    let bytes = frame.len();
    if bytes > frame::MAX_PAYLOAD { Err(SpoolError::TooLong { bytes }) } else { Ok(frame) }
}
