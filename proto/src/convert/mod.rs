//! The trust boundary between messages and domain types: `From` encodes, `TryFrom` decodes.
//!
//! Decoding validates, once, by the domain's own rules, and names the field that is wrong, by its path in the message. Enums that were left
//! unspecified and ids of the wrong length are refused: nothing is guessed. What was decoded encodes back to the same message,
//! but for the name of a time zone, which is put into the spelling of its database, and networks and endpoints, which are put into one form and order.

mod counters;
mod credentials;
mod keys;
mod models;
mod operators;
mod policy;
mod state;
mod workspaces;

#[cfg(test)]
mod samples;

use std::fmt;
use std::str::FromStr;

use keyforge_shared::clock::Timestamp;

pub use counters::{counter_id, dimension, scope};
pub use operators::role;
pub use policy::{endpoint, raises, window};
pub use workspaces::{limits, plan};

/// Why a message is not a valid domain value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertError {
    /// Path of the field, such as `policy.spend_limits[1].window`.
    pub field: String,
    /// What is wrong with it. Never a secret.
    pub problem: String,
    /// Further fields of the same message, when the domain found several problems at once.
    more: Vec<(String, String)>,
}

impl ConvertError {
    /// One field with one problem.
    #[must_use]
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string(), more: Vec::new() }
    }

    /// The same error seen from the message that holds this one in its field `parent`.
    #[must_use]
    pub fn within(mut self, parent: impl fmt::Display) -> Self {
        self.field = format!("{parent}.{}", self.field);
        for (field, _) in &mut self.more {
            *field = format!("{parent}.{field}");
        }
        self
    }

    /// Refuses when the domain found problems; each is written `field: what is wrong`.
    fn unless_valid(problems: Vec<String>) -> Result<(), Self> {
        let mut found = problems.into_iter().map(|text| match text.split_once(": ") {
            Some((field, problem)) => (field.to_owned(), problem.to_owned()),
            None => (String::new(), text),
        });
        match found.next() {
            None => Ok(()),
            Some((field, problem)) => Err(Self { field, problem, more: found.collect() }),
        }
    }
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)?;
        self.more.iter().try_for_each(|(field, problem)| write!(f, "; {field}: {problem}"))
    }
}

impl std::error::Error for ConvertError {}

/// An id out of its raw bytes: `id(&hello.node_id, "node_id", NodeId::from_slice)`.
///
/// # Errors
/// [`ConvertError`] naming `field` when the length is wrong.
pub fn id<T>(bytes: &[u8], field: &str, from_slice: impl FnOnce(&[u8]) -> Option<T>) -> Result<T, ConvertError> {
    from_slice(bytes)
        .ok_or_else(|| ConvertError::new(field, format!("{} bytes are not an id of 16 bytes", bytes.len())))
}

/// An id or another value out of its text: `parsed::<KeyId>(&request.id, "id")`.
///
/// # Errors
/// [`ConvertError`] naming `field`, with what the type expects.
pub fn parsed<T: FromStr<Err: fmt::Display>>(text: &str, field: &str) -> Result<T, ConvertError> {
    text.parse().map_err(|error| ConvertError::new(field, error))
}

/// A submessage that must be there.
///
/// # Errors
/// [`ConvertError`] naming `field` when it is absent.
pub fn required<T>(message: Option<T>, field: &str) -> Result<T, ConvertError> {
    message.ok_or_else(|| ConvertError::new(field, "missing"))
}

/// A moment out of Unix milliseconds.
///
/// # Errors
/// [`ConvertError`] naming `field` for moments before 1970 or after 2262, which nanoseconds cannot express.
pub fn time(millis: i64, field: &str) -> Result<Timestamp, ConvertError> {
    let moment = Timestamp::from_millis(millis);
    if millis >= 0 && moment.millis() == millis && moment != Timestamp::MAX {
        return Ok(moment);
    }
    Err(ConvertError::new(field, "not a moment from 1970 to 2262 in Unix milliseconds"))
}

/// Decodes every element, naming the one that is wrong by its index.
fn each<M, T: TryFrom<M, Error = ConvertError>>(messages: Vec<M>, field: &str) -> Result<Vec<T>, ConvertError> {
    let decode =
        |(index, message)| T::try_from(message).map_err(|error| error.within(format_args!("{field}[{index}]")));
    messages.into_iter().enumerate().map(decode).collect()
}

fn unspecified(field: &str) -> ConvertError {
    ConvertError::new(field, "unspecified")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_problems_are_named_at_once_each_with_its_whole_path() {
        let error = ConvertError::unless_valid(vec!["a: too small".to_owned(), "b: too large".to_owned()]).unwrap_err();
        assert_eq!(error.within("policy").to_string(), "policy.a: too small; policy.b: too large");
    }

    #[test]
    fn moments_that_nanoseconds_cannot_express_are_refused() {
        assert_eq!(time(1, "at").unwrap(), Timestamp::from_millis(1));
        for millis in [-1, i64::MIN, i64::MAX, i64::MAX / 1_000_000 + 1] {
            assert_eq!(time(millis, "at").unwrap_err().field, "at", "{millis}");
        }
    }

    #[test]
    fn ids_of_the_wrong_length_are_refused_by_name() {
        let read = |bytes: &[u8]| id(bytes, "node_id", keyforge_shared::id::NodeId::from_slice);
        assert!(read(&[7; 16]).is_ok());
        for wrong in [0, 15, 17] {
            assert_eq!(read(&vec![7; wrong]).unwrap_err().field, "node_id");
        }
    }
}
