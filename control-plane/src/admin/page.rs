//! Pages of lists: how many, and where one goes on. A token is opaque to callers and only good for the list that gave it.

use keyforge_shared::clock::Timestamp;

use super::AdminError;

const DEFAULT_SIZE: u32 = 100;
const MAX_SIZE: u32 = 500;

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
    /// The entries.
    pub entries: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
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
    pub(super) fn after<T>(&self, parse: impl FnOnce(&[u8]) -> Option<T>) -> Result<Option<T>, AdminError> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let parsed = hex::decode(&self.token).ok().and_then(|bytes| parse(&bytes));
        parsed.map(Some).ok_or_else(|| AdminError::Invalid("page_token: not one that this list gave".to_owned()))
    }
}

impl<T> Page<T> {
    /// A page out of one entry more than wanted: the surplus one says that there is a next page.
    pub(super) fn cut(mut entries: Vec<T>, size: u32, mark: impl FnOnce(&T) -> Vec<u8>) -> Self {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let more = entries.len() > size;
        entries.truncate(size);
        let next = entries.last().filter(|_| more).map(|last| hex::encode(mark(last)));
        Self { entries, next }
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

    #[test]
    fn page_ends_with_a_token_only_when_more_follows() {
        let cut = |count: u8| Page::cut((0..count).collect(), 3, |last| vec![*last]);
        assert_eq!(cut(3), Page { entries: vec![0, 1, 2], next: None });
        assert_eq!(cut(4), Page { entries: vec![0, 1, 2], next: Some("02".to_owned()) });
        assert_eq!(cut(0), Page { entries: vec![], next: None });
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
