//! The requests that are sent: small, streamed, or with a large prompt.

use bytes::Bytes;
use serde_json::{Value, json};

/// What a request asks for.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Model to name.
    pub model: String,
    /// Bytes of the user's message.
    pub prompt_bytes: usize,
    /// The most tokens of the answer.
    pub max_tokens: u64,
    /// Whether to stream.
    pub stream: bool,
}

impl Prompt {
    /// The request body.
    #[must_use]
    pub fn body(&self) -> Bytes {
        let said = "Summarise the \"notes\" below, line by line.\n";
        let content: String = said.chars().cycle().take(self.prompt_bytes).collect();
        let mut body = json!({
            "model": self.model,
            "messages": [
                {"role": "system", "content": "You are brief."},
                {"role": "user", "content": content},
            ],
            "max_tokens": self.max_tokens,
        });
        if self.stream {
            body["stream"] = Value::Bool(true);
            body["stream_options"] = json!({"include_usage": true});
        }
        body.to_string().into()
    }
}
