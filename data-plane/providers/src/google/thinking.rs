//! How much a model is to think, in the terms of its generation.
//!
//! Words become budgets as in Google's own compatibility layer ("OpenAI compatibility", 2026-10): minimal and low 1,024 tokens,
//! medium 8,192, high 24,576; what is more is the most that there is. What a model cannot do exactly it does as nearly as it can:
//! Gemini 2.5 Pro and the third generation think at least a little. Thoughts are shown to a client that asks for any.
//!
//! The output limit counts thoughts, too: a budget leaves room for the answer, half of the limit unless the client wrote the budget itself. Where
//! there is no room for the least budget, a model that can do without thought does.

use serde::Serialize;

use super::model::{Generation, Level, Thinking};
use crate::chat::request::{Effort, Reasoning};

/// `thinkingConfig`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ThinkingConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    include_thoughts: Option<bool>,
    /// Tokens; -1: as the model likes.
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_budget: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_level: Option<&'static str>,
}

/// What is to be said of thinking within `limit` tokens of output; `None`: nothing.
pub(super) fn config(
    reasoning: Option<Reasoning>,
    generation: Generation,
    limit: Option<u64>,
) -> Option<ThinkingConfig> {
    let reasoning = match reasoning? {
        Reasoning::Budget(0) => Reasoning::Off,
        reasoning => reasoning,
    };
    let include_thoughts = (reasoning != Reasoning::Off).then_some(true);
    let said = ThinkingConfig { include_thoughts, ..ThinkingConfig::default() };
    let budget = |tokens: u64| Some(i64::try_from(tokens).unwrap_or(i64::MAX));
    Some(match generation.thinking {
        Thinking::Budget { least, most, can_be_off } => {
            let room = room(reasoning, limit).min(most);
            let tokens = match reasoning {
                Reasoning::Off if can_be_off => Some(0),
                _ if room < least && can_be_off => return Some(ThinkingConfig { thinking_budget: Some(0), ..NOTHING }),
                Reasoning::Off => budget(least),
                Reasoning::Adaptive if room == most => Some(AS_IT_LIKES),
                Reasoning::Adaptive => budget(room.max(least)),
                Reasoning::Effort(effort) => budget(tokens(effort).min(room).max(least)),
                Reasoning::Budget(tokens) => budget(tokens.min(room).max(least)),
            };
            ThinkingConfig { thinking_budget: tokens, ..said }
        }
        Thinking::Levels(levels) => match reasoning {
            Reasoning::Adaptive => said,
            Reasoning::Off => ThinkingConfig { thinking_level: levels.first().copied().map(Level::as_str), ..said },
            Reasoning::Effort(effort) => {
                ThinkingConfig { thinking_level: at_least(level(effort), levels).map(Level::as_str), ..said }
            }
            // Accepted for compatibility, but not together with a level.
            Reasoning::Budget(tokens) => {
                ThinkingConfig { thinking_budget: budget(tokens.min(room(reasoning, limit))), ..said }
            }
        },
        // A model that does not think needs no telling; one that is told to refuses by itself if it cannot.
        Thinking::Unknown => match reasoning {
            Reasoning::Off => return None,
            Reasoning::Adaptive => said,
            Reasoning::Effort(effort) => {
                let tokens = tokens(effort).min(room(reasoning, limit));
                ThinkingConfig { thinking_budget: budget(tokens), ..said }
            }
            Reasoning::Budget(tokens) => {
                ThinkingConfig { thinking_budget: budget(tokens.min(room(reasoning, limit))), ..said }
            }
        },
    })
}

/// Nothing said.
const NOTHING: ThinkingConfig = ThinkingConfig { include_thoughts: None, thinking_budget: None, thinking_level: None };
/// Google's word for a budget that the model sets itself.
const AS_IT_LIKES: i64 = -1;

/// The most thought that leaves room for an answer.
fn room(reasoning: Reasoning, limit: Option<u64>) -> u64 {
    let limit = limit.unwrap_or(u64::MAX);
    if matches!(reasoning, Reasoning::Budget(_)) { limit.saturating_sub(1) } else { limit / 2 }
}

/// Whether a model that is told not to think does so all the same, or one that is told to think has no room for it.
pub(super) fn is_ignored(reasoning: Option<Reasoning>, generation: Generation, limit: Option<u64>) -> bool {
    let Some(reasoning) = reasoning else { return false };
    let is_off = matches!(reasoning, Reasoning::Off | Reasoning::Budget(0));
    match generation.thinking {
        Thinking::Budget { can_be_off, .. } if is_off => !can_be_off,
        Thinking::Budget { least, can_be_off, .. } => can_be_off && room(reasoning, limit) < least,
        Thinking::Levels(_) => is_off,
        Thinking::Unknown => false,
    }
}

/// The wanted level, or the next higher one that there is.
fn at_least(wanted: Level, levels: &[Level]) -> Option<Level> {
    levels.iter().find(|level| **level >= wanted).or(levels.last()).copied()
}

const fn level(effort: Effort) -> Level {
    match effort {
        Effort::Minimal => Level::Minimal,
        Effort::Low => Level::Low,
        Effort::Medium => Level::Medium,
        Effort::High | Effort::ExtraHigh | Effort::Max => Level::High,
    }
}

const fn tokens(effort: Effort) -> u64 {
    match effort {
        Effort::Minimal | Effort::Low => 1024,
        Effort::Medium => 8192,
        Effort::High => 24_576,
        Effort::ExtraHigh | Effort::Max => 32_768,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::model::generation;
    use super::*;

    #[test]
    fn thinking_is_asked_for_in_the_terms_of_the_generation() {
        use Effort::{High, Max, Medium, Minimal};
        for (model, reasoning, expected) in [
            ("gemini-2.5-flash", Reasoning::Off, json!({"thinkingBudget": 0})),
            ("gemini-2.5-pro", Reasoning::Off, json!({"thinkingBudget": 128})),
            ("gemini-2.5-flash", Reasoning::Budget(0), json!({"thinkingBudget": 0})),
            ("gemini-2.5-flash-lite", Reasoning::Budget(10), json!({"includeThoughts": true, "thinkingBudget": 512})),
            ("gemini-2.5-pro", Reasoning::Effort(Max), json!({"includeThoughts": true, "thinkingBudget": 32_768})),
            ("gemini-2.5-flash", Reasoning::Effort(Max), json!({"includeThoughts": true, "thinkingBudget": 24_576})),
            ("gemini-2.5-flash", Reasoning::Effort(Medium), json!({"includeThoughts": true, "thinkingBudget": 8192})),
            ("gemini-2.5-flash", Reasoning::Adaptive, json!({"includeThoughts": true, "thinkingBudget": -1})),
            (
                "gemini-3-pro-preview",
                Reasoning::Effort(Medium),
                json!({"includeThoughts": true, "thinkingLevel": "high"}),
            ),
            ("gemini-3-pro-preview", Reasoning::Off, json!({"thinkingLevel": "low"})),
            ("gemini-3-flash-preview", Reasoning::Off, json!({"thinkingLevel": "minimal"})),
            (
                "gemini-3.1-pro-preview",
                Reasoning::Effort(Minimal),
                json!({"includeThoughts": true, "thinkingLevel": "low"}),
            ),
            ("gemini-3.5-flash", Reasoning::Effort(High), json!({"includeThoughts": true, "thinkingLevel": "high"})),
            ("gemini-3.5-flash", Reasoning::Budget(512), json!({"includeThoughts": true, "thinkingBudget": 512})),
            ("gemini-3.5-flash", Reasoning::Adaptive, json!({"includeThoughts": true})),
            ("gemini-2.0-flash", Reasoning::Effort(High), json!({"includeThoughts": true, "thinkingBudget": 24_576})),
        ] {
            let config = config(Some(reasoning), generation(model), None).unwrap();
            assert_eq!(serde_json::to_value(config).unwrap(), expected, "{model} {reasoning:?}");
        }
        assert_eq!(config(None, generation("gemini-2.5-pro"), None), None);
        assert_eq!(config(Some(Reasoning::Off), generation("gemini-2.0-flash"), Some(9)), None);
    }

    #[test]
    fn thought_leaves_room_for_an_answer() {
        use Effort::{High, Low};
        for (model, reasoning, limit, expected, ignored) in [
            ("gemini-2.5-flash", Reasoning::Effort(High), 100_000, Some(24_576), false),
            ("gemini-2.5-flash", Reasoning::Effort(High), 4_000, Some(2_000), false),
            ("gemini-2.5-flash", Reasoning::Effort(Low), 4_000, Some(1_024), false),
            ("gemini-2.5-flash", Reasoning::Budget(9_000), 4_000, Some(3_999), false),
            ("gemini-2.5-flash", Reasoning::Budget(9_000), 1, Some(0), true),
            ("gemini-2.5-flash", Reasoning::Adaptive, 60_000, Some(-1), false),
            ("gemini-2.5-flash", Reasoning::Adaptive, 4_000, Some(2_000), false),
            ("gemini-2.5-flash-lite", Reasoning::Effort(Low), 1_000, Some(0), true),
            ("gemini-2.5-flash", Reasoning::Off, 10, Some(0), false),
            ("gemini-2.5-pro", Reasoning::Effort(Low), 100, Some(128), false),
            ("gemini-2.5-pro", Reasoning::Off, 100, Some(128), true),
            ("gemini-3.5-flash", Reasoning::Budget(9_000), 4_000, Some(3_999), false),
            ("gemini-3.5-flash", Reasoning::Effort(High), 4_000, None, false),
            ("gemini-2.0-flash", Reasoning::Effort(High), 4_000, Some(2_000), false),
        ] {
            let (reasoning, generation) = (Some(reasoning), generation(model));
            let config = config(reasoning, generation, Some(limit)).unwrap();
            assert_eq!(config.thinking_budget, expected, "{model} {reasoning:?} {limit}");
            assert_eq!(is_ignored(reasoning, generation, Some(limit)), ignored, "{model} {reasoning:?} {limit}");
            assert!(config.thinking_budget != Some(0) || config.include_thoughts.is_none());
        }
    }
}
