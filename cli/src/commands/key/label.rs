//! Labels on a command line: `team=research`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::str::FromStr;

/// A label as it is written. Whether it can be one is for the server to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    name: String,
    value: String,
}

impl FromStr for Label {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("not NAME=VALUE")?;
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl Label {
    /// Its path in an update.
    pub(super) fn path(&self) -> Cow<'static, str> {
        path_of(&self.name)
    }
}

/// The path of the label of this name in an update.
pub(super) fn path_of(name: &str) -> Cow<'static, str> {
    format!("labels.{name}").into()
}

/// As a request holds them.
pub(super) fn all(labels: Vec<Label>) -> HashMap<String, String> {
    labels.into_iter().map(|label| (label.name, label.value)).collect()
}
