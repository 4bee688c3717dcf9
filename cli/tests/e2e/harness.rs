//! A gateway under test: `keyforge dev` as a process of its own, in a directory of its own, in front of a scripted provider.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keyforge_loadtest::provider::{Script, ScriptedProvider};
use keyforge_proto::admin::v1 as admin;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command as AsyncCommand};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

/// The provider key that no output may ever show.
pub const PROVIDER_KEY: &str = "sk-canary-7f3d9a1c5e8b2d4f6a0c";
/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub type Interceptor = Box<dyn FnMut(tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> + Send>;
pub type AdminChannel = InterceptedService<Channel, Interceptor>;

/// A running `keyforge dev`.
pub struct Gateway {
    child: Option<Child>,
    pub data: PathBuf,
    _directory: Option<tempfile::TempDir>,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// The key of the first start; empty on later ones.
    pub key: String,
    /// Everything written to the standard output until it was ready.
    pub banner: String,
    environment: Vec<(String, String)>,
    config: Option<PathBuf>,
    /// The PostgreSQL database that it uses instead of SQLite.
    database: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// `error.code` of an error body.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The `data:` payloads of an event stream.
    pub fn events(&self) -> Vec<String> {
        events(&self.text())
    }
}

/// The `data:` payloads of an event stream.
pub fn events(text: &str) -> Vec<String> {
    text.split("\n\n").filter_map(|event| event.strip_prefix("data: ").map(str::to_owned)).collect()
}

/// A provider with this script.
pub fn provider(script: Script) -> ScriptedProvider {
    ScriptedProvider::start(script).unwrap()
}

impl Gateway {
    /// A fresh gateway in front of `provider`.
    pub async fn start(provider: &ScriptedProvider) -> Self {
        Self::start_with(provider, &[]).await
    }

    /// The same, with more environment variables.
    pub async fn start_with(provider: &ScriptedProvider, environment: &[(&str, &str)]) -> Self {
        let mut gateway = Self::prepare(provider, environment);
        gateway.launch().await;
        gateway
    }

    fn prepare(provider: &ScriptedProvider, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let mut variables = vec![
            ("OPENAI_API_KEY".to_owned(), PROVIDER_KEY.to_owned()),
            ("OPENAI_BASE_URL".to_owned(), provider.base_url()),
        ];
        variables.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Self {
            child: None,
            data,
            _directory: Some(directory),
            url: String::new(),
            key: String::new(),
            banner: String::new(),
            environment: variables,
            config: None,
            database: database_for_tests(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// A fresh gateway that keeps to SQLite, for tests that look into its file.
    pub async fn start_on_a_file(provider: &ScriptedProvider) -> Self {
        let mut gateway = Self::prepare(provider, &[]);
        gateway.database = None;
        gateway.launch().await;
        gateway
    }

    /// A fresh gateway whose node is tuned by this configuration.
    pub async fn start_tuned(provider: &ScriptedProvider, config: &str) -> Self {
        let mut gateway = Self::prepare(provider, &[]);
        let path = gateway.data.with_extension("toml");
        std::fs::write(&path, config).unwrap();
        gateway.config = Some(path);
        gateway.launch().await;
        gateway
    }

    /// Starts the process again on the same data.
    pub async fn launch(&mut self) {
        std::fs::create_dir_all(self.data.parent().unwrap()).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut child = AsyncCommand::new(env!("CARGO_BIN_EXE_keyforge"))
            .args(["dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"])
            .args(["--log-level", "debug", "--log-format", "json", "--data"])
            .arg(&self.data)
            .args(self.config.iter().flat_map(|path| [std::ffi::OsStr::new("--config"), path.as_os_str()]))
            .args(self.database.iter().flat_map(|url| ["--database", url]))
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        self.banner.clear();
        let ready = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                self.banner.push_str(&line);
                self.banner.push('\n');
                if let Some(url) = base_url_in(&line) {
                    self.url = url;
                    return true;
                }
            }
            false
        };
        let ready = tokio::time::timeout(PATIENCE, ready).await.expect("keyforge dev is ready in time");
        assert!(ready, "keyforge dev ended before it was ready:\n{}\n{}", self.banner, self.log());
        // The rest of the banner, and whatever comes later, must not fill the pipe.
        let rest = tokio::time::timeout(Duration::from_millis(300), async {
            let mut rest = String::new();
            while let Ok(Some(line)) = lines.next_line().await {
                rest.push_str(&line);
                rest.push('\n');
                if rest.contains("vk_") && self.key.is_empty() && rest.lines().count() > 12 {
                    break;
                }
            }
            rest
        });
        if let Ok(rest) = rest.await {
            self.banner.push_str(&rest);
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        if let Some(key) = token_in(&self.banner) {
            self.key = key;
        }
        self.child = Some(child);
    }

    pub fn log_path(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// Everything logged so far, over all starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// `kill -9`, and waits until it is dead.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().await.unwrap();
    }

    /// SIGTERM, and waits for the graceful end.
    pub async fn stop(&mut self) -> std::process::ExitStatus {
        let mut child = self.child.take().unwrap();
        signal(child.id().unwrap(), "-TERM");
        tokio::time::timeout(PATIENCE, child.wait()).await.expect("it drains in time").unwrap()
    }

    pub async fn request(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        tokio::time::timeout(PATIENCE, self.client.request(request)).await.expect("an answer in time").unwrap()
    }

    /// Sends a request with the first key and reads the whole answer.
    pub async fn send(&self, method: Method, path: &str, key: &str, body: impl Into<Bytes>) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .unwrap();
        read(self.request(request).await).await
    }

    /// A chat completion with the first key.
    pub async fn chat(&self, body: &Value) -> Reply {
        self.chat_as(&self.key, body).await
    }

    /// A chat completion with another key.
    pub async fn chat_as(&self, key: &str, body: &Value) -> Reply {
        self.send(Method::POST, "/v1/chat/completions", key, body.to_string()).await
    }

    /// The same of a client that waits for nothing, so that every refusal of the provider is told.
    pub async fn chat_in_haste(&self, key: &str, body: &Value) -> Reply {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/v1/chat/completions", self.url))
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json")
            .header("x-stainless-timeout", "0")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        read(self.request(request).await).await
    }

    /// A chat completion whose answer is read by the caller.
    pub async fn open(&self, key: &str, body: &Value) -> Response<Incoming> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/v1/chat/completions", self.url))
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        self.request(request).await
    }

    /// Runs the command line against this gateway.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_keyforge"))
            .args(arguments)
            .env_clear()
            .env("KEYFORGE_DATA", &self.data)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs the command line, expects success, and reads its JSON.
    pub fn cli_json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// Channels of the admin API with the owner's token.
    pub async fn admin(&self) -> AdminChannel {
        let address = std::fs::read_to_string(self.data.join("admin.addr")).unwrap();
        let token = std::fs::read_to_string(self.data.join("operator.token")).unwrap();
        let channel = Endpoint::from_shared(format!("http://{}", address.trim())).unwrap().connect().await.unwrap();
        let bearer: MetadataValue<_> = format!("Bearer {}", token.trim()).parse().unwrap();
        InterceptedService::new(
            channel,
            Box::new(move |mut request: tonic::Request<()>| {
                request.metadata_mut().insert("authorization", bearer.clone());
                Ok(request)
            }) as Interceptor,
        )
    }

    /// Makes a key with this policy and waits until the node knows it. Returns token and id.
    pub async fn create_key(&self, name: &str, policy: admin::Policy) -> (String, String) {
        let mut keys = admin::key_service_client::KeyServiceClient::new(self.admin().await);
        let request = admin::CreateKeyRequest { name: name.to_owned(), policy: Some(policy), ..Default::default() };
        let answer = keys.create_key(request).await.unwrap().into_inner();
        let id = answer.key.unwrap().id;
        self.eventually("the node knows the new key", async || {
            self.send(Method::GET, "/v1/models", &answer.token, "").await.status == 200
        })
        .await;
        (answer.token, id)
    }

    /// The entries of a key's chain, once `enough` of them are there.
    pub async fn entries(&self, key_id: &str, enough: usize) -> Vec<admin::RequestEntry> {
        let mut found = Vec::new();
        let mut audit = admin::audit_service_client::AuditServiceClient::new(self.admin().await);
        for _ in 0..600 {
            found.clear();
            let mut page_token = String::new();
            loop {
                let chain =
                    Some(admin::ChainSelector { chain: Some(admin::chain_selector::Chain::KeyId(key_id.to_owned())) });
                let request = admin::ListEntriesRequest { chain, page_size: 500, page_token, ..Default::default() };
                let page = audit.list_entries(request).await.unwrap().into_inner();
                for entry in page.entries {
                    if let Some(admin::entry::Record::Request(request)) = entry.record {
                        found.push(request);
                    }
                }
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            if found.len() >= enough {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("only {} of {enough} entries came for {key_id}", found.len());
    }

    /// The id that belongs to a token.
    pub fn id_of(token: &str) -> String {
        token[..15].to_owned()
    }

    /// Waits until `condition` holds.
    pub async fn eventually(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let all = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, all).await.is_ok(), "not in time: {what}");
    }

    /// Gives every credential a new version, so that what its provider said of the one before is forgotten, and waits until the node has it.
    pub async fn rotate_credentials(&self) {
        let mut credentials = admin::credential_service_client::CredentialServiceClient::new(self.admin().await);
        for credential in self.cli_json(&["credential", "list"]).as_array().unwrap() {
            let id = credential["id"].as_str().unwrap().to_owned();
            let rotation = admin::RotateCredentialRequest { id, secret: PROVIDER_KEY.into() };
            credentials.rotate_credential(rotation).await.unwrap();
        }
        // Changes arrive in their order, and this one is seen.
        self.create_key("after the rotation", admin::Policy::default()).await;
    }

    /// `audit verify --all` succeeds.
    pub fn assert_chains_hold(&self) {
        let output = self.cli(&["audit", "verify", "--all"]);
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The PostgreSQL database that it uses instead of a file, if it does.
    pub fn database_url(&self) -> Option<String> {
        self.database.clone()
    }

    /// The control plane's database file.
    pub fn database(&self) -> PathBuf {
        find_database(&self.data).expect("a database in the data directory")
    }
}

fn find_database(directory: &Path) -> Option<PathBuf> {
    std::fs::read_dir(directory).ok()?.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return find_database(&path);
        }
        path.extension().is_some_and(|extension| extension == "db" || extension == "sqlite").then_some(path)
    })
}

/// An empty PostgreSQL database on a real server, when these tests are to run on one: `KEYFORGE_E2E_STORE=postgres`.
pub fn database_for_tests() -> Option<String> {
    let store = std::env::var_os("KEYFORGE_E2E_STORE").unwrap_or_default();
    match store.to_str() {
        Some("" | "sqlite") => None,
        Some("postgres") => Some(keyforge_loadtest::postgres::shared::shared().unwrap().database().unwrap()),
        _ => panic!("KEYFORGE_E2E_STORE is sqlite or postgres, not {}", store.display()),
    }
}

/// Sends a signal.
pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Reads a whole answer.
pub async fn read(response: Response<Incoming>) -> Reply {
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a whole answer in time");
    Reply { status: parts.status.as_u16(), headers: parts.headers, body: body.unwrap().to_bytes() }
}

fn base_url_in(line: &str) -> Option<String> {
    let start = line.find("http://127.0.0.1:")?;
    let url: String = line[start..].chars().take_while(|c| !c.is_whitespace() && *c != '"' && *c != '\'').collect();
    url.strip_suffix("/v1").map(str::to_owned)
}

/// The first whole token in a text.
pub fn token_in(text: &str) -> Option<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .find(|word| keyforge_shared::token::parse(word.as_bytes()).is_ok())
        .map(str::to_owned)
}

/// A small chat request.
pub fn hello() -> Value {
    json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "Hello there" }] })
}

/// The same, streamed.
pub fn hello_streamed() -> Value {
    json!({ "model": "gpt-4o-mini", "stream": true, "messages": [{ "role": "user", "content": "Hello there" }] })
}

/// A policy with only a request quota per month.
pub fn quota(requests: u64) -> admin::Policy {
    let window = admin::Window::Month.into();
    admin::Policy { request_limits: vec![admin::RequestLimit { requests, window }], ..admin::Policy::default() }
}

/// A policy with only a spend cap per month.
pub fn cap(nano_usd: u64) -> admin::Policy {
    let window = admin::Window::Month.into();
    admin::Policy { spend_limits: vec![admin::SpendLimit { nano_usd, window }], ..admin::Policy::default() }
}
