//! Log probabilities in chat completions' own form.

use serde::Serialize;
use serde_json::value::RawValue;

use super::reply::{LogprobsResult, Token};

#[derive(Serialize)]
struct Written<'a> {
    content: Vec<Chosen<'a>>,
}

#[derive(Serialize)]
struct Chosen<'a> {
    #[serde(flatten)]
    token: One<'a>,
    top_logprobs: Vec<One<'a>>,
}

#[derive(Serialize)]
struct One<'a> {
    token: &'a str,
    logprob: f64,
    bytes: &'a [u8],
}

impl<'a> From<&'a Token> for One<'a> {
    fn from(token: &'a Token) -> Self {
        Self { token: &token.token, logprob: token.log_probability, bytes: token.token.as_bytes() }
    }
}

/// `{"content":[…]}`; `None` if no token is told of.
pub(super) fn written(result: &RawValue) -> Option<Box<RawValue>> {
    let result: LogprobsResult = serde_json::from_str(result.get()).ok()?;
    let chosen = result.chosen_candidates.iter().enumerate().map(|(at, token)| Chosen {
        token: token.into(),
        top_logprobs: result
            .top_candidates
            .get(at)
            .map_or_else(Vec::new, |top| top.candidates.iter().map(One::from).collect()),
    });
    let content: Vec<_> = chosen.collect();
    if content.is_empty() {
        return None;
    }
    serde_json::value::to_raw_value(&Written { content }).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_token_comes_with_its_alternatives() {
        let raw = |value: &Value| serde_json::value::to_raw_value(value).unwrap();
        let result = raw(&json!({
            "chosenCandidates": [{"token": "é", "tokenId": 7, "logProbability": -0.5}, {"token": "!", "logProbability": -1}],
            "topCandidates": [{"candidates": [{"token": "é", "logProbability": -0.5}, {"token": "e", "logProbability": -2}]}],
        }));
        let written: Value = serde_json::from_str(written(&result).unwrap().get()).unwrap();
        let expected = json!({"content": [
            {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": [
                {"token": "é", "logprob": -0.5, "bytes": [195, 169]}, {"token": "e", "logprob": -2.0, "bytes": [101]}]},
            {"token": "!", "logprob": -1.0, "bytes": [33], "top_logprobs": []},
        ]});
        assert_eq!(written, expected);
        for nothing in [json!({}), json!(7), json!({"chosenCandidates": [{"token": null}]})] {
            assert!(super::written(&raw(&nothing)).is_none(), "{nothing}");
        }
    }
}
