//! Embeddings, by `batchEmbedContents`.
//!
//! Vectors shorter than the model's own are passed on as they come, not scaled to length 1. Who the client's user is is left out.

use keyforge_shared::usage::Usage;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{fault, model, reply};
use crate::embeddings::{Input, Request, Response};
use crate::refusal::{NotAnAnswer, RequestError};
use crate::translate::Target;

#[derive(Debug, Serialize)]
pub(super) struct Batch<'a> {
    requests: Vec<One<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct One<'a> {
    model: String,
    content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_dimensionality: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Content<'a> {
    parts: [Part<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Part<'a> {
    text: &'a str,
}

/// The body for a batch of texts.
///
/// # Errors
/// [`RequestError`] if a text comes as tokens, which only their own tokenizer could make text of again.
pub(super) fn batch<'r>(request: &'r Request<'r>, target: &Target<'_>) -> Result<Batch<'r>, RequestError> {
    let model = model::resource(target.model);
    let requests = request.inputs.iter().map(|input| match input {
        Input::Text(text) => Ok(One {
            model: model.clone().into_owned(),
            content: Content { parts: [Part { text }] },
            output_dimensionality: request.dimensions,
        }),
        Input::Tokens(_) => Err(RequestError {
            field: Some("input".to_owned()),
            message: "input: this provider takes texts, not tokens".to_owned(),
        }),
    });
    Ok(Batch { requests: requests.collect::<Result<_, _>>()? })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'a> {
    #[serde(default)]
    embeddings: Vec<Embedding>,
    #[serde(default, borrow)]
    usage_metadata: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Embedding {
    #[serde(default)]
    values: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    prompt_token_count: u64,
}

/// Reads the vectors. Only some models count what they took.
///
/// # Errors
/// [`NotAnAnswer`] if there is no vector, or one of them is empty.
pub(super) fn read(body: &[u8]) -> Result<Response, NotAnAnswer> {
    let text = std::str::from_utf8(body).map_err(|_| NotAnAnswer::Malformed)?;
    if fault::is_error(text) {
        return Err(NotAnAnswer::Refused(Box::new(fault::in_answer(text))));
    }
    let reply: Reply<'_> = reply::object(text).ok_or(NotAnAnswer::Malformed)?;
    let vectors: Vec<_> = reply.embeddings.into_iter().map(|embedding| embedding.values).collect();
    if vectors.is_empty() || vectors.iter().any(Vec::is_empty) {
        return Err(NotAnAnswer::NoEmbeddings);
    }
    let counts = reply.usage_metadata.and_then(|json| serde_json::from_str::<Counts>(json.get()).ok());
    let counted = counts.map(|counts| counts.prompt_token_count).filter(|count| (1..=1 << 53).contains(count));
    let usage = counted.map(|input| Usage { input, ..Usage::default() });
    Ok(Response { vectors, usage, model: String::new() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TARGET: Target<'_> = Target { model: "gemini-embedding-001", limit: None, model_limit: None };

    #[test]
    fn each_text_is_a_request_of_the_batch() {
        let inputs = vec![Input::Text("a".into()), Input::Text("b".into())];
        let request = Request { inputs, dimensions: Some(768), user: Some("u".into()) };
        let written: Value = serde_json::to_value(batch(&request, &TARGET).unwrap()).unwrap();
        let one = |text: &str| json!({"model": "models/gemini-embedding-001", "content": {"parts": [{"text": text}]}, "outputDimensionality": 768});
        assert_eq!(written, json!({"requests": [one("a"), one("b")]}));
    }

    #[test]
    fn tokens_are_refused_by_name() {
        let request = Request { inputs: vec![Input::Tokens(vec![1])], dimensions: None, user: None };
        assert_eq!(batch(&request, &TARGET).unwrap_err().field.as_deref(), Some("input"));
    }

    #[test]
    fn vectors_are_read_in_order_and_usage_where_there_is_one() {
        let counted =
            read(br#"{"embeddings":[{"values":[0.5,-1]},{"values":[2]}],"usageMetadata":{"promptTokenCount":4}}"#)
                .unwrap();
        assert_eq!(counted.vectors, [vec![0.5, -1.0], vec![2.0]]);
        assert_eq!(counted.usage, Some(Usage { input: 4, ..Usage::default() }));
        for uncounted in [
            r#"{"embeddings":[{"values":[1]}]}"#,
            r#"{"embeddings":[{"values":[1]}],"usageMetadata":{"promptTokenCount":0}}"#,
        ] {
            assert_eq!(read(uncounted.as_bytes()).unwrap().usage, None, "{uncounted}");
        }
    }

    #[test]
    fn missing_vectors_are_noticed() {
        for missing in ["{}", r#"{"embeddings":[]}"#, r#"{"embeddings":[{"values":[1]},{}]}"#] {
            assert_eq!(read(missing.as_bytes()), Err(NotAnAnswer::NoEmbeddings), "{missing}");
        }
        assert_eq!(read(b"[]"), Err(NotAnAnswer::Malformed));
        assert!(matches!(read(br#"{"error":{"code":404}}"#), Err(NotAnAnswer::Refused(_))));
    }
}
