//! `keyforge move-database`: moves what a control plane keeps in SQLite to the PostgreSQL database that its configuration names.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use keyforge_control_plane::config::Config;
use keyforge_control_plane::store::relocate::{Relocated, relocate};
use keyforge_shared::clock::SystemClock;
use serde::Serialize;

use crate::errors::Failure;
use crate::output::{OutputFormat, Row};

/// What `keyforge move-database` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "Stop the control plane first. The configuration is the one that it is to be started with afterwards: with [database].\n\n\
                        Example:\n  keyforge move-database --config control-plane.toml"
)]
pub struct MoveDatabaseArgs {
    /// Configuration file of the control plane, TOML, with the table [database]
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How the answer is written
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// What was moved, as it is shown.
#[derive(Serialize)]
struct Moved {
    rows: u64,
    chains: u64,
    entries: u64,
    books: u64,
    settled: String,
    set_aside: String,
}

impl Row for Moved {
    const COLUMNS: &'static [&'static str] = &["ROWS", "CHAINS", "ENTRIES", "BOOKS", "SETTLED", "SET ASIDE"];

    fn cells(&self) -> Vec<String> {
        let numbers = [self.rows, self.chains, self.entries, self.books].map(|number| number.to_string());
        numbers.into_iter().chain([self.settled.clone(), self.set_aside.clone()]).collect()
    }
}

/// Moves everything, or nothing.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: MoveDatabaseArgs) -> Result<(), Failure> {
    let (config, _) = Config::load(&args.config).map_err(Failure::refused)?;
    let database = config.database.ok_or_else(|| {
        Failure::usage("the configuration names no database to move to")
            .hint("add a table [database] with url = \"postgres://USER@HOST/DATABASE\"")
    })?;
    let moved = Box::pin(relocate(&config.data_dir, &database, Arc::new(SystemClock))).await;
    let Relocated { rows, chains, entries, books, settled, set_aside } = moved.map_err(Failure::refused)?;
    let (settled, set_aside) = (settled.to_string(), set_aside.display().to_string());
    args.output.one(&Moved { rows, chains, entries, books, settled, set_aside })
}
