//! Marked secrets go through everything that can go right and wrong, and are then looked for in everything that comes out (I-21).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::{Method, Request};
use hyper_util::rt::TokioExecutor;
use keyforge_loadtest::provider::{Reply as Scripted, Script, ScriptedProvider};
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::credential_service_client::CredentialServiceClient;
use keyforge_proto::fleet::v1 as fleet;
use memchr::memmem::Finder;
use serde_json::json;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use crate::canary::{Canary, Search};
use crate::collector::Collector;
use crate::harness::{Gateway, PROVIDER_KEY, cap, hello, hello_streamed, provider, read};

/// Provider keys beside [`PROVIDER_KEY`].
const SECOND_KEY: &str = "sk-proj-Q7mZx4TfWc9LrHs2KvNbYd6GpEa";
const ROTATED_KEY: &str = "sk-proj-Uj3Rk8VwXq5MyCt1BnFhZs0DgLo";
/// A secret that is only ever typed in the wrong place.
const MISPLACED_KEY: &str = "sk-proj-Ap6Ie2OuTy4QwRx9ZmBvNc7KjHg";

#[test]
fn the_search_finds_a_planted_canary_in_every_encoding_and_nothing_where_there_is_none() {
    let canary = Canary::new("planted", SECOND_KEY);
    let secret = SECOND_KEY.as_bytes();
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
    search.look("another key", ROTATED_KEY.as_bytes());
    search.look("a masked key", b"Incorrect API key provided: sk-p***************GpEa.");
    search.assert_nothing_found();

    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("deep")).unwrap();
    fs::write(directory.path().join("deep/file"), [b"\x00\xff", secret].concat()).unwrap();
    let mut search = Search::new(vec![Canary::new("planted", SECOND_KEY)]);
    assert_eq!(search.directory("now", directory.path()), 1);
    assert!(search.found.iter().any(|found| found.contains("deep/file")));
    assert!(std::panic::catch_unwind(|| search.assert_nothing_found()).is_err());
}

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

    /// Providers that repeat the key they were called with.
    async fn indiscreet_providers(&mut self) {
        let error = |message: String| {
            json!({ "error": { "message": message, "type": "invalid_request_error", "param": null, "code": null } })
                .to_string()
        };
        for key in [PROVIDER_KEY, SECOND_KEY, ROTATED_KEY] {
            let masked = format!("{}***{}", &key[..4], &key[key.len() - 4..]);
            let in_words = error(format!("Incorrect API key provided: {masked} ({key}). Authorization: Bearer {key}"));
            let encoded = STANDARD_NO_PAD.encode(key);
            let in_fields =
                json!({ "error": { "message": format!("bad {key}"), "type": key, "param": key, "code": key } })
                    .to_string();
            let bare =
                json!({ "message": key, "detail": { "authorization": format!("Bearer {key}") }, "encoded": encoded })
                    .to_string();
            for status in [400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 503, 529] {
                for body in [&in_words, &in_fields, &bare] {
                    let reply =
                        Scripted::Status { code: status, body: Some(body.clone()), headers: Default::default() }
                            .with_header("x-echo-authorization", &format!("Bearer {key}"))
                            .with_header("www-authenticate", &format!("Bearer realm=\"{key}\""))
                            .with_header("x-request-id", key);
                    self.scripted(&format!("{status} that repeats the key"), reply).await;
                }
            }
            let event = |data: &str| format!("data: {data}\n\n");
            let chunk = json!({ "id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini",
                "choices": [{ "index": 0, "delta": { "content": "Hi" }, "finish_reason": null }] })
            .to_string();
            let streams = [
                event(&in_words),
                event(&in_fields),
                [event(&chunk), event(&in_words)].concat(),
                [event(&chunk), event(&in_fields)].concat(),
                [event(&chunk), format!("event: error\ndata: {in_words}\n\n")].concat(),
                [event(&chunk), format!("data: {{not json {key}\n\n")].concat(),
                [event(&chunk), format!(": {key}\n\ndata: [DONE]\n\n")].concat(),
            ];
            for (number, body) in streams.into_iter().enumerate() {
                let reply = Scripted::events(body).with_header("x-echo-authorization", key);
                self.scripted(&format!("stream {number} that repeats the key"), reply).await;
            }
            for body in [format!("not json {key}"), format!("<html>{key}</html>"), in_words.clone(), bare.clone()] {
                self.scripted("a 200 that repeats the key", Scripted::json(200, body.clone())).await;
                self.scripted("a 502 that repeats the key", Scripted::raw(502, body)).await;
            }
        }
        for reply in [Scripted::Hang, Scripted::SlowHeaders { interval_ms: 50 }] {
            // The client does not wait for these.
            self.provider.push(reply);
            let body = hello();
            let request = self.gateway.chat(&body);
            drop(tokio::time::timeout(std::time::Duration::from_millis(300), request).await);
        }
        for reply in [
            Scripted::Garbage,
            Scripted::GzipGarbage,
            Scripted::CloseBeforeResponse,
            Scripted::CutStream { after_events: 2 },
            Scripted::ErrorEvent { after_events: 1 },
        ] {
            self.scripted(&format!("{reply:?}"), reply).await;
        }
    }

    /// The same reply for a buffered and for a streamed request.
    async fn scripted(&mut self, what: &str, reply: Scripted) {
        for streamed in [false, true] {
            self.provider.push(reply.clone());
            let got = self.gateway.chat_as(&self.tokens[1], &chat_body(streamed)).await;
            self.search.reply(&format!("the answer to {what} (streamed: {streamed})"), &got);
            // What says something of the credential keeps the next reply from being asked for.
            if matches!(reply, Scripted::Status { code: 401..=403 | 429 | 503 | 529, .. }) {
                self.forgive().await;
            }
        }
    }

    /// Lets every credential be used again, whatever its provider has said of it: under another version, in another group, at another spelling of
    /// its address.
    async fn forgive(&mut self) {
        self.forgiven += 1;
        let mut credentials = CredentialServiceClient::new(self.gateway.admin().await);
        let all = credentials.list_credentials(admin::ListCredentialsRequest::default()).await.unwrap().into_inner();
        for admin::Credential { id, .. } in all.credentials {
            let port = format!("{}{}", "0".repeat(self.forgiven), self.provider.addr().port());
            let update = admin::UpdateCredentialRequest {
                id: id.clone(),
                base_url: format!("http://127.0.0.1:{port}/v1"),
                limit_group: format!("group-{}", self.forgiven),
                update_mask: Some(prost_types::FieldMask {
                    paths: ["base_url", "limit_group"].map(String::from).to_vec(),
                }),
                ..Default::default()
            };
            credentials.update_credential(update).await.unwrap();
            let rotation = admin::RotateCredentialRequest { id, secret: PROVIDER_KEY.into() };
            credentials.rotate_credential(rotation).await.unwrap();
        }
        let served = async || self.gateway.chat_as(&self.tokens[1], &chat_body(false)).await.status == 200;
        self.gateway.eventually("the credentials are used again", served).await;
    }

    /// Agents that hold the wrong thing, or put the right thing in the wrong place.
    async fn clumsy_agents(&mut self) {
        let [first, capped] = self.tokens.clone();
        let mut cut = first.clone();
        cut.truncate(first.len() - 1);
        let wrong = [
            PROVIDER_KEY.to_owned(),
            MISPLACED_KEY.to_owned(),
            self.strange_token.clone(),
            self.operator_token.trim().to_owned(),
            self.fleet_token.trim().to_owned(),
            cut,
            format!("{first}x"),
            first.to_lowercase(),
            format!("{first} {capped}"),
        ];
        for key in &wrong {
            for path in ["/v1/chat/completions", "/v1/models", "/v1/unknown"] {
                let reply = self.gateway.send(Method::POST, path, key, hello().to_string()).await;
                assert!(reply.status >= 400, "{path}");
                self.search.reply("a wrong key", &reply);
            }
        }
        let secrets = [first.as_str(), PROVIDER_KEY, MISPLACED_KEY];
        for secret in secrets {
            let elsewhere: [(&str, String); 6] = [
                ("x-api-key", secret.to_owned()),
                ("api-key", secret.to_owned()),
                ("x-goog-api-key", secret.to_owned()),
                ("authorization", format!("Basic {}", STANDARD_NO_PAD.encode(secret))),
                ("openai-organization", secret.to_owned()),
                ("cookie", format!("session={secret}")),
            ];
            for (name, value) in elsewhere {
                for with_key in [false, true] {
                    let mut request =
                        Request::post(format!("{}/v1/chat/completions", self.gateway.url)).header(name, &value);
                    if with_key && name != "authorization" {
                        request = request.header("authorization", format!("Bearer {capped}"));
                    }
                    let request = request.body(Full::new(Bytes::from(hello().to_string()))).unwrap();
                    let reply = read(self.gateway.request(request).await).await;
                    self.search.reply(&format!("a secret in {name}"), &reply);
                }
            }
            let bodies = [
                format!("{{\"model\": \"gpt-4o-mini\", \"messages\": [{{\"role\": \"user\", \"content\": \"{secret}"),
                format!("{{\"model\": 5, \"api_key\": \"{secret}\"}}"),
                secret.to_owned(),
                format!("{{\"{secret}\": 1}}"),
                json!({ "model": "gpt-4o-mini", "messages": secret }).to_string(),
                json!({ "model": "gpt-4o-mini", "messages": [], "max_tokens": secret }).to_string(),
                json!({ "model": "gpt-4o-mini", "messages": hello()["messages"], "n": secret, "stream": secret })
                    .to_string(),
                json!({ "model": "gpt-4o-mini", "messages": hello()["messages"], "stream_options": secret })
                    .to_string(),
                json!({ "model": "gpt-4o-mini", "messages": hello()["messages"], "service_tier": secret }).to_string(),
                json!({ "model": "gpt-4o-mini", "messages": [{ "role": secret, "content": [{ "type": secret }] }] })
                    .to_string(),
                json!({ "model": "gpt-4o-mini", "messages": hello()["messages"], secret: secret }).to_string(),
            ];
            for body in bodies {
                let reply = self.gateway.send(Method::POST, "/v1/chat/completions", &capped, body.clone()).await;
                self.search.reply("a body with a secret in it", &reply);
            }
            for path in
                [format!("/v1/chat/completions?api_key={secret}"), format!("/{secret}"), format!("/v1/{secret}")]
            {
                let reply = self.gateway.send(Method::POST, &path, &capped, hello().to_string()).await;
                self.search.reply("a path with a secret in it", &reply);
            }
        }
    }

    /// A secret where a model's name belongs, which is the one thing of a request that is recorded as it was said.
    async fn misnamed_models(&mut self) {
        for secret in [self.tokens[0].clone(), PROVIDER_KEY.to_owned(), MISPLACED_KEY.to_owned()] {
            let mut body = hello();
            body["model"] = json!(secret);
            let reply = self.gateway.chat_as(&self.tokens[1], &body).await;
            assert_eq!(reply.status, 404);
            self.search.reply("a secret as the model", &reply);
            let reply = self.gateway.send(Method::GET, &format!("/v1/models/{secret}"), &self.tokens[1], "").await;
            self.search.reply("a secret as the model in a path", &reply);
        }
    }

    fn clumsy_operators(&mut self) {
        let [first, _] = self.tokens.clone();
        let operator = self.operator_token.trim().to_owned();
        for secret in [first.as_str(), operator.as_str(), MISPLACED_KEY] {
            let lines: [&[&str]; 21] = [
                &["credential", "add", "--provider", "openai", secret],
                &["credential", secret],
                &["key", "create", "x", "y", secret],
                &["credential", "add", "--provider", "openai", "--secret", secret],
                &["credential", "add", "--provider", secret, "--secret", "env:NEVER_SET_ANYWHERE"],
                &["credential", "rotate", secret, "--secret", secret],
                &["credential", "remove", secret],
                &["credential", "disable", secret],
                &["key", "show", secret],
                &["key", "revoke", secret],
                &["key", "update", secret, "--requests", "1/month"],
                &["key", "list", "--admin-token", secret],
                &["key", "create", "x", "--requests", secret],
                &["key", "create", "x", "--spend", secret],
                &["audit", "verify", secret],
                &["audit", "list", secret],
                &["usage", "--key", secret],
                &["usage", "--from", secret],
                &["key", "list", "--admin-url", secret],
                &["operator", "revoke", secret],
                &["operator", "rotate", secret],
            ];
            for line in lines {
                assert_ne!(self.cli(line), Some(0), "{:?}", line[..2].to_vec());
            }
        }
        for line in [["key", "list"], ["credential", "list"], ["model", "list"], ["audit", "verify"]] {
            let last: &[&str] = if line[1] == "verify" { &["--all"] } else { &["--output", "json"] };
            assert_eq!(self.cli(&[&line[..], last].concat()), Some(0));
        }
        assert_eq!(self.cli(&["audit", "list", "--admin", "--output", "json"]), Some(0));
        assert_eq!(self.cli(&["audit", "list", &Gateway::id_of(&first)]), Some(0));
        assert_eq!(self.cli(&["usage", "--key", &Gateway::id_of(&first)]), Some(0));
    }

    /// Calls of the admin and fleet APIs that are refused.
    async fn clumsy_programs(&mut self) {
        let address = fs::read_to_string(self.gateway.data.join("admin.addr")).unwrap();
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", address.trim())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let bearers = [
            PROVIDER_KEY.to_owned(),
            MISPLACED_KEY.to_owned(),
            self.tokens[0].clone(),
            self.strange_token.clone(),
            self.fleet_token.trim().to_owned(),
            self.operator_token.trim().to_owned(),
        ];
        for bearer in &bearers {
            for secret in [PROVIDER_KEY, MISPLACED_KEY, self.tokens[0].as_str()] {
                for status in refused_calls(&channel, bearer, secret).await {
                    let words = format!("{status:?} {status} {:?}", status.metadata());
                    self.search.look("a gRPC status", words.as_bytes());
                    self.search.look("a gRPC status's details", status.details());
                }
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

/// Calls that must fail, and how they failed.
async fn refused_calls(channel: &Channel, bearer: &str, secret: &str) -> Vec<tonic::Status> {
    let mut statuses = Vec::new();
    let value: MetadataValue<_> = format!("Bearer {bearer}").parse().unwrap();
    let with = move |mut request: tonic::Request<()>| {
        request.metadata_mut().insert("authorization", value.clone());
        Ok(request)
    };
    let mut keys = admin::key_service_client::KeyServiceClient::with_interceptor(channel.clone(), with.clone());
    let mut credentials =
        admin::credential_service_client::CredentialServiceClient::with_interceptor(channel.clone(), with.clone());
    let mut audit = admin::audit_service_client::AuditServiceClient::with_interceptor(channel.clone(), with.clone());
    let mut usage = admin::usage_service_client::UsageServiceClient::with_interceptor(channel.clone(), with.clone());
    let mut intake =
        fleet::audit_intake_service_client::AuditIntakeServiceClient::with_interceptor(channel.clone(), with);
    let id = secret.to_owned();
    statuses.extend(keys.get_key(admin::GetKeyRequest { id: id.clone() }).await.err());
    statuses.extend(keys.revoke_key(admin::RevokeKeyRequest { id: id.clone(), wait_ms: None }).await.err());
    let update = admin::UpdateKeyRequest {
        id: id.clone(),
        update_mask: Some(prost_types::FieldMask { paths: vec![secret.to_owned()] }),
        ..Default::default()
    };
    statuses.extend(keys.update_key(update).await.err());
    statuses.extend(
        keys.list_keys(admin::ListKeysRequest { page_size: 1, page_token: id.clone(), ..Default::default() })
            .await
            .err(),
    );
    let add = admin::AddCredentialRequest {
        provider: "no provider has this name".to_owned(),
        secret: secret.as_bytes().to_vec(),
        base_url: "not a url".to_owned(),
        ..Default::default()
    };
    statuses.extend(credentials.add_credential(add).await.err());
    let add = admin::AddCredentialRequest {
        provider: "openai".to_owned(),
        secret: [secret.as_bytes(), b"\r\nx: y\xff"].concat(),
        ..Default::default()
    };
    statuses.extend(credentials.add_credential(add).await.err());
    let with_userinfo = admin::AddCredentialRequest {
        provider: "openai".to_owned(),
        secret: b"x".to_vec(),
        base_url: format!("https://user:{secret}@127.0.0.1/v1?key={secret}"),
        ..Default::default()
    };
    statuses.extend(credentials.add_credential(with_userinfo).await.err());
    statuses.extend(
        credentials
            .rotate_credential(admin::RotateCredentialRequest { id: id.clone(), secret: secret.into() })
            .await
            .err(),
    );
    statuses.extend(credentials.remove_credential(admin::RemoveCredentialRequest { id: id.clone() }).await.err());
    let chain = Some(admin::ChainSelector { chain: Some(admin::chain_selector::Chain::KeyId(id.clone())) });
    let list = admin::ListEntriesRequest { chain: chain.clone(), page_size: 1, page_token: id.clone() };
    statuses.extend(audit.list_entries(list).await.err());
    statuses.extend(audit.verify_chains(admin::VerifyChainsRequest { chain }).await.err());
    statuses.extend(usage.get_balance(admin::GetBalanceRequest { key_id: id }).await.err());
    let ship =
        fleet::ShipRecordsRequest { records: vec![secret.as_bytes().to_vec()], first_seq: 1, ..Default::default() };
    statuses.extend(intake.ship_records(ship).await.err());
    assert!(statuses.len() >= 12, "only {} calls were refused", statuses.len());
    statuses
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_21_the_database_holds_a_provider_key_only_as_the_vaults_ciphertext() {
    let provider = provider(Script::default());
    let mut gateway = Gateway::start_on_a_file(&provider).await;
    assert_eq!(gateway.chat(&hello()).await.status, 200);
    assert_eq!(provider.requests()[0].credential, PROVIDER_KEY, "the key is there and in use");
    assert_eq!(gateway.stop().await.code(), Some(0));
    let database = fs::read(gateway.database()).unwrap();
    let mut search =
        Search::new(vec![Canary::new("provider key", PROVIDER_KEY), Canary::token("first key", &gateway.key)]);
    search.look("the database", &database);
    search.assert_nothing_found();
    // And the search would have seen it: the same file with the key in a free page.
    search.look("the database with a key in it", &[&database[..], PROVIDER_KEY.as_bytes()].concat());
    assert_eq!(search.found.len(), 2, "both halves");
}
