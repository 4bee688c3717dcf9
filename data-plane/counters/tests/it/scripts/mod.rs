//! The scripts themselves, one call after the other: on a clock, under a run id, and with texts that the test gives.
//!
//! What a pool and its retries would hide is done here by hand: a server that was restarted has another run id, data that was rolled back is what
//! a snapshot held. Texts are read from the source tree, so that a test can change one and see whether anybody notices.

mod store;

use std::path::Path;
use std::sync::Mutex;

use keyforge_counters::{CounterError, ReservationId};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use redis::{Connection, Value};

use crate::conformance::{Harness, START};
use crate::redis_server::RedisServer;

/// All scripts, and those of them that can begin a life.
const NAMES: [&str; 8] = ["reserve", "settle", "shrink", "renew", "grant", "claw_back", "vacate", "freeze"];
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
        [self.text("prelude"), self.text("clock_given"), life, self.text(name)].concat()
    }
}

/// Everything that is stored: names and what `DUMP` says of them.
pub struct Snapshot(Vec<(Vec<u8>, Vec<u8>)>);

/// A counter store that runs the scripts.
pub struct Scripts {
    connection: Mutex<Connection>,
    digests: Vec<(&'static str, String)>,
    state: Mutex<State>,
    _server: Server,
}

struct State {
    now: i64,
    run: u64,
    lives: u64,
}

impl Scripts {
    pub fn start(sources: &Sources) -> Self {
        let server = Server::start();
        let mut connection = Connection::open(&server.socket());
        let load = |name| {
            let text = sources.script(name);
            let digest =
                connection.call(&[b"SCRIPT", b"LOAD", text.as_bytes()]).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, digest.text().to_owned())
        };
        let digests = NAMES.map(load).to_vec();
        let state = State { now: START.millis(), run: 1, lives: 0 };
        Self { connection: Mutex::new(connection), digests, state: Mutex::new(state), _server: server }
    }

    fn command(&self, arguments: &[&[u8]]) -> Reply {
        self.connection.lock().unwrap().call(arguments).unwrap()
    }

    /// All data is gone; the server has the same run id.
    pub fn flush(&self) {
        self.command(&[b"FLUSHALL"]);
    }

    /// The server was started again, with whatever it still has.
    pub fn restart(&self) {
        self.state.lock().unwrap().run += 1;
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
            let name = name.text().as_bytes().to_vec();
            match self.command(&[b"DUMP", &name]) {
                Reply::Text(dump) => (name, dump),
                other => panic!("no dump: {other:?}"),
            }
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
        id: Option<ReservationId>,
        arguments: Vec<String>,
    ) -> Result<Reply, CounterError> {
        let stem = format!("kf1:{{{}}}:", key.as_str());
        let mut keys: Vec<_> = SUFFIXES.iter().map(|suffix| format!("{stem}{suffix}")).collect();
        keys.extend(id.map(|id| format!("{stem}m:{}", id_text(id))));
        let digest = &self.digests.iter().find(|(known, _)| *known == name).unwrap().1;
        let (run, now) = {
            let state = self.state.lock().unwrap();
            (format!("run{}", state.run), state.now.to_string())
        };
        let mut call = vec!["EVALSHA".to_owned(), digest.clone(), keys.len().to_string()];
        call.extend(keys);
        call.push(run);
        call.extend(arguments);
        call.push(now);
        let call: Vec<_> = call.iter().map(String::as_bytes).collect();
        self.connection.lock().unwrap().call(&call).map_err(CounterError::Unavailable)
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

#[tokio::test]
async fn the_scripts_conform() {
    crate::conformance::suite(&Scripts::start(&Sources::read())).await;
}
