//! Runs the binary, keeps a `keyforge dev` for a test, and speaks to it as an agent would.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// What a finished command left behind.
pub struct Finished {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The JSON that it printed; it must have succeeded.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// The binary with nothing of this process's environment but `env`.
pub fn command(words: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyforge"));
    command.args(words).env_clear().envs(env.iter().copied()).stdin(Stdio::null());
    command
}

/// Runs the binary in `directory` to its end.
pub fn run_in(directory: &Path, words: &[&str], env: &[(&str, &str)]) -> Finished {
    let output = command(words, env).current_dir(directory).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Finished { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A process that is killed when the test is over.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a long-running command. Its standard error goes to `log`.
    pub fn start(words: &[&str], env: &[(&str, &str)], log: PathBuf) -> Self {
        let child = command(words, env).stdout(Stdio::piped()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log }
    }

    pub fn stdout(&mut self) -> std::process::ChildStdout {
        self.child.stdout.take().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends a signal, such as `-STOP`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let log = self.log.clone();
        eventually(&format!("the end of the process, log in {}", log.display()), || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Looks again and again until there is something.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(LOOK);
    }
    panic!("waited too long for {what}");
}

/// A running `keyforge dev` on free ports.
pub struct Dev {
    pub process: Process,
    pub banner: Value,
    pub data: PathBuf,
}

impl Dev {
    pub fn start(data: &Path, env: &[(&str, &str)]) -> Self {
        let words = [
            &["dev", "--data", data.to_str().unwrap(), "--output", "json"][..],
            &["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"],
        ]
        .concat();
        let mut process = Process::start(&words, env, data.with_extension("log"));
        let first = serde_json::Deserializer::from_reader(process.stdout()).into_iter().next();
        let banner = first.unwrap_or_else(|| panic!("no banner: {}", process.log())).unwrap();
        Self { process, banner, data: data.to_owned() }
    }

    /// The token of the first key.
    pub fn token(&self) -> String {
        self.banner["first_key"]["token"].as_str().unwrap().to_owned()
    }

    /// The id of the first key.
    pub fn key(&self) -> String {
        self.banner["first_key"]["id"].as_str().unwrap().to_owned()
    }

    /// Runs an admin command against it.
    pub fn run(&self, words: &[&str]) -> Finished {
        self.run_with(words, &[])
    }

    pub fn run_with(&self, words: &[&str], env: &[(&str, &str)]) -> Finished {
        let env = [&[("KEYFORGE_DATA", self.data.to_str().unwrap())][..], env].concat();
        run_in(self.data.parent().unwrap(), words, &env)
    }

    /// Runs an admin command and reads its JSON.
    pub fn json(&self, words: &[&str]) -> Value {
        self.run(&[words, &["--output", "json"]].concat()).json()
    }

    /// A buffered chat completion: status and the answer as it came.
    pub fn chat(&self, token: &str) -> (u16, String) {
        chat(self.banner["base_url"].as_str().unwrap(), token)
    }
}

/// A buffered chat completion at a base URL.
pub fn chat(base_url: &str, token: &str) -> (u16, String) {
    let body = r#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello"}]}"#;
    let addr = base_url.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap();
    http(
        addr,
        &format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        ),
    )
}

/// `GET` of a URL: status and the answer as it came.
pub fn get(url: &str) -> (u16, String) {
    let (addr, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    http(addr, &format!("GET /{path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n"))
}

fn http(addr: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no status: {answer}")), answer)
}
