//! The vault's key is replaced while agents are served, by a control plane that is killed in the middle of it. Afterwards the database alone, and
//! everything that the processes said, tell nothing without the key file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyforge_loadtest::provider::Script;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::credential_service_client::CredentialServiceClient;
use keyforge_proto::admin::v1::vault_service_client::VaultServiceClient;
use keyforge_shared::secret::Key256;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::agents::{Crowd, crowd};
use super::fleet::{Cluster, Plan};
use crate::canary::{Canary, Search};
use crate::harness::PROVIDER_KEY;

/// Credentials whose secrets a rotation has to move; some transactions' worth.
const CREDENTIALS: usize = 400;

fn secret(number: usize) -> String {
    format!("sk-canary-vault-Xq7Lm2Rt9Wz4-{number:04}")
}

/// Puts the credentials into the vault. The provider takes every one of them.
async fn fill(cluster: &Cluster) {
    let mut credentials = CredentialServiceClient::new(cluster.admin().await);
    for number in 0..CREDENTIALS {
        let request = admin::AddCredentialRequest {
            provider: "openai".to_owned(),
            secret: secret(number).into_bytes(),
            base_url: cluster.provider.base_url(),
            ..admin::AddCredentialRequest::default()
        };
        credentials.add_credential(request).await.unwrap();
    }
}

/// A new key, and the configuration that names it, beside the old one or alone.
struct Keys {
    config: PathBuf,
    without: String,
    old: PathBuf,
    new: PathBuf,
}

impl Keys {
    fn make(cluster: &Cluster) -> Self {
        let config = find(&cluster.data, "control-plane.toml").unwrap();
        let without = std::fs::read_to_string(&config).unwrap();
        let (old, new) = (find(&cluster.data, "vault.key").unwrap(), cluster.data.with_extension("vault-2.key"));
        let key = Key256::generate().unwrap();
        keyforge_runtime::private_file::create_new(&new, hex::encode(key.expose()).as_bytes()).unwrap();
        Self { config, without, old, new }
    }

    fn configure(&self, previous: bool) {
        let previous = if previous { format!("\"file:{}\"", self.old.display()) } else { String::new() };
        let vault = format!("[vault]\nkey = \"file:{}\"\nprevious = [{previous}]\n", self.new.display());
        keyforge_runtime::private_file::replace(&self.config, format!("{}\n{vault}", self.without).as_bytes()).unwrap();
    }

    fn canaries(&self) -> Vec<Canary> {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap().trim().to_owned();
        let (old, new) = (read(&self.old), read(&self.new));
        vec![
            Canary::new("old vault key as text", &*old),
            Canary::new("old vault key", hex::decode(&old).unwrap()),
            Canary::new("new vault key as text", &*new),
            Canary::new("new vault key", hex::decode(&new).unwrap()),
        ]
    }
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(directory).ok()?.filter_map(Result::ok).find_map(|entry| match entry.path() {
        path if path.is_dir() => find(&path, name),
        path => (entry.file_name() == name).then_some(path),
    })
}

/// Begins a rotation and kills the control plane, which is the process `id`, as soon as it has moved some secrets. How many.
async fn killed_in_the_middle(cluster: &Cluster, id: u32) -> u64 {
    let mut vault = VaultServiceClient::new(cluster.admin().await);
    let mut rotation = vault.rotate_vault(admin::RotateVaultRequest {}).await.unwrap().into_inner();
    let moved = loop {
        let progress = rotation.message().await.unwrap().unwrap();
        if progress.rewrapped > 0 {
            break progress.rewrapped;
        }
    };
    let process = i32::try_from(id).ok().and_then(Pid::from_raw).unwrap();
    kill_process(process, Signal::KILL).unwrap();
    assert!(moved < CREDENTIALS as u64, "the rotation was over before the control plane was killed");
    moved
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vault_key_is_replaced_under_traffic_through_a_kill_in_the_middle_and_the_database_alone_tells_nothing() {
    let plan = Plan { nodes: 2, ..Plan::default() };
    let mut cluster = Cluster::start(Script::default(), plan).await;
    let (key, _) = cluster.create_key("agents", admin::Policy::default()).await;
    fill(&cluster).await;
    for node in 0..2 {
        cluster.serves(node, &key).await;
    }
    for name in ["control-plane", "node-1"] {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", cluster.pid(name).unwrap())).unwrap();
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(cores.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{name} would dump core: {cores}");
    }
    let keys = Keys::make(&cluster);
    keys.configure(true);
    let cluster_now = Arc::new(cluster);
    let end = Instant::now() + Duration::from_secs(8);
    let traffic = tokio::spawn({
        let (cluster, key) = (Arc::clone(&cluster_now), key.clone());
        async move {
            let plan = Crowd { agents: 6, tokens: 16, rest: Duration::from_millis(20), end };
            crowd(&cluster, &[key], plan).await
        }
    });

    let first = cluster_now.pid("control-plane").unwrap();
    let moved = killed_in_the_middle(&cluster_now, first).await;
    let is_back = async || cluster_now.pid("control-plane").is_some_and(|pid| pid != first);
    cluster_now.eventually("the control plane is back", is_back).await;

    // It went on by itself; asking for it again watches it to its end.
    let answers = async || {
        let output = cluster_now.cli(&["vault", "rotate", "--output", "json"]);
        output.status.success()
    };
    cluster_now.eventually("the rotation ends", answers).await;
    let status = cluster_now.cli_json(&["vault", "status"]);
    assert_eq!(status["secrets"], CREDENTIALS + 1, "{status}");
    assert_eq!(status["keys"][0]["secrets"], 0, "{status}");
    for what in ["audit_root", "node_authority"] {
        assert_eq!((&status["keys"][0][what], &status["keys"][1][what]), (&false.into(), &true.into()), "{status}");
    }
    assert_eq!(status["keys"][1]["secrets"], CREDENTIALS + 1, "{status}");
    assert_eq!(status["unreadable"].as_array().map(Vec::len), Some(0), "{status}");
    let log = cluster_now.log("control-plane");
    assert!(log.contains("the rotation of the vault key goes on"), "it was killed in the middle, after {moved}");

    let outcomes = traffic.await.unwrap();
    let failed: Vec<_> = outcomes.iter().map(|outcome| outcome.kind()).filter(|kind| kind != "200").collect();
    assert!(outcomes.len() > 100 && failed.is_empty(), "{} of {}: {failed:?}", failed.len(), outcomes.len());
    let output = cluster_now.cli(&["audit", "verify", "--all"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    // The old key is taken away; the next start needs the new one alone, and serves.
    let mut search = Search::new(keys.canaries().into_iter().chain(canaries()).collect());
    for words in [&["vault", "status"][..], &["vault", "rotate"], &["credential", "list"]] {
        let output = cluster_now.cli(words);
        search.look(&format!("stdout of {words:?}"), &output.stdout);
        search.look(&format!("stderr of {words:?}"), &output.stderr);
    }
    std::fs::remove_file(&keys.old).unwrap();
    keys.configure(false);
    let before = cluster_now.pid("control-plane").unwrap();
    cluster_now.kill("control-plane");
    let is_back = async || cluster_now.pid("control-plane").is_some_and(|pid| pid != before);
    cluster_now.eventually("the control plane is back", is_back).await;
    let opens = async || cluster_now.cli(&["vault", "status"]).status.success();
    cluster_now.eventually("every secret opens under the new key alone", opens).await;
    cluster_now.serves(0, &key).await;
    cluster = Arc::into_inner(cluster_now).unwrap();
    assert_eq!(cluster.stop().await.code(), Some(0));

    // Everything on disk but the key files: the database, its log, the processes' logs.
    search.dump("after the rotation", cluster.database_url().as_deref());
    let new = keys.new.clone();
    std::fs::rename(&new, cluster.data.parent().unwrap().join("vault.key")).unwrap();
    let files = search.directory("after the rotation", cluster.data.parent().unwrap());
    assert!(files > 5 && search.looked_at > 100_000, "{files} files, {} bytes", search.looked_at);
    search.assert_nothing_found();
}

fn canaries() -> Vec<Canary> {
    let some =
        [0, CREDENTIALS / 2, CREDENTIALS - 1].map(|number| Canary::new(format!("secret {number}"), secret(number)));
    some.into_iter().chain([Canary::new("provider key", PROVIDER_KEY)]).collect()
}
