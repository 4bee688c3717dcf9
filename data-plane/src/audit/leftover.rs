//! The spool's directory: one process at a time, one folder per life, and what earlier lives left in it.
//!
//! A folder that is about to be removed is renamed first, so that a crash half-way never looks like lost records.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use keyforge_runtime::private_file;
use keyforge_shared::id::BootId;

use crate::audit::Identity;
use crate::audit::spool::SpoolError;

const SEGMENT_SUFFIX: &str = ".seg";
const REMOVED_SUFFIX: &str = ".removed";

/// The folder of an earlier life of this node. Hand it to [`recover`](super::recover()).
#[derive(Debug)]
pub struct Leftover {
    pub(super) identity: Identity,
    pub(super) dir: PathBuf,
    /// Bytes that all leftovers use; shared with the spool, whose limit covers them.
    pub(super) elsewhere: Arc<AtomicU64>,
    /// Parts of recovery that are done with the folder.
    pub(super) parts_done: AtomicU8,
}

impl Leftover {
    /// Whose it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// One part of its recovery is done; whether it was the last of `parts`.
    pub(super) fn is_done_with(&self, parts: u8) -> bool {
        self.parts_done.fetch_add(1, Ordering::AcqRel) + 1 == parts
    }

    /// Removes the folder for good; one that is gone already is removed. Blocks.
    pub(super) fn remove(&self) -> Result<(), SpoolError> {
        // An earlier try may have come half-way.
        let doomed = doomed(&self.dir);
        let there = |folder: &Path| if folder.exists() { folder_bytes(folder) } else { Ok(0) };
        let bytes = there(&self.dir)?.saturating_add(there(&doomed)?);
        remove_folder(&self.dir)?;
        let less = |all: u64| Some(all.saturating_sub(bytes));
        let _before = self.elsewhere.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Ok(())
    }

    /// Counts what recovery added to the folder.
    pub(super) fn grew(&self, bytes: u64) {
        self.elsewhere.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// All leftovers and the bytes they use.
pub(super) struct Leftovers {
    pub folders: Vec<Leftover>,
    pub elsewhere: Arc<AtomicU64>,
}

/// Makes the directory if need be and holds it for this process until the file is dropped.
pub(super) fn lock(dir: &Path) -> Result<File, SpoolError> {
    private_file::private_dir(dir)?;
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| SpoolError::disk("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(SpoolError::disk("lock", &path, source)),
    }
}

/// Finds the folders of earlier lives, and finishes removals that a crash interrupted.
pub(super) fn find(dir: &Path, current: &Identity) -> Result<Leftovers, SpoolError> {
    let elsewhere = Arc::new(AtomicU64::new(0));
    let mut folders = Vec::new();
    for name in names(dir)? {
        let path = dir.join(&name);
        if name.ends_with(REMOVED_SUFFIX) {
            fs::remove_dir_all(&path).map_err(|source| SpoolError::disk("remove", &path, source))?;
        } else if let Ok(boot) = name.parse::<BootId>()
            && boot != current.boot
        {
            elsewhere.fetch_add(folder_bytes(&path)?, Ordering::Relaxed);
            let identity = Identity { boot, ..*current };
            let (elsewhere, parts_done) = (Arc::clone(&elsewhere), AtomicU8::new(0));
            folders.push(Leftover { identity, dir: path, elsewhere, parts_done });
        }
    }
    Ok(Leftovers { folders, elsewhere })
}

/// The folders of earlier lives, to be read only.
pub(super) fn peek(dir: &Path, current: &Identity) -> Result<Vec<Leftover>, SpoolError> {
    let earlier = |name: String| {
        let boot = name.parse::<BootId>().ok().filter(|boot| *boot != current.boot)?;
        let identity = Identity { boot, ..*current };
        Some(Leftover { identity, dir: dir.join(name), elsewhere: Arc::default(), parts_done: AtomicU8::new(0) })
    };
    Ok(names(dir)?.into_iter().filter_map(earlier).collect())
}

/// Makes the folder of a new life.
pub(super) fn create_folder(dir: &Path, boot: BootId) -> Result<PathBuf, SpoolError> {
    let folder = dir.join(boot.to_string());
    DirBuilder::new().mode(0o700).create(&folder).map_err(|source| SpoolError::disk("create", &folder, source))?;
    sync_folder(dir)?;
    Ok(folder)
}

/// Makes names in a folder durable.
pub(super) fn sync_folder(dir: &Path) -> Result<(), SpoolError> {
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(|source| SpoolError::disk("sync", dir, source))
}

/// Removes a life's folder at once, as far as any later start can see. What is not there is removed.
pub(super) fn remove_folder(folder: &Path) -> Result<(), SpoolError> {
    let doomed = doomed(folder);
    done_or_gone(fs::rename(folder, &doomed)).map_err(|source| SpoolError::disk("rename", folder, source))?;
    if let Some(parent) = folder.parent() {
        sync_folder(parent)?;
    }
    done_or_gone(fs::remove_dir_all(&doomed)).map_err(|source| SpoolError::disk("remove", &doomed, source))
}

/// What a folder is called while it is removed.
fn doomed(folder: &Path) -> PathBuf {
    let mut doomed = folder.as_os_str().to_owned();
    doomed.push(REMOVED_SUFFIX);
    PathBuf::from(doomed)
}

fn done_or_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The file of segment `number`.
pub(super) fn segment_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:06}{SEGMENT_SUFFIX}"))
}

/// The segments of a folder in the order in which they were written.
pub(super) fn segments(folder: &Path) -> Result<Vec<(u32, PathBuf)>, SpoolError> {
    let mut found: Vec<(u32, PathBuf)> = names(folder)?
        .into_iter()
        .filter_map(|name| Some((name.strip_suffix(SEGMENT_SUFFIX)?.parse().ok()?, folder.join(&name))))
        .collect();
    found.sort_unstable();
    Ok(found)
}

fn folder_bytes(folder: &Path) -> Result<u64, SpoolError> {
    let sizes = segments(folder)?
        .into_iter()
        .map(|(_, path)| fs::metadata(&path).map(|file| file.len()).map_err(|e| SpoolError::disk("inspect", &path, e)));
    sizes.sum()
}

fn names(dir: &Path) -> Result<Vec<String>, SpoolError> {
    let failed = |source| SpoolError::disk("list", dir, source);
    let entries: Vec<fs::DirEntry> = fs::read_dir(dir).and_then(Iterator::collect).map_err(failed)?;
    Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}
