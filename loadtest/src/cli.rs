//! The commands of `keyforge-loadtest`: run the scripted provider, measure one target, compare gateways, or
//! measure what shared counters cost.
//!
//! Results go to standard output as plain lines or Markdown.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::compare::{self, CompareArgs};
use crate::load::prompt::Prompt;
use crate::load::{Histogram, Limit, ProcessTree, Target, closed, rate, stream};
use crate::provider::{Script, ScriptedProvider, load_folder};
use crate::shared_counters::{self, CountersArgs};

/// A scripted provider and a load generator, on loopback only.
#[derive(Debug, Parser)]
#[command(name = "keyforge-loadtest", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the scripted provider until interrupted.
    Provider(ProviderArgs),
    /// Measure one target.
    Run(RunArgs),
    /// Measure direct, through nginx and through KeyForge, in interleaved rounds.
    Compare(CompareArgs),
    /// Measure what shared counters cost: one node that counts in its memory, one that counts in Redis.
    Counters(CountersArgs),
}

#[derive(Args, Debug)]
struct ProviderArgs {
    /// Address and port to listen on; default a free port of 127.0.0.1.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Script to follow, TOML or JSON.
    #[arg(long)]
    script: Option<PathBuf>,
    /// Folder of recorded exchanges to serve to requests that name one in `x-recording-id`.
    #[arg(long)]
    replay: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct RunArgs {
    /// Base URL, such as http://127.0.0.1:8080/v1.
    #[arg(long)]
    url: String,
    /// Key to send.
    #[arg(long)]
    key: String,
    /// Model to name.
    #[arg(long, default_value = "gpt-4o-mini")]
    model: String,
    /// Connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Seconds to run.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// The most calls.
    #[arg(long, default_value_t = 10_000_000)]
    requests: u64,
    /// Calls per second, sent at fixed moments; absent sends as fast as answers come.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000), conflicts_with = "stream")]
    rate: Option<u32>,
    /// Ask for streams.
    #[arg(long)]
    stream: bool,
    /// Bytes of the prompt.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    prompt_bytes: u32,
    /// Most tokens of an answer.
    #[arg(long, default_value_t = 256)]
    max_tokens: u64,
    /// Processes whose CPU time per call is to be told.
    #[arg(long)]
    pid: Vec<u32>,
}

/// Runs the command.
///
/// # Errors
/// What kept the command from doing its work. Failed calls of a measurement are told in its result.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Provider(args) => provide(args).await,
        Command::Run(args) => measure(args).await,
        Command::Compare(args) => say(&compare::run(&args).await?),
        Command::Counters(args) => say(&shared_counters::run(&args).await?),
    }
}

/// Writes to standard output; a closed pipe is an error, not a panic.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}

async fn provide(args: ProviderArgs) -> anyhow::Result<()> {
    let mut script = args.script.as_deref().map(Script::load).transpose()?.unwrap_or_default();
    script.listen = args.listen.or(script.listen);
    let provider = ScriptedProvider::start(script).context("listen: cannot bind")?;
    if let Some(folder) = args.replay {
        provider.serve_recordings(&load_folder(&folder)?);
    }
    say(&format!("listening on {}", provider.base_url()))?;
    tokio::signal::ctrl_c().await.context("cannot wait for the interrupt signal")?;
    provider.shutdown().await;
    say(&serde_json::to_string_pretty(&provider.bill())?)
}

async fn measure(args: RunArgs) -> anyhow::Result<()> {
    let target = Target::parse(&args.url, &args.key)?;
    let prompt = Prompt {
        model: args.model,
        prompt_bytes: usize::try_from(args.prompt_bytes)?,
        max_tokens: args.max_tokens,
        stream: args.stream,
    };
    let (body, connections) = (prompt.body(), usize::from(args.connections));
    let limit = Limit { calls: args.requests, ..Limit::seconds(args.seconds) };
    let processes = ProcessTree::of(args.pid);
    let before = processes.cpu()?;
    let (calls, failures, first_failure) = if args.stream {
        let seen = stream::run(&target, &body, connections, limit).await?;
        say(&format!("streams {} in {:?}, {} events", seen.streams, seen.elapsed, seen.events))?;
        say(&line("first byte", &seen.first_byte))?;
        say(&line("first content", &seen.first_content))?;
        say(&line("total", &seen.total))?;
        (seen.streams, seen.failures, seen.first_failure)
    } else {
        let seen = match args.rate {
            Some(per_second) => rate::run(&target, &body, per_second, connections, limit).await?,
            None => closed::run(&target, &body, connections, limit).await?,
        };
        say(&format!("calls {} in {:?}, {:.0}/s", seen.calls, seen.elapsed, seen.per_second()))?;
        say(&line("latency", &seen.latency))?;
        (seen.calls, seen.failures, seen.first_failure)
    };
    let spent = processes.cpu()?.since(&before);
    if !spent.is_zero() && calls > 0 {
        say(&format!("CPU per call {:.1} µs", spent.as_secs_f64() * 1e6 / calls as f64))?;
    }
    match first_failure {
        Some(failure) => anyhow::bail!("{failures} calls failed; the first: {failure}"),
        None => Ok(()),
    }
}

fn line(name: &str, histogram: &Histogram) -> String {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let at = |share| ms(histogram.quantile(share));
    let longest = ms(histogram.max());
    format!(
        "{name}: p50 {:.3} ms, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {longest:.3}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999)
    )
}
