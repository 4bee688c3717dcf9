//! The configuration files of a cluster's processes, the same that an operator would write.

use super::layout::{CONTROL_PLANE, Layout, config_file};
use super::ports::{Pair, Ports, local};
use super::status::redis_url;
use crate::errors::Failure;

/// Writes that of the control plane.
pub(super) fn control_plane(
    layout: &Layout,
    ports: Pair,
    (filter, format): (&str, &str),
    database: Option<&str>,
) -> Result<(), Failure> {
    let mut text = format!(
        "data_dir = {}\nlisten = \"{}\"\n\n[telemetry]\nlog_filter = {}\nlog_format = \"{format}\"\n",
        quoted(&layout.data().display().to_string()),
        local(ports.main),
        quoted(filter),
    );
    if let Some(url) = database {
        text.push_str(&format!("\n[database]\nurl = {}\n", quoted(url)));
    }
    layout.write(&config_file(CONTROL_PLANE), &text).map(drop)
}

/// What the nodes of a cluster have in common.
pub(super) struct Nodes<'a> {
    pub(super) layout: &'a Layout,
    pub(super) ports: &'a Ports,
    pub(super) redis_servers: usize,
    /// Tables that are added to every node's file.
    pub(super) tuning: &'a str,
}

impl Nodes<'_> {
    /// Writes that of one node.
    pub(super) fn write(&self, name: &str, ports: Pair) -> Result<(), Failure> {
        let data = self.layout.directory(name)?;
        let servers = self.ports.servers(self.redis_servers);
        let urls: Vec<String> = servers.iter().map(|port| format!("\"{}\"", redis_url(*port))).collect();
        let text = format!(
            "data_dir = {data}\n\n\
             [listen]\nagents = \"{agents}\"\nops = \"{ops}\"\n\n\
             [control_plane]\nurl = \"http://{control}\"\nfleet_token = {token}\n\n\
             [counters]\nstore = \"redis\"\nurls = [{urls}]\ncluster = {cluster}\n\n\
             {tuning}",
            data = quoted(&data.display().to_string()),
            agents = local(ports.main),
            ops = local(ports.ops),
            control = local(self.ports.control_plane.main),
            token = quoted(&format!("file:{}", self.layout.fleet_token().display())),
            urls = urls.join(", "),
            cluster = self.redis_servers > 1,
            tuning = self.tuning,
        );
        self.layout.write(&config_file(name), &text).map(drop)
    }
}

/// A text as TOML writes it; JSON's way is one of TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_told_all_members_of_a_redis_cluster_and_what_tunes_it() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::make(&directory.path().join("it's \"here\"")).unwrap();
        let ports = Ports { redis: vec![1], redis_cluster: vec![2, 3, 4], ..Ports::default() };
        let write = |redis_servers| {
            let nodes =
                Nodes { layout: &layout, ports: &ports, redis_servers, tuning: "[upstream]\ntotal_seconds = 5\n" };
            nodes.write("node-1", Pair { main: 5, ops: 6 }).unwrap();
            std::fs::read_to_string(layout.config("node-1")).unwrap()
        };
        let one = write(1);
        assert!(one.contains("urls = [\"redis://127.0.0.1:1\"]\ncluster = false"), "{one}");
        let three = write(3);
        let urls = "[\"redis://127.0.0.1:2\", \"redis://127.0.0.1:3\", \"redis://127.0.0.1:4\"]\ncluster = true";
        assert!(three.contains(urls) && three.contains("total_seconds = 5"), "{three}");
        assert!(three.contains(r#"it's \"here\"/node-1""#), "{three}");
    }
}
