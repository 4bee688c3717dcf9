//! An event stream cut into whole events, each with the bytes it came with.
//!
//! Bytes arrive in pieces of any size; where they are cut changes nothing in what comes out. At most one unfinished event is
//! held, never more than the limit. Line ends are LF, CR LF or CR, as in the HTML standard's chapter on server-sent events.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Why a stream cannot be followed further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// One event is longer than allowed. The splitter gives nothing more.
    #[error("an event of the stream is longer than {max} bytes")]
    TooLong {
        /// The limit in bytes.
        max: usize,
    },
}

/// Cuts a stream into events.
#[derive(Debug)]
pub struct Splitter {
    max_event_bytes: usize,
    /// The beginning of the current event, from pieces that are used up.
    carry: BytesMut,
    /// The piece being cut, from the current event on.
    piece: Bytes,
    /// How much of `piece` belongs to the current event so far.
    scanned: usize,
    line: Line,
    failed: bool,
}

/// Where in a line the scan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Start,
    Middle,
    /// A CR has just ended a line (`blank`: an empty one); an LF that follows belongs to it.
    AfterCr {
        blank: bool,
    },
}

impl Splitter {
    /// A splitter that holds at most `max_event_bytes` of an unfinished event.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            carry: BytesMut::new(),
            piece: Bytes::new(),
            scanned: 0,
            line: Line::Start,
            failed: false,
        }
    }

    /// Takes the next bytes of the stream. Call [`Self::next_event`] until it returns `None` before feeding again.
    pub fn feed(&mut self, bytes: Bytes) {
        if self.failed {
            return;
        }
        if self.scanned == self.piece.len() {
            self.carry.extend_from_slice(&self.piece);
            self.piece = bytes;
            self.scanned = 0;
        } else {
            let mut joined = BytesMut::with_capacity(self.piece.len() + bytes.len());
            joined.extend_from_slice(&self.piece);
            joined.extend_from_slice(&bytes);
            self.piece = joined.freeze();
        }
    }

    /// The next whole event, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`SseError::TooLong`], once; after it there is nothing more.
    pub fn next_event(&mut self) -> Option<Result<Event, SseError>> {
        if self.failed {
            return None;
        }
        let ended = self.scan();
        if self.carry.len().saturating_add(self.scanned) > self.max_event_bytes {
            self.failed = true;
            self.carry = BytesMut::new();
            self.piece = Bytes::new();
            return Some(Err(SseError::TooLong { max: self.max_event_bytes }));
        }
        ended.then(|| Ok(self.take()))
    }

    /// What is left when the stream has ended: an event without its blank line, or `None`.
    #[must_use]
    pub fn finish(&mut self) -> Option<Event> {
        if self.failed {
            return None;
        }
        self.scanned = self.piece.len();
        let rest = self.take();
        (!rest.raw.is_empty()).then_some(rest)
    }

    /// Advances to the end of the current event; false if that has not come yet.
    fn scan(&mut self) -> bool {
        loop {
            let rest = &self.piece[self.scanned..];
            if let Line::AfterCr { blank } = self.line {
                let Some(&next) = rest.first() else { return false };
                self.scanned += usize::from(next == b'\n');
                self.line = Line::Start;
                if blank {
                    return true;
                }
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else {
                if !rest.is_empty() {
                    self.line = Line::Middle;
                    self.scanned = self.piece.len();
                }
                return false;
            };
            let blank = end == 0 && self.line == Line::Start;
            self.scanned += end + 1;
            if rest[end] == b'\r' {
                self.line = Line::AfterCr { blank };
            } else {
                self.line = Line::Start;
                if blank {
                    return true;
                }
            }
        }
    }

    fn take(&mut self) -> Event {
        let front = self.piece.split_to(self.scanned);
        self.scanned = 0;
        self.line = Line::Start;
        if self.carry.is_empty() {
            return Event { raw: front };
        }
        self.carry.extend_from_slice(&front);
        Event { raw: self.carry.split().freeze() }
    }
}

/// One event of a stream: its fields, comments and closing blank line as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The bytes as received. They share memory with the piece they came in, if they came in one.
    pub raw: Bytes,
}

impl Event {
    /// The event's data: the values of its `data` lines joined by line feeds; empty if it has none.
    #[must_use]
    pub fn data(&self) -> Cow<'_, [u8]> {
        let mut lines = self.fields(b"data").map(|span| &self.raw[span]);
        let first = lines.next().unwrap_or_default();
        let Some(second) = lines.next() else { return Cow::Borrowed(first) };
        let mut joined = first.to_vec();
        for line in std::iter::once(second).chain(lines) {
            joined.push(b'\n');
            joined.extend_from_slice(line);
        }
        Cow::Owned(joined)
    }

    /// Where in `raw` the data lies, if it is one line.
    pub(crate) fn data_span(&self) -> Option<Range<usize>> {
        let mut lines = self.fields(b"data");
        let only = lines.next()?;
        lines.next().is_none().then_some(only)
    }

    /// Whether the event has a `data` line: comments alone have none, and clients do not see them.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.fields(b"data").next().is_some()
    }

    /// The event's name, from its last `event` line.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.fields(b"event").last().and_then(|span| std::str::from_utf8(&self.raw[span]).ok())
    }

    /// The same event with other data: its other lines stay, the new data stands where the first data line stood.
    pub(crate) fn with_data(&self, data: &[u8]) -> Bytes {
        let mut changed = BytesMut::with_capacity(self.raw.len());
        let mut placed = false;
        for line in Lines::of(&self.raw) {
            if self.value_of(&line, b"data").is_none() {
                changed.extend_from_slice(&self.raw[line.start..line.next]);
            } else if !placed {
                placed = true;
                for part in data.split(|&byte| byte == b'\n') {
                    changed.extend_from_slice(b"data: ");
                    changed.extend_from_slice(part);
                    changed.extend_from_slice(b"\n");
                }
            }
        }
        changed.freeze()
    }

    /// Where the values of the fields called `name` lie.
    fn fields<'a>(&'a self, name: &'static [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
        Lines::of(&self.raw).filter_map(move |line| self.value_of(&line, name))
    }

    fn value_of(&self, line: &LineSpan, name: &[u8]) -> Option<Range<usize>> {
        let after = self.raw[line.start..line.end].strip_prefix(name)?;
        let start = match after {
            [] => line.end,
            [b':', b' ', ..] => line.start + name.len() + 2,
            [b':', ..] => line.start + name.len() + 1,
            _ => return None,
        };
        Some(start..line.end)
    }
}

/// A line of an event: its content is `start..end`, the next line begins at `next`.
struct LineSpan {
    start: usize,
    end: usize,
    next: usize,
}

struct Lines<'a> {
    raw: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn of(raw: &'a [u8]) -> Self {
        // A byte order mark may open the stream; it belongs to no field.
        let at = if raw.starts_with("\u{feff}".as_bytes()) { '\u{feff}'.len_utf8() } else { 0 };
        Self { raw, at }
    }
}

impl Iterator for Lines<'_> {
    type Item = LineSpan;

    fn next(&mut self) -> Option<LineSpan> {
        let start = self.at;
        if start >= self.raw.len() {
            return None;
        }
        let end = memchr::memchr2(b'\n', b'\r', &self.raw[start..]).map_or(self.raw.len(), |offset| start + offset);
        let next = if self.raw[end..].starts_with(b"\r\n") { end + 2 } else { (end + 1).min(self.raw.len()) };
        self.at = next;
        Some(LineSpan { start, end, next })
    }
}

#[cfg(test)]
#[path = "sse_tests.rs"]
mod tests;
