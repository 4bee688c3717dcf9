//! The control plane's configuration: a TOML file in its raw shape, and what comes of it once it is checked.
//!
//! ```toml
//! data_dir = "/var/lib/keyforge"
//! listen = "127.0.0.1:7070"
//! allow_plaintext = false                      # needed for `listen` beyond this host, where nothing is encrypted
//! max_staleness_seconds = 30                   # how long a node may serve keys without the control plane, unless a policy says otherwise
//!
//! [vault]
//! key = "file:/etc/keyforge/vault.key"         # default: vault.key in data_dir, made at the first start
//! previous = []                                # keys that are being replaced, for reading
//!
//! [database]                                   # without it: SQLite in data_dir
//! url = "postgres://keyforge@db.internal/keyforge"
//! password = "file:/etc/keyforge/database.password"
//!
//! [tls]                                        # for nodes and operators on other hosts
//! listen = "0.0.0.0:7443"
//! certificate_seconds = 86400                  # how long nodes' certificates are good
//!
//! [telemetry]
//! log_format = "json"                          # text, json
//! log_filter = "info"
//! otlp_endpoint = "http://localhost:4318"
//! otlp_headers = { authorization = "env:OTLP_AUTHORIZATION" }
//! sample_ratio = 1.0
//! ```

mod database;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyforge_runtime::config::{self, ConfigError, Problems};
use keyforge_runtime::telemetry::{RawTelemetry, TelemetryConfig};
use keyforge_shared::policy::{DEFAULT_STALENESS_SECONDS, MAX_STALENESS_SECONDS};
use serde::{Deserialize, de};

use crate::vault::KekSource;

pub use database::{DatabaseConfig, RawDatabase};

const DEFAULT_LISTEN: &str = "127.0.0.1:7070";
/// How long certificates are good unless configured otherwise.
pub const DEFAULT_CERTIFICATE_LIFE: Duration = Duration::from_secs(24 * 3600);
const MIN_CERTIFICATE_LIFE: Duration = Duration::from_secs(3);
const MAX_CERTIFICATE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
const VAULT_KEY_FILE: &str = "vault.key";
const SERVICE_NAME: &str = "keyforge-control-plane";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    data_dir: PathBuf,
    listen: Option<String>,
    /// Where the vault key was named before there were several.
    vault_key: Option<de::IgnoredAny>,
    #[serde(default)]
    vault: RawVault,
    #[serde(default)]
    allow_plaintext: bool,
    max_staleness_seconds: Option<u32>,
    tls: Option<RawTls>,
    database: Option<RawDatabase>,
    #[serde(default)]
    telemetry: RawTelemetry,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVault {
    key: Option<KekSource>,
    #[serde(default)]
    previous: Vec<KekSource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    listen: String,
    certificate_seconds: Option<u64>,
}

/// gRPC over TLS, under the deployment's own authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsListener {
    /// Where; port 0 takes any free one.
    pub listen: SocketAddr,
    /// How long certificates of nodes and of this control plane are good. They are renewed at two thirds of it.
    pub certificate_life: Duration,
}

/// Where the vault keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultConfig {
    /// The key that seals.
    pub key: KekSource,
    /// Keys that are being replaced, for reading.
    pub previous: Vec<KekSource>,
}

/// What the control plane is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where everything is kept, or with a database elsewhere the secrets that belong to it.
    pub data_dir: PathBuf,
    /// Where gRPC is served in the clear; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where the vault keys are kept.
    pub vault: VaultConfig,
    /// Where it is served over TLS; `None` for nowhere.
    pub tls: Option<TlsListener>,
    /// The database; `None` for SQLite in the data directory.
    pub database: Option<DatabaseConfig>,
    /// How long a node may serve a key without the control plane, in seconds, unless its policy says otherwise.
    pub max_staleness_seconds: u32,
    /// The file that all this stands in, which a rotation reads again; `None` when it stands in none.
    pub file: Option<PathBuf>,
}

impl Config {
    /// A control plane in `data_dir` that listens on `listen`, a loopback address: what `keyforge dev` and tests start.
    #[must_use]
    pub fn local(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        let data_dir = data_dir.into();
        let vault = VaultConfig { key: KekSource::File(data_dir.join(VAULT_KEY_FILE)), previous: Vec::new() };
        let max_staleness_seconds = DEFAULT_STALENESS_SECONDS;
        Self { data_dir, listen, vault, tls: None, database: None, max_staleness_seconds, file: None }
    }

    /// Reads and checks a file. Telemetry is apart, because it is started first and once per process.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem of the file.
    pub fn load(path: &Path) -> Result<(Self, TelemetryConfig), ConfigError> {
        let (config, telemetry) = check(config::load(path)?)?;
        Ok((Self { file: Some(path.to_owned()), ..config }, telemetry))
    }
}

fn check(raw: Raw) -> Result<(Config, TelemetryConfig), ConfigError> {
    let mut problems = Problems::new();
    problems.require("data_dir", !raw.data_dir.as_os_str().is_empty(), "name the directory that everything is kept in");
    let listen = problems.address("listen", raw.listen.as_deref().unwrap_or(DEFAULT_LISTEN));
    let reachable = listen.is_some_and(|address| !address.ip().is_loopback());
    problems.require(
        "listen",
        !reachable || raw.allow_plaintext,
        "beyond this host tokens and provider keys would travel in the clear: listen there with [tls] listen, and here on a loopback \
         address; or set allow_plaintext = true if something else encrypts the way here",
    );
    let max_staleness_seconds = raw.max_staleness_seconds.unwrap_or(DEFAULT_STALENESS_SECONDS);
    problems.require(
        "max_staleness_seconds",
        (1..=MAX_STALENESS_SECONDS).contains(&max_staleness_seconds),
        "from 1 second to 86400, a day",
    );
    problems.require("vault_key", raw.vault_key.is_none(), "is now `key` in the table [vault]");
    let RawVault { key, previous } = raw.vault;
    let key = key.unwrap_or_else(|| KekSource::File(raw.data_dir.join(VAULT_KEY_FILE)));
    let again = previous.contains(&key);
    problems.require("vault.previous", !again, "names the key of vault.key again: name the keys before it");
    let vault = VaultConfig { key, previous };
    let telemetry = raw.telemetry.checked(SERVICE_NAME, &mut problems);
    let tls = raw.tls.and_then(|tls| tls_listener(&tls, &mut problems));
    let database = raw.database.and_then(|database| database.checked(&mut problems));
    let data_dir = raw.data_dir;
    let config =
        listen.map(|listen| Config { data_dir, listen, vault, tls, database, max_staleness_seconds, file: None });
    problems.finish(config.map(|config| (config, telemetry)))
}

fn tls_listener(raw: &RawTls, problems: &mut Problems) -> Option<TlsListener> {
    let listen = problems.address("tls.listen", &raw.listen);
    let certificate_life = raw.certificate_seconds.map_or(DEFAULT_CERTIFICATE_LIFE, Duration::from_secs);
    let range = MIN_CERTIFICATE_LIFE..=MAX_CERTIFICATE_LIFE;
    problems.require("tls.certificate_seconds", range.contains(&certificate_life), "from 3 to 604800, which is a week");
    listen.map(|listen| TlsListener { listen, certificate_life })
}

#[cfg(test)]
mod tests {
    use keyforge_runtime::config::SecretRef;

    use super::*;

    fn parse(text: &str) -> Result<(Config, TelemetryConfig), ConfigError> {
        check(config::parse(Path::new("control-plane.toml"), text)?)
    }

    fn refused(text: &str) -> String {
        parse(text).err().unwrap().to_string()
    }

    #[test]
    fn a_data_directory_is_all_that_is_needed() {
        let (config, _) = parse("data_dir = \"/data\"").unwrap();
        assert_eq!(config, Config::local("/data", "127.0.0.1:7070".parse().unwrap()));
        assert_eq!(config.vault.key, KekSource::File(PathBuf::from("/data/vault.key")));
    }

    #[test]
    fn listening_beyond_this_host_in_the_clear_needs_a_word() {
        let open = "data_dir = \"/data\"\nlisten = \"0.0.0.0:7070\"\n";
        let error = refused(open);
        assert!(error.contains("listen: ") && error.contains("allow_plaintext = true"), "{error}");
        assert!(parse(&format!("{open}allow_plaintext = true")).is_ok());
        let tls = "[tls]\nlisten = \"0.0.0.0:7443\"\n";
        assert!(refused(&format!("{open}{tls}")).contains("listen: "), "it would still be open");
        let (config, _) = parse(&format!("data_dir = \"/data\"\n{tls}")).unwrap();
        let listener = config.tls.unwrap();
        assert_eq!((listener.listen.port(), listener.certificate_life), (7443, DEFAULT_CERTIFICATE_LIFE));
        for seconds in [0, 2, 604_801] {
            let error = refused(&format!("data_dir = \"/data\"\n{tls}certificate_seconds = {seconds}"));
            assert!(error.contains("tls.certificate_seconds"), "{error}");
        }
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let error = refused(
            "data_dir = \"\"\nlisten = \"here\"\n[telemetry]\notlp_headers = { a = \"env:KEYFORGE_TEST_NEVER_SET\" }",
        );
        for field in ["data_dir", "listen", "telemetry.otlp_headers.a"] {
            assert!(error.contains(field), "{field} in {error}");
        }
    }

    #[test]
    fn database_is_checked_and_its_password_is_a_reference() {
        let (config, _) =
            parse("data_dir = \"/d\"\n[database]\nurl = \"postgres://kf@db/kf\"\npassword = \"env:PW\"").unwrap();
        let database = config.database.unwrap();
        assert_eq!((database.host.as_str(), database.password), ("db", Some(SecretRef::Env("PW".to_owned()))));
        for (table, words) in [
            ("url = \"postgres://kf:pw@db/kf\"", "database.url"),
            ("url = \"postgres://kf@db/kf\"\npassword = \"pw\"", "given by reference"),
            ("url = \"postgres://kf@db/kf\"\nconnections = 1", "database.connections"),
            ("url = \"postgres://kf@db/kf\"\nsslmode = \"disable\"", "sslmode"),
        ] {
            let error = refused(&format!("data_dir = \"/d\"\n[database]\n{table}"));
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn misspelt_keys_and_literal_secrets_are_refused() {
        assert!(refused("data_dir = \"/d\"\nlisten_on = \"127.0.0.1:1\"").contains("listen_on"));
        for vault in ["key = \"0123456789abcdef\"", "previous = [\"env:A\", \"0123456789abcdef\"]"] {
            let error = refused(&format!("data_dir = \"/d\"\n[vault]\n{vault}"));
            assert!(error.contains("vault.") && !error.contains("0123"), "{error}");
        }
    }

    #[test]
    fn vault_keys_are_named_in_their_table_and_each_once() {
        let text =
            "data_dir = \"/d\"\n[vault]\nkey = \"credential:new\"\nprevious = [\"file:/old\", \"command:/open\"]";
        let (config, _) = parse(text).unwrap();
        assert_eq!(config.vault.key, KekSource::Credential("new".to_owned()));
        let previous = [KekSource::File(PathBuf::from("/old")), KekSource::Command(PathBuf::from("/open"))];
        assert_eq!(config.vault.previous, previous);
        let error = refused("data_dir = \"/d\"\n[vault]\nprevious = [\"file:/d/vault.key\"]");
        assert!(error.contains("vault.previous"), "{error}");
        let error = refused("data_dir = \"/d\"\nvault_key = \"file:/k\"");
        assert!(error.contains("is now `key` in the table [vault]"), "{error}");
    }
}
