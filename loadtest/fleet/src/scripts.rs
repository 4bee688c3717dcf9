//! What one Redis server bears that has a core to itself: the nodes' own counter store reserves and settles as fast as answers come, from the other core.
//!
//! Reservations are as a key with a request quota, a spend cap and a limit per minute makes them, none of which is reached. A request is one reservation and
//! one settlement. The server's CPU time is read from the kernel, the time inside of scripts from `INFO commandstats`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use keyforge_counters::redis::RedisSettings;
use keyforge_counters::{
    CounterStore as _, Grant, GrantSet, Need, Rates, RedisCounters, ReservationId, Reserve, Settled, Settlement,
    Verdict,
};
use keyforge_loadtest::compare::process::{self, BENCH_CORE, GATEWAY_CORE, Process};
use keyforge_loadtest::shared_counters::redis::RedisServer;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::{Clock as _, SystemClock};
use keyforge_shared::id::{KeyId, RequestId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Calendar, Window};
use tokio::time::Instant;

const LIMIT: u64 = 1 << 40;
/// The bound of a request and what it turns out to cost, in nano-dollars.
const BOUND: u64 = 100_000;
const COST: u64 = 60_000;

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct ScriptsArgs {
    /// Rounds; each is a line.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Seconds of each round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=30))]
    seconds: u64,
    /// Requests at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    concurrent: u32,
    /// Let the server keep an append-only file, which nothing needs.
    #[arg(long)]
    append_only: bool,
    /// Virtual keys, which take turns.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    keys: u32,
}

/// Measures, and gives a line for each round.
pub async fn run(args: &ScriptsArgs) -> anyhow::Result<String> {
    let folder = tempfile::tempdir()?;
    let address = process::free_port()?;
    let mut redis = Process::start(Path::new("redis-server"), BENCH_CORE, folder.path(), "redis", |command| {
        command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""]);
        let append_only = if args.append_only { "yes" } else { "no" };
        command.args(["--appendonly", append_only, "--maxmemory-policy", "noeviction"]).arg("--dir").arg(folder.path());
    })?;
    redis.wait_for(async |redis| redis.output().contains("Ready to accept connections").then_some(())).await?;
    process::pin(std::process::id(), GATEWAY_CORE);
    let url = format!("redis://{address}");
    let server = RedisServer::at(&url, redis.id().context("redis-server ended")?)?;
    let settings = RedisSettings {
        urls: vec![url],
        cluster: false,
        username: None,
        password: None,
        timeout: Duration::from_secs(5),
    };
    let store = RedisCounters::start(settings, &Shutdown::new()).await?;
    let mut accounts = Vec::new();
    for number in 0..args.keys {
        accounts.push(Account::open(&store, number).await?);
    }
    let mut lines = Vec::new();
    for round in 0..=args.rounds {
        let line = measure(args, &server, &accounts, round).await?;
        // The first one warms up.
        lines.extend((round > 0).then_some(line));
    }
    redis.end().await;
    Ok(lines.join("\n"))
}

async fn measure(
    args: &ScriptsArgs,
    server: &RedisServer,
    accounts: &[Account<'_>],
    round: u8,
) -> anyhow::Result<String> {
    let (before, scripts) = (server.process.cpu()?, server.scripts().await?);
    let (began, span) = (Instant::now(), Duration::from_secs(args.seconds));
    let working = (0..args.concurrent).map(|worker| async move {
        let account = &accounts[usize::try_from(worker)? % accounts.len()];
        let mut served = 0_u64;
        while began.elapsed() < span {
            account.request(round, worker, served).await?;
            served += 1;
        }
        anyhow::Ok(served)
    });
    let served: u64 = futures_util::future::try_join_all(working).await?.into_iter().sum();
    let (elapsed, spent) = (began.elapsed(), server.process.cpu()?.since(&before));
    let scripts = server.scripts().await?.since(&scripts);
    ensure!(scripts.calls >= 2 * served, "{} scripts for {served} requests", scripts.calls);
    let micros = |time: Duration, of: u64| figure(time.as_micros()) / figure(of.into());
    let per_request = micros(spent, served);
    Ok(format!(
        "{:.0} requests/s with Redis at {:.0} % of its core; Redis CPU {per_request:.1} µs per request, {:.1} per script; \
         {:.1} µs inside a script; {:.0} requests/s per Redis core",
        figure(served.into()) / elapsed.as_secs_f64(),
        100.0 * spent.as_secs_f64() / elapsed.as_secs_f64(),
        micros(spent, scripts.calls),
        micros(scripts.time, scripts.calls),
        1e6 / per_request,
    ))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn figure(count: u128) -> f64 {
    count as f64
}

/// A key whose limits are far away.
struct Account<'a> {
    store: &'a RedisCounters,
    key: KeyId,
    needs: [Need; 2],
}

impl<'a> Account<'a> {
    async fn open(store: &'a RedisCounters, number: u32) -> anyhow::Result<Self> {
        let key = KeyId::from_ascii(format!("k{number:011}").as_bytes()).map_err(|error| anyhow::anyhow!("{error}"))?;
        let today = Calendar::utc().day_at(SystemClock.now());
        let need = |dimension, amount| {
            let (scope, window) = (Scope::Key, Window::Month);
            let counter = CounterId { key, scope, dimension, window, first_day: window.first_day(today) };
            Need { counter, period: Calendar::utc().period(window, today), limit: LIMIT, amount }
        };
        let needs = [need(Dimension::Requests, 1), need(Dimension::Spend, BOUND)];
        let account = Self { store, key, needs };
        let Verdict::NotJoined(life) = account.reserve(0, attempt(0, 0, 0)).await? else {
            bail!("the server is not new")
        };
        let grants = needs.map(|Need { counter, period, .. }| Grant { counter, period, granted: LIMIT, elsewhere: 0 });
        store.grant(key, &GrantSet { life, epoch: 1, serial: 1, grants: grants.to_vec() }).await?;
        Ok(account)
    }

    async fn reserve(&self, epoch: u32, id: ReservationId) -> anyhow::Result<Verdict> {
        let rates = Rates { requests_per_minute: Some(1_000_000), ..Rates::default() };
        let (key, needs, expires_after) = (self.key, self.needs.as_slice(), Duration::from_secs(600));
        Ok(self.store.reserve(Reserve { id, key, epoch, needs, rates, expires_after, not_after: None }).await?)
    }

    async fn request(&self, round: u8, worker: u32, number: u64) -> anyhow::Result<()> {
        let id = attempt(round, worker, number);
        let verdict = self.reserve(1, id).await?;
        ensure!(matches!(verdict, Verdict::Admitted(_)), "not admitted: {verdict:?}");
        let settlement = Settlement { cost: NanoUsd::new(COST), counted: true, tokens: None };
        let settled = self.store.settle(self.key, 1, id, settlement).await?;
        ensure!(matches!(settled, Settled::Done { over_bound: false }), "not settled: {settled:?}");
        Ok(())
    }
}

fn attempt(round: u8, worker: u32, number: u64) -> ReservationId {
    let bits = (u128::from(round) << 96) | (u128::from(worker) << 64) | u128::from(number);
    ReservationId { request: RequestId::from_bytes(bits.to_be_bytes()), attempt: 1 }
}
