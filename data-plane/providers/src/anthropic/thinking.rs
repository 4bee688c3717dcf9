//! How much a model is to think, in the words that it knows.

use super::model::{Model, Thinks};
use super::wire::Thinking;
use crate::chat::request::{Content, Effort, Maker, Part, Reasoning, Request, Role};

/// Least budget that the API takes, in tokens.
const LEAST_BUDGET: u64 = 1024;
/// The budget where a model is to think as much as it likes but wants a number.
const FREE_BUDGET: u64 = 8192;

/// What a request says of thinking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) thinking: Option<Thinking>,
    pub(super) effort: Option<&'static str>,
    /// Whether the model will think, so that its earlier thoughts are wanted back.
    pub(super) thinks: bool,
    /// Whether the client wants thought that the model cannot give, or not here.
    pub(super) is_ignored: bool,
}

/// Plans the thinking of an answer of at most `limit` tokens, of which a tool may be `forced`.
///
/// Thinking by budget is left out where the API would refuse it: beside a forced call, in the midst of calls whose thoughts are missing
/// or not Anthropic's, when the answer is to go on from the assistant's last words, and below its least budget.
pub(super) fn plan(request: &Request<'_>, model: &Model, limit: u64, forced: bool) -> Plan {
    let unsaid = Plan { thinks: model.thinks_by_default, ..Plan::default() };
    let Some(reasoning) = request.reasoning else { return unsaid };
    let may_budget = !forced && !lacks_thoughts(request) && limit > LEAST_BUDGET;
    match (model.thinking, reasoning) {
        (_, Reasoning::Off | Reasoning::Budget(0)) => off(model),
        (Thinks::Never, _) => Plan { is_ignored: true, ..unsaid },
        (Thinks::ByBudget, _) | (Thinks::EitherWay, Reasoning::Budget(_)) if may_budget => {
            let budget_tokens = budget(reasoning, limit);
            Plan { thinking: Some(Thinking::Enabled { budget_tokens }), thinks: true, ..Plan::default() }
        }
        (Thinks::ByBudget, _) => Plan { is_ignored: true, ..off(model) },
        (Thinks::EitherWay | Thinks::ByEffort, _) => {
            // The newest models keep their thoughts to themselves unless asked for them.
            let display = (model.thinking == Thinks::ByEffort).then_some("summarized");
            let effort = effort(reasoning).map(|effort| word(effort, model));
            Plan { thinking: Some(Thinking::Adaptive { display }), effort, thinks: true, is_ignored: false }
        }
    }
}

fn off(model: &Model) -> Plan {
    Plan { thinking: model.thinks_by_default.then_some(Thinking::Disabled), ..Plan::default() }
}

/// A budget below the limit, which counts thoughts too. One that only follows from an effort leaves half of it to the answer.
fn budget(reasoning: Reasoning, limit: u64) -> u64 {
    let (wanted, most) = match reasoning {
        Reasoning::Budget(tokens) => (tokens, limit.saturating_sub(1)),
        Reasoning::Effort(effort) => (tokens(effort), limit / 2),
        Reasoning::Off | Reasoning::Adaptive => (FREE_BUDGET, limit / 2),
    };
    wanted.min(most).max(LEAST_BUDGET)
}

const fn tokens(effort: Effort) -> u64 {
    match effort {
        Effort::Minimal => LEAST_BUDGET,
        Effort::Low => 2048,
        Effort::Medium => 8192,
        Effort::High => 16_384,
        Effort::ExtraHigh | Effort::Max => 32_768,
    }
}

fn effort(reasoning: Reasoning) -> Option<Effort> {
    match reasoning {
        Reasoning::Effort(effort) => Some(effort),
        Reasoning::Budget(..=2048) => Some(Effort::Low),
        Reasoning::Budget(..=8192) => Some(Effort::Medium),
        Reasoning::Budget(_) => Some(Effort::High),
        Reasoning::Off | Reasoning::Adaptive => None,
    }
}

const fn word(effort: Effort, model: &Model) -> &'static str {
    match effort {
        Effort::Minimal | Effort::Low => "low",
        Effort::Medium => "medium",
        Effort::High => "high",
        Effort::ExtraHigh if model.has_extra_high => "xhigh",
        Effort::ExtraHigh | Effort::Max => "max",
    }
}

/// Whether the conversation ends within an assistant's turn that could not have begun with thought.
fn lacks_thoughts(request: &Request<'_>) -> bool {
    let Some(last) = request.turns.iter().rposition(|turn| turn.role == Role::Assistant) else { return false };
    let Some(turn) = request.turns.get(last) else { return false };
    let ends_there = last + 1 == request.turns.len();
    let calls = turn.parts.iter().any(|part| matches!(part.content, Content::ToolCall(_)));
    ends_there || (calls && !turn.parts.iter().any(is_own_thought))
}

/// Whether a part is a thought that Anthropic's models can read.
pub(super) fn is_own_thought(part: &Part<'_>) -> bool {
    let is_own = |signature: &crate::chat::request::Signature<'_>| signature.maker == Maker::Anthropic;
    match &part.content {
        Content::Thinking(_) => part.signature.as_ref().is_some_and(|own| is_own(own) && !own.value.is_empty()),
        Content::RedactedThinking(data) => part.signature.as_ref().is_none_or(is_own) && !data.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
#[path = "thinking_tests.rs"]
mod tests;
