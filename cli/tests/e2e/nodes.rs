//! Nodes as operators run them: a control plane and nodes as processes of their own, which speak TLS under the deployment's own authority.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keyforge_loadtest::provider::{Script, ScriptedProvider};
use keyforge_runtime::private_file;
use keyforge_shared::clock::{Clock as _, SystemClock};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::Value;
use tokio::process::Child;

use crate::harness::{PATIENCE, PROVIDER_KEY, Reply, database_for_tests, hello, provider, read};
use crate::processes::{eventually, free, spawn};

/// A deployment: its control plane, and the command line against it.
struct Site {
    directory: tempfile::TempDir,
    data: PathBuf,
    control: Child,
    provider: ScriptedProvider,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A node's process.
struct Node {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Site {
    /// A control plane whose certificates are good for so many seconds, with a provider and nothing else.
    async fn start(certificate_seconds: u32) -> Self {
        let provider = provider(Script::default());
        let directory = tempfile::tempdir().unwrap();
        let (data, config) = (directory.path().join("control-plane"), directory.path().join("control-plane.toml"));
        let database = database_for_tests().map(|url| format!("[database]\nurl = \"{url}\"\n")).unwrap_or_default();
        let text = format!(
            "data_dir = {:?}\nlisten = \"127.0.0.1:0\"\n[tls]\nlisten = \"127.0.0.1:0\"\n\
             certificate_seconds = {certificate_seconds}\n{database}[telemetry]\nlog_format = \"json\"\n",
            data.display().to_string()
        );
        fs::write(&config, text).unwrap();
        let log = directory.path().join("control-plane.log");
        let control = spawn(&["control-plane", "--config", config.to_str().unwrap()], &log);
        let client = Client::builder(TokioExecutor::new()).build_http();
        let site = Self { directory, data, control, provider, client };
        eventually("the control plane", async || site.data.join("tls.addr").exists()).await;
        site.json(&[
            "credential",
            "add",
            "--provider",
            "openai",
            "--secret",
            "env:SECRET",
            "--base-url",
            &site.base_url(),
        ]);
        site
    }

    fn base_url(&self) -> String {
        self.provider.base_url()
    }

    fn tls_url(&self) -> String {
        format!("https://{}", fs::read_to_string(self.data.join("tls.addr")).unwrap().trim())
    }

    fn run_with(&self, words: &[&str], environment: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_keyforge"))
            .args(words)
            .current_dir(self.directory.path())
            .env_clear()
            .env("SECRET", PROVIDER_KEY)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn run(&self, words: &[&str]) -> Output {
        self.run_with(words, &[("KEYFORGE_DATA", self.data.to_str().unwrap())])
    }

    fn json(&self, words: &[&str]) -> Value {
        parsed(words, &self.run(&[words, &["--output", "json"]].concat()))
    }

    /// A join token and the authority's fingerprint.
    fn token(&self, ttl: &str) -> (String, String) {
        let made = self.json(&["node", "token", "create", "--name", "edge", "--ttl", ttl]);
        (made["token"].as_str().unwrap().to_owned(), made["ca_fingerprint"].as_str().unwrap().to_owned())
    }

    fn try_join(&self, name: &str, token: &str, fingerprint: &str) -> Output {
        let directory = self.directory.path().join(name);
        let words = ["node", "join", "--control-plane", &self.tls_url(), "--token", "env:JOIN"];
        let more = ["--ca-fingerprint", fingerprint, "--data-dir", directory.to_str().unwrap(), "--output", "json"];
        self.run_with(&[&words[..], &more[..]].concat(), &[("JOIN", token)])
    }

    /// Joins, and gives the node's id.
    fn join(&self, name: &str) -> String {
        let (token, fingerprint) = self.token("1h");
        let joined = parsed(&["node", "join"], &self.try_join(name, &token, &fingerprint));
        joined["node"].as_str().unwrap().to_owned()
    }

    /// Starts the node whose identity is in the directory of this name.
    fn start_node(&self, name: &str) -> Node {
        let (directory, agents) = (self.directory.path().join(name), free());
        let (config, log) = (directory.with_extension("toml"), directory.with_extension("log"));
        let text = format!(
            "data_dir = {:?}\n[listen]\nagents = \"{agents}\"\n[control_plane]\nurl = \"{}\"\n",
            directory.display().to_string(),
            self.tls_url()
        );
        fs::write(&config, text).unwrap();
        let child = spawn(&["data-plane", "--config", config.to_str().unwrap(), "--log-format", "json"], &log);
        Node { child, url: format!("http://{agents}"), log }
    }

    /// Makes a key, and waits until a node serves it.
    async fn key_on(&self, node: &Node) -> String {
        let key = self.json(&["key", "create", "ci", "--requests", "1000/total"])["token"].as_str().unwrap().to_owned();
        eventually("the node serves the key", async || self.chat(node, &key).await.is_some_and(|it| it.status == 200))
            .await;
        key
    }

    async fn chat(&self, node: &Node, key: &str) -> Option<Reply> {
        let request = Request::post(format!("{}/v1/chat/completions", node.url))
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(hello().to_string())))
            .unwrap();
        Some(read(self.client.request(request).await.ok()?).await)
    }

    fn nodes(&self) -> Vec<Value> {
        self.json(&["node", "list"]).as_array().unwrap().clone()
    }

    fn node(&self, id: &str) -> Value {
        self.nodes().into_iter().find(|node| node["id"] == id).unwrap()
    }

    /// The newest refusal of the administrators' chain, once there is one of which this holds.
    async fn refused(&self, method: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let find = || {
            let entries = self.json(&["audit", "list", "--admin"]);
            let entries = entries.as_array().unwrap().clone();
            entries.into_iter().rfind(|entry| entry["method"] == method && entry["outcome"] == "denied" && holds(entry))
        };
        eventually(&format!("a refused {method} in the chain"), async || find().is_some()).await;
        find().unwrap()
    }
}

impl Node {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn ended(&mut self) -> std::process::ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").unwrap()
    }

    async fn says(&self, words: &str) {
        eventually(&format!("{words} in the log"), async || self.log().contains(words)).await;
    }
}

fn parsed(words: &[&str], output: &Output) -> Value {
    assert!(output.status.success(), "{words:?}: {}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn nodes_join_and_serve_and_a_removed_one_is_cut_within_a_second() {
    let mut site = Site::start(86_400).await;
    let (one, two) = (site.join("one"), site.join("two"));
    assert_ne!(one, two);
    let (mut first, second) = (site.start_node("one"), site.start_node("two"));
    let key = site.key_on(&first).await;
    eventually("the other node", async || site.chat(&second, &key).await.is_some_and(|it| it.status == 200)).await;
    for id in [&one, &two] {
        let node = site.node(id);
        assert_eq!((node["state"].as_str(), node["name"].as_str()), (Some("connected"), Some("edge")), "{node}");
        assert!(node["certificate_expires_at"].is_string(), "{node}");
    }
    let seen = site.provider.requests();
    assert!(
        seen.iter().all(|request| request.credential == PROVIDER_KEY),
        "secrets came over, each sealed to its node"
    );

    let authority = site.json(&["node", "ca"])["fingerprint"].as_str().unwrap().to_owned();
    let token = format!("file:{}", site.data.join("operator.token").display());
    let tls_url = site.tls_url();
    let over_tls = [
        &["key", "list", "--admin-url", &tls_url, "--admin-ca", &authority, "--admin-token", &token][..],
        &["--output", "json"],
    ];
    assert_eq!(parsed(&["key", "list"], &site.run_with(&over_tls.concat(), &[])).as_array().unwrap().len(), 1);
    let foreign = format!("SHA256:{}", "ab".repeat(32));
    let refused = site.run_with(
        &["key", "list", "--admin-url", &site.tls_url(), "--admin-ca", &foreign, "--admin-token", &token],
        &[],
    );
    assert!(!refused.status.success() && stderr(&refused).contains("UnknownIssuer"), "{}", stderr(&refused));

    site.json(&["node", "remove", &one]);
    let since = SystemClock.monotonic_nanos();
    let cut = async {
        while site.node(&one)["connected"] == true {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, cut).await.unwrap();
    let took = Duration::from_nanos(SystemClock.monotonic_nanos() - since);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(first.ended().await.code(), Some(1), "{}", first.log());
    assert!(first.log().contains("has removed this node"), "{}", first.log());
    assert_eq!(site.chat(&second, &key).await.unwrap().status, 200, "the other one goes on");

    let mut again = site.start_node("one");
    assert_eq!(again.ended().await.code(), Some(1), "{}", again.log());
    assert_eq!(site.refused("fleet/Subscribe", |entry| entry["target"] == one.as_str()).await["target"], one.as_str());
    assert!(site.run(&["audit", "verify", "--all"]).status.success());
    drop(second);
    site.control.kill().await.unwrap();
}

#[tokio::test]
async fn tokens_and_fingerprints_that_do_not_hold_join_nobody_and_leave_nothing() {
    let mut site = Site::start(86_400).await;
    let (token, fingerprint) = site.token("1h");
    let foreign = format!("SHA256:{}", "ab".repeat(32));
    let refused = site.try_join("one", &token, &foreign);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("UnknownIssuer"), "{}", stderr(&refused));
    assert!(site.try_join("one", &token, &fingerprint).status.success(), "nobody was told the token");

    let again = site.try_join("one", &token, &fingerprint);
    assert!(stderr(&again).contains("already"), "{}", stderr(&again));
    let (late, _) = site.token("1s");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let unknown = keyforge_shared::token::generate(keyforge_shared::token::TokenKind::Join).unwrap();
    let mut told = Vec::new();
    for (wrong, why) in [(&token, "used before"), (&late, "has expired"), (&unknown, "not known here")] {
        let refused = site.try_join("other", wrong, &fingerprint);
        assert_eq!(refused.status.code(), Some(1));
        assert!(!stderr(&refused).contains(wrong.as_str()), "{}", stderr(&refused));
        told.push(stderr(&refused));
        let entry = site.refused("nodes/Join", |entry| entry["detail"].as_str().unwrap().contains(why)).await;
        assert!(entry["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{entry}");
    }
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
    assert!(!site.directory.path().join("other").join("identity.pem").exists());
    let literal = site.run(&[
        "node",
        "join",
        "--control-plane",
        &site.tls_url(),
        "--token",
        &token,
        "--ca-fingerprint",
        &fingerprint,
        "--data-dir",
        "third",
    ]);
    assert_eq!(literal.status.code(), Some(2));
    assert!(!stderr(&literal).contains(&token), "{}", stderr(&literal));
    site.control.kill().await.unwrap();
}

#[tokio::test]
async fn a_certificate_is_renewed_under_traffic_and_one_that_expired_joins_again_under_its_id() {
    let mut site = Site::start(6).await;
    let id = site.join("one");
    let mut node = site.start_node("one");
    let key = site.key_on(&node).await;
    let first = site.node(&id)["certificate_expires_at"].as_str().unwrap().to_owned();
    let until = SystemClock.monotonic_nanos() + 9_000_000_000;
    let mut served = 0;
    while SystemClock.monotonic_nanos() < until {
        let reply = site.chat(&node, &key).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        served += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(served > 10 && node.log().contains("the node's certificate was renewed"), "{}", node.log());
    assert!(site.node(&id)["certificate_expires_at"].as_str().unwrap() > first.as_str());
    // At the end of each certificate its stream is taken up again, with the next one.
    eventually("the node is connected", async || site.node(&id)["connected"] == true).await;

    node.child.kill().await.unwrap();
    tokio::time::sleep(Duration::from_secs(7)).await;
    let mut late = site.start_node("one");
    late.says("has expired: run `keyforge node join` again").await;
    site.refused("fleet/Connect", |entry| entry["detail"].as_str().unwrap().to_lowercase().contains("expired")).await;
    assert!(site.chat(&late, &key).await.is_none_or(|reply| reply.status == 503), "it does not serve");
    late.child.kill().await.unwrap();
    assert_eq!(site.join("one"), id, "it goes on under its id");
    let back = site.start_node("one");
    eventually("the node is back", async || site.chat(&back, &key).await.is_some_and(|it| it.status == 200)).await;
    assert!(site.run(&["audit", "verify", "--all"]).status.success());
    drop(back);
    site.control.kill().await.unwrap();
}

/// The identity of another node, or one that an authority made at home, in the place of a node's own.
#[tokio::test]
async fn a_forged_or_another_nodes_certificate_is_refused_and_recorded_and_its_bearer_does_not_serve() {
    let mut site = Site::start(86_400).await;
    let (one, two) = (site.join("one"), site.join("two"));
    let node = site.start_node("one");
    let key = site.key_on(&node).await;
    let directory = |name: &str| site.directory.path().join(name).join("identity.pem");
    let own = fs::read_to_string(directory("two")).unwrap();

    private_file::replace(&directory("two"), fs::read(directory("one")).unwrap().as_slice()).unwrap();
    let mut thief = site.start_node("two");
    assert_eq!(thief.ended().await.code(), Some(1));
    assert!(thief.log().contains(&one) && thief.log().contains(&two), "{}", thief.log());

    private_file::replace(&directory("two"), forged(&own, &site, &two).as_bytes()).unwrap();
    let forger = site.start_node("two");
    let entry = site.refused("fleet/Connect", |_| true).await;
    assert!(entry["detail"].as_str().unwrap().contains("invalid peer certificate"), "{entry}");
    assert!(site.chat(&forger, &key).await.is_none_or(|reply| reply.status == 503), "it does not serve");
    assert_eq!(site.node(&two)["connected"], false);
    assert_eq!(site.chat(&node, &key).await.unwrap().status, 200, "whoever has joined goes on");
    assert!(!forger.log().contains(PROVIDER_KEY) && !entry.to_string().contains("BEGIN"));
    drop((forger, node));
    site.control.kill().await.unwrap();
}

/// The identity `own` with a key and a certificate of another authority that name the same node. Its deployment's authority stays in the file, so
/// that the node trusts the control plane.
fn forged(own: &str, site: &Site, node: &str) -> String {
    let real = own.split("-----BEGIN CERTIFICATE-----").nth(2).unwrap();
    let deployment = deployment_of(site);
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let name = format!("spiffe://keyforge/{deployment}/node/{node}");
    params.subject_alt_names = vec![SanType::URI(name.as_str().try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    format!("{}{}-----BEGIN CERTIFICATE-----{real}", key.serialize_pem(), certificate.pem())
}

/// As the first entry of the administrators' chain names it.
fn deployment_of(site: &Site) -> String {
    let entries = site.json(&["audit", "list", "--admin", "--limit", "1"]);
    entries[0]["target"].as_str().unwrap().to_owned()
}
