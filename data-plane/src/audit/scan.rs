//! Reads what an earlier life left behind: how far its records reach, what is open, and whether anything is damaged.
//!
//! Every file is read to its first byte that makes no sense; nothing in it can make the reading fail but the disk.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use keyforge_shared::audit::request::RequestRecord;

use crate::audit::frame::{self, FILE_HEADER, Frame, FrameReader, Next, Recorded};
use crate::audit::intent::AttemptKey;
use crate::audit::leftover::{self, Leftover};
use crate::audit::questions;
use crate::audit::spool::SpoolError;
use crate::audit::{Identity, Intent};

const BUFFER: usize = 64 << 10;

/// What is in a folder.
#[derive(Debug)]
pub(super) struct Scan {
    /// Whose it is, by its own headers.
    pub identity: Identity,
    /// The segments that count, oldest first.
    pub segments: Vec<(u32, PathBuf)>,
    /// Records up to here are known to be chained.
    pub acked: u64,
    /// Records after `acked` and up to here are all there.
    pub whole_through: u64,
    /// The highest number seen.
    pub last_seq: u64,
    /// The counter store was told of every record up to here.
    pub told: u64,
    /// Questions to the counter store that nothing was dispatched on.
    pub questions: Vec<questions::Found>,
    /// Intents without a record, in the order in which they were written.
    pub open: Vec<Intent>,
    /// Something other than a torn tail is wrong with the files, or records are missing.
    pub damaged: bool,
    /// The last segment ends in a torn frame that begins at this byte.
    pub torn_at: Option<u64>,
    /// The number for a further segment.
    pub next_segment: u32,
}

/// Reads a whole folder. Blocks.
///
/// # Errors
/// The disk does not let it be read.
pub(super) fn scan(leftover: &Leftover) -> Result<Scan, SpoolError> {
    let segments = leftover::segments(&leftover.dir)?;
    let mut scanner = Scanner::new(leftover.identity);
    scanner.questions = questions::read(&leftover.dir)?;
    for (index, (number, path)) in segments.iter().enumerate() {
        let is_last = index + 1 == segments.len();
        scanner.segment(*number, path, is_last).map_err(|source| SpoolError::disk("read", path, source))?;
    }
    Ok(scanner.finish(segments))
}

struct Scanner {
    leftover: Identity,
    identity: Option<Identity>,
    previous: Option<u32>,
    first_valid: u32,
    acked: u64,
    told: u64,
    questions: HashMap<AttemptKey, questions::Found>,
    runs: Vec<RangeInclusive<u64>>,
    open: HashMap<AttemptKey, (usize, Intent)>,
    intents: usize,
    damaged: bool,
    torn_at: Option<u64>,
}

impl Scanner {
    fn new(leftover: Identity) -> Self {
        Self {
            leftover,
            identity: None,
            previous: None,
            first_valid: 0,
            acked: 0,
            told: 0,
            questions: HashMap::new(),
            runs: Vec::new(),
            open: HashMap::new(),
            intents: 0,
            damaged: false,
            torn_at: None,
        }
    }

    fn segment(&mut self, number: u32, path: &Path, is_last: bool) -> io::Result<()> {
        // Segments go oldest first, so a number that is skipped is a file that somebody else removed.
        self.damaged |= self.previous.is_some_and(|previous| previous.checked_add(1) != Some(number));
        self.previous = Some(number);
        let mut file = BufReader::with_capacity(BUFFER, File::open(path)?);
        let mut header = Vec::new();
        file.by_ref().take(FILE_HEADER as u64).read_to_end(&mut header)?;
        let Some(header) = header.first_chunk::<FILE_HEADER>() else {
            self.tail(Next::Torn, 0, is_last);
            return Ok(());
        };
        match frame::read_file_header(header, number) {
            Some(identity) if identity.boot == self.leftover.boot => drop(self.identity.get_or_insert(identity)),
            _ => self.damaged = true,
        }
        let mut frames = FrameReader::new(file, FILE_HEADER as u64);
        loop {
            match frames.next()? {
                Next::Frame(frame) => self.frame(frame, number),
                end @ (Next::End | Next::Torn | Next::Damaged) => {
                    self.tail(end, frames.offset(), is_last);
                    return Ok(());
                }
            }
        }
    }

    fn frame(&mut self, frame: Frame, segment: u32) {
        match frame {
            Frame::Intent(intent) => {
                self.intents += 1;
                self.questions.remove(&intent.attempt_key());
                self.open.insert(intent.attempt_key(), (self.intents, intent));
            }
            Frame::Record(Recorded { seq, bytes, .. }) => match RequestRecord::decode(&bytes) {
                Ok(record) => {
                    let attempt = (record.request, record.attempt);
                    self.questions.remove(&attempt);
                    self.open.remove(&attempt);
                    self.saw(seq);
                }
                Err(_) => self.damaged = true,
            },
            Frame::Acked(seq) => self.acked = self.acked.max(seq),
            Frame::Told(seq) => self.told = self.told.max(seq),
            Frame::Rebased(seq) => {
                self.acked = seq;
                // What follows is numbered anew.
                self.told = 0;
                self.first_valid = segment;
                self.damaged = false;
                self.runs.clear();
                self.open.clear();
            }
        }
    }

    fn saw(&mut self, seq: u64) {
        match self.runs.last_mut() {
            Some(run) if run.end().checked_add(1) == Some(seq) => *run = *run.start()..=seq,
            _ => self.runs.push(seq..=seq),
        }
    }

    fn tail(&mut self, end: Next, offset: u64, is_last: bool) {
        match end {
            Next::Torn if is_last => self.torn_at = Some(offset),
            Next::Torn | Next::Damaged => self.damaged = true,
            Next::End | Next::Frame(_) => {}
        }
    }

    fn finish(self, mut segments: Vec<(u32, PathBuf)>) -> Scan {
        segments.retain(|(number, _)| *number >= self.first_valid);
        let whole_through = self.runs.iter().fold(self.acked, |whole, run| {
            let joins = *run.start() <= whole.saturating_add(1);
            if joins { whole.max(*run.end()) } else { whole }
        });
        let last_seq = self.runs.iter().map(|run| *run.end()).fold(self.acked, u64::max);
        let mut open: Vec<(usize, Intent)> = self.open.into_values().collect();
        open.sort_unstable_by_key(|(order, _)| *order);
        let damaged = self.damaged || whole_through < last_seq;
        // Only of one whose time is still here as a whole it is sure that nothing was dispatched on it.
        let first = segments.first().map_or(u32::MAX, |(number, _)| *number);
        let is_whole = !damaged && self.first_valid == 0;
        let questions = self.questions.into_values().filter(|found| is_whole && found.segment >= first).collect();
        Scan {
            identity: self.identity.unwrap_or(self.leftover),
            segments,
            acked: self.acked,
            told: self.told,
            questions,
            whole_through,
            last_seq,
            open: open.into_iter().map(|(_, intent)| intent).collect(),
            damaged,
            torn_at: self.torn_at,
            next_segment: self.previous.unwrap_or(0).saturating_add(1),
        }
    }
}
