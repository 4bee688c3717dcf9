//! What Anthropic's models can do, by the version in their names: the one table that requests are written by.
//!
//! Source: Anthropic's model list (`GET /v1/models`, capabilities, 2026-08) and its migration guides. A Claude without a version in
//! its name is taken for the newest; another maker's model behind the same API, for one of version 4.0 without native schemas.

/// What matters of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Model {
    /// How it can be made to think.
    pub(super) thinking: Thinks,
    /// Whether it thinks unless told not to.
    pub(super) thinks_by_default: bool,
    /// Whether it knows the effort `xhigh`.
    pub(super) has_extra_high: bool,
    /// Whether it can be held to a schema, in its answer and in calls.
    pub(super) has_schemas: bool,
    /// Whether a client can say how it samples.
    pub(super) samples: Samples,
}

/// What a client can say of how a model samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Samples {
    /// Anything.
    Freely,
    /// A temperature or a `top_p`; both are refused.
    ByOne,
    /// Nothing: every value but the default is refused.
    AsItDoes,
}

/// How a model can be made to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thinks {
    /// Not at all.
    Never,
    /// By a budget of tokens.
    ByBudget,
    /// By a budget, or by an effort with as much thought as the model likes.
    EitherWay,
    /// By an effort.
    ByEffort,
}

type Version = (u32, u32);

const NEWEST: Version = (u32::MAX, 0);

impl Model {
    /// The model of this name.
    pub(super) fn named(name: &str) -> Self {
        let version = version(name);
        let at_least = |major, minor| version.is_some_and(|version| version >= (major, minor));
        let thinking = match version.unwrap_or((4, 0)) {
            older if older < (3, 7) => Thinks::Never,
            older if older < (4, 6) => Thinks::ByBudget,
            (4, 6) => Thinks::EitherWay,
            _ => Thinks::ByEffort,
        };
        Self {
            thinking,
            thinks_by_default: at_least(5, 0),
            has_extra_high: at_least(4, 7),
            has_schemas: at_least(4, 1),
            samples: match version.unwrap_or((4, 0)) {
                older if older < (4, 1) => Samples::Freely,
                older if older < (4, 7) => Samples::ByOne,
                _ => Samples::AsItDoes,
            },
        }
    }
}

/// Whether a model sees pictures in high resolution: those from 4.7 on, and whatever is not known to be older.
pub(crate) fn sees_finely(name: &str) -> bool {
    version(name).is_none_or(|version| version >= (4, 7))
}

/// Whether a model can be served within one region at a price of its own: those from 4.6 on.
pub(crate) fn has_regions(name: &str) -> bool {
    version(name).is_some_and(|version| version >= (4, 6))
}

/// `claude-3-7-sonnet-20250219`: 3.7; `claude-opus-4-20250514`: 4.0; `claude-opus-5`: 5.0. `None`: not a Claude.
fn version(name: &str) -> Option<Version> {
    let (_, rest) = name.split_once("claude")?;
    let mut numbers = rest
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()))
        // What follows is a date.
        .take_while(|word| word.len() <= 2)
        .filter_map(|word| word.parse::<u32>().ok());
    Some(numbers.next().map_or(NEWEST, |major| (major, numbers.next().unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_every_form_of_name() {
        for (name, expected) in [
            ("claude-2.1", Some((2, 1))),
            ("claude-3-opus-20240229", Some((3, 0))),
            ("claude-3-5-haiku-latest", Some((3, 5))),
            ("claude-3-7-sonnet-20250219", Some((3, 7))),
            ("claude-sonnet-4-20250514", Some((4, 0))),
            ("claude-sonnet-4-0", Some((4, 0))),
            ("claude-opus-4-5-20251101", Some((4, 5))),
            ("anthropic/claude-sonnet-4.5", Some((4, 5))),
            ("claude-haiku-4-5@20251001", Some((4, 5))),
            ("claude-opus-5", Some((5, 0))),
            ("claude-fable-5-1", Some((5, 1))),
            ("claude-mythos-preview", Some(NEWEST)),
            ("glm-4.6", None),
        ] {
            assert_eq!(version(name), expected, "{name}");
        }
    }

    #[test]
    fn each_family_samples_as_its_maker_lets_it() {
        for (name, expected) in [
            ("claude-3-7-sonnet-20250219", Samples::Freely),
            ("claude-sonnet-4-0", Samples::Freely),
            ("claude-opus-4-1-20250805", Samples::ByOne),
            ("claude-sonnet-4-6", Samples::ByOne),
            ("claude-opus-4-7", Samples::AsItDoes),
            ("claude-sonnet-5", Samples::AsItDoes),
            ("claude-mythos-preview", Samples::AsItDoes),
            ("someone-elses", Samples::Freely),
        ] {
            assert_eq!(Model::named(name).samples, expected, "{name}");
        }
    }

    #[test]
    fn each_family_thinks_as_its_maker_lists_it() {
        for (name, thinking, by_default, extra_high, schemas) in [
            ("claude-3-5-sonnet-20241022", Thinks::Never, false, false, false),
            ("claude-3-7-sonnet-latest", Thinks::ByBudget, false, false, false),
            ("claude-sonnet-4-0", Thinks::ByBudget, false, false, false),
            ("claude-opus-4-1-20250805", Thinks::ByBudget, false, false, true),
            ("claude-haiku-4-5", Thinks::ByBudget, false, false, true),
            ("claude-opus-4-6", Thinks::EitherWay, false, false, true),
            ("claude-opus-4-8", Thinks::ByEffort, false, true, true),
            ("claude-sonnet-5", Thinks::ByEffort, true, true, true),
            ("someone-elses", Thinks::ByBudget, false, false, false),
        ] {
            let model = Model::named(name);
            let seen = (model.thinking, model.thinks_by_default, model.has_extra_high, model.has_schemas);
            assert_eq!(seen, (thinking, by_default, extra_high, schemas), "{name}");
        }
        assert!(sees_finely("claude-opus-4-7") && !sees_finely("claude-opus-4-6") && sees_finely("x"));
    }
}
