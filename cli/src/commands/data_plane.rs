//! `keyforge data-plane`: a node in a process of its own.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use keyforge_data_plane::app::DataPlane;
use keyforge_data_plane::config::Config;
use keyforge_runtime::readiness::Readiness;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_runtime::telemetry::Telemetry;
use keyforge_shared::clock::SystemClock;

use super::process::{LogArgs, drain, run_to_end};
use crate::errors::Failure;

/// What `keyforge data-plane` takes.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  keyforge data-plane --config data-plane.toml --log-format json")]
pub struct DataPlaneArgs {
    /// Configuration file, TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    log: LogArgs,
}

/// Runs until a signal, or until the node cannot go on.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: DataPlaneArgs) -> Result<(), Failure> {
    let (config, telemetry) = Config::load(&args.config).map_err(Failure::refused)?;
    let telemetry = args.log.over(telemetry);
    Box::pin(run_to_end(telemetry, |process, telemetry| serve(config, process, telemetry))).await
}

async fn serve(config: Config, process: Shutdown, telemetry: Telemetry) -> Result<(), Failure> {
    let node_shutdown = Shutdown::new();
    let readiness = Readiness::until_drain(&node_shutdown);
    let clock = Arc::new(SystemClock);
    let node = Box::pin(DataPlane::start(config, node_shutdown.clone(), &telemetry, clock, readiness.clone()));
    let node = node.await.map_err(Failure::refused)?;
    tracing::info!(agents = %node.agents(), "the node listens");
    let gave_up = tokio::select! {
        biased;
        () = process.drain_started() => None,
        () = node_shutdown.drain_started() => Some(readiness.report().err().unwrap_or_default()),
    };
    drain(node, &node_shutdown).await;
    gave_up.map_or(Ok(()), |reason| Err(Failure::refused(format!("the node cannot go on: {reason}"))))
}
