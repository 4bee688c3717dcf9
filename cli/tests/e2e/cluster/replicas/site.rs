//! Control planes on one PostgreSQL server, and nodes that joined them through a load balancer: each a process of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::Arc;

use keyforge_loadtest::postgres;
use keyforge_loadtest::provider::Script;
use keyforge_runtime::private_file;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Child;

use super::super::deployment::Deployment;
use super::super::fleet::turn;
use super::balancer::{Balancer, Routing};
use crate::harness::{PROVIDER_KEY, provider};
use crate::processes::{eventually, free, spawn};

/// How many nodes there are.
pub const NODES: usize = 3;
/// What a control plane needs of the one that was there first.
const SHARED: [&str; 3] = ["vault.key", "fleet.token", "operator.token"];

/// Everything that runs. Processes end with it, nodes first.
pub struct Site {
    _nodes: Vec<Child>,
    pub balancers: Vec<Balancer>,
    pub replicas: [Replica; 2],
    _redis: Redis,
    pub database: postgres::Server,
    /// The same deployment as operators see it at one control plane, and at the other.
    pub at: [Arc<Deployment>; 2],
    directory: TempDir,
    /// Heavy tests take turns on a small machine.
    _turn: File,
}

/// A control plane.
pub struct Replica {
    name: &'static str,
    config: PathBuf,
    pub data: PathBuf,
    process: Option<Child>,
}

impl Replica {
    fn new(directory: &Path, name: &'static str, database: &str) -> Self {
        let (data, config) = (directory.join(name), directory.join(format!("{name}.toml")));
        let text = format!(
            "data_dir = {data:?}\nlisten = \"127.0.0.1:0\"\n[tls]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{database}\"\n\
             [telemetry]\nlog_format = \"json\"\n"
        );
        fs::write(&config, text).unwrap();
        Self { name, config, data, process: None }
    }

    /// Starts it, and waits until operators and nodes find it.
    pub async fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let words = ["control-plane", "--config", self.config.to_str().unwrap()];
        self.process = Some(spawn(&words, &self.config.with_extension("log")));
        eventually(self.name, async || self.addresses().iter().all(|file| file.exists())).await;
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
        for file in self.addresses() {
            fs::remove_file(file).unwrap();
        }
    }

    /// The files that say where it listens.
    fn addresses(&self) -> [PathBuf; 2] {
        ["admin.addr", "tls.addr"].map(|name| self.data.join(name))
    }
}

/// A Redis server that keeps nothing.
struct Redis(process::Child);

impl Redis {
    fn start(directory: &Path, port: &str) -> Self {
        let log = File::create(directory.join("redis.log")).unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", port, "--save", "", "--maxmemory-policy", "noeviction"]);
        let started = command.arg("--dir").arg(directory).stdin(Stdio::null()).stdout(log).spawn();
        Self(started.expect("redis-server is installed"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Site {
    /// Two control planes and three nodes in front of a provider with this script. Each node has a balancer of its own, and those begin with one control
    /// plane and the other in turn.
    pub async fn start(script: Script, routing: Routing) -> Self {
        let (turn, directory, provider) = (turn(), tempfile::tempdir().unwrap(), Arc::new(provider(script)));
        let database = postgres::Server::start().unwrap();
        let url = database.create("keyforge").unwrap();
        let mut replicas = ["replica-1", "replica-2"].map(|name| Replica::new(directory.path(), name, &url));
        let [first, second] = &mut replicas;
        first.start().await;
        private_file::private_dir(&second.data).unwrap();
        for name in SHARED {
            fs::copy(first.data.join(name), second.data.join(name)).unwrap();
        }
        second.start().await;

        let redis = free();
        let running_redis = Redis::start(directory.path(), redis.rsplit_once(':').unwrap().1);
        let addresses: Vec<String> = (0..NODES).map(|_| free()).collect();
        let urls: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
        let at = [&*first, second]
            .map(|replica| Arc::new(Deployment::new(&replica.data, Arc::clone(&provider), urls.clone())));
        let base_url = provider.base_url();
        let words = ["credential", "add", "--provider", "openai", "--secret", "env:SECRET", "--base-url", &base_url];
        operate(&at[0], &words, PROVIDER_KEY);
        let (mut balancers, mut nodes) = (Vec::new(), Vec::new());
        for (number, address) in addresses.iter().enumerate() {
            let behind = replicas.iter().map(|replica| replica.data.join("tls.addr")).collect();
            let balancer = Balancer::start(behind, number, routing).await;
            let control = balancer.address.to_string();
            nodes.push(join_and_start(&at[number % 2], directory.path(), number, [address, &redis, &control]));
            balancers.push(balancer);
        }
        Self { _nodes: nodes, balancers, replicas, _redis: running_redis, database, at, directory, _turn: turn }
    }

    /// Cuts the connections of all nodes, so that those that come next are with all control planes again.
    pub fn spread(&self) {
        self.balancers.iter().for_each(Balancer::cut);
    }

    /// The same, and waits until all nodes have their streams again.
    pub async fn spread_and_settle(&self) {
        let before: Vec<_> = self.balancers.iter().map(Balancer::led).collect();
        self.spread();
        // Of state and of orders; what else a node had it opens when it needs it.
        let is_back = |(balancer, before): (&Balancer, &usize)| balancer.led() >= before + 2;
        eventually("the nodes come back", async || self.balancers.iter().zip(&before).all(is_back)).await;
    }

    /// What nodes and control planes logged as errors.
    pub fn errors(&self) -> Vec<String> {
        let files = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        let texts = logs.map(|path| fs::read_to_string(path).unwrap());
        texts.flat_map(|text| errors_in(&text).map(str::to_owned).collect::<Vec<_>>()).collect()
    }
}

fn errors_in(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| line.contains("\"level\":\"ERROR\""))
}

/// The files of a test stay for whoever looks into them, with `KEYFORGE_KEEP_FILES`.
impl Drop for Site {
    fn drop(&mut self) {
        if std::env::var_os("KEYFORGE_KEEP_FILES").is_some() {
            eprintln!("logs and data stay in {}", self.directory.path().display());
            self.directory.disable_cleanup(true);
        }
    }
}

/// Runs a command that takes a secret, and reads its JSON.
fn operate(at: &Deployment, words: &[&str], secret: &str) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyforge"));
    command.args(words).args(["--output", "json"]).env_clear().env("SECRET", secret).env("KEYFORGE_DATA", &at.data);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Lets a machine join with a token that was made at one control plane, through its balancer, and starts its node. The addresses are those of the node
/// itself, of Redis and of the balancer.
fn join_and_start(at: &Deployment, directory: &Path, number: usize, [address, redis, control]: [&str; 3]) -> Child {
    let (data, config) = (directory.join(format!("node-{number}")), directory.join(format!("node-{number}.toml")));
    let url = format!("https://{control}");
    let made = at.cli_json(&["node", "token", "create", "--name", &format!("node-{number}")]);
    let told = |field: &str| made[field].as_str().unwrap().to_owned();
    let (token, fingerprint) = (told("token"), told("ca_fingerprint"));
    let words = ["node", "join", "--control-plane", &url, "--token", "env:SECRET", "--ca-fingerprint", &fingerprint];
    operate(at, &[&words[..], &["--data-dir", data.to_str().unwrap()]].concat(), &token);
    let text = format!(
        "data_dir = {data:?}\n[listen]\nagents = \"{address}\"\n[control_plane]\nurl = \"{url}\"\n\
         [counters]\nstore = \"redis\"\nurls = [\"redis://{redis}\"]\n"
    );
    fs::write(&config, text).unwrap();
    spawn(&["data-plane", "--config", config.to_str().unwrap(), "--log-format", "json"], &config.with_extension("log"))
}
