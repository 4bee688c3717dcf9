//! Recorded exchanges: request and response pairs that really went to a provider, one JSON file each.
//!
//! A file has `id`, `provider`, `endpoint`, `tags`, `request` {method, path, headers, body as JSON} and `response`
//! {status, headers, body as text, exact}; other fields are ignored. `exact: false` means that the white space and key
//! order of the body are not the provider's.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

/// Depth of folders that are searched for recordings.
const MAX_DEPTH: usize = 8;

/// One recorded exchange.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Recording {
    /// Unique name; what `x-recording-id` asks for.
    pub id: String,
    /// Whose traffic it is, such as `openai`.
    pub provider: String,
    /// Which call, such as `chat.completions`.
    #[serde(default)]
    pub endpoint: String,
    /// What it shows, such as `stream` or `status-429`.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What was asked.
    pub request: RecordedRequest,
    /// What came back.
    pub response: RecordedResponse,
}

/// The request of a recording.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RecordedRequest {
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Some of its headers; keys are redacted.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Its body; `null` if it had none.
    #[serde(default)]
    pub body: Value,
}

/// The response of a recording.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct RecordedResponse {
    /// HTTP status.
    pub status: u16,
    /// Some of its headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Its body as received; event streams verbatim.
    #[serde(default)]
    pub body: String,
    /// Whether the body is byte for byte the provider's.
    #[serde(default)]
    pub exact: bool,
}

impl Recording {
    /// Reads one recording.
    ///
    /// # Errors
    /// The file cannot be read or is not a recording.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("cannot read recording {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not a recording", path.display()))
    }

    /// Whether it has this tag.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }
}

/// Reads every `*.json` below a folder, in the order of their paths.
///
/// # Errors
/// The folder cannot be read, or one of the files is not a recording.
pub fn load_folder(path: &Path) -> anyhow::Result<Vec<Recording>> {
    let mut files = Vec::new();
    collect(path, MAX_DEPTH, &mut files).with_context(|| format!("cannot list recordings in {}", path.display()))?;
    files.sort();
    files.iter().map(|file| Recording::load(file)).collect()
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<std::path::PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    Ok(())
}
