//! What shared counters cost: one node that counts limits in its own memory beside one that counts them in Redis, in
//! interleaved rounds on one machine.
//!
//! In reading order: [`node`] (how both are started), [`redis`] (what a Redis server says of its scripts), [`round`]
//! (what is measured), [`table`] (medians and aims as Markdown). Both nodes are the same program with a control plane of
//! their own and a key whose every limit is on; only the place of the counters differs.

pub mod node;
pub mod redis;
pub mod round;
pub mod table;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use crate::compare::contestant::start_provider;
use crate::compare::process;
use node::Node;
use round::{Figures, Plan};

/// What to measure and for how long.
#[derive(Args, Clone, Debug)]
pub struct CountersArgs {
    /// The `keyforge` binary; `redis-server` is found in PATH.
    #[arg(long)]
    pub keyforge: PathBuf,
    /// Rounds; medians are taken over them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub rounds: u8,
    /// Seconds of each of the two measurements of a round.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=120))]
    pub seconds: u64,
    /// Model to name; KeyForge must know it.
    #[arg(long, default_value = "gpt-4o-mini")]
    pub model: String,
}

/// Runs the measurement and gives its table.
///
/// # Errors
/// A process cannot be started or ends early, or a measurement has failed calls.
pub async fn run(args: &CountersArgs) -> anyhow::Result<String> {
    let folder = tempfile::tempdir().context("cannot make a folder for the processes")?;
    process::pin_self();
    let provider = start_provider(folder.path()).await?;
    let in_memory = node::start_in_memory(&args.keyforge, &subfolder(folder.path(), "memory")?, provider.addr).await?;
    let in_redis = node::start_in_redis(&args.keyforge, &subfolder(folder.path(), "redis")?, provider.addr).await?;
    let nodes = [in_memory, in_redis];
    let outcome = measure(&nodes, args).await;
    for node in nodes {
        node.end().await;
    }
    outcome
}

/// Both write their logs under the same names.
fn subfolder(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

async fn measure(nodes: &[Node; 2], args: &CountersArgs) -> anyhow::Result<String> {
    let plan = Plan::new(&args.model, args.seconds);
    for node in nodes {
        plan.warm_up(node)
            .await
            .with_context(|| format!("the node with counters in {} does not serve", node.counters))?;
    }
    let mut rounds: [Vec<Figures>; 2] = Default::default();
    for _ in 0..args.rounds {
        for (node, figures) in nodes.iter().zip(&mut rounds) {
            figures.push(plan.round(node).await.with_context(|| format!("measuring counters in {}", node.counters))?);
        }
    }
    let [memory, redis] = rounds;
    Ok(table::markdown(&memory, &redis, args))
}
