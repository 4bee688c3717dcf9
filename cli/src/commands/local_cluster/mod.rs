//! `keyforge local-cluster`: a control plane, several nodes and Redis as processes of their own on this machine, to try what happens when they die.
//!
//! Everything is set up as an operator would do it: configuration files, the admin API, a real Redis. A process that dies is started again with the
//! same arguments. The end is the beginning in reverse, nodes, control plane, Redis, and leaves no process behind; nor does a SIGKILL of this one.

mod configs;
mod guard;
mod layout;
mod ports;
mod probe;
mod redis;
mod roll;
mod status;
mod supervise;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use keyforge_runtime::private_file;
use keyforge_runtime::shutdown::Shutdown;

use self::configs::Nodes;
use self::layout::{CONTROL_PLANE, Layout};
use self::ports::{Ports, local};
use self::roll::Roll;
use self::status::{Description, KeyView};
use self::supervise::{Program, Supervised};
use super::dev::first_key;
use super::dev::local_database;
use super::dev::providers::Providers;
use super::process::{AddressFile, LogArgs, run_to_end};
use crate::client::{AGENTS_ADDR_FILE, AdminClient};
use crate::errors::Failure;
use crate::output::{self, OutputFormat};

/// How long a process may take until it answers.
const READY: Duration = Duration::from_secs(60);

/// What `keyforge local-cluster` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "Provider keys are imported from OPENAI_API_KEY and OPENAI_BASE_URL, as `keyforge dev` does; without any, a sandbox answers.\n\n\
                        Example:\n  keyforge local-cluster --nodes 3 --redis-nodes 3"
)]
pub struct LocalClusterArgs {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// Where everything is kept; made for its owner only
    #[arg(long, value_name = "DIR", default_value = "keyforge-cluster")]
    data: PathBuf,
    /// The Redis server to run, version 7
    #[arg(long, value_name = "PATH", default_value = "redis-server")]
    redis_server: PathBuf,
    /// How many Redis servers: 1, or 3 masters of a Redis Cluster
    #[arg(long, value_name = "N", default_value = "1", value_parser = ["1", "3"])]
    redis_nodes: String,
    /// Keep everything in this PostgreSQL database of this host instead of SQLite: postgres://USER@HOST:PORT/DATABASE
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Limits, provider times and audit settings of the nodes: a TOML file with [limits], [upstream] and [audit]
    #[arg(long, value_name = "FILE")]
    node_config: Option<PathBuf>,
    /// How to print what a first request needs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    log: LogArgs,
}

impl LocalClusterArgs {
    fn redis_servers(&self) -> usize {
        if self.redis_nodes == "3" { 3 } else { 1 }
    }
}

/// Runs until a signal, or until the cluster cannot be started.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: LocalClusterArgs) -> Result<(), Failure> {
    let telemetry = args.log.telemetry("keyforge-local-cluster");
    Box::pin(run_to_end(telemetry, |process, _| serve(args, process))).await
}

async fn serve(args: LocalClusterArgs, process: Shutdown) -> Result<(), Failure> {
    redis::find(&args.redis_server).await?;
    args.database.as_deref().map(local_database).transpose()?;
    let layout = Layout::make(&args.data)?;
    let _lock = layout.lock()?;
    let ports = Ports::take(&layout, usize::from(args.nodes), args.redis_servers())?;
    let roll = Arc::new(Roll::open(layout.clone())?);
    let keyforge = std::env::current_exe().map_err(|error| Failure::refused(format!("cannot find myself: {error}")))?;
    let cluster = &mut Cluster { args, layout, ports, roll, keyforge, process, running: Vec::new(), providers: None };
    let stopped = cluster.process.drain_started();
    let outcome = tokio::select! {
        biased;
        () = stopped => Ok(()),
        outcome = cluster.live() => outcome,
    };
    cluster.stop().await;
    outcome
}

/// A cluster from its start to its end.
struct Cluster {
    args: LocalClusterArgs,
    layout: Layout,
    ports: Ports,
    roll: Arc<Roll>,
    /// This very program.
    keyforge: PathBuf,
    process: Shutdown,
    /// In the order of their start, by kind: Redis, the control plane, the nodes.
    running: Vec<Vec<Supervised>>,
    providers: Option<Providers>,
}

impl Cluster {
    async fn live(&mut self) -> Result<(), Failure> {
        self.start_redis().await?;
        let client = self.start_control_plane().await?;
        let first = self.ports.nodes.first().copied().unwrap_or_default();
        let providers = Providers::set_up(&client, local(first.main)).await?;
        let sandbox = providers.sandbox_url();
        self.providers = Some(providers);
        self.start_nodes().await?;
        let key = self.first_key(&client).await?;
        let description = Description {
            layout: self.layout.clone(),
            ports: self.ports.clone(),
            redis_servers: self.args.redis_servers(),
            sandbox,
        };
        self.roll.describe(description.clone());
        let _agents = AddressFile::write(self.layout.data(), AGENTS_ADDR_FILE, local(first.main))?;
        output::print(&match self.args.output {
            OutputFormat::Table => description.banner(key.as_ref()),
            OutputFormat::Json => description.line(&self.roll.pids(), key.as_ref()),
        })?;
        drop(key);
        std::future::pending().await
    }

    async fn start_redis(&mut self) -> Result<(), Failure> {
        let count = self.args.redis_servers();
        let ports = self.ports.servers(count).to_vec();
        let mut servers = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let name = layout::redis(index, count);
            let arguments = redis::arguments(*port, &self.layout.directory(&name)?, count > 1);
            servers.push(self.start(name, self.args.redis_server.clone(), arguments));
        }
        self.running.push(servers);
        let servers = self.running.last().map_or(&[][..], Vec::as_slice);
        for (server, port) in servers.iter().zip(&ports) {
            server.until(redis::answers(*port), READY).await?;
        }
        if let [first, _, ..] = servers {
            first.until(redis::form_cluster(&ports), READY).await?;
        }
        Ok(())
    }

    async fn start_control_plane(&mut self) -> Result<AdminClient, Failure> {
        let (layout, ports) = (&self.layout, self.ports.control_plane);
        let log = (self.args.log.filter(), self.args.log.format());
        configs::control_plane(layout, ports, log, self.args.database.as_deref())?;
        let ops = local(ports.ops).to_string();
        let mut arguments = vec![CONTROL_PLANE.into(), "--config".into(), layout.config(CONTROL_PLANE).into()];
        arguments.extend(["--ops-listen", &ops].map(OsString::from));
        let control = self.start(CONTROL_PLANE.to_owned(), self.keyforge.clone(), arguments);
        self.running.push(vec![control]);
        for control in self.running.last().into_iter().flatten() {
            control.until(probe::until_ok(local(ports.ops), "/readyz", None), READY).await?;
        }
        let token = private_file::read(&self.layout.operator_token()).map_err(Failure::refused)?;
        AdminClient::connect(&format!("http://{}", local(ports.main)), &token).await
    }

    async fn start_nodes(&mut self) -> Result<(), Failure> {
        let tuning = match &self.args.node_config {
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Failure::refused(format!("--node-config {}: {error}", path.display())))?,
            None => String::new(),
        };
        let redis_servers = self.args.redis_servers();
        let configs = Nodes { layout: &self.layout, ports: &self.ports, redis_servers, tuning: &tuning };
        let mut nodes = Vec::new();
        for (index, ports) in self.ports.nodes.iter().enumerate() {
            let name = layout::node(index);
            configs.write(&name, *ports)?;
            let mut arguments = vec!["data-plane".into(), "--config".into(), self.layout.config(&name).into()];
            let log = ["--log-level", self.args.log.filter(), "--log-format", self.args.log.format()];
            arguments.extend(log.map(OsString::from));
            nodes.push(self.start(name, self.keyforge.clone(), arguments));
        }
        self.running.push(nodes);
        let nodes = self.running.last().map_or(&[][..], Vec::as_slice);
        for (node, ports) in nodes.iter().zip(&self.ports.nodes) {
            node.until(probe::until_ok(local(ports.ops), "/readyz", None), READY).await?;
        }
        Ok(())
    }

    /// Makes a key at the first start, and waits until every node knows it.
    async fn first_key(&self, client: &AdminClient) -> Result<Option<KeyView>, Failure> {
        let first = self.ports.nodes.first().copied().unwrap_or_default();
        let Some(key) = first_key::make(client, local(first.main)).await? else { return Ok(None) };
        let known = async {
            for node in &self.ports.nodes {
                probe::until_ok(local(node.main), "/v1/models", Some(&key.token)).await;
            }
        };
        if tokio::time::timeout(READY, known).await.is_err() {
            // The token must not be lost: it is shown nevertheless.
            tracing::warn!(key = key.id, "not every node knows the first key yet");
        }
        Ok(Some(KeyView { id: key.id, token: key.token.to_string() }))
    }

    fn start(&self, name: String, path: PathBuf, arguments: Vec<OsString>) -> Supervised {
        Supervised::start(Program { name, path, arguments }, &self.layout, &self.roll, &self.process)
    }

    /// Ends what was started last first, processes of one kind together.
    async fn stop(&mut self) {
        while let Some(kind) = self.running.pop() {
            kind.iter().for_each(Supervised::ask_to_end);
            for process in kind {
                process.ended().await;
            }
        }
        self.roll.close();
    }
}
