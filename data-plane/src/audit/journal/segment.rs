//! One file of the spool, while this life writes it.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::audit::spool::SpoolError;
use crate::audit::{Identity, frame, leftover};

/// A segment that is written to, or was.
pub(in crate::audit) struct Segment {
    pub number: u32,
    pub path: PathBuf,
    pub file: Arc<File>,
    /// Bytes of whole frames and the header.
    pub len: u64,
    /// No record in it has a number beyond this one.
    pub last_seq: u64,
}

/// Makes segment `number` in `folder`: header written and durable, name durable.
pub(in crate::audit) fn create_segment(folder: &Path, identity: &Identity, number: u32) -> Result<Segment, SpoolError> {
    let path = leftover::segment_path(folder, number);
    let header = frame::file_header(identity, number);
    let mut options = File::options();
    let file = options.write(true).create_new(true).mode(0o600).open(&path);
    let file = file.map_err(|source| SpoolError::disk("create", &path, source))?;
    if let Err(source) = file.write_all_at(&header, 0).and_then(|()| file.sync_all()) {
        // The name must be free for the next try.
        drop(std::fs::remove_file(&path));
        return Err(SpoolError::disk("write", &path, source));
    }
    leftover::sync_folder(folder)?;
    Ok(Segment { number, path, file: Arc::new(file), len: header.len() as u64, last_seq: 0 })
}
