//! A hash of a set that is kept while records come and go.

/// A sum modulo 2^256 of record digests: the same for the same set, in whatever order it was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SetHash([u8; 32]);

impl SetHash {
    /// From its 32 bytes, if there are 32.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// Its 32 bytes, little-endian.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn add(&mut self, digest: &[u8; 32]) {
        let mut carry = 0_u16;
        for (byte, other) in self.0.iter_mut().zip(digest) {
            let sum = u16::from(*byte) + u16::from(*other) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
    }

    pub(crate) fn remove(&mut self, digest: &[u8; 32]) {
        // Adding the two's complement subtracts.
        let mut complement = digest.map(|byte| !byte);
        let mut carry = 1_u16;
        for byte in &mut complement {
            let sum = u16::from(*byte) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        self.add(&complement);
    }
}
