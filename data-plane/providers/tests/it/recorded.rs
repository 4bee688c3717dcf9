//! Recorded exchanges, if the recordings are at hand: in `KEYFORGE_CORPUS`, or beside the workspace in `shared/corpus`.

use std::path::PathBuf;

use serde_json::Value;

/// One recorded request and response.
pub struct Exchange {
    pub name: String,
    /// Who was asked.
    pub provider: String,
    /// The request's path and query.
    pub path: String,
    /// The request's body, parsed.
    pub request: Value,
    pub status: u16,
    pub headers: http::HeaderMap,
    pub response: String,
}

impl Exchange {
    fn read(path: &std::path::Path) -> Self {
        let recorded: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let response = &recorded["response"];
        let headers = response["headers"].as_object().unwrap().iter();
        Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            provider: recorded["provider"].as_str().unwrap().to_owned(),
            path: recorded["request"]["path"].as_str().unwrap_or_default().to_owned(),
            request: recorded["request"]["body"].clone(),
            status: response["status"].as_u64().unwrap().try_into().unwrap(),
            headers: headers
                .filter_map(|(name, value)| Some((name.parse().ok()?, value.as_str()?.parse().ok()?)))
                .collect(),
            response: response["body"].as_str().unwrap().to_owned(),
        }
    }

    pub fn is_success(&self) -> bool {
        self.status == 200
    }

    pub fn is_stream(&self) -> bool {
        self.is_success() && self.response.lines().any(|line| line.starts_with("data:"))
    }
}

/// How many recordings there are at least, by provider and endpoint. With fewer, what the tests say would hold for less than it seems.
const FEWEST: [(&str, &str, usize); 12] = [
    ("anthropic", "messages", 200),
    ("azure", "embeddings", 3),
    ("google", "embedContent", 7),
    ("google", "generateContent", 100),
    ("google", "streamGenerateContent", 35),
    ("mistral", "embeddings", 2),
    ("openai", "chat.completions", 160),
    ("openai", "embeddings", 9),
    ("vertex", "embedContent", 1),
    ("vertex", "generateContent", 15),
    ("vertex", "streamGenerateContent", 3),
    ("voyage", "embeddings", 7),
];
/// The same for the chat completions of all providers.
const FEWEST_CHATS: usize = 270;

/// The directory that is named must be there; the one beside the workspace need not.
fn corpus() -> Option<PathBuf> {
    let named = std::env::vars_os().find(|(name, _)| name == "KEYFORGE_CORPUS").map(|(_, path)| PathBuf::from(path));
    if let Some(named) = &named {
        assert!(named.is_dir(), "KEYFORGE_CORPUS names no directory: {}", named.display());
    }
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus");
    named.or(Some(beside)).filter(|path| path.is_dir())
}

/// The chat completions exchanges with a provider, or with all of them.
pub fn chat_exchanges(provider: Option<&str>) -> Vec<Exchange> {
    let Some(corpus) = corpus() else {
        println!("skipped: no recordings; set KEYFORGE_CORPUS to their directory");
        return Vec::new();
    };
    let mut exchanges = Vec::new();
    for directory in std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()) {
        let wanted = provider.is_none_or(|provider| directory.ends_with(provider));
        let chats = directory.join("chat.completions");
        if wanted && chats.is_dir() {
            let files = std::fs::read_dir(chats).unwrap().map(|entry| entry.unwrap().path());
            exchanges.extend(files.map(|file| Exchange::read(&file)));
        }
    }
    let fewest = provider.map_or(FEWEST_CHATS, |provider| fewest(provider, "chat.completions"));
    assert!(exchanges.len() >= fewest, "the recordings are incomplete: {} of {fewest}", exchanges.len());
    exchanges
}

/// The exchanges with one endpoint of a provider.
pub fn exchanges(provider: &str, endpoint: &str) -> Vec<Exchange> {
    let Some(corpus) = corpus() else {
        println!("skipped: no recordings; set KEYFORGE_CORPUS to their directory");
        return Vec::new();
    };
    let files = std::fs::read_dir(corpus.join(provider).join(endpoint)).into_iter().flatten();
    let exchanges: Vec<_> = files.map(|file| Exchange::read(&file.unwrap().path())).collect();
    let (found, fewest) = (exchanges.len(), fewest(provider, endpoint));
    assert!(found >= fewest, "the recordings of {provider}/{endpoint} are incomplete: {found} of {fewest}");
    exchanges
}

fn fewest(provider: &str, endpoint: &str) -> usize {
    let of = FEWEST.iter().find(|(known, path, _)| (*known, *path) == (provider, endpoint));
    of.unwrap_or_else(|| panic!("how many recordings there are of {provider}/{endpoint} is not written down")).2
}
