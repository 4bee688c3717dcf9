//! A cluster under test: `keyforge local-cluster` as its users start it, in front of a scripted provider in this process.

use std::fs::File;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use keyforge_loadtest::provider::{Script, ScriptedProvider};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command as AsyncCommand};

use super::deployment::{Deployment, PATIENCE};
use crate::harness::{PROVIDER_KEY, provider};

/// A running cluster. Everything that can be done with a deployment can be done with it.
pub struct Cluster {
    supervisor: Child,
    directory: tempfile::TempDir,
    deployment: Arc<Deployment>,
    /// What it printed when it was ready.
    pub banner: Value,
    /// Heavy tests take turns on a small machine.
    _turn: Option<File>,
}

/// What to start.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    pub nodes: usize,
    pub redis: usize,
    /// Tables added to every node's configuration.
    pub tuning: &'a str,
    /// Whether no other heavy test may run meanwhile.
    pub alone: bool,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self { nodes: 3, redis: 1, tuning: "", alone: true }
    }
}

impl Deref for Cluster {
    type Target = Arc<Deployment>;

    fn deref(&self) -> &Arc<Deployment> {
        &self.deployment
    }
}

/// Waits for the turn of a heavy test, which lasts until the file is dropped.
pub fn turn() -> File {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cluster-tests.lock");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    file.lock().unwrap();
    file
}

impl Cluster {
    pub async fn start(script: Script, plan: Plan<'_>) -> Self {
        let turn = plan.alone.then(turn);
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("cluster");
        let provider = Arc::new(provider(script));
        let (supervisor, banner) = launch(&data, &provider, plan).await;
        let deployment = Arc::new(Deployment::new(&data, provider, node_urls(&banner)));
        Self { supervisor, directory, deployment, banner, _turn: turn }
    }

    /// Starts it again on the same data.
    pub async fn launch(&mut self, plan: Plan<'_>) {
        let (supervisor, banner) = launch(&self.data, &self.provider, plan).await;
        let deployment = Deployment { nodes: node_urls(&banner), ..Deployment::clone(&self.deployment) };
        (self.supervisor, self.banner, self.deployment) = (supervisor, banner, Arc::new(deployment));
    }

    /// The token of the first key.
    pub fn key(&self) -> String {
        self.banner["key"]["token"].as_str().unwrap().to_owned()
    }

    /// The status file; nothing while the cluster is not ready.
    fn status(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.data.join("cluster.json")).ok()?).ok()
    }

    /// What the status file or the banner says about one process.
    fn process(status: &Value, name: &str) -> Value {
        let lists = ["nodes", "redis"].iter().flat_map(|list| status[list].as_array().unwrap());
        let mut all = lists.chain([&status["control_plane"]]);
        all.find(|process| process["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}")).clone()
    }

    /// The process id of `node-1`, `redis`, `control-plane`; nothing while it is down.
    pub fn pid(&self, name: &str) -> Option<u32> {
        let pid = Self::process(&self.status()?, name)["pid"].as_u64()?;
        u32::try_from(pid).ok()
    }

    /// The names of all processes but the supervisor.
    pub fn process_names(&self) -> Vec<String> {
        let nodes = (1..=self.nodes.len()).map(|node| format!("node-{node}"));
        nodes.chain(["control-plane".to_owned()]).chain(self.redis_names()).collect()
    }

    /// The names of the Redis servers.
    pub fn redis_names(&self) -> Vec<String> {
        let servers = self.banner["redis"].as_array().unwrap().iter();
        servers.map(|redis| redis["name"].as_str().unwrap().to_owned()).collect()
    }

    /// All process ids, with that of the supervisor.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.process_names().iter().filter_map(|name| self.pid(name)).collect();
        pids.extend(self.supervisor.id());
        pids
    }

    /// Sends a signal to a process; one that is down at the moment gets none.
    pub fn signal(&self, name: &str, signal: &str) {
        if let Some(pid) = self.pid(name) {
            Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
        }
    }

    /// `kill -9`.
    pub fn kill(&self, name: &str) {
        self.signal(name, "-KILL");
    }

    /// `kill -9`, and it stays down.
    pub async fn hold_down(&self, name: &str) {
        std::fs::write(self.data.join(format!("{name}.down")), "").unwrap();
        self.kill(name);
        self.eventually(&format!("{name} is down"), async || self.pid(name).is_none()).await;
    }

    /// It may come back.
    pub fn release(&self, name: &str) {
        drop(std::fs::remove_file(self.data.join(format!("{name}.down"))));
    }

    /// Sends a command to a Redis server; nothing comes back from one that does not answer.
    pub fn redis(&self, name: &str, words: &[&str]) -> String {
        let url = Self::process(&self.banner, name)["url"].as_str().unwrap().to_owned();
        let output = Command::new("timeout").args(["2", "redis-cli", "-u", &url]).args(words).output();
        String::from_utf8_lossy(&output.unwrap().stdout).trim().to_owned()
    }

    /// Everything that a process logged so far.
    pub fn log(&self, name: &str) -> String {
        let path = Self::process(&self.banner, name)["log"].as_str().unwrap().to_owned();
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Waits until every process is up and every node says that it is ready.
    pub async fn all_ready(&self) {
        self.eventually("the control plane is up", async || self.pid("control-plane").is_some()).await;
        for index in 0..self.nodes.len() {
            self.eventually(&format!("node {} is ready", index + 1), async || self.is_ready(index).await).await;
        }
    }

    /// Whether a node says that it is ready.
    pub async fn is_ready(&self, node: usize) -> bool {
        let ops = self.banner["nodes"][node]["ops_url"].as_str().unwrap();
        let request = Request::get(format!("{ops}/readyz")).body(Full::default()).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(2), self.client.request(request)).await;
        answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status() == 200))
    }

    /// The PostgreSQL database of its control plane, if it has one.
    pub fn database_url(&self) -> Option<String> {
        database(&self.data)
    }

    /// SIGTERM to the supervisor, and waits for the graceful end of everything.
    pub async fn stop(&mut self) -> std::process::ExitStatus {
        crate::harness::signal(self.supervisor.id().unwrap(), "-TERM");
        tokio::time::timeout(PATIENCE, self.supervisor.wait()).await.expect("it ends in time").unwrap()
    }

    /// `kill -9` to the supervisor.
    pub async fn kill_supervisor(&mut self) {
        self.supervisor.kill().await.unwrap();
    }
}

/// The files of a test stay for whoever looks into them, with `KEYFORGE_KEEP_FILES`.
impl Drop for Cluster {
    fn drop(&mut self) {
        if std::env::var_os("KEYFORGE_KEEP_FILES").is_some() {
            eprintln!("logs and data stay in {}", self.data.display());
            self.directory.disable_cleanup(true);
        }
    }
}

/// The PostgreSQL database of a cluster, the same for all its starts.
fn database(data: &std::path::Path) -> Option<String> {
    let file = data.with_extension("database");
    if !file.exists() {
        std::fs::write(&file, crate::harness::database_for_tests()?).unwrap();
    }
    Some(std::fs::read_to_string(&file).unwrap())
}

fn node_urls(banner: &Value) -> Vec<String> {
    let nodes = banner["nodes"].as_array().unwrap().iter();
    nodes.map(|node| node["url"].as_str().unwrap().to_owned()).collect()
}

async fn launch(data: &std::path::Path, provider: &ScriptedProvider, plan: Plan<'_>) -> (Child, Value) {
    let tuning = data.with_extension("toml");
    std::fs::write(&tuning, plan.tuning).unwrap();
    let database = database(data);
    let log = data.with_extension("log");
    let stderr = File::options().create(true).append(true).open(&log).unwrap();
    let mut child = AsyncCommand::new(env!("CARGO_BIN_EXE_keyforge"))
        .args(["local-cluster", "--output", "json", "--log-format", "json"])
        .args(["--nodes", &plan.nodes.to_string(), "--redis-nodes", &plan.redis.to_string()])
        .args(["--data".as_ref(), data.as_os_str(), "--node-config".as_ref(), tuning.as_os_str()])
        .args(database.iter().flat_map(|url| ["--database", url]))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("OPENAI_API_KEY", PROVIDER_KEY)
        .env("OPENAI_BASE_URL", provider.base_url())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("the cluster is ready in time").unwrap();
    let line =
        line.unwrap_or_else(|| panic!("it ended before it was ready:\n{}", std::fs::read_to_string(&log).unwrap()));
    (child, serde_json::from_str(&line).unwrap())
}
