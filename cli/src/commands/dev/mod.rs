//! `keyforge dev`: control plane, node and, without a provider key, a sandbox provider, in one process that needs no configuration.
//!
//! It is set up through the same admin API that everybody uses, with the operator's token; authentication is always on. What it prints on the
//! standard output is what a person needs for a first request; logs go to the standard error. A first key's token is printed once, after the
//! node was seen to accept it. The end is the beginning in reverse: node, control plane, store.

mod banner;
pub(in crate::commands) mod first_key;
pub(in crate::commands) mod providers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use keyforge_control_plane::app::{self, ControlPlane};
use keyforge_control_plane::config::{Config as ControlConfig, DatabaseConfig};
use keyforge_data_plane::app::DataPlane;
use keyforge_data_plane::config::Config as NodeConfig;
use keyforge_runtime::config::env_var;
use keyforge_runtime::private_file;
use keyforge_runtime::readiness::Readiness;
use keyforge_runtime::shutdown::{Drained, Shutdown};
use keyforge_runtime::telemetry::Telemetry;
use keyforge_shared::clock::SystemClock;
use keyforge_shared::secret::SecretBytes;

use self::banner::Banner;
use self::providers::Providers;
use super::process::{AddressFile, LogArgs, OpsPort, drain, run_to_end};
use crate::client::{ADMIN_ADDR_FILE, AGENTS_ADDR_FILE, AdminClient, DATA_VARIABLE, DEFAULT_DATA};
use crate::errors::Failure;
use crate::output::OutputFormat;

/// How long the node may take until it can serve.
const READY: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long the control plane may take to end, once the node has.
const CONTROL_DRAIN: Duration = Duration::from_secs(10);

/// What `keyforge dev` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "Provider keys are imported from OPENAI_API_KEY (and OPENAI_BASE_URL), ANTHROPIC_API_KEY and GEMINI_API_KEY.\n\n\
                        Example:\n  OPENAI_API_KEY=… keyforge dev --listen 127.0.0.1:8080"
)]
pub struct DevArgs {
    /// Where everything is kept; made for its owner only [env: KEYFORGE_DATA] [default: ./keyforge-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address that agents use; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address of the admin gRPC API, on loopback; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    admin_listen: SocketAddr,
    /// Address of health and metrics over HTTP; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464")]
    ops_listen: SocketAddr,
    /// Keep everything in this PostgreSQL database of this host instead of SQLite: postgres://USER@HOST:PORT/DATABASE
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Limits, provider times and audit settings of the node: a TOML file with [limits], [upstream] and [audit]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Let --listen be reachable from other hosts, although virtual keys then cross the network in the clear
    #[arg(long)]
    allow_plaintext: bool,
    /// How to print what a first request needs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    log: LogArgs,
}

/// Runs until a signal, or until it cannot go on.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: DevArgs) -> Result<(), Failure> {
    check(&args)?;
    let telemetry = args.log.telemetry("keyforge-dev");
    Box::pin(run_to_end(telemetry, |process, telemetry| serve(args, process, telemetry))).await
}

fn check(args: &DevArgs) -> Result<(), Failure> {
    if !args.admin_listen.ip().is_loopback() {
        return Err(Failure::usage(
            "--admin-listen is for loopback addresses: operators' tokens would cross the network in the clear",
        )
        .hint("use `keyforge control-plane` with a [tls] section to listen beyond this host"));
    }
    if !args.listen.ip().is_loopback() && !args.allow_plaintext {
        return Err(Failure::usage("--listen beyond this host: virtual keys would cross the network in the clear")
            .hint("put a TLS proxy in front of a loopback address, or add --allow-plaintext, as inside a container"));
    }
    Ok(())
}

/// A database on this host, by its URL, which is not repeated: it may hold a password.
pub(in crate::commands) fn local_database(url: &str) -> Result<DatabaseConfig, Failure> {
    DatabaseConfig::local(url).ok_or_else(|| {
        Failure::usage(
            "--database must be postgres://USER@HOST:PORT/DATABASE, with a loopback address and without a password",
        )
        .hint("a database elsewhere is for `keyforge control-plane`, whose configuration has a table [database]")
    })
}

async fn serve(args: DevArgs, process: Shutdown, telemetry: Telemetry) -> Result<(), Failure> {
    let data = args.data.clone().or_else(|| env_var(DATA_VARIABLE).map(PathBuf::from));
    let data = data.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA));
    private_file::private_dir(&data).map_err(Failure::refused)?;
    let ops = OpsPort::bind(args.ops_listen)?;
    let control_shutdown = Shutdown::new();
    let mut config = ControlConfig::local(&data, args.admin_listen);
    config.database = args.database.as_deref().map(local_database).transpose()?;
    let control = Box::pin(app::start(config, control_shutdown.clone(), &telemetry, Arc::new(SystemClock)));
    let control = control.await.map_err(Failure::refused)?;
    let dev = Dev { args, data, process, control_shutdown, telemetry };
    let outcome = Box::pin(dev.with_control(&control, ops)).await;
    dev.control_shutdown.trigger();
    if let Drained::TimedOut { tasks } = dev.control_shutdown.drained(CONTROL_DRAIN).await {
        tracing::warn!(tasks, "the control plane stopped while calls were running");
    }
    control.close().await;
    outcome
}

/// What the steps of a start share.
struct Dev {
    args: DevArgs,
    data: PathBuf,
    process: Shutdown,
    control_shutdown: Shutdown,
    telemetry: Telemetry,
}

impl Dev {
    /// From a running control plane to the end of the process.
    async fn with_control(&self, control: &ControlPlane, ops: OpsPort) -> Result<(), Failure> {
        let _admin_addr = AddressFile::write(&self.data, ADMIN_ADDR_FILE, control.addr())?;
        let token = read_token(&control.operator_token_path())?;
        let client = AdminClient::connect(&format!("http://{}", control.addr()), &token).await?;
        let providers = Providers::set_up(&client, self.args.listen).await?;

        let node_shutdown = Shutdown::new();
        let readiness = Readiness::until_drain(&node_shutdown);
        let fleet_token = read_token(&control.fleet_token_path())?;
        let config = NodeConfig::local(self.data.join("node"), self.args.listen, control.addr(), fleet_token);
        let config = match &self.args.config {
            Some(path) => config.tuned_by(path).map_err(Failure::refused)?,
            None => config,
        };
        let clock = Arc::new(SystemClock);
        let node = DataPlane::start(config, node_shutdown.clone(), &self.telemetry, clock, readiness.clone());
        let node = Box::pin(node).await.map_err(Failure::refused)?;
        let agents = node.agents();
        let ops_addr = ops.addr();
        ops.start(&self.telemetry, readiness.clone(), &self.process);

        let running =
            Running { client, providers, agents, admin: control.addr(), ops: ops_addr, readiness, node_shutdown };
        let outcome = Box::pin(self.with_node(&running)).await;
        drain(node, &running.node_shutdown).await;
        outcome
    }

    /// From a started node to the moment when something ends.
    async fn with_node(&self, running: &Running) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = self.process.drain_started() => return Ok(()),
            ready = running.ready() => ready?,
        }
        let _agents_addr = AddressFile::write(&self.data, AGENTS_ADDR_FILE, running.agents)?;
        let first_key = first_key::make(&running.client, running.agents).await?;
        let banner = Banner::new(running, &self.data, self.args.data.is_some(), first_key);
        self.args.output.either(|| banner.text(), &banner)?;
        drop(banner);
        tokio::select! {
            biased;
            () = self.process.drain_started() => Ok(()),
            () = running.node_shutdown.drain_started() => {
                let reason = running.readiness.report().err().unwrap_or_default();
                Err(Failure::refused(format!("the node cannot go on: {reason}")))
            }
            () = self.control_shutdown.drain_started() => {
                Err(Failure::refused("the control plane cannot go on").hint("the log above says why"))
            }
        }
    }
}

/// What runs, and where.
struct Running {
    client: AdminClient,
    providers: Providers,
    agents: SocketAddr,
    admin: SocketAddr,
    ops: SocketAddr,
    readiness: Readiness,
    node_shutdown: Shutdown,
}

impl Running {
    /// Waits until the node can serve.
    async fn ready(&self) -> Result<(), Failure> {
        let mut look = tokio::time::interval(LOOK);
        let looking = async {
            while self.readiness.report().is_err() && !self.node_shutdown.is_draining() {
                look.tick().await;
            }
        };
        let in_time = tokio::time::timeout(READY, looking).await.is_ok();
        match self.readiness.report() {
            Ok(()) if in_time => Ok(()),
            report => {
                Err(Failure::refused(format!("the node does not become ready: {}", report.err().unwrap_or_default()))
                    .hint("the log above says more"))
            }
        }
    }
}

/// A token out of its file, without the line end.
fn read_token(path: &Path) -> Result<SecretBytes, Failure> {
    let line = private_file::read(path).map_err(Failure::refused)?;
    Ok(SecretBytes::new(line.expose().trim_ascii().to_vec()))
}

/// How a data directory is named in a command that a person types.
fn data_option(data: &Path, named: bool) -> String {
    if named { format!(" --data {}", data.display()) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        dev: DevArgs,
    }

    fn checked(words: &[&str]) -> Result<(), Failure> {
        check(&Line::parse_from(["dev"].iter().chain(words)).dev)
    }

    #[test]
    fn tokens_never_cross_a_network_in_the_clear_without_a_word() {
        assert_eq!(checked(&[]), Ok(()));
        assert!(checked(&["--admin-listen", "0.0.0.0:7070"]).unwrap_err().to_string().contains("--admin-listen"));
        assert!(checked(&["--admin-listen", "0.0.0.0:7070", "--allow-plaintext"]).is_err());
        assert!(checked(&["--listen", "0.0.0.0:8080"]).unwrap_err().to_string().contains("--allow-plaintext"));
        assert_eq!(checked(&["--listen", "0.0.0.0:8080", "--allow-plaintext"]), Ok(()));
    }
}
