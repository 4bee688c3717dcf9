//! Chance for jitter and for draws: fast, and no secret.

/// A sequence of numbers that are as good as random (SplitMix64, by Steele, Lea and Flood).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// A sequence that differs from that of other nodes.
    #[must_use]
    pub fn new() -> Self {
        // Without randomness all nodes jitter alike, which does no harm worth a failure.
        let seed = keyforge_shared::id::RequestId::generate()
            .map_or(0, |id| id.as_bytes().last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)));
        Self(seed)
    }

    /// Always the same sequence.
    #[cfg(test)]
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to 1, without 1.
    pub fn draw(&mut self) -> f64 {
        self.bits() as f64 / (1_u64 << 53) as f64
    }

    /// 53 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        mixed >> 11
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}
