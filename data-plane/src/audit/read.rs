//! Reads records back from segment files, in batches, so that memory stays bounded however far shipping is behind.

use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::id::KeyId;

use crate::audit::frame::{FILE_HEADER, Frame, FrameReader, Next, Recorded};
use crate::audit::sink::Begin;

const BUFFER: usize = 64 << 10;

/// Which records, and how many at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    /// Number of the first one.
    pub from: u64,
    /// Number of the last one that may be read.
    pub through: u64,
    /// How many at most.
    pub max_records: usize,
    /// How many bytes at most; a single longer record is read all the same.
    pub max_bytes: usize,
}

/// Where the next record begins, so that a segment is not read from its beginning for each batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    segment: u32,
    offset: u64,
}

/// Reads a run of records without gaps. Never returns none if at least one was wanted. Blocks.
///
/// # Errors
/// A segment cannot be read, or a record is missing.
pub(super) fn records(segments: &[(u32, PathBuf)], position: &mut Position, want: Want) -> io::Result<Vec<Bytes>> {
    let mut batch = Batch { want, next: want.from, bytes: 0, records: Vec::new() };
    let begin = *position;
    for (number, path) in segments.iter().filter(|(number, _)| *number >= begin.segment) {
        let start = if *number == begin.segment { begin.offset } else { 0 }.max(FILE_HEADER as u64);
        let mut file = match File::open(path) {
            Ok(file) => file,
            // Removed since it was listed: all of it is acknowledged. Were a wanted record in it, the next segment would show the gap.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(start))?;
        let mut frames = FrameReader::new(BufReader::with_capacity(BUFFER, file), start);
        while !batch.is_full() {
            match frames.next()? {
                Next::Frame(Frame::Record(Recorded { seq, bytes, .. })) => batch.take(seq, bytes)?,
                Next::Frame(_) => {}
                Next::End | Next::Torn | Next::Damaged => break,
            }
            *position = Position { segment: *number, offset: frames.offset() };
        }
    }
    if batch.records.is_empty() && want.from <= want.through { Err(missing(want.from)) } else { Ok(batch.records) }
}

/// Reads as [`records`] does, for a reader who was sent back: what was acknowledged before, up to `acknowledged`, may be removed since. Returns with the
/// records where they begin: at the first that is kept. When none is, there are no records, and they begin after the last that was wanted. Blocks.
///
/// # Errors
/// As [`records`]; a record is missing that was never acknowledged.
pub(super) fn kept(
    segments: &[(u32, PathBuf)],
    position: &mut Position,
    want: Want,
    acknowledged: u64,
) -> io::Result<(Begin, Vec<Bytes>)> {
    let error = match records(segments, position, want) {
        Ok(records) => return Ok((Begin::at(want.from), records)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => error,
        Err(error) => return Err(error),
    };
    let first = first_from(segments, want.from)?.unwrap_or(want.through.saturating_add(1));
    if first == want.from || first > acknowledged.saturating_add(1) {
        return Err(error);
    }
    *position = Position::default();
    let begin = Begin { seq: first, earlier_gone: true };
    if first > want.through {
        return Ok((begin, Vec::new()));
    }
    Ok((begin, records(segments, position, Want { from: first, ..want })?))
}

/// Number of the first record from `from` on that is there.
fn first_from(segments: &[(u32, PathBuf)], from: u64) -> io::Result<Option<u64>> {
    for (_, path) in segments {
        let mut frames = match frames_from(path, FILE_HEADER as u64) {
            Ok(frames) => frames,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        while let Next::Frame(frame) = frames.next()? {
            if let Frame::Record(Recorded { seq, .. }) = frame
                && seq >= from
            {
                return Ok(Some(seq));
            }
        }
    }
    Ok(None)
}

/// Reads the next records whose attempts held something in a counter store, with whose counters that was: at most `most` of those with numbers above
/// `after`, none at the end. What cannot be read is passed over. Blocks.
///
/// # Errors
/// A segment cannot be read.
pub(super) fn owned(
    segments: &[(u32, PathBuf)],
    position: &mut Position,
    after: u64,
    most: usize,
) -> io::Result<Vec<(KeyId, RequestRecord)>> {
    let (begin, mut found) = (*position, Vec::new());
    for (number, path) in segments.iter().filter(|(number, _)| *number >= begin.segment) {
        let start = if *number == begin.segment { begin.offset } else { 0 }.max(FILE_HEADER as u64);
        let mut frames = frames_from(path, start)?;
        while found.len() < most {
            let Next::Frame(frame) = frames.next()? else { break };
            *position = Position { segment: *number, offset: frames.offset() };
            if let Frame::Record(Recorded { seq, owner: Some(owner), bytes }) = frame
                && seq > after
                && let Ok(record) = RequestRecord::decode(&bytes)
            {
                found.push((owner, record));
            }
        }
    }
    Ok(found)
}

fn frames_from(path: &Path, start: u64) -> io::Result<FrameReader<BufReader<File>>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    Ok(FrameReader::new(BufReader::with_capacity(BUFFER, file), start))
}

struct Batch {
    want: Want,
    next: u64,
    bytes: usize,
    records: Vec<Bytes>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.next > self.want.through
            || self.records.len() >= self.want.max_records
            || self.bytes >= self.want.max_bytes
    }

    fn take(&mut self, seq: u64, record: Bytes) -> io::Result<()> {
        if seq > self.next {
            return Err(missing(self.next));
        }
        if seq == self.next {
            self.bytes += record.len();
            self.next += 1;
            self.records.push(record);
        }
        Ok(())
    }
}

fn missing(seq: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("record {seq} is missing from the audit spool"))
}
