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
        url_problems(&format!("counters.urls[{index}]"), url, cluster, problems);
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

fn url_problems(path: &str, url: &str, cluster: bool, problems: &mut Problems) {
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
    // The parser of addresses forgives what it does not know, and would count in another database than the one that was meant.
    let database = uri.path().strip_prefix('/').unwrap_or_default();
    let digits = database.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = database.is_empty() || digits && database.parse::<u16>().is_ok();
    problems.require(
        path,
        is_number && uri.query().is_none(),
        "after host and port goes nothing, or the number of a database, such as redis://127.0.0.1:6379/3",
    );
    problems.require(
        path,
        !cluster || database.is_empty() || !is_number,
        "a Redis Cluster has no numbered databases: leave the number out",
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
    fn the_number_of_a_database_is_taken_for_one_server_and_refused_for_a_cluster() {
        let found = |url: &str, cluster: bool| {
            let (config, found) = checked(&format!("store = \"redis\"\nurls = [\"{url}\"]\ncluster = {cluster}"));
            let CounterConfig::Redis(redis) = config else { panic!("not redis") };
            assert_eq!(redis.urls, [url]);
            found.join("\n")
        };
        for good in ["redis://127.0.0.1:6379", "redis://127.0.0.1:6379/", "redis://127.0.0.1/3", "rediss://h:1/15"] {
            assert_eq!(found(good, false), "", "{good}");
        }
        for bad in
            ["redis://h/three", "redis://h/-1", "redis://h/+1", "redis://h/3/4", "redis://h/70000", "redis://h/1?db=2"]
        {
            let found = found(&bad.replace("//h", "//127.0.0.1"), false);
            assert!(found.contains("counters.urls[0]: after host and port"), "{bad}: {found}");
        }
        assert_eq!(found("redis://127.0.0.1:6379/", true), "");
        for numbered in ["redis://127.0.0.1:6379/3", "redis://127.0.0.1:6379/0"] {
            let found = found(numbered, true);
            assert!(found.contains("counters.urls[0]: a Redis Cluster has no numbered databases"), "{found}");
        }
    }

    #[test]
    fn an_unknown_store_or_key_is_refused() {
        for bad in ["store = \"disk\"", "url = \"redis://127.0.0.1\""] {
            let parsed = keyforge_runtime::config::parse::<RawCounters>(std::path::Path::new("node.toml"), bad);
            assert!(parsed.is_err(), "{bad}");
        }
    }
}
