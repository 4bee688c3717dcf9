//! The clients that most programs use, unmodified: OpenAI's own and the frameworks on top of them, with a base URL and a virtual key, and nothing else
//! changed.
//!
//! What they do is in scripts of their own language under `tests/sdk`, one check to a claim. They are installed once, at pinned versions, into
//! `sdk` in the target directory. Without python3, node or a way to install, the tests are skipped; with `KEYFORGE_REQUIRE_SDKS=1` they fail.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keyforge_loadtest::provider::{FaultRule, Reply, Script, ScriptedProvider};
use keyforge_proto::admin::v1 as admin;
use keyforge_shared::token::{self, TokenKind};
use serde_json::{Value, json};

use crate::corpus::{add_models, add_models_of};
use crate::harness::{Gateway, cap, provider, quota};

/// The longest time of one script.
const SCRIPT_TIME: Duration = Duration::from_secs(180);

#[tokio::test]
async fn openai_python_chats_and_streams() {
    run(&PYTHON, "chat.py").await;
}

#[tokio::test]
async fn openai_python_calls_tools_and_parses_answers() {
    run(&PYTHON, "tools.py").await;
}

#[tokio::test]
async fn openai_python_raises_its_own_errors_and_retries_only_what_can_help() {
    run(&PYTHON, "errors.py").await;
}

#[tokio::test]
async fn openai_node_chats_and_streams() {
    run(&NODE, "chat.mjs").await;
}

#[tokio::test]
async fn openai_node_calls_tools_and_parses_answers() {
    run(&NODE, "tools.mjs").await;
}

#[tokio::test]
async fn openai_node_throws_its_own_errors_and_retries_only_what_can_help() {
    run(&NODE, "errors.mjs").await;
}

#[tokio::test]
async fn openai_python_works_alike_with_every_provider() {
    run(&PYTHON, "providers.py").await;
}

#[tokio::test]
async fn openai_node_and_the_vercel_ai_sdk_work_alike_with_every_provider() {
    run(&NODE, "providers.mjs").await;
}

#[tokio::test]
async fn langchain_works_alike_with_every_provider() {
    run(&AGENTS, "langchain.py").await;
}

#[tokio::test]
async fn pydantic_ai_works_alike_with_every_provider() {
    run(&AGENTS, "pydantic_agents.py").await;
}

#[tokio::test]
async fn instructor_works_alike_with_every_provider() {
    run(&AGENTS, "instructors.py").await;
}

/// A language, and how its client is installed.
struct Language {
    name: &'static str,
    /// The interpreter to look for.
    program: &'static str,
    /// The files that pin versions; the installation is made anew when one changes.
    pins: &'static [&'static str],
    /// Installs into a folder that holds the pins.
    install: fn(&Path) -> Result<(), String>,
    /// The interpreter to run scripts with, in that folder.
    interpreter: fn(&Path) -> PathBuf,
}

const PYTHON: Language = Language {
    name: "python",
    program: "python3",
    pins: &["requirements.txt"],
    install: install_python,
    interpreter: |folder| folder.join("venv/bin/python"),
};

/// Frameworks for agents, which want another version of the client than the newest.
const AGENTS: Language = Language { name: "agents", ..PYTHON };

fn install_python(folder: &Path) -> Result<(), String> {
    succeed(Command::new("python3").args(["-m", "venv", "venv"]).current_dir(folder))?;
    let mut pip = Command::new(folder.join("venv/bin/python"));
    // Every package is pinned, so there is nothing to resolve.
    let options = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r"];
    succeed(pip.args(options).arg("requirements.txt").current_dir(folder))
}

const NODE: Language = Language {
    name: "node",
    program: "node",
    pins: &["package.json", "package-lock.json"],
    install: |folder| {
        let options = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
        succeed(Command::new("npm").args(options).current_dir(folder))
    },
    interpreter: |_| PathBuf::from("node"),
};

/// Runs a script against a gateway of its own; every check in it must hold.
async fn run(language: &Language, script: &str) {
    let folder = match language.installed() {
        Ok(folder) => folder,
        Err(reason) if std::env::var_os("KEYFORGE_REQUIRE_SDKS").is_some_and(|value| value == "1") => {
            panic!("{} is required: {reason}", language.name)
        }
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let stage = Stage::set().await;
    let mut command = tokio::process::Command::new((language.interpreter)(&folder));
    command
        .arg(folder.join(script))
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUTF8", "1")
        .env("OPENAI_BASE_URL", format!("{}/v1", stage.gateway.url))
        .env("OPENAI_API_KEY", &stage.gateway.key)
        .env("KEYFORGE_TEST_KEYS", Value::from(stage.keys.clone()).to_string())
        .kill_on_drop(true);
    let output = tokio::time::timeout(SCRIPT_TIME, command.output()).await.expect("the script ends in time").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} against {}:\n{said}{complained}", stage.gateway.url);
    eprintln!("{script}: {}", said.lines().last().unwrap_or_default());
    if script.starts_with("errors") {
        stage.assert_what_was_refused_went_nowhere().await;
    }
    stage.gateway.assert_chains_hold();
}

impl Language {
    /// The folder with the client and the scripts, made if need be. Only one process at a time makes it.
    fn installed(&self) -> Result<PathBuf, String> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(self.name);
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("sdk");
        let folder = target.join(self.name);
        let version = Command::new(self.program).arg("--version").output();
        let version = version.map_err(|error| format!("{} cannot be run: {error}", self.program))?.stdout;
        fs::create_dir_all(&target).unwrap();
        let lock = File::create(target.join(format!("{}.lock", self.name))).unwrap();
        lock.lock().unwrap();
        let pins: Vec<_> = self.pins.iter().map(|pin| fs::read_to_string(source.join(pin)).unwrap()).collect();
        // What was installed, word for word: nothing shorter could tell it apart more surely.
        let stamp = format!("{}{}", String::from_utf8_lossy(&version), pins.concat());
        let stamp_path = folder.join("installed");
        if fs::read_to_string(&stamp_path).ok().as_ref() != Some(&stamp) {
            if folder.exists() {
                fs::remove_dir_all(&folder).unwrap();
            }
            fs::create_dir_all(&folder).unwrap();
            for (pin, text) in self.pins.iter().zip(&pins) {
                fs::write(folder.join(pin), text).unwrap();
            }
            (self.install)(&folder)?;
            fs::write(&stamp_path, &stamp).unwrap();
        }
        // Node looks for modules from where a script is, so the scripts go there.
        for script in fs::read_dir(&source).unwrap().map(|entry| entry.unwrap().path()) {
            let copy = folder.join(script.file_name().unwrap());
            let text = fs::read(&script).unwrap();
            if fs::read(&copy).ok().as_ref() != Some(&text) {
                // Another process may be reading the old one.
                let fresh = copy.with_extension("fresh");
                fs::write(&fresh, text).unwrap();
                fs::rename(&fresh, &copy).unwrap();
            }
        }
        Ok(folder)
    }
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?} cannot be run: {error}"))?;
    let complained = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?} failed: {complained}")) }
}

/// A gateway with every kind of key that the scripts know, in front of a provider with every kind of trouble.
struct Stage {
    provider: ScriptedProvider,
    gateway: Gateway,
    /// Tokens by what is special about their key.
    keys: serde_json::Map<String, Value>,
    quota_id: String,
}

impl Stage {
    async fn set() -> Self {
        let provider = provider(Script { faults: troubles(), ..Script::default() });
        let gateway = Gateway::start(&provider).await;
        let models: Vec<_> = troubles().into_iter().filter_map(|rule| rule.model).collect();
        add_models(&gateway, &models.iter().map(String::as_str).collect::<Vec<_>>()).await;
        // Of either provider a model of a generation that is not in the catalogue, beside those that are.
        add_credential(&gateway, "anthropic", &provider).await;
        add_credential(&gateway, "google", &provider).await;
        add_models_of(&gateway, "anthropic", &["claude-3-7-sonnet", "claude-sonnet-4-5"]).await;
        add_models_of(&gateway, "google", &["gemini-2.5-flash", "gemini-3-pro-preview"]).await;
        let narrow = admin::Policy { models: vec!["gpt-4o-mini*".to_owned()], ..admin::Policy::default() };
        let slow = admin::Policy { requests_per_minute: Some(2), ..admin::Policy::default() };
        let mut keys = serde_json::Map::new();
        let mut quota_id = String::new();
        for (name, policy) in [
            ("free", admin::Policy::default()),
            ("narrow", narrow),
            ("quota", quota(1)),
            ("once", quota(1)),
            ("poor", cap(1_000)),
            ("slow", slow),
            ("revoked", admin::Policy::default()),
        ] {
            let (token, id) = gateway.create_key(name, policy).await;
            match name {
                "revoked" => revoke(&gateway, &token, &id).await,
                "quota" => quota_id = id,
                _ => {}
            }
            keys.insert(name.to_owned(), json!(token));
        }
        let mut mistyped = gateway.key.clone();
        let last = mistyped.pop().unwrap();
        mistyped.push(if last == 'a' { 'b' } else { 'a' });
        keys.insert("mistyped".to_owned(), json!(mistyped));
        keys.insert("unknown".to_owned(), json!(*token::generate(TokenKind::VirtualKey).unwrap()));
        keys.insert("foreign".to_owned(), json!("sk-foreign-0123456789abcdef"));
        Self { provider, gateway, keys, quota_id }
    }

    /// Counted at the provider and in the chain, not by the client: one try, three tries, or none at all.
    async fn assert_what_was_refused_went_nowhere(&self) {
        let requests: Vec<_> = self.provider.requests().iter().map(|request| request.json()["model"].clone()).collect();
        let tries = |model: &str| requests.iter().filter(|asked| *asked == model).count();
        assert_eq!((tries("gpt-4o"), tries("no-such-model")), (0, 0), "refused before anything is sent");
        assert_eq!((tries("too-large"), tries("dead-credential"), tries("refused-field")), (1, 1, 2), "never retried");
        assert_eq!((tries("always-failing"), tries("busy-every-second-time")), (3, 3), "retried by the client");
        let entries = self.gateway.entries(&self.quota_id, 3).await;
        assert_eq!(entries.iter().filter(|entry| entry.outcome == "completed").count(), 1);
        let refused = |entry: &&admin::RequestEntry| entry.outcome == "refused" && entry.rejection == "budget_exceeded";
        // One for each call that the scripts make, since a client does not try a 402 again.
        assert_eq!(entries.iter().filter(refused).count(), entries.len() - 1);
        assert!(entries.len() <= 4, "{} requests", entries.len());
    }
}

/// A credential of another provider than OpenAI, whose API the same scripted provider speaks.
pub async fn add_credential(gateway: &Gateway, name: &str, provider: &ScriptedProvider) {
    let mut credentials = admin::credential_service_client::CredentialServiceClient::new(gateway.admin().await);
    let credential = admin::AddCredentialRequest {
        provider: name.to_owned(),
        secret: b"sk-other-provider-0123456789".to_vec(),
        base_url: provider.base_url(),
        ..Default::default()
    };
    credentials.add_credential(credential).await.unwrap();
}

async fn revoke(gateway: &Gateway, token: &str, id: &str) {
    let mut keys = admin::key_service_client::KeyServiceClient::new(gateway.admin().await);
    keys.revoke_key(admin::RevokeKeyRequest { id: id.to_owned(), wait_ms: None }).await.unwrap();
    gateway
        .eventually("the key is dead", async || {
            gateway.send(hyper::Method::GET, "/v1/models", token, "").await.status == 401
        })
        .await;
}

/// Models that mean trouble, by name.
fn troubles() -> Vec<FaultRule> {
    let error = |status: u16, message: &str, kind: &str, param: Value, code: &str| {
        let body = json!({ "error": { "message": message, "type": kind, "param": param, "code": code } });
        Reply::json(status, body.to_string())
    };
    let too_large =
        "Request too large for too-large in organization org-a1b2c3 on tokens per min (TPM): Limit 1, Requested 2.";
    let refused = "Unsupported value: 'temperature' does not support 2 with this model.";
    let dead = "Incorrect API key provided: sk-canar******************4f6a0c.";
    let invalid = "invalid_request_error";
    let rule = |model: &str, every: u64, reply: Reply| FaultRule {
        model: Some(model.to_owned()),
        every,
        ..FaultRule::always(reply)
    };
    vec![
        rule("busy-every-second-time", 2, Reply::rate_limited(300)),
        rule("slow-to-answer", 1, Reply::Answer.after(1_000)),
        rule("too-large", 1, error(429, too_large, "tokens", Value::Null, "rate_limit_exceeded")),
        rule("refused-field", 1, error(400, refused, invalid, json!("temperature"), "unsupported_value")),
        rule("always-failing", 1, Reply::status(500)),
        rule("error-in-stream", 1, Reply::ErrorEvent { after_events: 3 }),
        rule("broken-stream", 1, Reply::CutStream { after_events: 3 }),
        rule("dead-credential", 1, error(401, dead, invalid, Value::Null, "invalid_api_key")),
    ]
}
