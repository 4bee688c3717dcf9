//! The table `[counters]`: where reservations are decided.

use std::time::Duration;

use keyforge_counters::redis::RedisSettings;
use keyforge_runtime::config::{Problems, SecretRef};
use serde::Deserialize;

/// The table as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCounters {
    store: RawStore,
    urls: Vec<String>,
    cluster: Option<bool>,
    username: Option<String>,
    password: Option<String>,
    timeout_milliseconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum RawStore {
    #[default]
    Memory,
    Redis,
}

/// Where reservations are decided.
#[derive(Default)]
pub enum CounterConfig {
    /// In this process: the node shares its keys with no other node.
    #[default]
    Memory,
    /// In Redis, for all nodes that use the same.
    Redis(RedisSettings),
}

impl CounterConfig {
    /// How long an agent waits for an answer of the store: for one that does not come, and for a second attempt after one that failed at once.
    #[must_use]
    pub const fn patience(&self) -> Duration {
        match self {
            Self::Memory => RedisSettings::DEFAULT_TIMEOUT,
            Self::Redis(redis) => redis.timeout.saturating_add(SPARE),
        }
    }
}

/// The store gives up a command by itself, and says more about it.
const SPARE: Duration = Duration::from_millis(5);
/// Longer than this and agents wait for a store that is gone.
const LONGEST_TIMEOUT: u64 = 1_000;

/// Checks the table.
pub(super) fn counters(raw: RawCounters, problems: &mut Problems) -> CounterConfig {
    if raw.store == RawStore::Memory {
        let given = [
            ("counters.urls", !raw.urls.is_empty()),
            ("counters.cluster", raw.cluster.is_some()),
            ("counters.username", raw.username.is_some()),
            ("counters.password", raw.password.is_some()),
            ("counters.timeout_milliseconds", raw.timeout_milliseconds.is_some()),
        ];
        for (path, given) in given {
            problems.require(path, !given, "only with counters.store = \"redis\"");
        }
        return CounterConfig::Memory;
    }
    let cluster = raw.cluster.unwrap_or(false);
    problems.require("counters.urls", !raw.urls.is_empty(), "at least one, such as redis://127.0.0.1:6379");
    problems.require("counters.urls", cluster || raw.urls.len() <= 1, "one only, unless counters.cluster = true");
    for (index, url) in raw.urls.iter().enumerate() {
        url_problems(&format!("counters.urls[{index}]"), url, problems);
    }
    let millis = raw.timeout_milliseconds;
    problems.require(
        "counters.timeout_milliseconds",
        millis.is_none_or(|millis| (1..=LONGEST_TIMEOUT).contains(&millis)),
        format!("from 1 to {LONGEST_TIMEOUT}"),
    );
    problems.require(
        "counters.username",
        raw.username.is_none() || raw.password.is_some(),
        "needs counters.password as well",
    );
    let password = raw.password.and_then(|text| problems.check("counters.password", SecretRef::parse(&text)));
    let password = password.and_then(|reference| problems.check("counters.password", reference.resolve()));
    CounterConfig::Redis(RedisSettings {
        urls: raw.urls,
        cluster,
        username: raw.username,
        password,
        timeout: millis.map_or(RedisSettings::DEFAULT_TIMEOUT, Duration::from_millis),
    })
}

fn url_problems(path: &str, url: &str, problems: &mut Problems) {
    // What is no URL may be a secret in the wrong place, so nothing of it is repeated.
    let Ok(uri) = url.parse::<http::Uri>() else {
        return problems.push(path, "not a URL such as redis://127.0.0.1:6379");
    };
    let scheme = uri.scheme_str().unwrap_or_default();
    problems.require(path, scheme == "redis" || scheme == "rediss", "must begin with redis:// or rediss://");
    let credentials = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    problems.require(path, !credentials, "credentials go into counters.username and counters.password, by reference");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    problems.require(
        path,
        scheme == "rediss" || loopback,
        "counters would cross the network in the clear, where they could be changed: use rediss://",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(toml: &str) -> (CounterConfig, Vec<String>) {
        let mut problems = Problems::new();
        let raw = keyforge_runtime::config::parse(std::path::Path::new("node.toml"), toml).unwrap();
        let config = counters(raw, &mut problems);
        (config, problems.found().iter().map(|problem| format!("{}: {}", problem.at, problem.message)).collect())
    }

    #[test]
    fn counters_are_in_memory_unless_redis_is_named() {
        assert!(matches!(checked(""), (CounterConfig::Memory, found) if found.is_empty()));
        let (config, found) = checked("store = \"redis\"\nurls = [\"redis://127.0.0.1:6379\"]");
        let CounterConfig::Redis(redis) = config else { panic!("not redis") };
        assert_eq!((found, redis.cluster, redis.timeout), (Vec::new(), false, Duration::from_millis(40)));
    }

    #[test]
    fn every_problem_of_the_table_is_named_and_no_secret_is_repeated() {
        let (_, found) = checked(
            "store = \"redis\"\nurls = [\"redis://u:hunter2@10.0.0.1\", \"http://127.0.0.1\", \"hunter2 \"]\n\
             password = \"hunter2\"\ntimeout_milliseconds = 0",
        );
        let found = found.join("\n");
        for part in [
            "counters.urls: one only",
            "counters.urls[0]: credentials",
            "counters.urls[0]: counters would cross",
            "counters.urls[1]: must begin",
            "counters.urls[2]: not a URL",
            "counters.password: ",
            "counters.timeout_milliseconds: from 1",
        ] {
            assert!(found.contains(part), "{part} in {found}");
        }
        assert!(!found.contains("hunter2"), "{found}");
        let (_, found) = checked("urls = [\"redis://127.0.0.1\"]\npassword = \"env:X\"");
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn an_unknown_store_or_key_is_refused() {
        for bad in ["store = \"disk\"", "url = \"redis://127.0.0.1\""] {
            let parsed = keyforge_runtime::config::parse::<RawCounters>(std::path::Path::new("node.toml"), bad);
            assert!(parsed.is_err(), "{bad}");
        }
    }
}
