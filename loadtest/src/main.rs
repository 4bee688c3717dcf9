//! The `keyforge-loadtest` command; what it does is in `keyforge_loadtest::cli`.

use clap::Parser;
use keyforge_loadtest::cli::{self, Cli};

/// One thread: the generator and the provider it starts share one core in every comparison.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    cli::run(Cli::parse()).await
}
