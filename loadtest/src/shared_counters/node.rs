//! The two nodes that are measured, in front of the same scripted provider: counters in memory, and counters in Redis.
//!
//! Node and control plane are processes of their own on the gateway's core, so a node's CPU time is its own alone. Redis
//! has the third core where there is one, else that of generator and provider.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::redis::RedisServer;
use crate::compare::contestant::{PROVIDER_KEY, create_key, target};
use crate::compare::process::{BENCH_CORE, GATEWAY_CORE, Process, free_port, pin};
use crate::load::{ProcessTree, Target};

/// Hands the provider's key to `keyforge credential add`.
const SECRET_VARIABLE: &str = "KEYFORGE_LOADTEST_SECRET";

/// One node and what it needs.
#[derive(Debug)]
pub struct Node {
    /// Where its counters are.
    pub counters: &'static str,
    /// Where to send.
    pub target: Target,
    /// The node's process, without control plane and Redis.
    pub process: ProcessTree,
    /// The server that counts; none for memory.
    pub redis: Option<RedisServer>,
    /// In the order of their start.
    started: Vec<Process>,
}

impl Node {
    /// Ends everything that was started for it, what was started last first.
    pub async fn end(self) {
        for process in self.started.into_iter().rev() {
            process.end().await;
        }
    }
}

/// The core of Redis.
#[must_use]
pub fn redis_core() -> u8 {
    if Path::new("/sys/devices/system/cpu/cpu2").exists() { 2 } else { BENCH_CORE }
}

/// Starts a control plane and a node that counts in its memory.
///
/// # Errors
/// One of them does not start or get ready, or no virtual key is made.
pub async fn start_in_memory(binary: &Path, folder: &Path, provider: SocketAddr) -> anyhow::Result<Node> {
    let (control, agents, ops) = (free_port()?, free_port()?, free_port()?);
    let data = folder.join("control-plane");
    let config = folder.join("control-plane.toml");
    let text = format!("data_dir = {data:?}\nlisten = \"{control}\"\n\n[telemetry]\nlog_filter = \"warn\"\n");
    std::fs::write(&config, text).context("cannot write control-plane.toml")?;
    let mut control_plane = Process::start(binary, GATEWAY_CORE, folder, "control-plane", |command| {
        command.args(["control-plane", "--config"]).arg(&config);
    })?;
    let listens = control_plane.wait_for(async |_| data.join("admin.addr").exists().then_some(())).await;
    listens.context("keyforge control-plane")?;
    add_credential(binary, &data, provider)?;

    let config = folder.join("node.toml");
    let text = format!(
        "data_dir = {:?}\n\n[listen]\nagents = \"{agents}\"\nops = \"{ops}\"\n\n[control_plane]\nurl = \"http://{control}\"\n\
         fleet_token = \"file:{}\"\n\n[counters]\nstore = \"memory\"\n",
        folder.join("node"),
        data.join("fleet.token").display()
    );
    std::fs::write(&config, text).context("cannot write node.toml")?;
    let mut node = Process::start(binary, GATEWAY_CORE, folder, "node", |command| {
        command.args(["data-plane", "--log-level", "warn", "--config"]).arg(&config);
    })?;
    node.wait_until_ready(ops, "/readyz").await.context("keyforge data-plane")?;
    Ok(Node {
        counters: "memory",
        target: target(agents, &create_key(binary, &data)?),
        process: ProcessTree::of([node.id().context("the node ended at once")?]),
        redis: None,
        started: vec![control_plane, node],
    })
}

fn add_credential(binary: &Path, data: &Path, provider: SocketAddr) -> anyhow::Result<()> {
    let added = std::process::Command::new(binary)
        .args(["credential", "add", "--provider", "openai", "--secret", &format!("env:{SECRET_VARIABLE}")])
        .args(["--base-url", &format!("http://{provider}/v1"), "--data"])
        .arg(data)
        .env(SECRET_VARIABLE, PROVIDER_KEY)
        .output()
        .context("cannot run keyforge credential add")?;
    ensure!(added.status.success(), "keyforge credential add: {}", String::from_utf8_lossy(&added.stderr));
    Ok(())
}

/// What `keyforge local-cluster --output json` says when it is ready, as far as it is needed here.
#[derive(Debug, Deserialize)]
struct Cluster {
    nodes: [Member; 1],
    redis: [Member; 1],
}

#[derive(Debug, Deserialize)]
struct Member {
    url: String,
    pid: u32,
}

impl Cluster {
    /// Finds the line among those of a log.
    fn find(output: &str) -> Option<Self> {
        output.lines().find_map(|line| serde_json::from_str(line).ok())
    }
}

/// Starts a local cluster of one node and one Redis server.
///
/// # Errors
/// It does not start or get ready, or no virtual key is made.
pub async fn start_in_redis(binary: &Path, folder: &Path, provider: SocketAddr) -> anyhow::Result<Node> {
    let data = folder.join("cluster");
    let mut supervisor = Process::start(binary, GATEWAY_CORE, folder, "local-cluster", |command| {
        command.args([
            "local-cluster",
            "--nodes",
            "1",
            "--redis-nodes",
            "1",
            "--output",
            "json",
            "--log-level",
            "warn",
        ]);
        command.arg("--data").arg(&data);
        command.env("OPENAI_API_KEY", PROVIDER_KEY).env("OPENAI_BASE_URL", format!("http://{provider}/v1"));
    })?;
    let ready = supervisor.wait_for(async |process| Cluster::find(&process.output())).await;
    let Cluster { nodes: [node], redis: [redis] } = ready.context("keyforge local-cluster")?;
    pin(redis.pid, redis_core());
    Ok(Node {
        counters: "Redis",
        target: Target::parse(&format!("{}/v1", node.url), &create_key(binary, &data)?)?,
        process: ProcessTree::of([node.pid]),
        redis: Some(RedisServer::at(&redis.url, redis.pid)?),
        started: vec![supervisor],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_found_among_the_lines_of_a_log() {
        let line = r#"{"pid":3,"nodes":[{"name":"node-1","url":"http://127.0.0.1:10010","pid":7}],"redis":[{"url":"redis://127.0.0.1:10040","pid":8}]}"#;
        let found = Cluster::find(&format!("2026-11-22 WARN slow {{}}\n{{}}\n{line}\nmore\n")).unwrap();
        let (node, redis) = (&found.nodes[0], &found.redis[0]);
        assert_eq!((node.url.as_str(), node.pid), ("http://127.0.0.1:10010", 7));
        assert_eq!((redis.url.as_str(), redis.pid), ("redis://127.0.0.1:10040", 8));
        assert!(Cluster::find("").is_none() && Cluster::find(&line.replace(":7", ":null")).is_none());
    }
}
