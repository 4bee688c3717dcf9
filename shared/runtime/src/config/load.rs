//! Reads a TOML file into the caller's raw shape and says precisely what does not fit: the file, the line, the key.
//!
//! Raw shapes carry `#[serde(deny_unknown_fields)]`, so that a misspelt key is an error and not a silent default.
//! Errors quote keys, never the text of a line: a line may hold a secret that should have been a reference.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

use super::Problems;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}:{column}: not valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
        /// What the parser expected.
        message: String,
    },
    /// A key that no setting has.
    #[error("{}:{line}: unknown key `{at}`; {hint}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The dotted path of the key, as written.
        at: String,
        /// The known key that is spelt most like it or, if none is close, all that are known there.
        hint: String,
    },
    /// A value of the wrong kind, or a missing key.
    #[error("{}:{line}: {at}: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The dotted path of the key.
        at: String,
        /// What is wrong; texts from the file are left out.
        message: String,
    },
    /// The file fits its shape, but its values do not make sense.
    #[error("the configuration has {}:\n{_0}", counted(_0.found().len()))]
    Invalid(Problems),
}

/// Reads a TOML file into a raw shape.
///
/// # Errors
/// The file cannot be read, is not TOML, or does not fit `Raw`.
pub fn load<Raw: DeserializeOwned>(path: &Path) -> Result<Raw, ConfigError> {
    let text = fs::read_to_string(path).map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
    parse(path, &text)
}

/// Reads TOML text into a raw shape; `path` only names the text in errors.
///
/// # Errors
/// The text is not TOML or does not fit `Raw`.
pub fn parse<Raw: DeserializeOwned>(path: &Path, text: &str) -> Result<Raw, ConfigError> {
    let deserializer = toml::Deserializer::parse(text).map_err(|error| {
        let (line, column) = position(text, error.span());
        ConfigError::Syntax { path: path.to_owned(), line, column, message: error.message().to_owned() }
    })?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let at = error.path().to_string();
        misfit(path, text, at, error.inner())
    })
}

fn misfit(path: &Path, text: &str, at: String, error: &toml::de::Error) -> ConfigError {
    let path = path.to_owned();
    let (line, _) = position(text, error.span());
    let message = error.message();
    let Some((key, known)) = unknown_field(message) else {
        return ConfigError::Value { path, line, at, message: without_quoted_value(message) };
    };
    let at = if at == key || at.ends_with(&format!(".{key}")) { at } else { format!("{at}.{key}") };
    ConfigError::UnknownKey { path, line, at, hint: hint(&key, &known) }
}

fn counted(problems: usize) -> String {
    if problems == 1 { String::from("one problem") } else { format!("{problems} problems") }
}

fn hint(key: &str, known: &[String]) -> String {
    match nearest(key, known) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None if known.is_empty() => String::from("no keys are known here"),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// Line and column of a span's start, both from 1; the first line if the parser gave no span.
fn position(text: &str, span: Option<Range<usize>>) -> (usize, usize) {
    let start = span.map_or(0, |span| span.start).min(text.len());
    let before = text.get(..start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Splits serde's words for an unknown field, "unknown field `x`, expected one of `a`, `b`", into the field and the
/// known ones. Serde has no structured form of this error.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once("`, ")?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((key.to_owned(), known))
}

/// Serde quotes the offending text ("invalid type: string \"…\", expected …"), which may be a secret.
fn without_quoted_value(message: &str) -> String {
    let quoted = message.find('"').zip(message.rfind("\", expected"));
    match quoted {
        Some((start, end)) if start < end => format!("{}{}", message[..start].trim_end(), &message[end + 1..]),
        _ => message.to_owned(),
    }
}

/// The known key within a third of the length in edits, if there is one.
fn nearest<'a>(key: &str, known: &'a [String]) -> Option<&'a str> {
    let limit = (key.chars().count() / 3).max(1);
    known
        .iter()
        .map(|candidate| (edit_distance(key, candidate), candidate.as_str()))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance in characters, with the usual two rows.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, from) in left.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, to) in right.iter().enumerate() {
            let replaced = previous[column] + usize::from(from != *to);
            current.push(replaced.min(previous[column + 1] + 1).min(current[column] + 1));
        }
        previous = current;
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::SecretRef;
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw {
        listen: Listen,
        #[serde(default)]
        token: Option<SecretRef>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Listen {
        agents: String,
        #[serde(default)]
        max_connections: Option<u32>,
    }

    fn refused(text: &str) -> String {
        parse::<Raw>(Path::new("node.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn file_that_fits_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.toml");
        fs::write(&path, "token = \"env:TOKEN\"\n[listen]\nagents = \"127.0.0.1:1\"\nmax_connections = 7\n").unwrap();
        let raw: Raw = load(&path).unwrap();
        assert_eq!((raw.listen.agents.as_str(), raw.listen.max_connections), ("127.0.0.1:1", Some(7)));
        assert_eq!(raw.token, Some(SecretRef::Env("TOKEN".to_owned())));
    }

    #[test]
    fn missing_file_is_named() {
        let error = load::<Raw>(Path::new("/no/such/node.toml")).unwrap_err();
        assert!(error.to_string().starts_with("cannot read the configuration file /no/such/node.toml: "), "{error}");
    }

    #[test]
    fn unknown_key_is_named_with_its_path_line_and_nearest_known_key() {
        assert_eq!(
            refused("[listen]\nagents = \"127.0.0.1:1\"\n\nmax_connection = 7\n"),
            "node.toml:4: unknown key `listen.max_connection`; did you mean `max_connections`?"
        );
    }

    #[test]
    fn unknown_key_unlike_any_other_lists_the_known_ones() {
        assert_eq!(
            refused("zebra = 1\n[listen]\nagents = \"127.0.0.1:1\"\n"),
            "node.toml:1: unknown key `zebra`; known here: listen, token"
        );
    }

    #[test]
    fn value_of_the_wrong_kind_is_refused_without_repeating_it() {
        let error = refused("[listen]\nagents = \"127.0.0.1:1\"\nmax_connections = \"sk-top\\\"secret, expected\"\n");
        assert_eq!(error, "node.toml:3: listen.max_connections: invalid type: string, expected u32");
    }

    #[test]
    fn missing_key_is_named() {
        let error = refused("[listen]\n");
        assert!(error.contains("listen") && error.contains("missing field `agents`"), "{error}");
    }

    #[test]
    fn syntax_error_gives_line_and_column_and_no_text_of_the_line() {
        let error = refused("[listen]\nagents = sk-secret\n");
        assert!(error.starts_with("node.toml:2:10: not valid TOML: "), "{error}");
        assert!(!error.contains("sk-secret"), "{error}");
    }

    #[test]
    fn literal_secret_is_refused_without_repeating_it() {
        let error = refused("token = \"sk-live-123\"\n[listen]\nagents = \"127.0.0.1:1\"\n");
        assert!(error.starts_with("node.toml:1: token: a secret is given by reference"), "{error}");
        assert!(!error.contains("sk-live"), "{error}");
        let debug = format!("{:?}", parse::<Raw>(Path::new("x"), "token = \"sk-live-123\"").unwrap_err());
        assert!(!debug.contains("sk-live"), "{debug}");
    }

    #[test]
    fn edit_distance_is_symmetric_and_counts_edits() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("sitting", "kitten"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("same", "same"), 0);
    }
}
