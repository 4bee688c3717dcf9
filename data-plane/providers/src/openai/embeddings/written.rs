//! Writes an answer in hub form as OpenAI does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

use super::super::labels;
use super::Encoding;
use crate::embeddings::Response;
use crate::exchange::Stamp;

/// Writes an answer.
#[must_use]
pub fn write(answer: &Response, encoding: Encoding, stamp: &Stamp) -> Bytes {
    let vectors = answer.vectors.iter().enumerate();
    let data = vectors.map(|(index, vector)| Embedding {
        object: "embedding",
        index,
        embedding: Vector::of(vector, encoding),
    });
    let counted = answer.usage.map(|usage| usage.input_total());
    let written = Written {
        object: "list",
        data: data.collect(),
        model: labels::model(&answer.model, stamp),
        usage: WrittenUsage::of(counted, stamp),
    };
    // Serialising strings and numbers does not fail.
    Bytes::from(serde_json::to_vec(&written).unwrap_or_default())
}

#[derive(Serialize)]
struct Written<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: WrittenUsage,
}

#[derive(Serialize)]
struct WrittenUsage {
    prompt_tokens: u64,
    total_tokens: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    estimated: bool,
}

impl WrittenUsage {
    /// Clients want the member. Where the provider does not count, it holds what is charged, and says that nobody counted it.
    fn of(counted: Option<u64>, stamp: &Stamp) -> Self {
        let tokens = counted.or(stamp.most_input).unwrap_or(0);
        Self { prompt_tokens: tokens, total_tokens: tokens, estimated: counted.is_none() }
    }
}

#[derive(Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Numbers(&'a [f32]),
    Base64(String),
}

impl<'a> Vector<'a> {
    fn of(numbers: &'a [f32], encoding: Encoding) -> Self {
        match encoding {
            Encoding::Float | Encoding::Other => Self::Numbers(numbers),
            Encoding::Base64 => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}
