//! Canaries: marked secrets, and the search for them in whatever comes out.
//!
//! A secret is looked for in halves, so that a part of it is found too, and in every encoding that a careless line of code would give it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem::Finder;

use crate::harness::Reply;

/// Files that are there to hold a secret.
const KEPT_FOR_SECRETS: [&str; 3] = ["operator.token", "fleet.token", "vault.key"];

/// A marked secret.
#[derive(Clone)]
pub struct Canary {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Canary {
    pub fn new(name: impl Into<String>, secret: impl AsRef<[u8]>) -> Self {
        let bytes = secret.as_ref().to_vec();
        assert!(bytes.len() >= 24, "too short to be told from chance");
        Self { name: name.into(), bytes }
    }

    /// The secret part of a token: its id is public.
    pub fn token(name: impl Into<String>, token: &str) -> Self {
        Self::new(name, token.trim().rsplit('_').next().unwrap())
    }

    /// Each half in each encoding.
    fn needles(&self) -> Vec<(String, Vec<u8>)> {
        let (front, back) = self.bytes.split_at(self.bytes.len() / 2);
        [("front", front), ("back", back)]
            .into_iter()
            .flat_map(|(half, bytes)| {
                encodings(bytes).into_iter().map(move |(code, needle)| (format!("{half} half, {code}"), needle))
            })
            .collect()
    }
}

/// Bytes as careless code may write them.
fn encodings(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let percent =
        |digits: String| digits.as_bytes().chunks(2).flat_map(|pair| [b"%", pair].concat()).collect::<Vec<u8>>();
    let numbers: Vec<String> = bytes.iter().map(ToString::to_string).collect();
    let mut found = vec![
        ("raw".to_owned(), bytes.to_vec()),
        ("hex".to_owned(), hex::encode(bytes).into_bytes()),
        ("HEX".to_owned(), hex::encode_upper(bytes).into_bytes()),
        ("percent".to_owned(), percent(hex::encode(bytes))),
        ("PERCENT".to_owned(), percent(hex::encode_upper(bytes))),
        ("list of numbers".to_owned(), numbers.join(",").into_bytes()),
        ("printed list of numbers".to_owned(), numbers.join(", ").into_bytes()),
    ];
    for before in 0..3 {
        let shifted = [&[0; 2][..before], bytes].concat();
        // Only characters that depend on nothing around the secret.
        let (first, last) = ((before * 8).div_ceil(6), shifted.len() * 8 / 6);
        for (code, engine) in [("base64", STANDARD_NO_PAD), ("base64url", URL_SAFE_NO_PAD)] {
            let text = engine.encode(&shifted);
            found.push((format!("{code} at {before}"), text[first..last].into()));
        }
    }
    found
}

/// Looks for canaries, and remembers where it found one.
pub struct Search {
    pub finders: Vec<(usize, String, Finder<'static>)>,
    pub canaries: Vec<Canary>,
    pub found: BTreeSet<String>,
    pub looked_at: u64,
}

impl Search {
    pub fn new(canaries: Vec<Canary>) -> Self {
        let finders = canaries.iter().enumerate().flat_map(|(number, canary)| {
            canary.needles().into_iter().map(move |(how, needle)| (number, how, Finder::new(&needle).into_owned()))
        });
        let finders = finders.collect();
        Self { finders, canaries, found: BTreeSet::new(), looked_at: 0 }
    }

    pub fn look(&mut self, place: &str, haystack: &[u8]) {
        self.look_except(place, haystack, &[]);
    }

    /// Looks for all canaries but those of these names, which belong there.
    pub fn look_except(&mut self, place: &str, haystack: &[u8], allowed: &[&str]) {
        self.looked_at += haystack.len() as u64;
        for (number, how, finder) in &self.finders {
            let name = &self.canaries[*number].name;
            let Some(at) = finder.find(haystack) else { continue };
            if !allowed.contains(&name.as_str()) {
                let around = &haystack[at.saturating_sub(60)..(at + 20).min(haystack.len())];
                self.found.insert(format!("{name} ({how}) in {place}: …{}…", around.escape_ascii()));
            }
        }
    }

    pub fn reply(&mut self, place: &str, reply: &Reply) {
        let mut headers = Vec::new();
        for (name, value) in &reply.headers {
            headers.extend_from_slice(name.as_str().as_bytes());
            headers.extend_from_slice(b": ");
            headers.extend_from_slice(value.as_bytes());
            headers.push(b'\n');
        }
        self.look(&format!("headers of {place}"), &headers);
        self.look(&format!("body of {place}"), &reply.body);
    }

    /// Everything in a directory but the files that are there for secrets.
    pub fn directory(&mut self, when: &str, directory: &Path) -> usize {
        let mut files = 0;
        for entry in fs::read_dir(directory).unwrap().filter_map(Result::ok) {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                files += self.directory(when, &path);
            } else if KEPT_FOR_SECRETS.contains(&name.as_str()) {
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{name} is for its owner only");
            } else if let Ok(bytes) = fs::read(&path) {
                files += 1;
                self.look(&format!("{} {when}", path.display()), &bytes);
            }
        }
        files
    }

    /// A dump of a PostgreSQL database, as a backup holds it; nothing without one.
    pub fn dump(&mut self, when: &str, url: Option<&str>) {
        let Some(url) = url else { return };
        let dump = keyforge_loadtest::postgres::dump(url).unwrap();
        let holds = |text: &str| Finder::new(text).find(&dump).is_some();
        assert!(holds("COPY public.vault_records") && holds("COPY public.entries"), "a dump of something else");
        self.look(&format!("the dump {when}"), &dump);
    }

    pub fn assert_nothing_found(&self) {
        let found: Vec<_> = self.found.iter().map(String::as_str).collect();
        assert!(found.is_empty(), "I-21: {} leaks:\n{}", found.len(), found.join("\n"));
    }
}

#[test]
fn the_search_finds_a_planted_canary_in_every_encoding_and_nothing_where_there_is_none() {
    const PLANTED: &str = "sk-proj-Q7mZx4TfWc9LrHs2KvNbYd6GpEa";
    const ANOTHER: &str = "sk-proj-Uj3Rk8VwXq5MyCt1BnFhZs0DgLo";
    let canary = Canary::new("planted", PLANTED);
    let secret = PLANTED.as_bytes();
    let url = |text: String| text.replace('+', "-").replace('/', "_");
    let percent = |upper: bool| -> String {
        secret.iter().map(|byte| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") }).collect()
    };
    let mut planted: Vec<(String, Vec<u8>)> = vec![
        ("raw".into(), secret.to_vec()),
        ("only its front half".into(), secret[..18].to_vec()),
        ("only its back half".into(), secret[16..].to_vec()),
        ("hex".into(), hex::encode(secret).into()),
        ("upper hex".into(), hex::encode_upper(secret).into()),
        ("percent".into(), percent(false).into()),
        ("upper percent".into(), percent(true).into()),
        ("debug".into(), format!("{secret:?}").into()),
        ("json numbers".into(), serde_json::to_vec(secret).unwrap()),
    ];
    for before in 0..6 {
        let text = STANDARD_NO_PAD.encode([&b"Bearer"[..before], secret, b" tail"].concat());
        planted.push((format!("base64 after {before} bytes"), text.clone().into()));
        planted.push((format!("base64url after {before} bytes"), url(text).into()));
    }
    for (name, bytes) in planted {
        let mut search = Search::new(vec![canary.clone()]);
        search.look(&name, &[b"{\"before\":\"", &bytes[..], b"\"}"].concat());
        assert!(!search.found.is_empty(), "not found: {name}");
    }
    let mut search = Search::new(vec![canary]);
    search.look("another key", ANOTHER.as_bytes());
    search.look("a masked key", b"Incorrect API key provided: sk-p***************GpEa.");
    search.assert_nothing_found();

    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("deep")).unwrap();
    fs::write(directory.path().join("deep/file"), [b"\x00\xff", secret].concat()).unwrap();
    let mut search = Search::new(vec![Canary::new("planted", PLANTED)]);
    assert_eq!(search.directory("now", directory.path()), 1);
    assert!(search.found.iter().any(|found| found.contains("deep/file")));
    assert!(std::panic::catch_unwind(|| search.assert_nothing_found()).is_err());
}
