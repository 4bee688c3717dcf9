//! A body out of its frames: joined into one piece, and not copied when it came in one.

use bytes::{Bytes, BytesMut};

/// The frames of a body so far.
#[derive(Default)]
pub struct Join {
    first: Bytes,
    joined: BytesMut,
}

impl Join {
    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first.len().max(self.joined.len())
    }

    /// Whether nothing has come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next frame. Memory is reserved for `expected` bytes in all, or for what there is.
    pub fn push(&mut self, data: Bytes, expected: usize) {
        if self.is_empty() {
            self.first = data;
            return;
        }
        if self.joined.is_empty() {
            self.joined.reserve(expected.max(self.first.len() + data.len()));
            self.joined.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.joined.extend_from_slice(&data);
    }

    /// All of it.
    #[must_use]
    pub fn finish(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_joined_in_order_and_a_single_one_is_not_copied() {
        let only = Bytes::from_static(b"only");
        let mut join = Join::default();
        join.push(only.clone(), 0);
        assert_eq!(join.finish().as_ptr(), only.as_ptr());
        let mut join = Join::default();
        for part in [b"a".as_slice(), b"", b"bc", b"d"] {
            join.push(Bytes::copy_from_slice(part), 2);
        }
        assert_eq!((join.len(), join.finish()), (4, Bytes::from_static(b"abcd")));
    }
}
