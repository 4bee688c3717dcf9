//! How much to think, in the several ways in which clients ask for it.
//!
//! OpenAI's `reasoning_effort`; `reasoning`, as OpenRouter and OpenAI's other API have it; `thinking`, as Anthropic, DeepSeek and Z.ai
//! have it; `google.thinking_config`, also below `extra_body`, as Google's host of this API has it. Two that contradict are refused.

use super::walk::{self, Wrong};
use crate::chat::request::{Effort, Reasoning};
use crate::json::{Cursor, Kind};

/// What has been asked for so far.
#[derive(Default)]
pub(super) struct Asked(Option<Reasoning>);

impl Asked {
    /// What all fields together mean.
    pub(super) fn reasoning(self) -> Option<Reasoning> {
        self.0
    }

    /// Reads one of the fields.
    pub(super) fn field(&mut self, name: &str, cursor: &mut Cursor<'_>) -> Result<(), Wrong> {
        let asked = match name {
            "reasoning_effort" => Some(effort(cursor)?),
            "reasoning" => reasoning(cursor)?,
            "thinking" => thinking(cursor)?,
            "google" => google(cursor)?,
            _ => extra_body(cursor)?,
        };
        self.0 = [self.0, asked].into_iter().flatten().try_fold(None, both)?;
        Ok(())
    }
}

/// What two wishes mean together.
fn both(one: Option<Reasoning>, other: Reasoning) -> Result<Option<Reasoning>, Wrong> {
    Ok(Some(match (one.unwrap_or(other), other) {
        (one, other) if one == other => one,
        // "As much as the model likes" is what any effort is a wish about.
        (Reasoning::Adaptive, wish) | (wish, Reasoning::Adaptive) if wish != Reasoning::Off => wish,
        _ => return Err(Wrong::here("contradicts another field that says how much to think")),
    }))
}

fn effort(cursor: &mut Cursor<'_>) -> Result<Reasoning, Wrong> {
    Ok(Reasoning::Effort(match &*walk::text(cursor)? {
        "none" => return Ok(Reasoning::Off),
        "minimal" => Effort::Minimal,
        "low" => Effort::Low,
        "medium" => Effort::Medium,
        "high" => Effort::High,
        "xhigh" => Effort::ExtraHigh,
        "max" => Effort::Max,
        _ => return Err(Wrong::here("must be none, minimal, low, medium, high, xhigh or max")),
    }))
}

/// A number of tokens; none at all means not to think.
fn budget(cursor: &mut Cursor<'_>) -> Result<Reasoning, Wrong> {
    Ok(match walk::whole(cursor)? {
        0 => Reasoning::Off,
        tokens => Reasoning::Budget(tokens),
    })
}

fn reasoning(cursor: &mut Cursor<'_>) -> Result<Option<Reasoning>, Wrong> {
    let mut asked = None;
    walk::object(cursor, |name, cursor| {
        match name {
            "effort" => asked = both(asked, effort(cursor)?)?,
            "max_tokens" => asked = both(asked, budget(cursor)?)?,
            "enabled" if walk::boolean(cursor)? => asked = both(asked, Reasoning::Adaptive)?,
            "enabled" => asked = both(asked, Reasoning::Off)?,
            "exclude" => walk::only(cursor, &["false"])?,
            // A summary is what the other providers show of their thoughts in any case.
            "summary" | "generate_summary" => walk::ignore(cursor)?,
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    Ok(asked)
}

fn thinking(cursor: &mut Cursor<'_>) -> Result<Option<Reasoning>, Wrong> {
    let mut asked = None;
    walk::object(cursor, |name, cursor| {
        match name {
            "type" => {
                let kind = match &*walk::text(cursor)? {
                    "enabled" | "adaptive" | "auto" => Reasoning::Adaptive,
                    "disabled" => Reasoning::Off,
                    _ => return Err(Wrong::here("must be enabled, disabled or adaptive")),
                };
                asked = both(asked, kind)?;
            }
            "budget_tokens" => asked = both(asked, budget(cursor)?)?,
            "display" => walk::only(cursor, &["\"summarized\""])?,
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    Ok(asked)
}

fn extra_body(cursor: &mut Cursor<'_>) -> Result<Option<Reasoning>, Wrong> {
    let mut asked = None;
    walk::object(cursor, |name, cursor| {
        if name != "google" {
            return Err(Wrong::not_carried());
        }
        asked = google(cursor)?;
        Ok(())
    })?;
    Ok(asked)
}

fn google(cursor: &mut Cursor<'_>) -> Result<Option<Reasoning>, Wrong> {
    let (mut asked, mut is_shown) = (None, false);
    walk::object(cursor, |name, cursor| {
        if name != "thinking_config" {
            return Err(Wrong::not_carried());
        }
        walk::object(cursor, |name, cursor| {
            match name {
                "thinking_level" => asked = both(asked, effort(cursor)?)?,
                // Google's -1: as much as the model likes.
                "thinking_budget" if is_minus_one(cursor)? => asked = both(asked, Reasoning::Adaptive)?,
                "thinking_budget" => asked = both(asked, budget(cursor)?)?,
                // Thoughts that come are shown in any case.
                "include_thoughts" => is_shown = walk::boolean(cursor)?,
                _ => return Err(Wrong::not_carried()),
            }
            Ok(())
        })
    })?;
    Ok(asked.or(is_shown.then_some(Reasoning::Adaptive)))
}

/// Whether the number that comes is -1; passes over it if so.
fn is_minus_one(cursor: &mut Cursor<'_>) -> Result<bool, Wrong> {
    let is_number = cursor.peek()? == Kind::Number;
    let span = cursor.clone().value()?;
    let is_it = is_number && cursor.slice(span) == "-1";
    if is_it {
        cursor.skip()?;
    }
    Ok(is_it)
}
