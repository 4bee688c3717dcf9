//! The scripts themselves, one call after the other: on a clock, and with texts that the test gives.
//!
//! What a pool and its retries would hide is done here by hand: a server that is made a replica and a primary again has another run and all its data,
//! data that was rolled back is what a snapshot held. Texts are read from the source tree, so that a test can change one and see whether anybody
//! notices.

mod store;

use std::path::Path;
use std::sync::Mutex;

use keyforge_counters::{CounterError, CounterStore, Outage, ReservationId};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use redis::{Connection, Value};

use crate::conformance::{Harness, START};
use crate::redis_server::RedisServer;

/// All scripts, and those of them that can begin a life.
const NAMES: [&str; 9] = ["reserve", "settle", "shrink", "renew", "grant", "claw_back", "vacate", "freeze", "look"];
const BEGINS_LIVES: [&str; 3] = ["reserve", "grant", "vacate"];
const SUFFIXES: [&str; 8] = ["books", "open", "expiry", "orphans", "orphaned", "rpm", "tpm", "leases"];

/// The texts that scripts are made of, by the name of their file.
#[derive(Clone)]
pub struct Sources(Vec<(String, String)>);

impl Sources {
    pub fn read() -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/redis/lua");
        let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        Self(files.map(|path| (name(&path), std::fs::read_to_string(&path).unwrap())).collect())
    }

    fn text(&self, name: &str) -> &str {
        &self.0.iter().find(|(file, _)| *file == format!("{name}.lua")).unwrap().1
    }

    /// Replaces a text that occurs in that file exactly once.
    pub fn mutate(&mut self, name: &str, from: &str, to: &str) {
        let (_, text) = self.0.iter_mut().find(|(file, _)| *file == format!("{name}.lua")).unwrap();
        let found = text.matches(from).count();
        assert_eq!(found, 1, "{name}.lua has {found} of: {from}");
        *text = text.replace(from, to);
    }

    fn script(&self, name: &str) -> String {
        let life = if BEGINS_LIVES.contains(&name) { self.text("life") } else { "" };
        ["#!lua\n", self.text("prelude"), self.text("clock_given"), life, self.text(name)].concat()
    }
}

/// An answer of the server.
#[derive(Debug)]
struct Reply(Value);

impl Reply {
    fn list(self) -> Vec<Self> {
        match self.0 {
            Value::Array(items) => items.into_iter().map(Self).collect(),
            other => panic!("no list: {other:?}"),
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Value::BulkString(bytes) => bytes,
            other => panic!("no text: {other:?}"),
        }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap()
    }

    /// A number; what was stored comes back as a text.
    fn number(&self) -> i64 {
        match &self.0 {
            Value::Int(number) => *number,
            _ => self.text().parse().unwrap(),
        }
    }

    fn amount(&self) -> u64 {
        u64::try_from(self.number()).unwrap()
    }

    fn life(&self) -> LifeId {
        self.text().parse().unwrap()
    }
}

/// Everything that is stored: names and what `DUMP` says of them.
pub struct Snapshot(Vec<(Vec<u8>, Vec<u8>)>);

/// A counter store that runs the scripts.
pub struct Scripts {
    connection: Mutex<Connection>,
    digests: Vec<(&'static str, String)>,
    state: Mutex<State>,
    _server: RedisServer,
}

struct State {
    now: i64,
    lives: u64,
}

impl Scripts {
    pub fn start(sources: &Sources) -> Self {
        // As a replica it would take writes, so that refusing them is left to the scripts.
        let server = RedisServer::start_with(&["--replica-read-only", "no", "--enable-debug-command", "yes"]);
        let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        let load = |name| {
            let text = sources.script(name);
            let loaded = redis::cmd("SCRIPT").arg("LOAD").arg(text).query(&mut connection);
            (name, loaded.unwrap_or_else(|error| panic!("{name}: {error}")))
        };
        let digests = NAMES.map(load).to_vec();
        let state = State { now: START.millis(), lives: 0 };
        Self { connection: Mutex::new(connection), digests, state: Mutex::new(state), _server: server }
    }

    fn command(&self, words: &[&[u8]]) -> Reply {
        let mut command = redis::Cmd::new();
        command.arg(words);
        Reply(command.query(&mut *self.connection.lock().unwrap()).unwrap())
    }

    /// All data is gone; the run is the same.
    pub fn flush(&self) {
        self.command(&[b"FLUSHALL"]);
    }

    /// The run of the server is another one, with whatever it still has. Until it is primary again it decides nothing.
    pub fn restart(&self) {
        self.command(&[b"REPLICAOF", b"127.0.0.1", b"1"]);
        for name in NAMES {
            let refused = self.run(name, KeyId::from_ascii(b"whilereplica").unwrap(), None, Vec::new());
            assert!(matches!(&refused, Err(CounterError::Unavailable(why)) if why.to_string().contains("primary")));
        }
        self.command(&[b"REPLICAOF", b"NO", b"ONE"]);
        // As it does an hour after its last replica went; it then has no earlier run any more that could be taken for the present one.
        self.command(&[b"DEBUG", b"CHANGE-REPL-ID"]);
    }

    /// What the server calls the run that it is in.
    fn present_run(&self) -> String {
        let info = self.command(&[b"INFO", b"replication"]);
        let run = info.text().lines().find_map(|line| line.strip_prefix("master_replid:"));
        run.unwrap().trim_end().to_owned()
    }

    /// All that is kept of a key is gone.
    pub fn lose(&self, key: KeyId) {
        let pattern = format!("kf1:{{{}}}:*", key.as_str());
        for name in self.command(&[b"KEYS", pattern.as_bytes()]).list() {
            self.command(&[b"DEL", name.text().as_bytes()]);
        }
    }

    /// Only the hash with the books of a key is gone.
    pub fn lose_books(&self, key: KeyId) {
        self.command(&[b"DEL", format!("kf1:{{{}}}:books", key.as_str()).as_bytes()]);
    }

    pub fn snapshot(&self) -> Snapshot {
        let names = self.command(&[b"KEYS", b"*"]).list();
        let dump = |name: Reply| {
            let name = name.bytes().to_vec();
            let dump = self.command(&[b"DUMP", &name]).bytes().to_vec();
            (name, dump)
        };
        Snapshot(names.into_iter().map(dump).collect())
    }

    /// What came after the snapshot is lost.
    pub fn roll_back(&self, snapshot: &Snapshot) {
        self.flush();
        for (name, dump) in &snapshot.0 {
            self.command(&[b"RESTORE", name, b"0", dump]);
        }
    }

    fn run(
        &self,
        name: &str,
        key: KeyId,
        ids: impl IntoIterator<Item = ReservationId>,
        arguments: Vec<String>,
    ) -> Result<Reply, CounterError> {
        let stem = format!("kf1:{{{}}}:", key.as_str());
        let mut keys: Vec<_> = SUFFIXES.iter().map(|suffix| format!("{stem}{suffix}")).collect();
        keys.extend(ids.into_iter().map(|id| format!("{stem}m:{}", name_of(id))));
        let digest = &self.digests.iter().find(|(known, _)| *known == name).unwrap().1;
        let now = self.state.lock().unwrap().now;
        let mut command = redis::cmd("EVALSHA");
        command.arg(digest).arg(keys.len()).arg(keys).arg(arguments).arg(now);
        let answer = command.query(&mut *self.connection.lock().unwrap());
        answer.map(Reply).map_err(|error| CounterError::Unavailable(Outage::unanswered(error.to_string())))
    }

    fn next_life(&self) -> String {
        let mut state = self.state.lock().unwrap();
        state.lives += 1;
        LifeId::from_bytes((u128::from(state.lives) << 64).to_be_bytes()).to_string()
    }
}

impl Harness for Scripts {
    type Store = Self;

    fn store(&self) -> &Self {
        self
    }

    fn set_clock(&self, now: Timestamp) {
        self.state.lock().unwrap().now = now.millis();
    }
}

/// How an id is spelled.
fn name_of(id: ReservationId) -> String {
    format!("{}.{:05}", id.request, id.attempt)
}

#[tokio::test]
async fn i_6_books_belong_to_the_run_that_the_server_is_in() {
    let scripts = Scripts::start(&Sources::read());
    let key = KeyId::from_ascii(b"ofwhichrun00").unwrap();
    let written = || scripts.command(&[b"HGET", b"kf1:{ofwhichrun00}:books", b"run"]).text().to_owned();
    let mut runs = std::collections::BTreeSet::new();
    for _ in 0..3 {
        scripts.vacate(key, LifeId::from_bytes([0; 16])).await.unwrap();
        assert_eq!(written(), scripts.present_run());
        runs.insert(written());
        scripts.restart();
    }
    assert_eq!(runs.len(), 3, "each promotion begins a run");
}

#[tokio::test]
async fn the_scripts_conform() {
    crate::conformance::suite(&Scripts::start(&Sources::read())).await;
}
