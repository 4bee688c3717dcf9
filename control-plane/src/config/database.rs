//! Where a shared database is: the table `[database]`. Without it everything is kept in SQLite, in the data directory.
//!
//! A URL says where; it holds no password. Beyond this host the connection is encrypted and the server's certificate is checked; that cannot be
//! switched off.

use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;
use keyforge_runtime::config::{Problems, SecretRef};
use serde::Deserialize;

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_CONNECTIONS: u32 = 16;
/// Fewer would wait for each other: one hears what other control planes tell, the rest serves calls.
const FEWEST_CONNECTIONS: u32 = 4;
const MOST_CONNECTIONS: u32 = 1_000;

/// `[database]` as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDatabase {
    url: String,
    password: Option<SecretRef>,
    ca_file: Option<PathBuf>,
    connections: Option<u32>,
}

/// A PostgreSQL database, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// Name or address of the server, or the directory of its socket, which begins with a slash.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who connects.
    pub user: String,
    /// The database.
    pub name: String,
    /// Where the user's password is; `None` when the server asks for none.
    pub password: Option<SecretRef>,
    /// PEM file of certificates to trust for the server besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Most connections at the same time.
    pub connections: u32,
}

impl DatabaseConfig {
    /// A database on this host that asks for no password, by its URL; `None` when that is not one. What tests use.
    #[must_use]
    pub fn local(url: &str) -> Option<Self> {
        let raw = RawDatabase { url: url.to_owned(), password: None, ca_file: None, connections: None };
        let mut problems = Problems::new();
        let config = raw.checked(&mut problems);
        config.filter(Self::is_local)
    }

    /// Whether the way to the server does not leave this host, so that it need not be encrypted.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host.starts_with('/')
            || self.host == "localhost"
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl RawDatabase {
    /// What comes of it once it is checked. No problem repeats the URL, because it may hold a password.
    pub fn checked(self, problems: &mut Problems) -> Option<DatabaseConfig> {
        let connections = self.connections.unwrap_or(DEFAULT_CONNECTIONS);
        problems.require(
            "database.connections",
            (FEWEST_CONNECTIONS..=MOST_CONNECTIONS).contains(&connections),
            "from 4 to 1000 connections",
        );
        if matches!(self.password, Some(SecretRef::Stdin)) {
            problems.push("database.password", "use env:NAME or file:PATH");
        }
        match place(&self.url) {
            Ok(Place { host, port, user, name }) => {
                let (password, ca_file) = (self.password, self.ca_file);
                Some(DatabaseConfig { host, port, user, name, password, ca_file, connections })
            }
            Err(problem) => {
                problems.push("database.url", problem);
                None
            }
        }
    }
}

struct Place {
    host: String,
    port: u16,
    user: String,
    name: String,
}

fn place(url: &str) -> Result<Place, &'static str> {
    const FORM: &str = "must be postgres://USER@HOST:PORT/DATABASE, or postgres://USER@localhost/DATABASE?host=DIRECTORY for the socket in a directory";
    let url: Uri = url.parse().map_err(|_| FORM)?;
    if !matches!(url.scheme_str(), Some("postgres" | "postgresql")) {
        return Err(FORM);
    }
    let authority = url.authority().ok_or(FORM)?;
    let user = authority.as_str().rsplit_once('@').map(|(user, _)| user).ok_or(FORM)?;
    if user.contains(':') {
        return Err("must not hold a password: name where it is in database.password, as env:NAME or file:PATH; \
                    if this was a real one, replace it: it has been written down");
    }
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    let name = url.path().trim_start_matches('/');
    if !word(user) || !word(name) {
        return Err(FORM);
    }
    let host = match url.query() {
        None => authority.host().trim_start_matches('[').trim_end_matches(']'),
        Some(query) => query.strip_prefix("host=").filter(|host| host.starts_with('/') && !host.contains('&')).ok_or(
            "takes no parameter but host, which names the directory of a socket: how the connection is encrypted is not left to the URL",
        )?,
    };
    let port = authority.port_u16().unwrap_or(DEFAULT_PORT);
    Ok(Place { host: host.to_owned(), port, user: user.to_owned(), name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_says_where_and_whether_that_is_this_host() {
        for (url, host, port, local) in [
            ("postgres://kf@127.0.0.1:5433/keyforge", "127.0.0.1", 5433, true),
            ("postgresql://kf@localhost/keyforge", "localhost", 5432, true),
            ("postgres://kf@[::1]/keyforge", "::1", 5432, true),
            ("postgres://kf@localhost:6000/keyforge?host=/run/postgresql", "/run/postgresql", 6000, true),
            ("postgres://kf@db.internal/keyforge", "db.internal", 5432, false),
            ("postgres://kf@10.0.0.1/keyforge", "10.0.0.1", 5432, false),
        ] {
            let raw = RawDatabase { url: url.to_owned(), password: None, ca_file: None, connections: None };
            let config = raw.checked(&mut Problems::new()).unwrap();
            assert_eq!((config.host.as_str(), config.port, config.is_local()), (host, port, local), "{url}");
            assert_eq!((config.user.as_str(), config.name.as_str()), ("kf", "keyforge"));
        }
    }

    #[test]
    fn passwords_and_switches_have_no_place_in_a_url() {
        for (url, words) in [
            ("postgres://kf:secret@db/keyforge", "database.password"),
            ("postgres://kf@db/keyforge?sslmode=disable", "no parameter but host"),
            ("postgres://kf@db/keyforge?host=/run&sslmode=disable", "no parameter but host"),
            ("mysql://kf@db/keyforge", "must be postgres://"),
            ("postgres://db/keyforge", "must be postgres://"),
            ("postgres://kf@db", "must be postgres://"),
            ("db", "must be postgres://"),
        ] {
            let problem = place(url).err().unwrap();
            assert!(problem.contains(words) && !problem.contains("secret@"), "{url}: {problem}");
        }
    }
}
