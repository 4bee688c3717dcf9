//! The canonical encoding: fields in fixed order, fixed width and big-endian, or a 32-bit length and that many bytes.
//!
//! There is exactly one encoding of a value and one value of an encoding: the reader refuses spare bytes, so `decode(encode(x)) = x` and
//! `encode(decode(b)) = b`.

/// Why bytes are not the canonical encoding of what was expected.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Starts with another magic than expected.
    #[error("unknown record kind or version")]
    Magic,
    /// Ends before its last field.
    #[error("cut short")]
    Short,
    /// Bytes are left after the last field.
    #[error("bytes after the end")]
    Trailing,
    /// A field holds a value that its type does not have.
    #[error("`{0}` holds a value that does not exist")]
    Value(&'static str),
}

/// Appends canonical fields to a buffer.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Starts with the magic of a record kind.
    #[must_use]
    pub fn with_magic(magic: &[u8; 4]) -> Self {
        let mut writer = Self(Vec::with_capacity(512));
        writer.0.extend_from_slice(magic);
        writer
    }

    /// Bytes as they are, for fields of fixed width.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Eight bytes, big-endian, two's complement.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// A 32-bit length and that many bytes. Longer values are cut at 2^32 - 1 bytes, which no field of ours can reach.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.u32(length).raw(&value[..length as usize])
    }

    /// UTF-8 text as [`Self::bytes`].
    pub fn str(&mut self, value: &str) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    /// A byte that says whether a value follows, and the value.
    pub fn option_u64(&mut self, value: Option<u64>) -> &mut Self {
        match value {
            Some(value) => self.u8(1).u64(value),
            None => self.u8(0),
        }
    }

    /// A 32-bit count and that many items, each as `write` appends it. Longer lists are cut at 2^32 - 1 items.
    pub fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) -> &mut Self {
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        self.u32(count);
        for item in items.iter().take(count as usize) {
            write(self, item);
        }
        self
    }

    /// The finished encoding.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes canonical fields off the front of a buffer.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts after the magic of the expected record kind.
    ///
    /// # Errors
    /// [`DecodeError::Magic`] when the bytes start differently.
    pub fn after_magic(bytes: &'a [u8], magic: &[u8; 4]) -> Result<Self, DecodeError> {
        bytes.strip_prefix(magic).map(Self).ok_or(DecodeError::Magic)
    }

    /// The next `N` bytes as they are.
    ///
    /// # Errors
    /// [`DecodeError::Short`] when fewer are left; so for every method here.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// As [`Self::array`].
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, big-endian.
    ///
    /// # Errors
    /// As [`Self::array`].
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    ///
    /// # Errors
    /// As [`Self::array`].
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    ///
    /// # Errors
    /// As [`Self::array`].
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Eight bytes, big-endian, two's complement.
    ///
    /// # Errors
    /// As [`Self::array`].
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A 32-bit length and that many bytes.
    ///
    /// # Errors
    /// As [`Self::array`].
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u32()? as usize;
        let (head, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    /// UTF-8 text as [`Self::bytes`].
    ///
    /// # Errors
    /// As [`Self::array`], and [`DecodeError::Value`] naming `field` when it is not UTF-8.
    pub fn str(&mut self, field: &'static str) -> Result<String, DecodeError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| DecodeError::Value(field))
    }

    /// A 32-bit count and that many items, each as `read` takes it off.
    ///
    /// # Errors
    /// As [`Self::u32`] and `read`.
    pub fn list<T>(&mut self, read: impl Fn(&mut Self) -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
        let count = self.u32()?;
        // Room is made for what is there, never for what the count claims.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] when bytes are left.
    pub const fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}
