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
        let Some(asked) = asked else { return Ok(()) };
        self.0 = match self.0 {
            // "As much as the model likes" is what any effort is a wish about.
            None | Some(Reasoning::Adaptive) => Some(asked),
            Some(before) if asked == Reasoning::Adaptive && before != Reasoning::Off => Some(before),
            Some(before) if before == asked => Some(before),
            Some(_) => return Err(Wrong::here("contradicts another field that says how much to think")),
        };
        Ok(())
    }
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
    let (mut enabled, mut how_much) = (None, None);
    walk::object(cursor, |name, cursor| {
        match name {
            "effort" => how_much = Some(effort(cursor)?),
            "max_tokens" => how_much = Some(budget(cursor)?),
            "enabled" => enabled = Some(walk::boolean(cursor)?),
            "exclude" => walk::only(cursor, &["false"])?,
            // A summary is what the other providers show of their thoughts in any case.
            "summary" | "generate_summary" => walk::ignore(cursor)?,
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    Ok(match enabled {
        Some(false) => Some(Reasoning::Off),
        Some(true) => Some(how_much.unwrap_or(Reasoning::Adaptive)),
        None => how_much,
    })
}

fn thinking(cursor: &mut Cursor<'_>) -> Result<Option<Reasoning>, Wrong> {
    let (mut kind, mut tokens) = (None, None);
    walk::object(cursor, |name, cursor| {
        match name {
            "type" => {
                kind = Some(match &*walk::text(cursor)? {
                    "enabled" | "adaptive" | "auto" => Reasoning::Adaptive,
                    "disabled" => Reasoning::Off,
                    _ => return Err(Wrong::here("must be enabled, disabled or adaptive")),
                });
            }
            "budget_tokens" => tokens = Some(budget(cursor)?),
            "display" => walk::only(cursor, &["\"summarized\""])?,
            _ => return Err(Wrong::not_carried()),
        }
        Ok(())
    })?;
    Ok(match kind {
        Some(Reasoning::Adaptive) => Some(tokens.unwrap_or(Reasoning::Adaptive)),
        Some(_) => kind,
        None => tokens,
    })
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
    let mut asked = None;
    walk::object(cursor, |name, cursor| {
        if name != "thinking_config" {
            return Err(Wrong::not_carried());
        }
        walk::object(cursor, |name, cursor| {
            match name {
                "thinking_level" => asked = Some(effort(cursor)?),
                // Google's -1: as much as the model likes.
                "thinking_budget" if is_minus_one(cursor)? => asked = Some(Reasoning::Adaptive),
                "thinking_budget" => asked = Some(budget(cursor)?),
                // Thoughts that come are shown in any case.
                "include_thoughts" => walk::ignore(cursor)?,
                _ => return Err(Wrong::not_carried()),
            }
            Ok(())
        })
    })?;
    Ok(asked)
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
