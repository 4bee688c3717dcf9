//! From the call that revokes a key to the last node's acknowledgement, and to the first refusal at each real node.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use keyforge_proto::admin::v1 as admin;
use keyforge_runtime::shutdown::Shutdown;
use tokio::time::Instant;

use crate::cluster::{Cluster, Probe};
use crate::figures::{Times, megabytes, resident};
use crate::light::LightNodes;

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct RevocationArgs {
    /// The `keyforge` binary; `redis-server` is found in PATH.
    #[arg(long)]
    keyforge: PathBuf,
    /// Nodes that hear orders and do nothing else.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=19_000))]
    light: u32,
    /// Light nodes on one connection.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=150))]
    per_connection: u32,
    /// Real nodes, which are asked all the time.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=8))]
    real: u32,
    /// Keys that are revoked, one after another.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Pause between two, in milliseconds.
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
}

#[derive(Default)]
struct Seen {
    /// To the last acknowledgement, as the receipt says.
    acked: Times,
    /// To the answer of the call.
    called: Times,
    /// To the first refusal at a node.
    refused: Times,
    unacked: u64,
}

/// Measures, and gives the figures as lines.
pub async fn run(args: &RevocationArgs) -> anyhow::Result<String> {
    let folder = tempfile::tempdir()?;
    let real = usize::try_from(args.real)?;
    let cluster = Cluster::start(&args.keyforge, &folder.path().join("cluster"), real).await?;
    let shutdown = Shutdown::new();
    let measured = measure(args, &cluster, &shutdown).await;
    shutdown.force();
    cluster.stop().await?;
    measured
}

async fn measure(args: &RevocationArgs, cluster: &Cluster, shutdown: &Shutdown) -> anyhow::Result<String> {
    let mut keys = cluster.keys().await?;
    let pid = cluster.control_plane_pid()?;
    let first = keys.create_key(admin::CreateKeyRequest { name: "first".to_owned(), ..Default::default() }).await?;
    let revision = first.into_inner().key.context("no key")?.revision;
    let before = resident(pid)?;
    let (url, token) = (cluster.control_plane_url()?, cluster.fleet_token()?);
    let (light, per_connection) = (usize::try_from(args.light)?, usize::try_from(args.per_connection)?);
    let nodes = LightNodes::connect((&url, &token), light, per_connection, revision, shutdown).await?;
    // A few beats of each.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let of_light = resident(pid)?.saturating_sub(before);

    let mut seen = Seen::default();
    for round in 0..args.rounds {
        let created =
            keys.create_key(admin::CreateKeyRequest { name: format!("doomed {round}"), ..Default::default() });
        let created = created.await?.into_inner();
        let id = created.key.context("no key")?.id;
        let mut probes = Vec::new();
        for node in cluster.nodes() {
            let mut probe = Probe::connect(&node, &created.token).await?;
            while probe.ask().await? != 200 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            probes.push(probe);
        }
        let called = Instant::now();
        let refusals: Vec<_> = probes
            .into_iter()
            .map(|mut probe| {
                shutdown.spawn_background("probe", async move {
                    while probe.ask().await? == 200 {}
                    Ok::<_, anyhow::Error>(called.elapsed())
                })
            })
            .collect();
        let receipt = keys.revoke_key(admin::RevokeKeyRequest { id, wait_ms: Some(10_000) }).await?;
        seen.called.add(called.elapsed());
        let receipt = receipt.into_inner().receipt.context("no receipt")?;
        seen.acked.add(Duration::from_micros(receipt.took_us));
        seen.unacked += u64::from(receipt.nodes_total - receipt.nodes_acked);
        anyhow::ensure!(receipt.nodes_total >= args.light + args.real, "only {} nodes count", receipt.nodes_total);
        for refusal in refusals {
            seen.refused.add(refusal.await??);
        }
        tokio::time::sleep(Duration::from_millis(args.pause_ms)).await;
    }
    let per_node = if light == 0 { 0.0 } else { megabytes(of_light) * 1e3 / f64::from(args.light) };
    Ok(format!(
        "{} light nodes ({} hear at the end) and {} real ones, {} revocations, {} acknowledgements missing\n\
         call to last acknowledgement: {}\ncall to its answer: {}\ncall to first refusal at a real node: {}\n\
         control plane: {per_node:.1} kB resident for each light node",
        nodes.count(),
        nodes.hearing(),
        args.real,
        args.rounds,
        seen.unacked,
        seen.acked.line(),
        seen.called.line(),
        seen.refused.line(),
    ))
}
