//! Reads records back from segment files, in batches, so that memory stays bounded however far shipping is behind.

use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

use bytes::Bytes;

use crate::audit::frame::{FILE_HEADER, Frame, FrameReader, Next};

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
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut frames = FrameReader::new(BufReader::with_capacity(BUFFER, file), start);
        while !batch.is_full() {
            match frames.next()? {
                Next::Frame(Frame::Record(seq, record)) => batch.take(seq, record)?,
                Next::Frame(_) => {}
                Next::End | Next::Torn | Next::Damaged => break,
            }
            *position = Position { segment: *number, offset: frames.offset() };
        }
    }
    if batch.records.is_empty() && want.from <= want.through { Err(missing(want.from)) } else { Ok(batch.records) }
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
