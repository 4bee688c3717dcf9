//! Names of models: the path that serves one, and the generation that it belongs to.
//!
//! A name comes from the operator's catalog, yet is never trusted to stay inside its segment of the path.

use std::borrow::Cow;

use crate::refusal::RequestError;

/// Names that begin so are paths already: tuned models, and models by publisher as on Vertex.
const COLLECTIONS: [&str; 3] = ["models/", "tunedModels/", "publishers/"];

/// The path below the base URL of `method` of the model called `name`.
///
/// # Errors
/// [`RequestError`] if the name is empty or would lead elsewhere.
pub(super) fn path(name: &str, method: &str) -> Result<String, RequestError> {
    let resource = resource(name);
    let is_bare = !COLLECTIONS.iter().any(|collection| name.starts_with(collection));
    let leads_elsewhere = resource.split('/').any(|segment| matches!(segment, "" | "." | ".."));
    if leads_elsewhere || (is_bare && name.contains('/')) {
        let message = "the provider's name of the model is not one that a path can hold; correct it in the catalog";
        return Err(RequestError { field: Some("model".to_owned()), message: message.to_owned() });
    }
    let mut path = String::with_capacity(resource.len() + method.len() + 2);
    path.push('/');
    for byte in resource.bytes() {
        // All that RFC 3986 calls unreserved, and the slash between segments.
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            path.push(char::from(byte));
        } else {
            let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default().to_ascii_uppercase();
            path.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    path.push(':');
    path.push_str(method);
    Ok(path)
}

/// The name with its collection, e.g. `models/gemini-2.5-flash`.
pub(super) fn resource(name: &str) -> Cow<'_, str> {
    let has_collection = COLLECTIONS.iter().any(|collection| name.starts_with(collection));
    if has_collection { Cow::Borrowed(name) } else { Cow::Owned(format!("models/{name}")) }
}

/// How a model lets its thinking be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thinking {
    /// By a number of tokens.
    Budget {
        /// The least that it takes, other than none.
        least: u64,
        /// The most.
        most: u64,
        /// Whether it can be told not to think.
        can_be_off: bool,
    },
    /// By words, of which it knows these, least first.
    Levels(&'static [Level]),
    /// Nothing is known of it, or it does not think.
    Unknown,
}

/// A word for how much to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Minimal,
    Low,
    Medium,
    High,
}

impl Level {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

const FLASH_LEVELS: &[Level] = &[Level::Minimal, Level::Low, Level::Medium, Level::High];
const PRO_LEVELS: &[Level] = &[Level::Low, Level::Medium, Level::High];
const FIRST_PRO_LEVELS: &[Level] = &[Level::Low, Level::High];

/// What matters of a model's generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation {
    /// How its thinking is set.
    pub(super) thinking: Thinking,
    /// Whether it is of the third generation or later: it wants signatures with the calls of its history, and takes media inside
    /// the results of functions.
    pub(super) is_third: bool,
    /// Whether it can be held to the schemas of functions without being made to call one.
    pub(super) validates: bool,
}

/// What is known of the model called `name`.
///
/// Source: Google, "Gemini thinking", tables of budgets and levels (2026-10), and "Gemini 3 developer guide" (2026-10). Names
/// without a generation that end in `-latest` have meant models of the third since 2026.
pub(super) fn generation(name: &str) -> Generation {
    let bare = name.rsplit('/').next().unwrap_or(name);
    let Some(rest) = bare.strip_prefix("gemini-") else { return UNKNOWN };
    let (major, minor) = version(rest);
    let is_pro = rest.split('-').any(|word| word == "pro");
    let is_lite = rest.contains("flash-lite");
    let thinking = match (major, minor) {
        (Some(2), 5) if is_pro => Thinking::Budget { least: 128, most: 32_768, can_be_off: false },
        (Some(2), 5) if is_lite => Thinking::Budget { least: 512, most: 24_576, can_be_off: true },
        (Some(2), 5) => Thinking::Budget { least: 1, most: 24_576, can_be_off: true },
        (Some(0..=2), _) => return UNKNOWN,
        (None, _) if !rest.ends_with("-latest") => return UNKNOWN,
        (Some(3), 0) if is_pro => Thinking::Levels(FIRST_PRO_LEVELS),
        _ if is_pro => Thinking::Levels(PRO_LEVELS),
        _ => Thinking::Levels(FLASH_LEVELS),
    };
    let is_third = matches!(thinking, Thinking::Levels(_));
    Generation { thinking, is_third, validates: true }
}

const UNKNOWN: Generation = Generation { thinking: Thinking::Unknown, is_third: false, validates: false };

/// `2.5-flash` is 2 and 5, `3-pro-preview` 3 and 0, `flash-latest` none.
fn version(rest: &str) -> (Option<u32>, u32) {
    let number = rest.split('-').next().unwrap_or_default();
    let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
    (major.parse().ok(), minor.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_stays_in_its_place_of_the_path() {
        for (name, expected) in [
            ("gemini-2.5-flash", "/models/gemini-2.5-flash:generateContent"),
            ("models/gemini-2.5-flash", "/models/gemini-2.5-flash:generateContent"),
            ("tunedModels/mine-1a", "/tunedModels/mine-1a:generateContent"),
            ("publishers/google/models/gemini-2.5-pro", "/publishers/google/models/gemini-2.5-pro:generateContent"),
            ("a?key=1#x", "/models/a%3Fkey%3D1%23x:generateContent"),
            ("a:countTokens", "/models/a%3AcountTokens:generateContent"),
            ("é%", "/models/%C3%A9%25:generateContent"),
        ] {
            assert_eq!(path(name, "generateContent").unwrap(), expected);
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in ["", "..", "models/", "models/../files", "publishers//x", "models/.", "a/b", "/x"] {
            assert_eq!(path(name, "generateContent").unwrap_err().field.as_deref(), Some("model"), "{name}");
        }
    }

    #[test]
    fn generations_are_told_by_their_number() {
        let levels = |name: &str| match generation(name).thinking {
            Thinking::Levels(levels) => levels.len(),
            Thinking::Budget { .. } => 0,
            Thinking::Unknown => 9,
        };
        for (name, expected, is_third) in [
            ("gemini-2.5-pro", 0, false),
            ("models/gemini-2.5-flash-lite-preview-09-2025", 0, false),
            ("gemini-3-pro-preview", 2, true),
            ("gemini-3.1-pro-preview", 3, true),
            ("publishers/google/models/gemini-3-flash-preview", 4, true),
            ("gemini-3.5-flash", 4, true),
            ("gemini-flash-latest", 4, true),
            ("gemini-pro-latest", 3, true),
            ("gemini-4-pro", 3, true),
            ("gemini-2.0-flash-001", 9, false),
            ("gemini-1.5-pro-latest", 9, false),
            ("gemini-embedding-001", 9, false),
            ("gemma-3-27b-it", 9, false),
            ("tunedModels/x", 9, false),
        ] {
            assert_eq!((levels(name), generation(name).is_third), (expected, is_third), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_a_path_of_harmless_letters_or_refused(name in "\\PC*") {
            generation(&name);
            if let Ok(path) = path(&name, "m") {
                let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%/".contains(&byte);
                prop_assert!(path.strip_suffix(":m").unwrap().bytes().all(harmless));
                prop_assert!(!path.contains("//") && !path.contains("/../") && !path.contains("/./"));
            }
        }
    }
}
