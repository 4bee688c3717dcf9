//! How much each model is told to think.

use serde_json::{Value, json};

use super::super::request::tests::{SONNET_4_5, call, hello, result, say, sent, thought, tool, turn};
use crate::chat::request::{Effort, Maker, Part, Reasoning, Request, Role, ToolChoice};

fn thinking(model: &str, reasoning: Reasoning, change: impl FnOnce(&mut Request<'_>)) -> (Value, Value) {
    let mut request = Request { reasoning: Some(reasoning), max_output_tokens: Some(20_000), ..hello() };
    change(&mut request);
    let body = sent(&request, model).0;
    (body["thinking"].clone(), body["output_config"]["effort"].clone())
}

#[test]
fn each_model_is_made_to_think_in_its_own_words() {
    let enabled = |budget: u64| json!({ "type": "enabled", "budget_tokens": budget });
    let (adaptive, shown) = (json!({ "type": "adaptive" }), json!({ "type": "adaptive", "display": "summarized" }));
    let none = Value::Null;
    for (model, reasoning, expected, effort) in [
        ("claude-3-5-haiku-latest", Reasoning::Effort(Effort::High), none.clone(), none.clone()),
        (SONNET_4_5, Reasoning::Effort(Effort::Minimal), enabled(1024), none.clone()),
        (SONNET_4_5, Reasoning::Effort(Effort::Max), enabled(10_000), none.clone()),
        (SONNET_4_5, Reasoning::Budget(19_000), enabled(19_000), none.clone()),
        (SONNET_4_5, Reasoning::Budget(90_000), enabled(19_999), none.clone()),
        (SONNET_4_5, Reasoning::Budget(7), enabled(1024), none.clone()),
        (SONNET_4_5, Reasoning::Adaptive, enabled(8192), none.clone()),
        (SONNET_4_5, Reasoning::Off, none.clone(), none.clone()),
        ("claude-opus-4-6", Reasoning::Effort(Effort::ExtraHigh), adaptive.clone(), json!("max")),
        ("claude-opus-4-6", Reasoning::Budget(3000), enabled(3000), none.clone()),
        ("claude-opus-4-6", Reasoning::Adaptive, adaptive, none.clone()),
        ("claude-opus-4-8", Reasoning::Effort(Effort::ExtraHigh), shown.clone(), json!("xhigh")),
        ("claude-opus-4-8", Reasoning::Off, none.clone(), none.clone()),
        ("claude-sonnet-5", Reasoning::Budget(3000), shown.clone(), json!("medium")),
        ("claude-sonnet-5", Reasoning::Effort(Effort::Minimal), shown, json!("low")),
        ("claude-sonnet-5", Reasoning::Off, json!({ "type": "disabled" }), none),
    ] {
        assert_eq!(thinking(model, reasoning, |_| ()), (expected, effort), "{model} {reasoning:?}");
    }
}

#[test]
fn thinking_by_budget_gives_way_where_the_api_would_refuse_it() {
    let high = Reasoning::Effort(Effort::High);
    let forced = |request: &mut Request<'_>| {
        request.tools = vec![tool("f", None)];
        request.tool_choice = Some(ToolChoice::Required);
    };
    let unthought = |request: &mut Request<'_>| {
        request.turns.push(turn(Role::Assistant, vec![thought("hm", Maker::Google), call("t", "{}")]));
        request.turns.push(turn(Role::User, vec![result("t", vec![Part::text("r")])]));
    };
    for (model, is_on) in [(SONNET_4_5, false), ("claude-opus-4-6", true)] {
        assert_eq!(!thinking(model, high, forced).0.is_null(), is_on, "{model} forced");
        assert_eq!(!thinking(model, high, unthought).0.is_null(), is_on, "{model} without thoughts");
    }
    assert!(thinking(SONNET_4_5, high, |request| request.turns.push(say(Role::Assistant, "so"))).0.is_null());
    assert!(thinking(SONNET_4_5, high, |request| request.max_output_tokens = Some(1024)).0.is_null());
    let thoughtful = |request: &mut Request<'_>| {
        request.turns.push(turn(Role::Assistant, vec![thought("hm", Maker::Anthropic), call("t", "{}")]));
        request.turns.push(turn(Role::User, vec![result("t", vec![Part::text("r")])]));
    };
    assert_eq!(thinking(SONNET_4_5, high, thoughtful).0["budget_tokens"], 10_000);
}
