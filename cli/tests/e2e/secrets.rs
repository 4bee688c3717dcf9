//! Marked secrets go through everything that can go right and wrong, and are then looked for in everything that comes out (I-21).
//!
//! * [`providers`]: answers with the key in them; [`mistakes`]: secrets that are put in the wrong place
//! * [`database`]: what is stored of a provider key

mod database;
mod mistakes;
mod providers;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::{Method, Request};
use hyper_util::rt::TokioExecutor;
use keyforge_loadtest::provider::{Script, ScriptedProvider};
use memchr::memmem::Finder;

use crate::canary::{Canary, Search};
use crate::collector::Collector;
use crate::harness::{Gateway, PROVIDER_KEY, cap, hello, hello_streamed, provider, read};

/// Provider keys beside [`PROVIDER_KEY`].
const SECOND_KEY: &str = "sk-proj-Q7mZx4TfWc9LrHs2KvNbYd6GpEa";
const ROTATED_KEY: &str = "sk-proj-Uj3Rk8VwXq5MyCt1BnFhZs0DgLo";
/// A secret that is only ever typed in the wrong place.
const MISPLACED_KEY: &str = "sk-proj-Ap6Ie2OuTy4QwRx9ZmBvNc7KjHg";

/// A gateway full of secrets, and the search for them.
struct Scene {
    provider: ScriptedProvider,
    gateway: Gateway,
    collector: Collector,
    search: Search,
    /// The first key's token, and a capped key's.
    tokens: [String; 2],
    strange_token: String,
    operator_token: String,
    fleet_token: String,
    files: PathBuf,
    /// How often the credentials were made usable again.
    forgiven: usize,
}

impl Scene {
    async fn set() -> Self {
        let provider = provider(Script::default());
        let collector = Collector::start().await;
        let telemetry = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "300"),
        ];
        let gateway = Gateway::start_with(&provider, &telemetry).await;
        let (capped, _) = gateway.create_key("canary", cap(1_000_000_000_000)).await;
        let strange = keyforge_shared::token::NewToken::generate().unwrap();
        let operator_token = fs::read_to_string(gateway.data.join("operator.token")).unwrap();
        let fleet_token = fs::read_to_string(gateway.data.join("fleet.token")).unwrap();
        let vault_key = fs::read_to_string(gateway.data.join("vault.key")).unwrap();
        let files = gateway.data.with_extension("secrets");
        fs::create_dir(&files).unwrap();
        for (name, key) in [("second", SECOND_KEY), ("rotated", ROTATED_KEY), ("again", PROVIDER_KEY)] {
            fs::write(files.join(name), key).unwrap();
            fs::set_permissions(files.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let canaries = vec![
            Canary::new("provider key", PROVIDER_KEY),
            Canary::new("second provider key", SECOND_KEY),
            Canary::new("rotated provider key", ROTATED_KEY),
            Canary::new("misplaced key", MISPLACED_KEY),
            Canary::token("first key", &gateway.key),
            Canary::token("capped key", &capped),
            Canary::token("strange key", strange.expose()),
            Canary::token("operator token", &operator_token),
            Canary::token("fleet token", &fleet_token),
            Canary::new("vault key as text", vault_key.trim()),
            Canary::new("vault key", hex::decode(vault_key.trim()).unwrap()),
        ];
        let tokens = [gateway.key.clone(), capped];
        let strange_token = strange.expose().to_owned();
        let search = Search::new(canaries);
        Self {
            provider,
            gateway,
            collector,
            search,
            tokens,
            strange_token,
            operator_token,
            fleet_token,
            files,
            forgiven: 0,
        }
    }

    /// The banner may show the first key's token, once, and no other secret.
    fn banner(&mut self) {
        let banner = self.gateway.banner.clone();
        assert_eq!(banner.matches(&self.tokens[0]).count(), 1, "{banner}");
        self.search.look_except("the banner", banner.as_bytes(), &["first key"]);
    }

    fn cli(&mut self, arguments: &[&str]) -> Option<i32> {
        let output = self.gateway.cli(arguments);
        let place = arguments.first().copied().unwrap_or_default();
        self.search.look(&format!("stdout of keyforge {place} {arguments:?}"), &output.stdout);
        self.search.look(&format!("stderr of keyforge {place} {arguments:?}"), &output.stderr);
        output.status.code()
    }

    /// More credentials: the same key again, another one, and one whose secret is replaced.
    async fn credentials(&mut self) {
        let base = self.provider.base_url();
        for name in ["again", "second", "second"] {
            let secret = format!("file:{}", self.files.join(name).display());
            let add = ["credential", "add", "--provider", "openai", "--secret", &secret, "--base-url", &base];
            assert_eq!(self.cli(&add), Some(0));
        }
        let list = self.gateway.cli_json(&["credential", "list"]);
        let newest = list[0]["id"].as_str().unwrap().to_owned();
        let secret = format!("file:{}", self.files.join("rotated").display());
        assert_eq!(self.cli(&["credential", "rotate", &newest, "--secret", &secret]), Some(0));
        // Until requests with each of the secrets arrive at the provider.
        let keys = [PROVIDER_KEY, SECOND_KEY, ROTATED_KEY];
        let gateway = &self.gateway;
        gateway
            .eventually("every secret is in use", async || {
                assert_eq!(gateway.chat(&hello()).await.status, 200);
                keys.iter().all(|key| self.provider.bill().of_credential(key).requests > 0)
            })
            .await;
    }

    async fn traffic(&mut self) {
        for token in self.tokens.clone() {
            let bodies = [hello(), hello_streamed()];
            let replies = join_all((0..16).map(|number| self.gateway.chat_as(&token, &bodies[number % 2]))).await;
            for reply in &replies {
                assert_eq!(reply.status, 200, "{}", reply.text());
                self.search.reply("a served request", reply);
            }
            for path in ["/v1/models", "/v1/models/gpt-4o-mini", "/v1/models/none", "/", "/v1/nothing"] {
                let reply = self.gateway.send(Method::GET, path, &token, "").await;
                self.search.reply(path, &reply);
            }
        }
    }

    async fn metrics(&mut self) {
        let banner = &self.gateway.banner;
        let end = banner.find("/metrics").expect("the banner says where metrics are");
        let url = banner[..end].rfind("http://").map(|start| &banner[start..end + "/metrics".len()]).unwrap();
        let request = Request::get(url).body(Full::default()).unwrap();
        let reply = read(self.gateway.request(request).await).await;
        assert_eq!(reply.status, 200);
        assert!(reply.text().contains("# TYPE"), "{}", reply.text());
        self.search.reply("the Prometheus text", &reply);
    }

    fn log(&mut self) {
        let log = self.gateway.log();
        assert!(log.len() > 10_000, "a debug log says more than this: {log}");
        self.search.look("the log", log.as_bytes());
    }

    fn telemetry(&mut self) {
        for path in ["/v1/traces", "/v1/metrics"] {
            let body = self.collector.of(path);
            assert!(Finder::new("keyforge").find(&body).is_some(), "nothing of ours was exported to {path}");
            self.search.look(&format!("OTLP {path}"), &body);
        }
    }
}

fn chat_body(streamed: bool) -> serde_json::Value {
    if streamed { hello_streamed() } else { hello() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_21_no_secret_comes_out_anywhere_whatever_goes_wrong() {
    let mut scene = Scene::set().await;
    scene.banner();
    scene.credentials().await;
    scene.traffic().await;
    scene.indiscreet_providers().await;
    scene.clumsy_agents().await;
    scene.clumsy_operators();
    scene.clumsy_programs().await;
    scene.metrics().await;
    // With the write-ahead log as it is while the gateway runs.
    let data = scene.gateway.data.clone();
    assert!(scene.search.directory("while running", &data) >= 3);

    // Killed with requests in flight: the spool holds intents, and nothing has been tidied up.
    scene.provider.set_script(Script { latency_ms: 20_000, ..Script::default() });
    let before = scene.provider.request_count();
    let client = scene.gateway.url.clone();
    let waiting = tokio::spawn(hanging(client, scene.tokens[1].clone()));
    scene.provider.wait_for_requests(before + 8).await;
    scene.gateway.kill().await;
    waiting.await.unwrap();
    assert!(scene.search.directory("after kill -9", &data) >= 3);
    let database = scene.gateway.database_url();
    scene.search.dump("after kill -9", database.as_deref());

    scene.provider.set_script(Script::default());
    scene.gateway.launch().await;
    let again = scene.gateway.banner.clone();
    scene.search.look("the banner of a later start", again.as_bytes());
    scene.traffic().await;
    assert_eq!(scene.gateway.stop().await.code(), Some(0));
    assert!(scene.search.directory("after a graceful end", &data) >= 2);
    scene.search.dump("after a graceful end", database.as_deref());
    scene.log();
    scene.telemetry();
    assert!(scene.search.looked_at > 1_000_000, "only {} bytes were looked at", scene.search.looked_at);
    scene.search.assert_nothing_found();
}

/// Eight requests that end with the process.
async fn hanging(url: String, token: String) {
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let requests = (0..8).map(|number| {
        let request = Request::post(format!("{url}/v1/chat/completions"))
            .header("authorization", format!("Bearer {token}"))
            .body(Full::new(Bytes::from(chat_body(number % 2 == 0).to_string())))
            .unwrap();
        client.request(request)
    });
    for ended in join_all(requests).await {
        assert!(ended.is_err(), "it was answered, although the provider is slow");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_21_a_secret_in_the_place_of_a_models_name_is_not_recorded() {
    let mut scene = Scene::set().await;
    scene.misnamed_models().await;
    scene.gateway.entries(&Gateway::id_of(&scene.tokens[1]), 3).await;
    scene.metrics().await;
    let data = scene.gateway.data.clone();
    scene.search.directory("while running", &data);
    assert_eq!(scene.gateway.stop().await.code(), Some(0));
    scene.search.directory("after a graceful end", &data);
    scene.log();
    scene.telemetry();
    scene.search.assert_nothing_found();
}
