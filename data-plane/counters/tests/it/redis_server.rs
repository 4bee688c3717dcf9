//! Real Redis servers for tests: one by itself, or three that make a cluster.
//!
//! Each listens on a free port of the loopback interface, keeps its files in a directory of its own, and ends with the value that stands for it.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{Connection, FromRedisValue, Value};
use tempfile::TempDir;

/// How long anything may take here. Far more than it does.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A Redis server.
pub struct RedisServer {
    port: u16,
    options: Vec<String>,
    directory: TempDir,
    process: Option<Child>,
}

impl RedisServer {
    /// A server that keeps nothing when it stops.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with more options, as on its command line: `["--appendonly", "yes"]`.
    pub fn start_with(options: &[&str]) -> Self {
        let mut server = Self::prepare(options);
        server.run();
        server
    }

    /// A server that does not run yet, at an address where nobody answers.
    pub fn prepare(options: &[&str]) -> Self {
        Self {
            port: free_port(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            directory: TempDir::new().unwrap(),
            process: None,
        }
    }

    /// Starts what was prepared or stopped, at the same address and with the same files.
    pub fn run(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = File::create(self.directory.path().join("log")).unwrap();
        let process = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.options)
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .expect("redis-server is installed");
        self.process = Some(process);
        eventually("the server answers", || {
            let status = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            let log = || std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(status.is_none(), "redis-server ended: {}", log());
            // A server that wants a password answers too.
            match self.try_connection().and_then(|mut connection| redis::cmd("PING").query::<Value>(&mut connection)) {
                Ok(_) => true,
                Err(error) => matches!(error.code(), Some("NOAUTH")),
            }
        });
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it as an operator would; what it keeps is written.
    pub fn stop(&mut self) {
        self.resume();
        self.signal("TERM");
        if let Some(mut process) = self.process.take() {
            process.wait().unwrap();
        }
    }

    /// Stops it and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    /// Lets it stand still: connections stay, and nothing is answered.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Forgets all data.
    pub fn flush(&self) {
        self.ask::<()>(&["FLUSHALL"]);
    }

    /// Asks it something, past the store.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap()
    }

    fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.try_connection()?)
    }

    fn try_connection(&self) -> redis::RedisResult<Connection> {
        redis::Client::open(self.url())?.get_connection_with_timeout(Duration::from_secs(1))
    }

    fn signal(&self, name: &str) {
        if let Some(process) = &self.process {
            let sent = Command::new("kill").arg(format!("-{name}")).arg(process.id().to_string()).status().unwrap();
            assert!(sent.success());
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It keeps nothing that anybody wants, and may stand still.
            let _gone_already = process.kill();
            let _waited_for = process.wait();
        }
    }
}

/// A Redis Cluster of three primaries that share the slots evenly.
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    pub fn start() -> Self {
        let nodes: Vec<_> = (0..3)
            .map(|_| {
                let bus = free_port().to_string();
                let options = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "5000"];
                (RedisServer::start_with(&options), bus)
            })
            .collect();
        for (place, (node, _)) in nodes.iter().enumerate() {
            let slots = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)][place];
            node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &slots.0.to_string(), &slots.1.to_string()]);
            node.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
        }
        for (node, bus) in &nodes[1..] {
            nodes[0].0.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), bus]);
        }
        let cluster = Self { nodes: nodes.into_iter().map(|(node, _)| node).collect() };
        eventually("the cluster is complete", || {
            cluster.nodes.iter().all(|node| {
                let info: String = node.ask(&["CLUSTER", "INFO"]);
                ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3"]
                    .iter()
                    .all(|fact| info.contains(fact))
            })
        });
        cluster
    }

    /// The addresses of its nodes.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }

    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// Ends one of its nodes.
    pub fn stop(&mut self, node: usize) {
        self.nodes[node].stop();
    }

    /// Starts a node that was ended.
    pub fn run(&mut self, node: usize) {
        self.nodes[node].run();
    }

    /// Which node is responsible for a slot.
    pub fn owner(&self, slot: u16) -> usize {
        let ranges: Vec<(u16, u16, Value)> = self.first_three(&self.nodes[0]);
        let owner = ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).unwrap();
        let Value::Array(primary) = &owner.2 else { panic!("no primary") };
        let port = u16::from_redis_value(primary[1].clone()).unwrap();
        self.nodes.iter().position(|node| node.port() == port).unwrap()
    }

    /// Begins to move a slot: until [`Self::finish_move`] its keys may be on both nodes.
    pub fn begin_move(&self, slot: u16, to: usize) {
        let (from, slot) = (self.owner(slot), slot.to_string());
        let (from_id, to_id) = (self.id(from), self.id(to));
        self.nodes[to].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        self.nodes[from].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    }

    /// Moves the keys of a slot, and then the slot.
    pub fn finish_move(&self, slot: u16, to: usize) {
        let (from, slot) = (self.owner(slot), slot.to_string());
        let keys: Vec<String> = self.nodes[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]);
        if !keys.is_empty() {
            let port = self.nodes[to].port().to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            self.nodes[from].ask::<()>(&words);
        }
        let to_id = self.id(to);
        for node in [to, from] {
            self.nodes[node].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
        }
    }

    fn id(&self, node: usize) -> String {
        self.nodes[node].ask(&["CLUSTER", "MYID"])
    }

    fn first_three(&self, node: &RedisServer) -> Vec<(u16, u16, Value)> {
        let ranges: Vec<Vec<Value>> = node.ask(&["CLUSTER", "SLOTS"]);
        let number = |value: &Value| u16::from_redis_value(value.clone()).unwrap();
        ranges.iter().map(|range| (number(&range[0]), number(&range[1]), range[2].clone())).collect()
    }
}

/// Waits for what will be so shortly.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    const LOOK_EVERY: Duration = Duration::from_millis(10);
    let looks = PATIENCE.as_millis() / LOOK_EVERY.as_millis();
    let found = (0..looks).any(|_| {
        is_so() || {
            std::thread::sleep(LOOK_EVERY);
            false
        }
    });
    assert!(found, "not within {PATIENCE:?}: {what}");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
