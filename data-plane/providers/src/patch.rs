//! A body changed in places: the pieces between the edits are slices of the original, never copies.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

/// Edits to one body, in any order. Edits must not overlap: of two that do, the one that begins first is made
/// (of two that begin together, the one given first), and one that lies outside the body is not made.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    edits: Vec<(Range<usize>, Bytes)>,
}

impl Patch {
    /// No edits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces a span of the original body; an empty replacement removes it.
    pub fn replace(&mut self, span: Range<usize>, with: impl Into<Bytes>) {
        self.edits.push((span, with.into()));
    }

    /// Inserts before the byte at `at` of the original body.
    pub fn insert(&mut self, at: usize, bytes: impl Into<Bytes>) {
        self.replace(at..at, bytes);
    }

    /// Whether nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// Makes the edits.
    #[must_use]
    pub fn apply(mut self, body: Bytes) -> Pieces {
        // The sort is stable: insertions at one place stay in the order given.
        self.edits.sort_by_key(|(span, _)| span.start);
        let mut pieces = Pieces { parts: VecDeque::with_capacity(self.edits.len() * 2 + 1), length: 0 };
        let mut done = 0;
        for (span, with) in self.edits {
            if span.start < done || span.end < span.start || span.end > body.len() {
                continue;
            }
            pieces.push(body.slice(done..span.start));
            pieces.push(with);
            done = span.end;
        }
        pieces.push(body.slice(done..));
        pieces
    }
}

/// A body in pieces. Cloning it copies no bytes of the body; as a [`Buf`] it can be written without being joined.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    parts: VecDeque<Bytes>,
    length: usize,
}

impl Pieces {
    fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.length += part.len();
            self.parts.push_back(part);
        }
    }

    /// Bytes in all pieces together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The pieces in order; none is empty.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.parts.iter()
    }

    /// All pieces as one; copies unless there is only one.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        if let (Some(only), 1) = (self.parts.front(), self.parts.len()) {
            return only.clone();
        }
        let mut joined = BytesMut::with_capacity(self.length);
        for part in &self.parts {
            joined.extend_from_slice(part);
        }
        joined.freeze()
    }
}

impl From<Bytes> for Pieces {
    fn from(body: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(body);
        pieces
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = std::collections::vec_deque::IntoIter<Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.parts.into_iter()
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part.as_ref())
    }

    fn chunks_vectored<'a>(&'a self, out: &mut [std::io::IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, part) in out.iter_mut().zip(&self.parts) {
            *slot = std::io::IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let Some(front) = self.parts.front_mut() else { return };
            let step = count.min(front.len());
            front.advance(step);
            self.length -= step;
            count -= step;
            if front.is_empty() {
                self.parts.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(edits: &[(Range<usize>, &'static str)]) -> String {
        let mut patch = Patch::new();
        for (span, with) in edits {
            patch.replace(span.clone(), *with);
        }
        String::from_utf8(patch.apply(Bytes::from_static(b"0123456789")).to_bytes().to_vec()).unwrap()
    }

    #[test]
    fn edits_are_made_in_the_order_of_the_body() {
        assert_eq!(patched(&[(8..9, "B"), (2..4, ""), (0..0, "<"), (10..10, ">"), (0..0, "=")]), "<=014567B9>");
        assert_eq!(patched(&[]), "0123456789");
    }

    #[test]
    fn edits_that_overlap_or_lie_outside_are_not_made() {
        let (backwards, outside) = (Range { start: 7, end: 6 }, 9..11);
        assert_eq!(patched(&[(2..5, "x"), (4..6, "y"), (backwards, "z"), (outside, "w")]), "01x56789");
    }

    #[test]
    fn pieces_share_the_body_and_count_their_bytes() {
        let body = Bytes::from(vec![b'x'; 1000]);
        let mut patch = Patch::new();
        patch.replace(10..20, "model");
        let mut pieces = patch.apply(body.clone());
        assert_eq!(pieces.len(), 995);
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [10, 5, 980]);
        assert_eq!(pieces.iter().next().unwrap().as_ptr(), body.as_ptr());
        assert_eq!(pieces.clone().copy_to_bytes(995), pieces.to_bytes());
        pieces.advance(12);
        assert_eq!((pieces.remaining(), pieces.chunk()), (983, &b"del"[..]));
        pieces.advance(usize::MAX);
        assert!(pieces.is_empty());
    }
}
