//! The spool's background thread: makes writes durable in groups, begins segments, and removes those that are done.
//!
//! It works every few milliseconds while there is something to do and sleeps otherwise. Disk calls that may be slow are
//! made here and never under the lock.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::audit::journal;
use crate::audit::spool::{Core, Health, SpoolError};

/// How long writes gather before they are synced together.
const GATHER: Duration = Duration::from_millis(5);
/// How often a disk that refused a write is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// Intents carried over per hold of the lock, so that no request waits long.
const CARRY: usize = 64;

/// Starts the thread. It ends after [`stop`](journal::Journal::stop), with everything synced.
pub(super) fn spawn(core: &Arc<Core>) -> io::Result<JoinHandle<()>> {
    let core = Arc::clone(core);
    thread::Builder::new().name("audit-spool".into()).spawn(move || run(&core))
}

fn run(core: &Core) {
    loop {
        let stopping = wait(core);
        core.tick();
        if stopping {
            return;
        }
    }
}

/// Waits for work, and a little longer for more of it. Whether to stop after that.
fn wait(core: &Core) -> bool {
    let mut journal = core.journal.lock();
    while !journal.has_work() && !journal.is_stopping() {
        if journal.health() == Health::WriteFailed {
            if core.wake.wait_for(&mut journal, RETRY).timed_out() {
                break;
            }
        } else {
            core.wake.wait(&mut journal);
        }
    }
    if !journal.is_stopping() {
        let _woken_early = core.wake.wait_for(&mut journal, GATHER);
    }
    journal.work_seen();
    journal.is_stopping()
}

impl Core {
    /// One round of everything there is to do.
    pub(super) fn tick(&self) {
        let _one_at_a_time = self.round.lock();
        self.journal.lock().retry(self.monotonic_nanos());
        let tidied = self.rotate().and_then(|()| self.trim());
        if let Err(error) = &tidied
            && !self.untidy.load(Ordering::Relaxed)
        {
            tracing::warn!(%error, "finished segments of the audit spool could not be exchanged; it is tried again");
        }
        self.untidy.store(tidied.is_err(), Ordering::Relaxed);
        // A disk that refuses it has said so in the log, and is asked again.
        drop(self.journal.lock().mark_told());
        self.sync();
        let (progress, more) = {
            let journal = self.journal.lock();
            (journal.progress(), journal.has_work())
        };
        self.progress.send_replace(progress);
        if more {
            self.wake.notify_one();
        }
    }

    fn rotate(&self) -> Result<(), SpoolError> {
        let (folder, identity, number) = {
            let journal = self.journal.lock();
            let full = journal.current.len >= journal.limits.segment_bytes;
            if !full || journal.has_ended() || journal.health() != Health::Healthy {
                return Ok(());
            }
            (journal.folder.clone(), journal.identity, journal.current.number + 1)
        };
        let next = journal::create_segment(&folder, &identity, number)?;
        self.journal.lock().rotate(next);
        Ok(())
    }

    /// Removes the oldest segments whose records are all acknowledged. What they still say is written to the current one
    /// first and durable before they go: intents that are open, and how far the acknowledgement reaches.
    fn trim(&self) -> Result<(), SpoolError> {
        let (count, keys) = {
            let journal = self.journal.lock();
            let count = journal.acked_segments();
            let Some(last) = count.checked_sub(1).and_then(|index| journal.sealed.get(index)) else { return Ok(()) };
            if journal.has_ended() || journal.health() != Health::Healthy {
                return Ok(());
            }
            let keys = journal.open_through(last.number);
            if !journal.is_worth_carrying(&keys, count) {
                return Ok(());
            }
            (count, keys)
        };
        for some in keys.chunks(CARRY) {
            self.journal.lock().carry(some)?;
        }
        self.journal.lock().mark_acked()?;
        if !self.sync() {
            return Ok(());
        }
        let gone = self.journal.lock().forget_segments(count);
        for path in gone {
            fs::remove_file(&path).map_err(|source| SpoolError::disk("remove", &path, source))?;
        }
        Ok(())
    }

    /// Makes everything written so far durable; whether that worked.
    fn sync(&self) -> bool {
        let (files, point) = self.journal.lock().begin_sync();
        let failed = files.iter().find_map(|file| file.sync_data().err());
        let mut journal = self.journal.lock();
        match failed {
            Some(error) => journal.sync_failed(&error),
            None => journal.synced(point),
        }
        journal.health() != Health::SyncFailed
    }
}
