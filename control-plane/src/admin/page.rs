//! Pages of lists: how many, and where one goes on. A token is opaque to callers and only good for the list that gave it.

use keyforge_shared::clock::Timestamp;
use prost::Message;

use super::AdminError;

const DEFAULT_SIZE: u32 = 100;
const MAX_SIZE: u32 = 500;
/// Bytes of a page, encoded, after which the rest goes onto the next one; gRPC clients take at most 4 MiB unless told otherwise, and one entry is far
/// smaller.
const FULL: usize = 1024 * 1024;

/// Which page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Most entries, 1 to 500; 0 means 100.
    pub size: u32,
    /// The token that the page before ended with; empty for the first page.
    pub token: String,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Each with the token of what follows it.
    entries: Vec<(T, String)>,
    /// Whether anything follows the last.
    is_followed: bool,
}

impl PageRequest {
    /// How many entries, in range.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] above 500.
    pub fn size(&self) -> Result<u32, AdminError> {
        match self.size {
            0 => Ok(DEFAULT_SIZE),
            1..=MAX_SIZE => Ok(self.size),
            _ => Err(AdminError::Invalid(format!("page_size: at most {MAX_SIZE}"))),
        }
    }

    /// What the token holds, read by `parse`; `None` for the first page.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] when `parse` finds nothing in it.
    pub(crate) fn after<T>(&self, parse: impl FnOnce(&[u8]) -> Option<T>) -> Result<Option<T>, AdminError> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let parsed = hex::decode(&self.token).ok().and_then(|bytes| parse(&bytes));
        parsed.map(Some).ok_or_else(|| AdminError::Invalid("page_token: not one that this list gave".to_owned()))
    }
}

impl<T> Page<T> {
    /// A page out of one entry more than wanted: the surplus one says that there is a next page. `mark` is what the token after an entry holds.
    pub(crate) fn cut(mut entries: Vec<T>, size: u32, mark: impl Fn(&T) -> Vec<u8>) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let is_followed = entries.len() > size;
        entries.truncate(size);
        let with_token = |entry| {
            let token = hex::encode(mark(&entry));
            (entry, token)
        };
        Self { entries: entries.into_iter().map(with_token).collect(), is_followed }
    }

    /// What is on it.
    pub fn entries(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(entry, _)| entry)
    }

    /// As messages, and the token of the next page, empty at the end. What would make the page too large for an answer is left to the next one.
    pub fn into_messages<M: Message>(self, mut encode: impl FnMut(T) -> M) -> (Vec<M>, String) {
        let (mut messages, mut bytes, mut next) = (Vec::with_capacity(self.entries.len()), 0_usize, String::new());
        for (entry, token) in self.entries {
            let message = encode(entry);
            bytes = bytes.saturating_add(message.encoded_len());
            if bytes > FULL && !messages.is_empty() {
                return (messages, next);
            }
            messages.push(message);
            next = token;
        }
        (messages, if self.is_followed { next } else { String::new() })
    }
}

/// A mark made of a moment and an id.
pub(super) fn mark(at: Timestamp, id: &[u8]) -> Vec<u8> {
    [&at.nanos().to_be_bytes(), id].concat()
}

/// Takes a mark apart.
pub(super) fn marked(bytes: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (at, id) = bytes.split_first_chunk::<8>()?;
    Some((Timestamp::from_nanos(i64::from_be_bytes(*at)), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(count: u8, size: u32) -> Page<u8> {
        Page::cut((0..count).collect(), size, |last| vec![*last])
    }

    #[test]
    fn page_ends_with_a_token_only_when_more_follows() {
        let cut = |count| page(count, 3).into_messages(u32::from);
        assert_eq!(cut(3), (vec![0, 1, 2], String::new()));
        assert_eq!(cut(4), (vec![0, 1, 2], "02".to_owned()));
        assert_eq!(cut(0), (vec![], String::new()));
    }

    #[test]
    fn page_ends_before_it_is_too_large_for_an_answer_and_has_one_entry_at_least() {
        let large = |entry: u8| vec![entry; FULL / 3];
        let (messages, next) = page(5, 5).into_messages(large);
        assert_eq!((messages.len(), next.as_str()), (2, "01"));
        let (messages, next) = page(2, 2).into_messages(large);
        assert_eq!((messages.len(), next.as_str()), (2, ""));
        let (messages, next) = page(3, 3).into_messages(|entry| vec![entry; 2 * FULL]);
        assert_eq!((messages.len(), next.as_str()), (1, "00"));
    }

    #[test]
    fn sizes_and_tokens_out_of_range_are_refused_by_name() {
        let page = |size, token: &str| PageRequest { size, token: token.to_owned() };
        assert_eq!(page(0, "").size().unwrap(), 100);
        assert!(page(501, "").size().unwrap_err().to_string().starts_with("page_size: "));
        let at = Timestamp::from_millis(5);
        let token = hex::encode(mark(at, b"id"));
        assert_eq!(page(0, &token).after(|bytes| marked(bytes).map(|(at, _)| at)).unwrap(), Some(at));
        for wrong in ["zz", "0", "00"] {
            let error = page(0, wrong).after(marked_owned).unwrap_err();
            assert!(error.to_string().starts_with("page_token: "), "{error}");
        }
    }

    fn marked_owned(bytes: &[u8]) -> Option<(Timestamp, Vec<u8>)> {
        marked(bytes).map(|(at, id)| (at, id.to_vec()))
    }
}
