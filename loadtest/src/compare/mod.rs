//! Gateways side by side: direct, nginx (the floor) and KeyForge, measured in interleaved rounds on one machine.
//!
//! In reading order: [`process`] (children and cores), [`contestant`] (how each gateway is started), [`round`] (what is
//! measured), [`table`] (medians and ratios as Markdown). The gateway under test has a core alone; generator and
//! provider share another. Everything listens on loopback and ends with the comparison.

pub mod contestant;
pub mod process;
pub mod round;
pub mod table;

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use contestant::Contestant;
use round::{Figures, Plan};

/// What to compare and for how long.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// The `keyforge` binary; absent compares direct and nginx only.
    #[arg(long)]
    pub keyforge: Option<PathBuf>,
    /// Rounds; medians are taken over them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub rounds: u8,
    /// Seconds of each of the four measurements of a round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=120))]
    pub seconds: u64,
    /// Model to name; KeyForge must know it.
    #[arg(long, default_value = "gpt-4o-mini")]
    pub model: String,
    /// Also write the table to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Runs the comparison and gives its table.
///
/// # Errors
/// A process cannot be started or ends early, a measurement has failed calls, or the file cannot be written.
pub async fn run(args: &CompareArgs) -> anyhow::Result<String> {
    let folder = tempfile::tempdir().context("cannot make a folder for the processes")?;
    process::pin_self();
    let provider = contestant::start_provider(folder.path()).await?;
    let mut contestants = vec![Contestant::direct(provider.addr)];
    contestants.extend(contestant::start_nginx(folder.path(), provider.addr).await?);
    if let Some(binary) = &args.keyforge {
        contestants.push(contestant::start_keyforge(binary, folder.path(), provider.addr).await?);
    }
    let plan = Plan::new(&args.model, args.seconds);
    for contestant in &mut contestants {
        plan.warm_up(contestant).await.with_context(|| format!("{} does not serve", contestant.name))?;
    }
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); contestants.len()];
    for _ in 0..args.rounds {
        for (contestant, rounds) in contestants.iter().zip(&mut figures) {
            let round = plan.round(contestant).await.with_context(|| format!("measuring {}", contestant.name))?;
            rounds.push(round);
        }
    }
    let named = contestants.iter().zip(&figures).map(|(contestant, rounds)| (contestant, rounds.as_slice()));
    let table = table::markdown(named.collect::<Vec<_>>().as_slice(), args);
    if let Some(path) = &args.out {
        std::fs::write(path, &table).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(table)
}
