//! Writes the segment that settles an earlier life: what was saved of it, and its attempts charged at their bounds.
//!
//! The segment gets its name only when it is whole and durable.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::KeyId;

use crate::audit::frame::{self, FILE_HEADER, Frame, FrameReader, Next, Recorded};
use crate::audit::leftover::{self, Leftover};
use crate::audit::scan::Scan;
use crate::audit::spool::SpoolError;
use crate::audit::{Identity, Intent};

/// Adds the records of attempts whose end nobody saw, numbered on from the last record. Blocks.
///
/// # Errors
/// The disk refuses; then nothing is added.
pub(super) fn resolve(leftover: &Leftover, scan: &Scan, now: Timestamp) -> Result<(), SpoolError> {
    let mut next_segment = scan.next_segment;
    if let (Some(at), Some((number, path))) = (scan.torn_at, scan.segments.last()) {
        // It is no longer the last segment, and only the last one may be torn.
        if at < FILE_HEADER as u64 {
            fs::remove_file(path).map_err(|source| SpoolError::disk("remove", path, source))?;
            next_segment = *number;
        } else {
            let cut = File::options().write(true).open(path).and_then(|file| {
                file.set_len(at)?;
                file.sync_all()
            });
            cut.map_err(|source| SpoolError::disk("cut", path, source))?;
        }
    }
    let mut segment = Settlement::begin(leftover, scan.identity, next_segment, scan.last_seq)?;
    segment.charge(scan, now)?;
    segment.finish()
}

/// Numbers everything that can be read beyond `known` on from there, then as [`resolve`]; earlier segments are void. Blocks.
///
/// # Errors
/// The disk refuses; then nothing is added.
pub(super) fn rebase(leftover: &Leftover, scan: &Scan, known: u64, now: Timestamp) -> Result<(), SpoolError> {
    let mut segment = Settlement::begin(leftover, scan.identity, scan.next_segment, known)?;
    segment.write(&Frame::rebased(known))?;
    for (_, path) in &scan.segments {
        let failed = |source| SpoolError::disk("read", path, source);
        let mut file = File::open(path).map_err(failed)?;
        file.seek(SeekFrom::Start(FILE_HEADER as u64)).map_err(failed)?;
        let mut frames = FrameReader::new(BufReader::new(file), FILE_HEADER as u64);
        while let Next::Frame(frame) = frames.next().map_err(failed)? {
            if let Frame::Record(Recorded { seq, owner, bytes }) = frame
                && seq > known
                && let Ok(record) = RequestRecord::decode(&bytes)
            {
                segment.add(record, owner)?;
            }
        }
    }
    segment.charge(scan, now)?;
    segment.finish()
}

struct Settlement<'a> {
    leftover: &'a Leftover,
    identity: Identity,
    number: u32,
    staged: PathBuf,
    file: BufWriter<File>,
    last_seq: u64,
    bytes: u64,
}

impl<'a> Settlement<'a> {
    fn begin(leftover: &'a Leftover, identity: Identity, number: u32, last_seq: u64) -> Result<Self, SpoolError> {
        let staged = leftover.dir.join("settlement.tmp");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&staged)
            .map_err(|source| SpoolError::disk("create", &staged, source))?;
        let file = BufWriter::new(file);
        let mut segment = Self { leftover, identity, number, staged, file, last_seq, bytes: 0 };
        segment.write(&frame::file_header(&identity, number))?;
        Ok(segment)
    }

    /// Adds a record under the next number.
    fn add(&mut self, record: RequestRecord, owner: Option<KeyId>) -> Result<(), SpoolError> {
        self.last_seq += 1;
        let record = RequestRecord { node_seq: self.last_seq, ..record };
        self.write(&Frame::record(self.last_seq, owner, &record.encode()))
    }

    fn charge(&mut self, scan: &Scan, now: Timestamp) -> Result<(), SpoolError> {
        let identity = self.identity;
        // The number is given by `add`.
        let charge = |intent: &Intent| self.add(intent.clone().unresolved(&identity, 0, now), intent.owner());
        scan.open.iter().try_for_each(charge)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|source| SpoolError::disk("write", &self.staged, source))
    }

    fn finish(mut self) -> Result<(), SpoolError> {
        let target = leftover::segment_path(&self.leftover.dir, self.number);
        let written = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        written.map_err(|source| SpoolError::disk("write", &self.staged, source))?;
        fs::rename(&self.staged, &target).map_err(|source| SpoolError::disk("rename", &self.staged, source))?;
        self.leftover.grew(self.bytes);
        leftover::sync_folder(&self.leftover.dir)
    }
}
