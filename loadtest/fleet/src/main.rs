//! `keyforge-fleetload`: measures how fast a revocation reaches many nodes, what a table of many keys costs one node, and what counting costs Redis.
//!
//! Unlike the load generator beside it, it speaks the product's own protocol between the planes, by the product's own code. In reading order:
//! * `revocation`: a cluster of real processes, with light nodes beside the real ones; `light` is such a node, `cluster` starts the processes
//! * `table`: a real node that takes a large state
//! * `scripts`: the nodes' counter store against a Redis server that has a core to itself
//! * `figures`: quantiles, memory of processes

mod cluster;
mod figures;
mod light;
mod revocation;
mod scripts;
mod table;

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Measures revocation, the state stream and shared counters, on loopback only.
#[derive(Debug, Parser)]
#[command(name = "keyforge-fleetload", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure from the call that revokes a key to the last node's acknowledgement and to the first refusals.
    Revocation(revocation::RevocationArgs),
    /// Measure what a state with many keys costs one node: time to ready, memory, look-up, one more key.
    Table(table::TableArgs),
    /// Measure what reservations and settlements cost a Redis server that has a core to itself.
    Scripts(scripts::ScriptsArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let text = match Cli::parse().command {
        Command::Revocation(args) => revocation::run(&args).await?,
        Command::Table(args) => table::run(&args).await?,
        Command::Scripts(args) => scripts::run(&args).await?,
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}
