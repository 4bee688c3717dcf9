//! What a state with many keys costs one real node, and one more key all of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use keyforge_control_plane::admin::{Admin, Sealed, deployment};
use keyforge_control_plane::config::{DEFAULT_CERTIFICATE_LIFE, VaultConfig};
use keyforge_control_plane::grpc::guarded::Gate as _;
use keyforge_control_plane::grpc::node_gate::NodeGate;
use keyforge_control_plane::grpc::state::StateApi;
use keyforge_control_plane::instance::Instance;
use keyforge_control_plane::metrics::LabelledCounter;
use keyforge_control_plane::nodes::authority::Authority;
use keyforge_control_plane::nodes::{NodeParts, Nodes};
use keyforge_control_plane::publish::credential_reports::CredentialReports;
use keyforge_control_plane::publish::fleet::Fleet;
use keyforge_control_plane::publish::fleet_token::{FLEET_TOKEN_FILE, FleetToken};
use keyforge_control_plane::publish::horizon::Horizon;
use keyforge_control_plane::publish::hub::Hub;
use keyforge_control_plane::publish::secrets::Secrets;
use keyforge_control_plane::publish::session::Publisher;
use keyforge_control_plane::store::Store;
use keyforge_control_plane::vault::KekSource;
use keyforge_loadtest::load::cpu::ProcessTree;
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::state_service_server::StateServiceServer;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_runtime::telemetry::{Telemetry, TelemetryConfig};
use keyforge_shared::clock::{Clock, SystemClock};
use keyforge_shared::id::{ChainId, KeyId, WorkspaceId};
use keyforge_shared::period::Window;
use keyforge_shared::plan::Plan;
use keyforge_shared::policy::{Policy, RequestLimit};
use keyforge_shared::state::{Change, Delta, KeyRecord, KeyStatus, Resource, State, WorkspaceRecord};
use keyforge_shared::token::{NewToken, TokenDigest};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;

use crate::cluster::Probe;
use crate::figures::{Times, megabytes, millis, peak, resident};

const PATIENCE: Duration = Duration::from_secs(120);
/// The directory of the control plane's part.
const CONTROL_PLANE: &str = "control-plane";
/// Policies that the keys share among them.
const POLICIES: u64 = 50;
/// Keys that are added one by one.
const ADDED: u64 = 200;

/// Keys of a table that fits the caches.
const FEW: u64 = 1_000;
/// Requests of a round.
const REQUESTS: u64 = 20_000;
const ROUNDS: u32 = 20;
/// Connections of a round, one after another.
const CONNECTIONS: usize = 4;

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct TableArgs {
    /// The `keyforge` binary.
    #[arg(long)]
    keyforge: PathBuf,
    /// Keys of the state.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=4_000_000))]
    keys: u64,
}

/// Measures, and gives the figures as lines.
pub async fn run(args: &TableArgs) -> anyhow::Result<String> {
    let lookups = format!("look-up by token: {}; with 1,000 keys {}", lookup(args.keys)?, lookup(1_000)?);
    let empty = serve(args, 0).await?;
    let few = serve(args, FEW).await?;
    let full = serve(args, args.keys).await?;
    Ok(format!(
        "{} keys: start to ready {:.0} ms (with no key {:.0} ms)\n\
         node: {:.1} MB resident, {:.1} MB at most (with no key {:.1} MB and {:.1} MB)\n\
         one more key: {} bytes, commit to acknowledgement {}\n{lookups}\n\
         the node's CPU time per request, each of another key: {}; with 1,000 keys {}",
        args.keys,
        millis(full.ready),
        millis(empty.ready),
        megabytes(full.resident),
        megabytes(full.peak),
        megabytes(empty.resident),
        megabytes(empty.peak),
        full.delta_bytes,
        full.added,
        full.asked,
        few.asked,
    ))
}

struct Seen {
    ready: Duration,
    resident: u64,
    peak: u64,
    delta_bytes: usize,
    added: String,
    asked: String,
}

async fn serve(args: &TableArgs, keys: u64) -> anyhow::Result<Seen> {
    let folder = tempfile::tempdir()?;
    let shutdown = Shutdown::new();
    let (state, tokens) = served(keys)?;
    let (publisher, gate) = parts(folder.path(), state, &shutdown).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let api = StateApi::new(
        publisher.clone(),
        CredentialReports::new(Arc::clone(&publisher.clock)),
        gate.clone(),
        shutdown.clone(),
    );
    let serving = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(gate.guard(StateServiceServer::new(api)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    drop(shutdown.spawn_background("state", serving));
    let free = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr();
    let (agents, ops) = (free()?, free()?);
    let began = Instant::now();
    let mut node = start_node(&args.keyforge, folder.path(), &url, (agents, ops))?;
    let pid = node.id().context("the node ended at once")?;
    while !is_ready(ops).await {
        if began.elapsed() > PATIENCE || node.try_wait()?.is_some() {
            bail!("the node does not become ready: {}", std::fs::read_to_string(folder.path().join("node.log"))?);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ready = began.elapsed();
    let (delta_bytes, added) = add_keys(&publisher, keys).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (resident, peak) = (resident(pid)?, peak(pid)?);
    let asked = if tokens.is_empty() { String::new() } else { ask(agents, pid, &tokens).await? };
    let seen = Seen { ready, resident, peak, delta_bytes, added, asked };
    node.kill().await?;
    shutdown.force();
    Ok(seen)
}

/// What a request costs the node for which it needs one key and nothing else: the least of several rounds, in each of which every request has another key.
async fn ask(agents: SocketAddr, pid: u32, tokens: &[String]) -> anyhow::Result<String> {
    let node = ProcessTree::of([pid]);
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let before = node.cpu()?;
        for tokens in tokens.chunks(tokens.len().div_ceil(CONNECTIONS)) {
            let mut probe = Probe::connect(&agents.to_string(), "").await?;
            for token in tokens {
                probe.show(token);
                let status = probe.ask().await?;
                anyhow::ensure!(status == 200, "a key was answered with {status}");
            }
        }
        least = least.min(node.cpu()?.since(&before));
    }
    let nanos = least.as_nanos() / u128::try_from(tokens.len())?;
    Ok(format!("{}.{} µs", nanos / 1_000, nanos % 1_000 / 100))
}

async fn add_keys(publisher: &Publisher, keys: u64) -> anyhow::Result<(usize, String)> {
    let (mut times, mut bytes) = (Times::default(), 0);
    for number in keys..keys + ADDED {
        let change = Change::Upsert(key(number, (id(number)?, digest(number))));
        bytes = delta_bytes(&publisher.hub, change.clone());
        let committed = Instant::now();
        publisher.hub.commit(vec![change]);
        let revision = publisher.hub.revision();
        while !publisher.fleet.nodes().iter().any(|(_, seen)| seen.acked_revision >= revision) {
            anyhow::ensure!(committed.elapsed() < PATIENCE, "the node does not acknowledge");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        times.add(committed.elapsed());
    }
    Ok((bytes, times.line()))
}

fn delta_bytes(hub: &Hub, change: Change) -> usize {
    let (from, set_hash) = hub.with_state(|state| (state.revision(), state.set_hash()));
    let delta = Delta { from, to: from + 1, changes: vec![change], set_hash };
    let message = proto::control_message::Message::Delta((&delta).into());
    message_len(&proto::ControlMessage { message: Some(message) })
}

fn message_len(message: &impl prost::Message) -> usize {
    message.encoded_len()
}

/// What serves a state that no database holds, to nodes with this deployment's token.
async fn parts(folder: &Path, state: State, shutdown: &Shutdown) -> anyhow::Result<(Publisher, NodeGate)> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let data = folder.join(CONTROL_PLANE);
    let store = Store::open(&data, Arc::clone(&clock)).await?;
    let vault = VaultConfig { key: KekSource::File(data.join("vault.key")), previous: Vec::new() };
    let instance = Instance::new(&data)?;
    let opened = deployment::open(&store, &data, &vault, &instance, Arc::clone(&clock)).await?;
    let fleet_token = FleetToken::load(&data, true)?;
    let (hub, fleet) = (Hub::new(state), Fleet::new(Arc::clone(&clock)));
    // There are no secrets that somebody would try.
    let tried = tokio::sync::watch::Sender::default().subscribe();
    let secrets = Secrets::new(store.clone(), Arc::clone(&opened.vault), tried, fleet_token.secret());
    let authority = Authority::open(&store, &opened.vault, opened.id, Arc::clone(&clock)).await?;
    let nodes = Nodes::new(NodeParts {
        store: store.clone(),
        authority: Arc::new(authority),
        seal: opened.audit.row_seal_key(),
        fleet_token,
        clock: Arc::clone(&clock),
        certificate_life: DEFAULT_CERTIFICATE_LIFE,
    });
    let sealed = Sealed { seal: opened.seal, sum: opened.sum, roster: opened.roster };
    let admin = Admin::new(store, opened.vault, opened.audit, hub.clone(), sealed, shutdown.clone());
    let (telemetry, _) = Telemetry::prepare(TelemetryConfig::new("keyforge-fleetload"))?;
    let gate = NodeGate::new(nodes, admin, LabelledCounter::refused_nodes(&telemetry.meter()));
    let max_staleness = Duration::from_secs(30);
    let horizon = Horizon::new(Arc::clone(&clock), false);
    Ok((Publisher { hub, horizon, fleet, secrets, deployment: opened.id, clock, max_staleness }, gate))
}

fn start_node(
    keyforge: &Path,
    folder: &Path,
    url: &str,
    (agents, ops): (SocketAddr, SocketAddr),
) -> anyhow::Result<Child> {
    let token = folder.join(CONTROL_PLANE).join(FLEET_TOKEN_FILE);
    let config = format!(
        "data_dir = {:?}\n[listen]\nagents = \"{agents}\"\nops = \"{ops}\"\n[control_plane]\nurl = \"{url}\"\nfleet_token = \"file:{}\"\n",
        folder.join("node"),
        token.display()
    );
    let path = folder.join("node.toml");
    std::fs::write(&path, config)?;
    let log = std::fs::File::create(folder.join("node.log"))?;
    let mut command = Command::new(keyforge);
    command.args(["data-plane".as_ref(), "--config".as_ref(), path.as_os_str()]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot start {}", keyforge.display()))
}

async fn is_ready(ops: SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let asked = async {
        let mut stream = TcpStream::connect(ops).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with(b"HTTP/1.1 200"))
    };
    asked.await.unwrap_or(false)
}

/// How long finding a key takes, one after another all over a table of so many.
fn lookup(keys: u64) -> anyhow::Result<String> {
    const LOOKUPS: u64 = 1_000_000;
    let state = state(keys)?;
    let (began, mut found, mut at) = (Instant::now(), 0_u64, 1_u64);
    for _ in 0..LOOKUPS {
        // A step that visits all over the table in an order that no cache foresees.
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        found += u64::from(state.key_by_digest(&digest((at >> 20) % keys)).is_some());
    }
    anyhow::ensure!(found == LOOKUPS, "{found} of {LOOKUPS} were found");
    let nanos = began.elapsed().as_nanos() / u128::from(LOOKUPS);
    Ok(format!("{nanos} ns"))
}

fn state(keys: u64) -> anyhow::Result<State> {
    let mut state = without_keys(keys)?;
    for number in 0..keys {
        state.add(key(number, (id(number)?, digest(number))));
    }
    Ok(state)
}

/// One workspace, and room for so many keys.
fn without_keys(room: u64) -> anyhow::Result<State> {
    let mut state = State::with_room(1, usize::try_from(room)?);
    let (request_limits, spend_limits) = (Vec::new(), Vec::new());
    let record = WorkspaceRecord {
        id: workspace(),
        name: "default".to_owned(),
        request_limits,
        spend_limits,
        plan: Plan::Unlimited,
    };
    state.add(Resource::Workspace(Arc::new(record)));
    Ok(state)
}

/// The same with keys that have tokens, of which it gives as many as are asked with, from all over the table.
fn served(keys: u64) -> anyhow::Result<(State, Vec<String>)> {
    let mut state = without_keys(keys)?;
    let (every, mut tokens) = ((keys / REQUESTS).max(1), Vec::new());
    for number in 0..keys {
        let token = NewToken::generate()?;
        state.add(key(number, (token.id(), token.digest())));
        if number % every == 0 {
            tokens.push(token.expose().to_owned());
        }
    }
    // A table of few is asked as often.
    while !tokens.is_empty() && tokens.len() < usize::try_from(REQUESTS)? {
        tokens.extend_from_within(..);
    }
    tokens.truncate(usize::try_from(REQUESTS)?);
    Ok((state, tokens))
}

const fn workspace() -> WorkspaceId {
    WorkspaceId::from_bytes([7; 16])
}

fn id(number: u64) -> anyhow::Result<KeyId> {
    KeyId::from_ascii(format!("k{number:011}").as_bytes()).map_err(|error| anyhow::anyhow!("{error}"))
}

fn key(number: u64, (id, digest): (KeyId, TokenDigest)) -> Resource {
    let limit = RequestLimit { requests: 1_000 + number % POLICIES, window: Window::Month };
    let policy = Policy { request_limits: vec![limit], ..Policy::default() };
    let mut chain = [9; 16];
    chain[..8].copy_from_slice(&number.to_be_bytes());
    Resource::Key(Arc::new(KeyRecord {
        id,
        digest,
        name: format!("agent {number:08}"),
        status: KeyStatus::Active,
        status_revision: 0,
        policy: Arc::new(policy),
        chain: ChainId::from_bytes(chain),
        workspace: workspace(),
        former: None,
    }))
}

/// Spread like the digests of tokens are.
fn digest(number: u64) -> TokenDigest {
    let mut bytes = [0; 32];
    let mut word = number;
    for part in bytes.chunks_exact_mut(8) {
        word = (word ^ (word >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0xd1b5_4a32_d192_ed03);
        part.copy_from_slice(&(word ^ (word >> 29)).to_le_bytes());
    }
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    TokenDigest(bytes)
}
