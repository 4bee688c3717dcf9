//! A node's configuration: the raw shape of its file, and the checked shape that everything else takes.

mod counters;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyforge_runtime::config::{self, ConfigError, Problems, SecretRef};
use keyforge_runtime::telemetry::{RawTelemetry, TelemetryConfig};
use keyforge_shared::name;
use keyforge_shared::network::{Network, Networks};
use keyforge_shared::secret::SecretBytes;
use serde::Deserialize;

pub use self::counters::CounterConfig;

const SERVICE_NAME: &str = "keyforge-data-plane";

/// The file as written. Unknown keys are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    data_dir: PathBuf,
    #[serde(default)]
    region: String,
    listen: RawListen,
    control_plane: RawControlPlane,
    #[serde(default)]
    counters: counters::RawCounters,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    upstream: RawUpstream,
    #[serde(default)]
    audit: RawAudit,
    #[serde(default)]
    telemetry: RawTelemetry,
    drain_seconds: Option<u64>,
}

/// The part of the file that also tunes a node which needs no file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTuning {
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    upstream: RawUpstream,
    #[serde(default)]
    audit: RawAudit,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListen {
    agents: String,
    ops: Option<String>,
    tls_certificates: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    #[serde(default)]
    allow_plaintext: bool,
    #[serde(default)]
    trusted_proxies: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawControlPlane {
    url: String,
    fleet_token: Option<String>,
    identity: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    body_bytes: Option<u64>,
    buffered_bytes: Option<u64>,
    body_seconds: Option<u64>,
    header_seconds: Option<u64>,
    connections: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawUpstream {
    connect_seconds: Option<u64>,
    first_byte_seconds: Option<u64>,
    idle_seconds: Option<u64>,
    total_seconds: Option<u64>,
    answer_bytes: Option<u64>,
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAudit {
    spool_bytes: Option<u64>,
    body_digests: Option<bool>,
}

/// A node's checked configuration.
pub struct Config {
    /// Where the node keeps its identity and its spool.
    pub data_dir: PathBuf,
    /// Where the node says it is; empty when it does not say.
    pub region: String,
    /// Where agents connect.
    pub agents: SocketAddr,
    /// Where health and metrics are; `None` for nowhere.
    pub ops: Option<SocketAddr>,
    /// Certificate chain and key files of the agents' listener.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Proxies whose `x-forwarded-for` says where a request comes from.
    pub trusted_proxies: Networks,
    /// The control plane's gRPC URL.
    pub control_plane_url: String,
    /// What the node shows to the control plane.
    pub access: Access,
    /// Where reservations are decided.
    pub counters: CounterConfig,
    /// What one request may take.
    pub limits: Limits,
    /// How long the provider may take.
    pub upstream: UpstreamTimes,
    /// Certificates to trust for providers, besides the public ones.
    pub upstream_ca: Option<PathBuf>,
    /// Most bytes of unshipped audit records.
    pub spool_bytes: u64,
    /// Whether entries carry SHA-256 digests of request and response bodies.
    pub body_digests: bool,
    /// How long a stopping node waits for running requests.
    pub drain: Duration,
}

/// How a node proves to the control plane that it is one.
pub enum Access {
    /// In the clear, on this host, with the fleet token.
    Token(SecretBytes),
    /// Over TLS, with the identity that a join put into this directory.
    Joined(PathBuf),
}

/// What one request, and all of them, may take of the node.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of one request body.
    pub body_bytes: u64,
    /// Most bytes of all request bodies that are held at the same time.
    pub buffered_bytes: u64,
    /// How long a body may take to arrive.
    pub body_time: Duration,
    /// How long a request's head may take to arrive.
    pub header_time: Duration,
    /// Most connections at the same time.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 32 << 20,
            buffered_bytes: 256 << 20,
            body_time: Duration::from_secs(60),
            header_time: Duration::from_secs(30),
            connections: 10_000,
        }
    }
}

/// How long the provider may take, and how much it may send.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamTimes {
    /// To accept a connection.
    pub connect: Duration,
    /// From the request to the first byte of the answer; models may think for minutes.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// From the request to the end of the answer.
    pub total: Duration,
    /// Most bytes of a buffered answer, and of one event of a stream.
    pub answer_bytes: u64,
}

impl Default for UpstreamTimes {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(600),
            idle: Duration::from_secs(300),
            total: Duration::from_secs(3600),
            answer_bytes: 64 << 20,
        }
    }
}

impl Config {
    /// The configuration of a node that lives in the same process as its control plane, at default limits.
    #[must_use]
    pub fn local(data_dir: PathBuf, agents: SocketAddr, control_plane: SocketAddr, fleet_token: SecretBytes) -> Self {
        Self {
            data_dir,
            region: String::new(),
            agents,
            ops: None,
            tls: None,
            trusted_proxies: Networks::default(),
            control_plane_url: format!("http://{control_plane}"),
            access: Access::Token(fleet_token),
            counters: CounterConfig::Memory,
            limits: Limits::default(),
            upstream: UpstreamTimes::default(),
            upstream_ca: None,
            spool_bytes: 1 << 30,
            body_digests: false,
            drain: Duration::from_secs(30),
        }
    }

    /// The same node with what a file says about limits, provider times and audit: the tables `[limits]`, `[upstream]` and `[audit]` of a node's
    /// configuration, and nothing else.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem of the file and its path.
    pub fn tuned_by(mut self, path: &Path) -> Result<Self, ConfigError> {
        let raw: RawTuning = config::load(path)?;
        let mut problems = Problems::new();
        self.limits = limits(&raw.limits, &mut problems);
        self.upstream = upstream_times(&raw.upstream, &mut problems);
        self.upstream_ca = raw.upstream.ca_file;
        self.spool_bytes = raw.audit.spool_bytes.unwrap_or(self.spool_bytes);
        self.body_digests = raw.audit.body_digests.unwrap_or(self.body_digests);
        problems.finish(Some(self))
    }

    /// Reads and checks a configuration file. Telemetry is apart, because it is started first and once per process.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem of the file and its path.
    pub fn load(path: &Path) -> Result<(Self, TelemetryConfig), ConfigError> {
        Self::check(config::load(path)?)
    }

    fn check(raw: Raw) -> Result<(Self, TelemetryConfig), ConfigError> {
        let mut problems = Problems::new();
        let agents = problems.address("listen.agents", &raw.listen.agents);
        let ops = raw.listen.ops.as_deref().map(|text| problems.address("listen.ops", text));
        let tls = match (raw.listen.tls_certificates, raw.listen.tls_key) {
            (Some(certificates), Some(key)) => Some((certificates, key)),
            (None, None) => None,
            _ => {
                problems.push("listen.tls_key", "tls_certificates and tls_key go together");
                None
            }
        };
        if let Some(agents) = agents {
            let safe = tls.is_some() || agents.ip().is_loopback() || raw.listen.allow_plaintext;
            problems.require(
                "listen.agents",
                safe,
                "virtual keys would cross the network in the clear: configure TLS, listen on loopback, or set listen.allow_plaintext = true",
            );
        }
        let trusted_proxies = trusted_proxies(&raw.listen.trusted_proxies, &mut problems);
        if let (false, Err(error)) = (raw.region.is_empty(), name::check(&raw.region)) {
            problems.push("region", error);
        }
        let access = access(&raw.control_plane, &raw.data_dir, &mut problems);
        let counters = counters::counters(raw.counters, &mut problems);
        let (limits, upstream) = (limits(&raw.limits, &mut problems), upstream_times(&raw.upstream, &mut problems));
        let checked = agents.zip(access).map(|(agents, access)| Self {
            data_dir: raw.data_dir,
            region: raw.region,
            agents,
            ops: ops.flatten(),
            tls,
            trusted_proxies,
            control_plane_url: raw.control_plane.url,
            access,
            counters,
            limits,
            upstream,
            upstream_ca: raw.upstream.ca_file,
            spool_bytes: raw.audit.spool_bytes.unwrap_or(1 << 30),
            body_digests: raw.audit.body_digests.unwrap_or(false),
            drain: Duration::from_secs(raw.drain_seconds.unwrap_or(30)),
        });
        let telemetry = raw.telemetry.checked(SERVICE_NAME, &mut problems);
        problems.finish(checked.map(|config| (config, telemetry)))
    }
}

/// Over TLS with a certificate, to wherever; in the clear with the fleet token, and on this host only.
fn access(raw: &RawControlPlane, data_dir: &Path, problems: &mut Problems) -> Option<Access> {
    let uri = problems.check("control_plane.url", raw.url.parse::<http::Uri>())?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if uri.scheme_str() == Some("https") {
        let message = "is for http:// on a loopback address; over TLS the node shows the certificate that `keyforge node join` got for it";
        problems.require("control_plane.fleet_token", raw.fleet_token.is_none(), message);
        return Some(Access::Joined(raw.identity.clone().unwrap_or_else(|| data_dir.to_owned())));
    }
    problems.require(
        "control_plane.url",
        uri.scheme_str() == Some("http") && loopback,
        "must be https://, or http:// on a loopback address: nothing crosses a network in the clear",
    );
    let message = "is for https://; on a loopback address the node shows the fleet token";
    problems.require("control_plane.identity", raw.identity.is_none(), message);
    let Some(token) = &raw.fleet_token else {
        problems
            .push("control_plane.fleet_token", "needed for http://: a reference to the control plane's fleet.token");
        return None;
    };
    let reference = problems.check("control_plane.fleet_token", SecretRef::parse(token))?;
    problems.check("control_plane.fleet_token", reference.resolve()).map(Access::Token)
}

fn trusted_proxies(raw: &[String], problems: &mut Problems) -> Networks {
    let networks = raw.iter().enumerate();
    let path = |index| format!("listen.trusted_proxies[{index}]");
    Networks::new(networks.filter_map(|(index, text)| problems.check(path(index), text.parse::<Network>())).collect())
}

fn limits(raw: &RawLimits, problems: &mut Problems) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        body_bytes: raw.body_bytes.unwrap_or(default.body_bytes),
        buffered_bytes: raw.buffered_bytes.unwrap_or(default.buffered_bytes),
        body_time: raw.body_seconds.map_or(default.body_time, Duration::from_secs),
        header_time: raw.header_seconds.map_or(default.header_time, Duration::from_secs),
        connections: raw.connections.unwrap_or(default.connections),
    };
    problems.require("limits.body_bytes", limits.body_bytes <= limits.buffered_bytes, "at most limits.buffered_bytes");
    problems.require("limits.connections", limits.connections > 0, "at least 1");
    limits
}

fn upstream_times(raw: &RawUpstream, problems: &mut Problems) -> UpstreamTimes {
    let default = UpstreamTimes::default();
    let given = [
        ("upstream.connect_seconds", raw.connect_seconds),
        ("upstream.first_byte_seconds", raw.first_byte_seconds),
        ("upstream.idle_seconds", raw.idle_seconds),
        ("upstream.total_seconds", raw.total_seconds),
    ];
    for (path, seconds) in given {
        problems.require(path, seconds != Some(0), "at least 1");
    }
    UpstreamTimes {
        connect: raw.connect_seconds.map_or(default.connect, Duration::from_secs),
        first_byte: raw.first_byte_seconds.map_or(default.first_byte, Duration::from_secs),
        idle: raw.idle_seconds.map_or(default.idle, Duration::from_secs),
        total: raw.total_seconds.map_or(default.total, Duration::from_secs),
        answer_bytes: raw.answer_bytes.unwrap_or(default.answer_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "data_dir = \"/node\"\n[listen]\nagents = \"127.0.0.1:0\"\n\
        [control_plane]\nurl = \"http://127.0.0.1:1\"\nfleet_token = \"env:PATH\"\n";

    fn parse(more: &str) -> Result<TelemetryConfig, ConfigError> {
        let raw = config::parse(Path::new("node.toml"), &format!("{NODE}{more}"))?;
        Config::check(raw).map(|(_, telemetry)| telemetry)
    }

    #[test]
    fn a_nodes_file_says_where_its_telemetry_goes() {
        let telemetry = parse(
            "[telemetry]\nlog_format = \"json\"\nlog_filter = \"debug\"\notlp_endpoint = \"http://localhost:4318\"\nsample_ratio = 0.5",
        )
        .unwrap();
        assert_eq!((telemetry.log_filter.as_str(), telemetry.sample_ratio), ("debug", 0.5));
        assert_eq!(telemetry.otlp_endpoint.as_deref(), Some("http://localhost:4318"));
        assert_eq!((telemetry.service_name.as_str(), parse("").unwrap().log_filter.as_str()), (SERVICE_NAME, "info"));
    }

    #[test]
    fn a_region_follows_the_rule_for_names() {
        let file = |region: &str| NODE.replacen("[listen]", &format!("region = \"{region}\"\n[listen]"), 1);
        let check =
            |region: &str| Config::check(config::parse(Path::new("node.toml"), &file(region)).unwrap()).map(drop);
        assert!(check("").is_ok() && check("eu-west 1").is_ok());
        assert!(check("eu\\u202e").unwrap_err().to_string().contains("region: holds U+202E"));
    }

    #[test]
    fn nothing_crosses_a_network_in_the_clear() {
        let check = |control_plane: &str| {
            let file =
                format!("data_dir = \"/node\"\n[listen]\nagents = \"127.0.0.1:0\"\n[control_plane]\n{control_plane}");
            Config::check(config::parse(Path::new("node.toml"), &file).unwrap()).map(|(config, _)| config.access)
        };
        let joined = |control_plane: &str| match check(control_plane) {
            Ok(Access::Joined(directory)) => directory,
            Ok(Access::Token(_)) => panic!("a token"),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(joined("url = \"https://control-plane.internal:7443\""), Path::new("/node"));
        assert_eq!(joined("url = \"https://127.0.0.1:7443\"\nidentity = \"/id\""), Path::new("/id"));
        assert!(matches!(check("url = \"http://localhost:7070\"\nfleet_token = \"env:PATH\""), Ok(Access::Token(_))));
        for (wrong, field) in [
            ("url = \"http://10.0.0.1:7070\"\nfleet_token = \"env:PATH\"", "control_plane.url"),
            ("url = \"http://127.0.0.1:7070\"", "control_plane.fleet_token"),
            (
                "url = \"http://127.0.0.1:7070\"\nfleet_token = \"env:PATH\"\nidentity = \"/id\"",
                "control_plane.identity",
            ),
            ("url = \"https://127.0.0.1:7443\"\nfleet_token = \"env:PATH\"", "control_plane.fleet_token"),
            ("url = \"ftp://127.0.0.1\"\nfleet_token = \"env:PATH\"", "control_plane.url"),
        ] {
            let error = check(wrong).err().unwrap().to_string();
            assert!(error.contains(field), "{wrong}: {error}");
        }
    }

    #[test]
    fn proxies_are_trusted_by_network_and_a_wrong_one_is_named_by_its_place() {
        let file = |list: &str| NODE.replacen("[listen]", &format!("[listen]\ntrusted_proxies = {list}"), 1);
        let check = |list: &str| Config::check(config::parse(Path::new("node.toml"), &file(list)).unwrap());
        assert!(
            check(r#"["10.0.0.0/8", "::1"]"#).is_ok_and(|(config, _)| config.trusted_proxies.as_slice().len() == 2)
        );
        let error = check(r#"["10.0.0.0/8", "10.0.0.0/40"]"#).err().unwrap().to_string();
        assert!(error.contains("listen.trusted_proxies[1]"), "{error}");
    }

    #[test]
    fn a_misspelt_key_and_a_header_without_a_value_are_refused_by_name() {
        let refused = |more: &str| parse(more).err().unwrap().to_string();
        assert!(refused("[telemetry]\nlog_level = \"debug\"").contains("telemetry.log_level"));
        let error = refused("[telemetry]\notlp_headers = { a = \"env:KEYFORGE_TEST_NEVER_SET\" }");
        assert!(error.contains("telemetry.otlp_headers.a"), "{error}");
    }
}
