//! What is compared, and how each is started in front of the same scripted provider.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;

use super::process::{BENCH_CORE, GATEWAY_CORE, Process, free_port, installed};
use crate::load::{ProcessTree, Target};

/// The provider's answers: 100 tokens, 10 ms apart when streamed (about 600 bytes of text when not).
const SCRIPT: &str = "completion_tokens = 100\ntoken_interval_ms = 10\nrecord_requests = false\n";

/// The key that the provider sees.
pub(crate) const PROVIDER_KEY: &str = "sk-loadtest-0123456789abcdef";

/// One way to the provider.
#[derive(Debug)]
pub struct Contestant {
    /// Its name in the table.
    pub name: &'static str,
    /// Where to send.
    pub target: Target,
    /// Its processes; none when there is nothing in between.
    pub processes: Option<ProcessTree>,
    /// Resident bytes before the first request.
    pub idle_bytes: u64,
    _process: Option<Process>,
}

/// The provider of a comparison, in a process of its own.
#[derive(Debug)]
pub struct Provider {
    /// Where it listens.
    pub addr: SocketAddr,
    _process: Process,
}

impl Contestant {
    /// Nothing in between.
    #[must_use]
    pub fn direct(provider: SocketAddr) -> Self {
        let target = target(provider, PROVIDER_KEY);
        Self { name: "direct", target, processes: None, idle_bytes: 0, _process: None }
    }

    fn started(name: &'static str, target: Target, process: Process) -> anyhow::Result<Self> {
        let processes = ProcessTree::of([process.id().context("it ended at once")?]);
        let idle_bytes = processes.resident_bytes()?;
        Ok(Self { name, target, processes: Some(processes), idle_bytes, _process: Some(process) })
    }
}

/// Chat completions at this address, with this key.
pub(crate) fn target(addr: SocketAddr, key: &str) -> Target {
    Target { addr, path: "/v1/chat/completions".to_owned(), key: key.to_owned() }
}

/// Starts this program again as the provider.
///
/// # Errors
/// It cannot be started or does not listen.
pub async fn start_provider(folder: &Path) -> anyhow::Result<Provider> {
    let (addr, script) = (free_port()?, folder.join("script.toml"));
    std::fs::write(&script, SCRIPT).context("cannot write the provider's script")?;
    let this = std::env::current_exe().context("cannot tell this program's path")?;
    let mut process = Process::start(&this, BENCH_CORE, folder, "provider", |command| {
        command.args(["provider", "--listen", &addr.to_string(), "--script"]).arg(&script);
    })?;
    process.wait_until_ready(addr, "/v1/models").await.context("the scripted provider")?;
    Ok(Provider { addr, _process: process })
}

/// Starts nginx as a plain reverse proxy with one worker, if it is installed.
///
/// # Errors
/// It is installed and does not start.
pub async fn start_nginx(folder: &Path, provider: SocketAddr) -> anyhow::Result<Option<Contestant>> {
    if !installed("nginx") {
        return Ok(None);
    }
    let (addr, config) = (free_port()?, folder.join("nginx.conf"));
    std::fs::write(&config, nginx_config(folder, addr, provider)).context("cannot write nginx.conf")?;
    let mut process = Process::start(Path::new("nginx"), GATEWAY_CORE, folder, "nginx", |command| {
        command.arg("-p").arg(folder).arg("-c").arg(&config).args(["-e", "stderr"]);
    })?;
    process.wait_until_ready(addr, "/readyz").await.context("nginx")?;
    Contestant::started("nginx", target(addr, PROVIDER_KEY), process).map(Some)
}

fn nginx_config(folder: &Path, addr: SocketAddr, provider: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {folder}/nginx.pid;\n\
         events {{ worker_connections 2048; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  client_max_body_size 64m;\n  \
         client_body_buffer_size 256k;\n  client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  \
         fastcgi_temp_path {folder}/fastcgi;\n  uwsgi_temp_path {folder}/uwsgi;\n  scgi_temp_path {folder}/scgi;\n  \
         upstream provider {{ server {provider}; keepalive 256; keepalive_requests 1000000000; }}\n  \
         server {{\n    listen {addr};\n    location = /readyz {{ return 200; }}\n    location / {{\n      \
         proxy_pass http://provider;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      \
         proxy_buffering off;\n    }}\n  }}\n}}\n"
    )
}

/// Starts `keyforge dev` with a fresh data directory and the scripted provider as its OpenAI, and makes a key whose every limit is on and none is
/// reached. Request lines are logged by nobody here, so `keyforge` logs none either.
///
/// # Errors
/// It does not start, does not get ready, or makes no virtual key.
pub async fn start_keyforge(binary: &Path, folder: &Path, provider: SocketAddr) -> anyhow::Result<Contestant> {
    let (listen, admin, ops) = (free_port()?, free_port()?, free_port()?);
    let data = folder.join("keyforge-data");
    let mut process = Process::start(binary, GATEWAY_CORE, folder, "keyforge", |command| {
        command.arg("dev").arg("--data").arg(&data).args(["--log-level", "warn"]);
        command.args(["--listen", &listen.to_string(), "--admin-listen", &admin.to_string()]);
        command.args(["--ops-listen", &ops.to_string()]);
        command.env("OPENAI_API_KEY", PROVIDER_KEY).env("OPENAI_BASE_URL", format!("http://{provider}/v1"));
    })?;
    process.wait_until_ready(listen, "/readyz").await.context("keyforge dev")?;
    let key = create_key(binary, &data)?;
    Contestant::started("KeyForge", target(listen, &key), process)
}

/// Makes a virtual key whose every limit is on and none is reached, at the control plane of this data directory. Returns its token.
///
/// # Errors
/// The command cannot be run, or makes none.
pub(crate) fn create_key(binary: &Path, data: &Path) -> anyhow::Result<String> {
    let made = std::process::Command::new(binary)
        .args(["key", "create", "loadtest", "--models", "gpt-*", "--requests", "9000000000/month"])
        .args(["--spend", "9000000/month", "--rpm", "1000000", "--output", "json", "--data"])
        .arg(data)
        .output()
        .context("cannot run keyforge key create")?;
    let answer: serde_json::Value = serde_json::from_slice(&made.stdout)
        .with_context(|| format!("keyforge key create: {}", String::from_utf8_lossy(&made.stderr)))?;
    answer["token"].as_str().map(str::to_owned).context("keyforge key create printed no token")
}
