//! What a cluster says of itself: a line of JSON for programs, the same without the key's token in the status file, and a banner for people.

use std::path::PathBuf;

use serde::Serialize;

use super::layout::{self, CONTROL_PLANE, Layout};
use super::ports::{Pair, Ports, local};
use super::roll::Pids;

/// What does not change while a cluster runs.
#[derive(Clone, Debug)]
pub(super) struct Description {
    pub(super) layout: Layout,
    pub(super) ports: Ports,
    pub(super) redis_servers: usize,
    /// Base URL of the sandbox provider; `None` when requests go to real ones.
    pub(super) sandbox: Option<String>,
}

/// The key that a first start made. Its token is shown once and stored nowhere.
#[derive(Serialize)]
pub(super) struct KeyView {
    pub(super) id: String,
    pub(super) token: String,
}

#[derive(Serialize)]
struct ClusterView<'a> {
    /// The process that keeps the others alive, and whose end is theirs.
    pid: u32,
    data_dir: PathBuf,
    admin_token_file: PathBuf,
    status_file: PathBuf,
    control_plane: ProcessView,
    nodes: Vec<ProcessView>,
    redis: Vec<RedisView>,
    provider: ProviderView<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a KeyView>,
}

#[derive(Serialize)]
struct ProcessView {
    name: String,
    url: String,
    ops_url: String,
    /// `null` while it is down.
    pid: Option<u32>,
    config: PathBuf,
    log: PathBuf,
}

#[derive(Serialize)]
struct RedisView {
    name: String,
    url: String,
    pid: Option<u32>,
    log: PathBuf,
}

#[derive(Serialize)]
struct ProviderView<'a> {
    /// `null` when requests go to real providers.
    url: Option<&'a str>,
    /// The sandbox is a part of the process that keeps the others alive.
    pid: Option<u32>,
}

impl Description {
    /// One line of JSON.
    pub(super) fn line(&self, pids: &Pids, key: Option<&KeyView>) -> String {
        let layout = &self.layout;
        let process = |name: String, ports: Pair| ProcessView {
            url: format!("http://{}", local(ports.main)),
            ops_url: format!("http://{}", local(ports.ops)),
            pid: pids.get(&name).copied(),
            config: layout.config(&name),
            log: layout.log(&name),
            name,
        };
        let redis = |(index, port): (usize, &u16)| {
            let name = layout::redis(index, self.redis_servers);
            let (pid, log) = (pids.get(&name).copied(), layout.log(&name));
            RedisView { url: redis_url(*port), pid, log, name }
        };
        let view = ClusterView {
            pid: std::process::id(),
            data_dir: layout.data().to_owned(),
            admin_token_file: layout.operator_token(),
            status_file: layout.status(),
            control_plane: process(CONTROL_PLANE.to_owned(), self.ports.control_plane),
            nodes: self.nodes().map(|(index, ports)| process(layout::node(index), ports)).collect(),
            redis: self.ports.servers(self.redis_servers).iter().enumerate().map(redis).collect(),
            provider: ProviderView { url: self.sandbox.as_deref(), pid: self.sandbox.is_some().then(std::process::id) },
            key,
        };
        serde_json::to_string(&view).unwrap_or_default()
    }

    /// The same for people.
    pub(super) fn banner(&self, key: Option<&KeyView>) -> String {
        let data = self.layout.data().display();
        let mut text = format!(
            "KeyForge {}: a local cluster of {} nodes is running. Ctrl-C stops it.\n\n",
            env!("CARGO_PKG_VERSION"),
            self.ports.nodes.len()
        );
        let mut line = |what: &str, text_of: &str| text.push_str(&format!("  {what:<10} {text_of}\n"));
        for (index, ports) in self.nodes() {
            line(&format!("Node {}", index + 1), &format!("http://{}/v1", local(ports.main)));
        }
        line("Admin", &format!("http://{} (gRPC)", local(self.ports.control_plane.main)));
        for port in self.ports.servers(self.redis_servers) {
            line("Redis", &redis_url(*port));
        }
        line(
            "Provider",
            self.sandbox.as_deref().map_or("real", |_| "SANDBOX: answers come from a script, not from a model"),
        );
        line("Logs", &format!("{data}/logs"));
        line("Processes", &format!("{data}/cluster.json"));
        text.push_str(&self.first_steps(key));
        text
    }

    fn first_steps(&self, key: Option<&KeyView>) -> String {
        let data = self.layout.data().display();
        let url = self.nodes().next().map(|(_, ports)| format!("http://{}/v1", local(ports.main))).unwrap_or_default();
        let token = match key {
            Some(KeyView { id, token }) => format!(
                "\nYour first virtual key is {id}; every node knows it, and its limits hold over all of them. Its token, shown this once:\n\n  \
                 export OPENAI_API_KEY={token}\n"
            ),
            None => format!(
                "\nThe virtual keys that exist still work. `keyforge key create NAME --data {data}` makes another one.\n\n  \
                 export OPENAI_API_KEY=YOUR_VIRTUAL_KEY\n"
            ),
        };
        format!(
            "{token}  export OPENAI_BASE_URL={url}\n\n  \
             curl \"$OPENAI_BASE_URL/chat/completions\" \\\n    \
             -H \"Authorization: Bearer $OPENAI_API_KEY\" -H \"Content-Type: application/json\" \\\n    \
             -d '{{\"model\": \"gpt-4o-mini\", \"messages\": [{{\"role\": \"user\", \"content\": \"Say hello\"}}]}}'\n  \
             keyforge usage --data {data}\n\n\
             Kill any process with -9: it is started again after half a second. It stays down while {data}/NAME.down exists, as in node-1.down.\n"
        )
    }

    fn nodes(&self) -> impl Iterator<Item = (usize, Pair)> {
        self.ports.nodes.iter().copied().enumerate()
    }
}

/// How a configuration names a server.
pub(super) fn redis_url(port: u16) -> String {
    format!("redis://{}", local(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(directory: &tempfile::TempDir) -> Description {
        let pair = |main: u16| Pair { main, ops: main + 1 };
        let nodes = vec![pair(10_010), pair(10_020), pair(10_030)];
        let ports = Ports { control_plane: pair(10_000), nodes, redis: vec![10_040], redis_cluster: Vec::new() };
        let layout = Layout::make(&directory.path().join("cluster")).unwrap();
        Description { layout, ports, redis_servers: 1, sandbox: Some("http://127.0.0.1:1/v1".to_owned()) }
    }

    #[test]
    fn a_program_finds_every_process_and_one_that_is_down_has_no_id() {
        let directory = tempfile::tempdir().unwrap();
        let pids = Pids::from([("node-2".to_owned(), 7), ("redis".to_owned(), 8), ("control-plane".to_owned(), 9)]);
        let key = KeyView { id: "vk_0123456789ab".to_owned(), token: "secret".to_owned() };
        let line = description(&directory).line(&pids, Some(&key));
        assert!(!line.contains('\n'));
        let view: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(view["nodes"][1]["url"], "http://127.0.0.1:10020");
        assert_eq!(view["nodes"][1]["ops_url"], "http://127.0.0.1:10021");
        assert_eq!((&view["nodes"][1]["pid"], &view["nodes"][0]["pid"]), (&7.into(), &serde_json::Value::Null));
        assert_eq!((&view["redis"][0]["pid"], &view["control_plane"]["pid"]), (&8.into(), &9.into()));
        assert_eq!(view["redis"][0]["url"], "redis://127.0.0.1:10040");
        assert_eq!(view["key"]["token"], "secret");
        let without = description(&directory).line(&pids, None);
        assert!(!without.contains("secret") && !without.contains("\"key\""), "{without}");
    }

    #[test]
    fn a_person_is_told_the_urls_the_key_once_and_where_to_look() {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyView { id: "vk_0123456789ab".to_owned(), token: "vk_0123456789ab_secret".to_owned() };
        let text = description(&directory).banner(Some(&key));
        for part in
            ["http://127.0.0.1:10010/v1", "http://127.0.0.1:10030/v1", "redis://127.0.0.1:10040", "/logs", "SANDBOX"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(text.matches("vk_0123456789ab_secret").count(), 1);
        assert!(description(&directory).banner(None).contains("keyforge key create NAME --data"));
    }
}
