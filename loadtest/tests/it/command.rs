//! The binary: the provider in a process of its own, and a comparison that cannot start.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use keyforge_loadtest::load::prompt::Prompt;
use keyforge_loadtest::load::{Limit, Target, closed};

/// Ends its process with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_keyforge-loadtest"))
}

#[tokio::test]
async fn the_provider_command_says_where_it_listens_and_serves_there() {
    let mut child = Ended(command().arg("provider").stdout(Stdio::piped()).spawn().unwrap());
    let mut first = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let url = first.trim().strip_prefix("listening on ").unwrap();
    let prompt = Prompt { model: "m".into(), prompt_bytes: 9, max_tokens: 9, stream: false };
    let limit = Limit { calls: 5, ..Limit::seconds(10) };
    let seen = closed::run(&Target::parse(url, "k").unwrap(), &prompt.body(), 2, limit).await.unwrap();
    assert_eq!((seen.calls, seen.failures), (5, 0));
    let output = command().args(["run", "--url", url, "--key", "k", "--requests", "7"]).output().unwrap();
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().starts_with("calls 7 in"));
}

#[test]
fn a_gateway_that_ends_at_once_is_reported() {
    let output = command().args(["compare", "--keyforge", "/bin/false", "--seconds", "1"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("keyforge dev") && said.contains("ended with"), "{said}");
}
