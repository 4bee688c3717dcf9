//! The spool as the request path sees it: write the intent, dispatch, write the record.
//!
//! Every call is one `write(2)` under a short lock and never waits for the disk; a background thread syncs what was
//! written every few milliseconds. What was written survives the process; what was synced survives the machine. An
//! admitted attempt is never dropped: its record has room from the moment its intent was taken.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use keyforge_runtime::private_file::PrivateFileError;
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::clock::Clock;
use keyforge_shared::id::{KeyId, NodeId, RequestId};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::audit::journal::Journal;
use crate::audit::leftover::{self, Leftover};
use crate::audit::questions::{Asked, Questions};
use crate::audit::{Identity, Intent, upkeep};

/// How much disk the spool may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Bytes of all segments, those of earlier lives included, and of the records still owed. Beyond it intents are refused.
    pub max_bytes: u64,
    /// Bytes after which a new segment is begun; at most an eighth of `max_bytes` is used.
    pub segment_bytes: u64,
}

impl Default for SpoolLimits {
    /// 1 GiB in segments of 16 MiB.
    fn default() -> Self {
        Self { max_bytes: 1 << 30, segment_bytes: 16 << 20 }
    }
}

/// Why the spool did not take something.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// No room. Nothing was written.
    #[error(
        "the audit spool is full ({used} of {max} bytes): check that the control plane is reachable, or raise the limit"
    )]
    Full {
        /// Bytes used and reserved.
        used: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The disk refused, now.
    #[error("cannot {action} {} of the audit spool: {source}", path.display())]
    Disk {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The disk refused earlier and has not recovered; see [`Health`].
    #[error("the audit spool's disk has failed: check its space and health")]
    Failed,
    /// [`Spool::close`] was called.
    #[error("the audit spool is closed because the node is stopping")]
    Closed,
    /// The record is longer than any frame may be.
    #[error("a record of {bytes} bytes is too long for the audit spool")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Another process uses the directory.
    #[error("{} is in use by another node process: give each node its own directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file that should hold the node's id holds something else.
    #[error("{} does not hold a node id: restore it, or remove it to become a new node", path.display())]
    NodeId {
        /// The file.
        path: PathBuf,
    },
    /// The directory is that of another node.
    #[error("{} belongs to {found}, but the certificate is that of {expected}: give each node a directory of its own", path.display())]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// The directory is not private or cannot be made.
    #[error(transparent)]
    Private(#[from] PrivateFileError),
}

impl SpoolError {
    pub(super) fn disk(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Disk { action, path: path.to_owned(), source }
    }
}

/// What the disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Health {
    /// It takes what it is given.
    #[default]
    Healthy,
    /// It refused a write. It is asked again every second; until then intents are refused.
    WriteFailed,
    /// It could not make written data durable, so nothing it says afterwards can be trusted. Lasts until the restart.
    SyncFailed,
}

/// Where the spool stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolStatus {
    /// Bytes on disk, those of earlier lives included.
    pub bytes: u64,
    /// Bytes kept free for the records of attempts that run.
    pub reserved: u64,
    /// Attempts that run: intents without a record.
    pub open: usize,
    /// Records of this life that the control plane has not acknowledged.
    pub unshipped: u64,
    /// Number that the next record will get.
    pub next_seq: u64,
    /// Every record up to this one is chained; 0 for none.
    pub acked: u64,
    /// Records that a counter store outside of this process may not have heard of.
    pub untold: usize,
    /// The disk.
    pub health: Health,
}

/// How [`Spool::close`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Closing {
    /// Everything is chained, this life is closed at the ledger, and its files are gone.
    Clean,
    /// Time was up; the files stay, and the next start recovers them.
    Left {
        /// Records that were not acknowledged.
        unshipped: u64,
        /// Attempts that had not ended.
        open: usize,
    },
}

/// What tasks wait for; published by the background thread.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Every record up to this one is durable.
    pub durable_seq: u64,
    /// So many frames are durable.
    pub durable_frames: u64,
    /// Nothing is open, owed or unacknowledged, and no intent will be taken.
    pub finished: bool,
    /// The files are gone.
    pub removed: bool,
    pub health: Health,
}

/// A handle on the node's spool. Clones share one spool; the last one to go stops its background thread.
#[derive(Clone)]
pub struct Spool {
    handle: Arc<Handle>,
}

struct Handle {
    core: Arc<Core>,
    upkeep: Mutex<Option<JoinHandle<()>>>,
}

pub(super) struct Core {
    pub journal: Mutex<Journal>,
    pub wake: Condvar,
    pub progress: watch::Sender<Progress>,
    /// Held for a round of upkeep; taken before the journal's lock.
    pub round: Mutex<()>,
    questions: Arc<Questions>,
    clock: Arc<dyn Clock>,
    refusals_dropped: AtomicU64,
    /// The last attempt to begin or remove segments failed, and was logged.
    pub untidy: AtomicBool,
}

impl Spool {
    /// Begins a life's spool in `dir/<boot id>`, and says what earlier lives left behind. Blocks.
    ///
    /// # Errors
    /// The directory is in use by another process, is not private, cannot be written, or this boot id was used before.
    pub fn open(
        dir: &Path,
        limits: SpoolLimits,
        identity: Identity,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Vec<Leftover>), SpoolError> {
        let lock = leftover::lock(dir)?;
        let leftovers = leftover::find(dir, &identity)?;
        let elsewhere = leftovers.elsewhere;
        let journal = Journal::create(dir, limits, identity, elsewhere, lock)?;
        let questions = Questions::create(&journal.folder, journal.writing())?;
        let (progress, _) = watch::channel(Progress::default());
        let core = Arc::new(Core {
            journal: Mutex::new(journal),
            wake: Condvar::new(),
            progress,
            round: Mutex::new(()),
            questions: Arc::new(questions),
            clock,
            refusals_dropped: AtomicU64::new(0),
            untidy: AtomicBool::new(false),
        });
        let thread = upkeep::spawn(&core).map_err(|source| SpoolError::disk("start the thread for", dir, source))?;
        let handle = Arc::new(Handle { core, upkeep: Mutex::new(Some(thread)) });
        Ok((Self { handle }, leftovers.folders))
    }

    /// Writes down that a counter store outside of this process is about to be asked for a reservation, so that it can be taken back there should
    /// the process die before it knows. `None` when that cannot be written down; the reservation then ends by time.
    #[must_use]
    pub fn question(&self, key: KeyId, request: RequestId, attempt: u16) -> Option<Asked> {
        self.core().questions.ask(key, (request, attempt))
    }

    /// Writes down that an attempt is about to be dispatched, and keeps room for its record.
    ///
    /// # Errors
    /// The attempt must not be dispatched: the spool is full, closed, or its disk has failed. Nothing is remembered.
    pub fn intent(&self, intent: &Intent) -> Result<(), SpoolError> {
        self.core().with_journal(|journal| journal.intend(intent))
    }

    /// Writes down that an attempt which runs cannot cost more than its intent says now.
    ///
    /// # Errors
    /// The former intent stands, and what it allows must stay held.
    pub fn lower(&self, intent: &Intent) -> Result<(), SpoolError> {
        self.core().with_journal(|journal| journal.lower(intent))
    }

    /// What the spool is told of the counter store.
    #[must_use]
    pub fn marks(&self) -> Marks {
        Marks(Arc::downgrade(self.core()))
    }

    /// Writes down how an attempt ended, completes its intent if there was one, and returns the record's number.
    ///
    /// The spool stamps the record with its own identity, number and monotonic time.
    ///
    /// # Errors
    /// [`SpoolError::Failed`] or [`SpoolError::Disk`]: the record of an open intent is kept in memory and written as soon
    /// as the disk takes it; should the process end before, the attempt is charged at its bound. Records without an
    /// intent are also refused when the spool is full.
    pub fn record(&self, record: RequestRecord) -> Result<u64, SpoolError> {
        let core = self.core();
        core.with_journal(|journal| journal.complete(record, core.monotonic_nanos()))
    }

    /// Writes down a refusal, if the spool is less than half full; refusals cost nothing, so they give way to attempts.
    pub fn refusal(&self, record: RequestRecord) -> Option<u64> {
        let core = self.core();
        let taken = core.with_journal(|journal| journal.refuse(record, core.monotonic_nanos()));
        if taken.is_none() {
            core.refusals_dropped.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Refusals that were not written down in this life.
    #[must_use]
    pub fn refusals_dropped(&self) -> u64 {
        self.core().refusals_dropped.load(Ordering::Relaxed)
    }

    /// Where the spool stands.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        self.core().journal.lock().status()
    }

    /// Waits until everything written so far would survive a power cut; usually a few milliseconds.
    ///
    /// # Errors
    /// [`SpoolError::Failed`] when the disk could not make it durable.
    pub async fn flushed(&self) -> Result<(), SpoolError> {
        let target = self.core().journal.lock().frames();
        let mut progress = self.core().progress.subscribe();
        let reached = |progress: &Progress| progress.durable_frames >= target || progress.health == Health::SyncFailed;
        match progress.wait_for(reached).await {
            Ok(progress) if progress.durable_frames >= target => Ok(()),
            _ => Err(SpoolError::Failed),
        }
    }

    /// Ends this life, after the drain: refuses intents, and waits until a running [`Shipper`](super::Shipper) has
    /// shipped everything, closed this life at the ledger, and removed the files; at most `deadline`.
    pub async fn close(&self, deadline: Duration) -> Closing {
        self.core().with_journal(Journal::begin_closing);
        let mut progress = self.core().progress.subscribe();
        let removed = progress.wait_for(|progress| progress.removed);
        if let Ok(Ok(_)) = tokio::time::timeout(deadline, removed).await {
            return Closing::Clean;
        }
        let status = self.status();
        tracing::warn!(status.unshipped, status.open, "audit records stay on disk until the next start");
        Closing::Left { unshipped: status.unshipped, open: status.open }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.handle.core
    }
}

/// Which records the counter store has heard of. It does not keep the spool open.
pub struct Marks(Weak<Core>);

impl Marks {
    /// The store knows how the attempt of this record ended, or nobody will tell it in this life.
    pub fn told(&self, seq: u64) {
        if let Some(core) = self.0.upgrade() {
            core.journal.lock().told(seq);
        }
    }
}

impl Core {
    pub(super) fn monotonic_nanos(&self) -> u64 {
        self.clock.monotonic_nanos()
    }

    /// Runs `act` under the lock and wakes the background thread if it made work for it.
    pub(super) fn with_journal<T>(&self, act: impl FnOnce(&mut Journal) -> T) -> T {
        let mut journal = self.journal.lock();
        let had_work = journal.has_work();
        let result = act(&mut journal);
        let wake = !had_work && journal.has_work();
        drop(journal);
        if wake {
            self.wake.notify_one();
        }
        result
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.journal.lock().stop();
        self.core.wake.notify_one();
        if let Some(thread) = self.upkeep.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the audit spool's thread panicked");
        }
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
