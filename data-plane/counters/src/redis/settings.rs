//! How Redis is reached: the settings, what is wrong with them for good, and a pool for each server that they lead to.
//!
//! User name and password have their own settings and are refused in an address: an address may be logged.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{Manager, Pool, Runtime, Timeouts};
use keyforge_shared::secret::SecretBytes;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
};
use tokio::sync::Notify;

/// How long a connection may take to be made, which no request waits for.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Calls that wait to be written; more than this many wait outside.
const QUEUE: usize = 1_024;
/// One connection serves requests, and while it is looked at another may be made.
const CONNECTIONS: usize = 2;
/// The scheme of addresses with TLS.
const TLS: &str = "rediss";

/// How to reach Redis.
pub struct RedisSettings {
    /// `redis://host:port`, or `rediss://` for TLS with the system's roots; one, or with `cluster` any nodes of the cluster.
    pub urls: Vec<String>,
    /// Whether it is a Redis Cluster.
    pub cluster: bool,
    /// The user to sign in as; the default user without one.
    pub username: Option<String>,
    /// Its password, UTF-8.
    pub password: Option<SecretBytes>,
    /// Every call is answered within this time, or the store is unavailable.
    pub timeout: Duration,
}

impl RedisSettings {
    /// What `timeout` is when nobody says otherwise: 40 ms.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(40);
}

/// Why a store on Redis cannot be started, and no waiting helps.
#[derive(Debug, thiserror::Error)]
pub enum RedisStartError {
    /// An address is no address, or there are too few or too many.
    #[error("redis url: {0}")]
    Url(String),
    /// The server refuses the user or the password.
    #[error("redis at {address} refuses the user name or password: {cause}")]
    Credentials {
        /// The server.
        address: String,
        /// Its answer.
        cause: String,
    },
    /// The server would forget keys when its memory is short.
    #[error("redis at {address} has maxmemory-policy {policy}: set it to noeviction, or limits would be forgotten")]
    Eviction {
        /// The server.
        address: String,
        /// The policy it has.
        policy: String,
    },
    /// The server only follows another one.
    #[error("redis at {address} is a replica: give the address of its primary")]
    Replica {
        /// The server.
        address: String,
    },
    /// The server is a node of a cluster and was given as one by itself, or the other way round.
    #[error("redis at {address} {}", if *.is_cluster { "is a node of a cluster: set cluster to true" } else { "is not a node of a cluster: set cluster to false" })]
    Cluster {
        /// The server.
        address: String,
        /// Whether it is a node of a cluster.
        is_cluster: bool,
    },
    /// The server is too old, or does not tell what has to be known of it.
    #[error("redis at {address} cannot be used: {cause}")]
    Unsupported {
        /// The server.
        address: String,
        /// Why.
        cause: String,
    },
    /// The cluster names a server on another host, and the addresses that were given are without TLS.
    #[error(
        "redis at {address} is a server of the cluster on another host and would be asked in the clear: give addresses with rediss://"
    )]
    Plaintext {
        /// The server.
        address: String,
    },
    /// The operating system has no randomness to give.
    #[error("no randomness for the names of lives: {0}")]
    Randomness(getrandom::Error),
}

/// Opens pools for servers that share the same settings.
pub(super) struct Connector {
    username: Option<String>,
    password: Option<SecretBytes>,
    scheme: &'static str,
    timeout: Duration,
}

impl Connector {
    /// Checks the settings and takes over what each connection needs of them.
    pub(super) fn new(settings: RedisSettings) -> Result<(Self, Vec<ConnectionInfo>), RedisStartError> {
        let addresses = settings.urls.iter().map(|url| address(url)).collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err(RedisStartError::Url("there is none; write redis://host:6379".to_owned()));
        }
        if addresses.len() > 1 && !settings.cluster {
            return Err(RedisStartError::Url(
                "there are several; that is for a cluster, set cluster to true".to_owned(),
            ));
        }
        if settings.password.as_ref().is_some_and(|password| password.expose_str().is_none()) {
            let cause = "it is not UTF-8".to_owned();
            return Err(RedisStartError::Credentials { address: shown(&addresses[0]), cause });
        }
        let has_tls = |address: &ConnectionInfo| matches!(address.addr(), ConnectionAddr::TcpTls { .. });
        let tls = has_tls(&addresses[0]);
        if addresses.iter().any(|address| has_tls(address) != tls) {
            let why = "some begin with redis:// and some with rediss://; the whole cluster is reached in one way";
            return Err(RedisStartError::Url(why.to_owned()));
        }
        let RedisSettings { username, password, timeout, .. } = settings;
        let scheme = if tls { TLS } else { "redis" };
        Ok((Self { username, password, scheme, timeout }, addresses))
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The address of another server, reached in the same way; without TLS only on this host, whatever the cluster says.
    pub(super) fn neighbour(&self, host: &str, port: u16) -> Result<ConnectionInfo, RedisStartError> {
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if self.scheme != TLS && !loopback {
            return Err(RedisStartError::Plaintext { address: format!("{host}:{port}") });
        }
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        address(&format!("{}://{host}:{port}", self.scheme))
    }

    /// A pool of connections to one server. `lost` is told when a connection ends.
    pub(super) fn pool(&self, address: &ConnectionInfo, lost: Arc<Notify>) -> Result<Pool, RedisStartError> {
        let unusable = |error: &dyn std::fmt::Display| RedisStartError::Url(format!("{}: {error}", shown(address)));
        // RESP3 is asked for because the library then says when a connection ends.
        let mut account = address.redis_settings().clone().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        if let Some(username) = &self.username {
            account = account.set_username(username);
        }
        if let Some(password) = self.password.as_ref().and_then(SecretBytes::expose_str) {
            account = account.set_password(password);
        }
        let address_with_account =
            address.clone().set_tcp_settings(TcpSettings::default().set_nodelay(true)).set_redis_settings(account);
        // Calls have their own deadline, so that one timer serves each.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_WITHIN))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE)
            .set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                if push.kind == PushKind::Disconnection {
                    lost.notify_one();
                }
                Ok(())
            });
        let manager = Manager::new_with_config(address_with_account, config).map_err(|error| unusable(&error))?;
        let timeouts =
            Timeouts { wait: Some(CONNECT_WITHIN), create: Some(CONNECT_WITHIN), recycle: Some(self.timeout) };
        let pool = Pool::builder(manager).max_size(CONNECTIONS).timeouts(timeouts).runtime(Runtime::Tokio1).build();
        pool.map_err(|error| unusable(&error))
    }
}

/// What a log may show of an address.
pub(super) fn shown(address: &ConnectionInfo) -> String {
    address.addr().to_string()
}

fn address(url: &str) -> Result<ConnectionInfo, RedisStartError> {
    let bad = |why: &str| RedisStartError::Url(why.to_owned());
    let address = url
        .into_connection_info()
        .map_err(|_| bad("one is no address; write redis://host:6379 or rediss://host:6379"))?;
    let settings = address.redis_settings();
    if settings.username().is_some() || settings.password().is_some() {
        return Err(bad("a user name or password belongs in its own setting, because addresses are logged"));
    }
    if matches!(address.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
        return Err(bad("`#insecure` is refused: without checking its certificate anybody could be the server"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(urls: &[&str]) -> RedisSettings {
        RedisSettings {
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            cluster: false,
            username: None,
            password: None,
            timeout: RedisSettings::DEFAULT_TIMEOUT,
        }
    }

    #[test]
    fn bad_addresses_are_refused_and_never_repeated() {
        for (urls, why) in [
            (&[][..], "there is none"),
            (&["redis://a:1", "redis://b:1"], "several"),
            (&["http://SECRET"], "no address"),
            (&["redis://:SECRET@localhost"], "own setting"),
            (&["redis://user:SECRET@localhost"], "own setting"),
            (&["rediss://localhost:6379/#insecure"], "`#insecure` is refused"),
        ] {
            let error = Connector::new(settings(urls)).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn addresses_with_and_without_tls_are_not_mixed() {
        for urls in [["redis://localhost:1", "rediss://localhost:2"], ["rediss://localhost:1", "redis://localhost:2"]] {
            let error = Connector::new(RedisSettings { cluster: true, ..settings(&urls) }).err().unwrap().to_string();
            assert!(error.contains("in one way"), "{error}");
        }
    }

    #[test]
    fn neighbours_are_reached_as_the_first_server_is() {
        let reached = |url: &str, host: &str| {
            let (connector, _) = Connector::new(settings(&[url])).unwrap();
            connector.neighbour(host, 7001)
        };
        for host in ["10.0.0.1", "fd00::1", "node.example", "127.0.0.1"] {
            let neighbour = reached("rediss://localhost:7000", host).unwrap();
            assert!(matches!(neighbour.addr(), ConnectionAddr::TcpTls { .. }), "{host}");
            assert!(shown(&neighbour).contains("7001"));
        }
        for host in ["localhost", "127.0.0.1", "127.0.0.2", "::1"] {
            let neighbour = reached("redis://localhost:7000", host).unwrap();
            assert!(matches!(neighbour.addr(), ConnectionAddr::Tcp(..)), "{host}");
        }
    }

    #[test]
    fn no_neighbour_on_another_host_is_asked_in_the_clear() {
        let (connector, _) = Connector::new(settings(&["redis://127.0.0.1:7000"])).unwrap();
        for host in ["10.0.0.1", "fd00::1", "node.example", "localhost.example"] {
            let error = connector.neighbour(host, 7001).unwrap_err().to_string();
            assert!(error.contains(host) && error.contains("in the clear"), "{error}");
        }
    }
}
