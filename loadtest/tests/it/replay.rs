//! Recorded exchanges are served byte for byte.

use std::path::{Path, PathBuf};

use keyforge_loadtest::provider::{Recording, Reply, Script, ScriptedProvider, load_folder};
use serde_json::json;

use crate::client::{chat, send, whole};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[tokio::test]
async fn a_recording_is_served_by_its_name() {
    let recordings = load_folder(&fixtures()).unwrap();
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    provider.serve_recordings(&recordings);
    for recording in &recordings {
        let named = [("x-recording-id", recording.id.as_str())];
        let answer = send(&provider, "k", "/v1/messages", &named, json!({})).await.unwrap();
        let answer = whole(answer).await.unwrap();
        assert_eq!((answer.status, answer.text()), (recording.response.status, recording.response.body.as_str()));
        for (name, value) in &recording.response.headers {
            assert_eq!(answer.header(name), value);
        }
    }
    let unknown = send(&provider, "k", "/", &[("x-recording-id", "none")], json!({})).await.unwrap();
    assert_eq!(unknown.status(), 404);
    assert_eq!(provider.bill().total().requests, 0);
}

#[tokio::test]
async fn a_pushed_recording_is_served_in_awkward_pieces() {
    let recording = Recording::load(&fixtures().join("stream.json")).unwrap();
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    provider.push(Reply::from_recording(&recording, Some(3)));
    let answer = send(&provider, "k", "/v1/anything", &[], chat(json!({}))).await.unwrap();
    assert_eq!(whole(answer).await.unwrap().text(), recording.response.body);
}

/// A large set of real recordings, if there is one beside the workspace or where `KEYFORGE_CORPUS` says.
#[tokio::test]
async fn every_recording_of_the_corpus_loads_and_is_served() {
    let named = std::env::vars_os().find(|(name, _)| name == "KEYFORGE_CORPUS").map(|(_, value)| PathBuf::from(value));
    let folder = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus"));
    if !folder.is_dir() {
        println!("skipped: no recordings at {}", folder.display());
        return;
    }
    let recordings = load_folder(&folder).unwrap();
    assert!(!recordings.is_empty());
    let provider = ScriptedProvider::start(Script::default()).unwrap();
    for recording in &recordings {
        provider.push(Reply::from_recording(recording, None));
        let answer = send(&provider, "k", "/v1/chat/completions", &[], json!({})).await.unwrap();
        let answer = whole(answer).await.unwrap();
        assert_eq!((answer.status, answer.text()), (recording.response.status, recording.response.body.as_str()));
    }
}
