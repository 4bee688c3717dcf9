//! `keyforge control-plane`: the control plane in a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use keyforge_control_plane::app;
use keyforge_control_plane::config::Config;
use keyforge_runtime::readiness::Readiness;
use keyforge_runtime::shutdown::{Drained, Shutdown, ShutdownCause};
use keyforge_runtime::telemetry::Telemetry;
use keyforge_shared::clock::SystemClock;

use super::process::{AddressFile, OpsPort, run_to_end};
use crate::client::{ADMIN_ADDR_FILE, TLS_ADDR_FILE};
use crate::errors::Failure;

/// How long running calls may take once the process is told to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// What `keyforge control-plane` takes.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  keyforge control-plane --config control-plane.toml --ops-listen 127.0.0.1:9465")]
pub struct ControlPlaneArgs {
    /// Configuration file, TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Address of health and metrics over HTTP, such as 127.0.0.1:9465 [default: none]
    #[arg(long, value_name = "ADDR")]
    ops_listen: Option<SocketAddr>,
}

/// Runs until a signal, or until the control plane cannot go on.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: ControlPlaneArgs) -> Result<(), Failure> {
    let (config, telemetry) = Config::load(&args.config).map_err(Failure::refused)?;
    Box::pin(run_to_end(telemetry, |process, telemetry| serve(args, config, process, telemetry))).await
}

async fn serve(args: ControlPlaneArgs, config: Config, process: Shutdown, telemetry: Telemetry) -> Result<(), Failure> {
    let ops = args.ops_listen.map(OpsPort::bind).transpose()?;
    let data = config.data_dir.clone();
    let shutdown = Shutdown::new();
    let control = Box::pin(app::start(config, shutdown.clone(), &telemetry, Arc::new(SystemClock)));
    let control = control.await.map_err(Failure::refused)?;
    if let Some(ops) = ops {
        let readiness = Readiness::until_drain(&shutdown);
        control.show_database_in(&readiness, &shutdown);
        ops.start(&telemetry, readiness, &process);
    }
    // Commands on this host speak cleartext to loopback addresses only.
    let _found = match control.addr() {
        addr if addr.ip().is_loopback() => Some(AddressFile::write(&data, ADMIN_ADDR_FILE, addr)?),
        _ => None,
    };
    let _found_over_tls = control.tls_addr().map(|addr| AddressFile::write(&data, TLS_ADDR_FILE, addr)).transpose()?;
    tokio::select! {
        () = process.drain_started() => shutdown.trigger(),
        () = shutdown.drain_started() => {}
    }
    if let Drained::TimedOut { tasks } = shutdown.drained(DRAIN).await {
        tracing::warn!(tasks, "the control plane stopped while calls were running");
    }
    control.close().await;
    match shutdown.cause() {
        Some(ShutdownCause::CriticalTaskEnded(task)) => {
            Err(Failure::refused(format!("the control plane's task {task} ended")))
        }
        Some(ShutdownCause::Requested | ShutdownCause::Signal) | None => Ok(()),
    }
}
