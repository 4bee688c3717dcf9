//! One reply of the scripted provider: the script's own answer, an error, or a fault.
//!
//! Replies are plain data, so a script file can name them (`kind = "cut_stream"`). How each is carried out is in
//! `faults` and `wire`. A fault of a stream ends the stream without `[DONE]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::replay::Recording;

/// What one request gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// The answer that the script gives.
    Answer,
    /// This status. Without a body it has the error body that OpenAI sends with that status.
    Status {
        /// HTTP status.
        code: u16,
        /// Body as is; absent means OpenAI's error form.
        #[serde(default)]
        body: Option<String>,
        /// Headers to add; `content-type` is `application/json` unless named here.
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    /// 200 whose body is not JSON (for a stream: an event whose data is not JSON).
    Garbage,
    /// 502 with a page of HTML, as a load balancer in front of a provider sends.
    Html,
    /// Takes the request and never answers.
    Hang,
    /// Sends 200 and headers, and never a byte of the body.
    HangAfterHeaders,
    /// Closes the connection instead of answering.
    CloseBeforeResponse,
    /// Closes the connection after so many events; a buffered answer breaks off in the middle.
    CutStream {
        /// Whole events sent before.
        after_events: u64,
    },
    /// Falls silent after so many events, connection open; a buffered answer stops in the middle.
    StallStream {
        /// Whole events sent before.
        after_events: u64,
    },
    /// Sends an error event after so many events and ends the body; a buffered request gets 500.
    ErrorEvent {
        /// Whole events sent before.
        after_events: u64,
    },
    /// Sends response headers one byte at a time and never finishes them.
    SlowHeaders {
        /// Milliseconds between two bytes.
        interval_ms: u64,
    },
    /// Sends one response header that never ends, as fast as the client reads (64 MiB, then silence).
    EndlessHeader,
    /// Sends one event line that never ends, as fast as the client reads (64 MiB, then silence).
    EndlessLine,
    /// 200 that claims gzip, with bytes that are not gzip after the magic number.
    GzipGarbage,
    /// Exactly these bytes.
    Raw {
        /// HTTP status.
        status: u16,
        /// Headers in this order; lengths and encodings of the transfer are the server's own.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// Body bytes; in a script file a string or a list of numbers.
        #[serde(with = "text_or_bytes")]
        body: Vec<u8>,
        /// Size of one write in bytes; absent means the script's.
        #[serde(default)]
        chunk_bytes: Option<usize>,
    },
    /// Waits, then gives another reply.
    Delay {
        /// Milliseconds to wait before anything is sent.
        ms: u64,
        /// What follows.
        then: Box<Reply>,
    },
}

impl Reply {
    /// This status with OpenAI's error body.
    #[must_use]
    pub fn status(code: u16) -> Self {
        Self::Status { code, body: None, headers: BTreeMap::new() }
    }

    /// 429 that asks to come back after so many milliseconds (`retry-after` in whole seconds, `retry-after-ms` exact).
    #[must_use]
    pub fn rate_limited(retry_after_ms: u64) -> Self {
        let headers = BTreeMap::from([
            (String::from("retry-after"), retry_after_ms.div_ceil(1000).to_string()),
            (String::from("retry-after-ms"), retry_after_ms.to_string()),
        ]);
        Self::Status { code: 429, body: None, headers }
    }

    /// 200 or another status with exactly this JSON text.
    #[must_use]
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::raw(status, body).with_header("content-type", "application/json")
    }

    /// 200 with exactly this event stream.
    #[must_use]
    pub fn events(body: impl Into<Vec<u8>>) -> Self {
        Self::raw(200, body).with_header("content-type", "text/event-stream")
    }

    /// Exactly these bytes, no headers.
    #[must_use]
    pub fn raw(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Raw { status, headers: Vec::new(), body: body.into(), chunk_bytes: None }
    }

    /// The same with one header more. Only `Status` and `Raw` carry headers of their own; others stay as they are.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        match &mut self {
            Self::Status { headers, .. } => drop(headers.insert(name.to_owned(), value.to_owned())),
            Self::Raw { headers, .. } => headers.push((name.to_owned(), value.to_owned())),
            _ => {}
        }
        self
    }

    /// The same after so many milliseconds.
    #[must_use]
    pub fn after(self, ms: u64) -> Self {
        Self::Delay { ms, then: Box::new(self) }
    }

    /// The recorded response, byte for byte, written in pieces of `chunk_bytes` if given. Recorded bodies are not
    /// compressed, so a recorded `content-encoding` is left out.
    #[must_use]
    pub fn from_recording(recording: &Recording, chunk_bytes: Option<usize>) -> Self {
        let headers =
            recording.response.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("content-encoding"));
        Self::Raw {
            status: recording.response.status,
            headers: headers.map(|(name, value)| (name.clone(), value.clone())).collect(),
            body: recording.response.body.clone().into_bytes(),
            chunk_bytes,
        }
    }
}

mod text_or_bytes {
    //! Bytes that read from a string or a list of numbers, and are written as a string when they are UTF-8.

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into_bytes(),
            Form::Bytes(bytes) => bytes,
        })
    }

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => bytes.serialize(serializer),
        }
    }
}
