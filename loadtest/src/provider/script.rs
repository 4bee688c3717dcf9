//! What the scripted provider does when nothing else was queued: pace, length of answers, keys, limits, standing faults.
//!
//! A script is plain data. It can be read from TOML or JSON, refuses unknown fields, and can be swapped while the
//! provider runs. Durations are milliseconds, sizes are bytes, lengths of answers are tokens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::reply::Reply;

/// The standing orders of a scripted provider. `Script::default()` answers any key with a short text at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Where to listen; absent means a free port of 127.0.0.1. Read at start only.
    pub listen: Option<SocketAddr>,
    /// Answers say that no real model spoke and repeat the last user message; every response carries
    /// `x-keyforge-sandbox: true`.
    pub sandbox: bool,
    /// Milliseconds between the end of the request and the response headers, buffered or streamed.
    pub latency_ms: u64,
    /// Milliseconds between the headers of a stream and its first event.
    pub first_token_ms: u64,
    /// Milliseconds between two tokens of a stream; 0 writes as fast as the client reads.
    pub token_interval_ms: u64,
    /// Tokens of a text answer, before `max_tokens` cuts it.
    pub completion_tokens: u64,
    /// Use up `max_completion_tokens` (or `max_tokens`) to the last token: the worst provider for a budget.
    pub fill: bool,
    /// Prompt tokens reported (and billed) as read from the cache, at most the whole prompt.
    pub cached_tokens: u64,
    /// Reasoning tokens per choice; part of the completion tokens and of `max_tokens`.
    pub reasoning_tokens: u64,
    /// Leave `usage` out of every answer, as some compatible providers do.
    pub omit_usage: bool,
    /// Appended to the asked model in answers, such as `-2024-07-18`.
    pub model_suffix: String,
    /// The list served at `GET /v1/models`.
    pub models: Vec<String>,
    /// Keys that are served; empty serves any. Others get 401 with a masked form of the key in the message.
    pub accepted_keys: Vec<String>,
    /// The request limit of every key that `rate_limits` does not name.
    pub rate_limit: Option<RateLimit>,
    /// Request limits by key.
    pub rate_limits: BTreeMap<String, RateLimit>,
    /// Write bodies in pieces of this many bytes, each flushed on its own; absent or 0 writes whole events.
    pub chunk_bytes: Option<usize>,
    /// Standing faults: the first rule that matches a request decides its reply.
    pub faults: Vec<FaultRule>,
    /// Keep what arrived for [`super::ScriptedProvider::requests`]; switch off when measuring.
    pub record_requests: bool,
}

/// So many requests of one key per window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests that a window admits.
    pub requests: u64,
    /// Length of the window in milliseconds.
    pub window_ms: u64,
    /// A bucket: it holds so many requests and fills again evenly within a window, as real providers' limits do. Without it a window starts with the
    /// first request in it, and all of it is there again when it ends.
    #[serde(default)]
    pub even: bool,
}

impl RateLimit {
    /// So many requests at once, which come back evenly within so many milliseconds.
    #[must_use]
    pub const fn bucket(requests: u64, window_ms: u64) -> Self {
        Self { requests, window_ms, even: true }
    }
}

/// A reply given to the requests that match, instead of the script's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Only requests that carry this key; absent matches any.
    #[serde(default)]
    pub credential: Option<String>,
    /// Only requests for this model; absent matches any.
    #[serde(default)]
    pub model: Option<String>,
    /// Every n-th request of those that match: 1 is all of them, 0 none.
    #[serde(default = "every_request")]
    pub every: u64,
    /// What they get.
    pub reply: Reply,
}

fn every_request() -> u64 {
    1
}

impl FaultRule {
    /// A rule that gives every request this reply.
    #[must_use]
    pub fn always(reply: Reply) -> Self {
        Self { credential: None, model: None, every: 1, reply }
    }

    /// A rule that gives every request with this key this reply.
    #[must_use]
    pub fn for_credential(credential: impl Into<String>, reply: Reply) -> Self {
        Self { credential: Some(credential.into()), model: None, every: 1, reply }
    }
}

impl Default for Script {
    fn default() -> Self {
        Self {
            listen: None,
            sandbox: false,
            latency_ms: 0,
            first_token_ms: 0,
            token_interval_ms: 0,
            completion_tokens: 16,
            fill: false,
            cached_tokens: 0,
            reasoning_tokens: 0,
            omit_usage: false,
            model_suffix: String::new(),
            models: ["gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-5-mini"].map(String::from).to_vec(),
            accepted_keys: Vec::new(),
            rate_limit: None,
            rate_limits: BTreeMap::new(),
            chunk_bytes: None,
            faults: Vec::new(),
            record_requests: true,
        }
    }
}

impl Script {
    /// The sandbox: any key, answers that say that they are not a model's.
    #[must_use]
    pub fn sandbox() -> Self {
        Self { sandbox: true, ..Self::default() }
    }

    /// Reads a script from a file: JSON when it ends in `.json`, TOML otherwise.
    ///
    /// # Errors
    /// The file cannot be read, is not of that format, or names a field that no script has.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read script {}", path.display()))?;
        let json = path.extension().is_some_and(|extension| extension == "json");
        let parsed = if json { Self::from_json(&text) } else { Self::from_toml(&text) };
        parsed.with_context(|| format!("script {} is not valid", path.display()))
    }

    /// Reads a script from TOML text.
    ///
    /// # Errors
    /// Not TOML, a value of the wrong type, or an unknown field.
    pub fn from_toml(text: &str) -> anyhow::Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// Reads a script from JSON text.
    ///
    /// # Errors
    /// Not JSON, a value of the wrong type, or an unknown field.
    pub fn from_json(text: &str) -> anyhow::Result<Self> {
        Ok(serde_json::from_str(text)?)
    }

    /// The request limit that applies to this key.
    pub(crate) fn limit_of(&self, credential: &str) -> Option<RateLimit> {
        self.rate_limits.get(credential).copied().or(self.rate_limit)
    }

    /// The size of one write, if bodies are cut.
    pub(crate) fn cut(&self) -> Option<usize> {
        self.chunk_bytes.filter(|bytes| *bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reads_from_toml_and_refuses_unknown_fields() {
        let text = r#"
            latency_ms = 3
            fill = true
            [rate_limits.sk-a]
            requests = 2
            window_ms = 1000
            [[faults]]
            credential = "sk-b"
            reply = { kind = "delay", ms = 5, then = { kind = "status", code = 503 } }
        "#;
        let script = Script::from_toml(text).unwrap();
        assert_eq!((script.latency_ms, script.fill), (3, true));
        assert_eq!(script.limit_of("sk-a").unwrap().requests, 2);
        assert_eq!(script.limit_of("sk-c"), None);
        let then = Box::new(Reply::status(503));
        assert_eq!(script.faults, [FaultRule::for_credential("sk-b", Reply::Delay { ms: 5, then })]);
        assert!(Script::from_toml("latencyms = 3").is_err());
    }

    #[test]
    fn a_script_survives_json() {
        let script =
            Script { faults: vec![FaultRule::always(Reply::raw(200, b"\xff\x00".to_vec()))], ..Script::sandbox() };
        let text = serde_json::to_string(&script).unwrap();
        assert_eq!(Script::from_json(&text).unwrap(), script);
    }
}
