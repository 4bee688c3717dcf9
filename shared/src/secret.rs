//! Secrets: bytes that cannot be printed, compared, cloned or serialised by accident, and are wiped when dropped.
//!
//! The type has no `Debug`, no `Display`, no `Serialize` and no `Clone`; whoever needs the bytes says [`SecretBytes::expose`],
//! which makes every place that touches a secret findable by its name.

use zeroize::Zeroizing;

/// Secret bytes of any length: a provider key, a vault key, an operator token.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes over; the caller's copy is this one.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret itself. Never log, format or store what this returns.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, if it is UTF-8.
    #[must_use]
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Length in bytes, which is not secret.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A 256-bit symmetric key. Always exactly 32 bytes: HMAC pads shorter keys, so two short keys could coincide.
pub struct Key256(Zeroizing<[u8; 32]>);

impl Key256 {
    /// Wraps 32 key bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A fresh key from the operating system's random source.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes)?;
        Ok(Self(bytes))
    }

    /// Wraps a slice, if it is 32 bytes long.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// The key itself. Never log, format or store what this returns.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}
