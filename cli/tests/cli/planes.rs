//! Control plane and node as processes of their own, from configuration files like the examples in deploy/examples.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;

use keyforge_shared::clock::{Clock as _, SystemClock};

use crate::command::{Process, chat, eventually, get, run_in};

/// So many nanoseconds are a second.
const SECOND: u64 = 1_000_000_000;

/// An address that was free a moment ago.
fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// An example of the repository, for another directory and other addresses.
fn example(name: &str, directory: &Path, changes: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(name);
    let mut text = std::fs::read_to_string(path).unwrap();
    for (from, to) in [("/var/lib/keyforge", directory.to_str().unwrap())].iter().chain(changes) {
        assert!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    let file = directory.join(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn the_example_configurations_work_together_on_one_machine() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (admin, agents, ops) = (free(), free(), free());
    let control = example("control-plane.toml", directory, &[("127.0.0.1:7070", &admin)]);
    let mut control = Process::start(&["control-plane", "--config", &control], &[], directory.join("control.log"));
    let data = directory.join("control-plane");
    eventually("the control plane", || data.join("admin.addr").exists().then_some(()));

    let changes = [("127.0.0.1:7070", admin.as_str()), ("127.0.0.1:8080", &agents), ("127.0.0.1:9464", &ops)];
    let node = example("data-plane.toml", directory, &changes);
    let mut node =
        Process::start(&["data-plane", "--config", &node, "--log-format", "json"], &[], directory.join("node.log"));
    let ready = || std::net::TcpStream::connect(&ops).is_ok() && get(&format!("http://{ops}/readyz")).0 == 200;
    eventually("the node", || ready().then_some(()));

    let run = |words: &[&str]| run_in(directory, words, &[("KEYFORGE_DATA", data.to_str().unwrap())]);
    let made = run(&["key", "create", "ci", "--output", "json"]).json();
    let token = made["token"].as_str().unwrap();
    let url = format!("http://{agents}/v1");
    // Without a credential the key is known, and the answer is not that of an unknown one.
    eventually("the key on the node", || (chat(&url, token).0 != 401).then_some(()));
    assert_eq!(run(&["audit", "verify", "--all"]).code, 0);

    assert_eq!(node.stop().code(), Some(0), "{}", node.log());
    assert_eq!(control.stop().code(), Some(0), "{}", control.log());
    assert!(!data.join("admin.addr").exists());
    let lines = BufReader::new(std::fs::File::open(directory.join("node.log")).unwrap()).lines();
    assert!(lines.map_while(Result::ok).all(|line| line.starts_with('{')), "{}", node.log());
}

#[test]
fn a_control_plane_that_hangs_is_remembered_and_its_return_is_noticed_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (admin, agents, ops) = (free(), free(), free());
    let control = example("control-plane.toml", directory, &[("127.0.0.1:7070", &admin)]);
    let control = Process::start(&["control-plane", "--config", &control], &[], directory.join("control.log"));
    let data = directory.join("control-plane");
    eventually("the control plane", || data.join("admin.addr").exists().then_some(()));
    let changes = [("127.0.0.1:7070", admin.as_str()), ("127.0.0.1:8080", &agents), ("127.0.0.1:9464", &ops)];
    let node = example("data-plane.toml", directory, &changes);
    let node = Process::start(&["data-plane", "--config", &node], &[], directory.join("node.log"));
    let run = |words: &[&str]| {
        let env = [("KEYFORGE_DATA", data.to_str().unwrap()), ("SECRET", "sk-0123456789")];
        run_in(directory, &[words, &["--output", "json"]].concat(), &env).json()
    };
    // What is admitted is told by the failure of a provider that hangs up on everybody.
    let provider = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", provider.local_addr().unwrap());
    std::thread::spawn(move || provider.incoming().for_each(drop));
    run(&["credential", "add", "--provider", "openai", "--secret", "env:SECRET", "--base-url", &base_url]);
    let made = ["one", "other"].map(|name| run(&["key", "create", name, "--requests", "100/total"]));
    let [one, other] = made.each_ref().map(|made| made["token"].as_str().unwrap());
    let url = format!("http://{agents}/v1");
    let listening = || std::net::TcpStream::connect(&agents).is_ok();
    eventually("the keys on the node", || (listening() && chat(&url, other).0 == 502).then_some(()));

    control.signal("-STOP");
    assert_eq!(chat(&url, one).0, 503, "it needs its first grant");
    let since = SystemClock.monotonic_nanos();
    for _ in 0..20 {
        let (status, said) = chat(&url, one);
        assert!(status == 503 && said.contains("enforcement_unavailable"), "{said}");
    }
    assert!(
        SystemClock.monotonic_nanos() - since < SECOND,
        "20 refusals, each far below the time that one call may take"
    );
    assert_eq!(chat(&url, other).0, 502, "what was granted before is there");
    control.signal("-CONT");
    let since = SystemClock.monotonic_nanos();
    eventually("the key to work", || (chat(&url, one).0 == 502).then_some(()));
    assert!(SystemClock.monotonic_nanos() - since < SECOND, "it was not noticed within a second");
    let log = node.log();
    for line in ["the control plane does not answer", "the control plane answers again"] {
        assert_eq!(log.matches(line).count(), 1, "{line} in {log}");
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_exit_code_1_with_every_problem() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    std::fs::write(&path, "data_dir = \"d\"\nlistn = \"127.0.0.1:0\"\n").unwrap();
    for command in ["control-plane", "data-plane"] {
        let finished = run_in(directory.path(), &[command, "--config", "bad.toml"], &[]);
        assert!(finished.code == 1 && finished.stderr.contains("listn"), "{command}: {}", finished.stderr);
        let finished = run_in(directory.path(), &[command, "--config", "none.toml"], &[]);
        assert!(finished.code == 1 && finished.stderr.contains("none.toml"), "{command}: {}", finished.stderr);
    }
}
