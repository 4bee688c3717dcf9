//! The scripts themselves, one call after the other: on a clock, under a run id, and with texts that the test gives.
//!
//! What a pool and its retries would hide is done here by hand: a server that was restarted has another run id, data that was rolled back is what
//! a snapshot held. Texts are read from the source tree, so that a test can change one and see whether anybody notices.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyforge_counters::{
    Admission, Books, ClawBack, CounterError, CounterStore, GrantSet, Rate, RateLeft, RateLimited, RatesLeft,
    ReservationId, Reserve, Settled, Settlement, Standing, Verdict,
};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{CivilDay, Window};

use crate::conformance::{Harness, START};

/// What a script is made of, in this order; those in brackets only where a life can begin.
const NAMES: [&str; 8] = ["reserve", "settle", "shrink", "renew", "grant", "claw_back", "vacate", "freeze"];
const BEGINS_LIVES: [&str; 3] = ["reserve", "grant", "vacate"];
const SUFFIXES: [&str; 8] = ["books", "open", "expiry", "orphans", "orphaned", "rpm", "tpm", "leases"];

/// A redis-server of this test alone, which ends with it.
pub struct Server {
    process: Child,
    directory: PathBuf,
}

impl Server {
    pub fn start() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let directory = std::env::temp_dir().join(format!("keyforge-scripts-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let process = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no", "--databases", "2"])
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is needed: install it, or leave these tests out");
        let mut server = Self { process, directory };
        let log = BufReader::new(server.process.stdout.take().unwrap());
        let ready = log.lines().map_while(Result::ok).any(|line| line.contains("ready to accept connections"));
        assert!(ready, "redis-server ended before it was ready");
        server
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::fs::remove_dir_all(&self.directory).unwrap_or_default();
    }
}

/// An answer of the server.
#[derive(Clone, Debug)]
enum Reply {
    Number(i64),
    Text(Vec<u8>),
    Nothing,
    List(Vec<Reply>),
}

impl Reply {
    fn list(self) -> Vec<Reply> {
        match self {
            Self::List(items) => items,
            other => panic!("no list: {other:?}"),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).unwrap(),
            other => panic!("no text: {other:?}"),
        }
    }

    /// A number; what was stored comes back as a text.
    fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            other => other.text().parse().unwrap(),
        }
    }

    fn amount(&self) -> u64 {
        u64::try_from(self.number()).unwrap()
    }

    fn life(&self) -> LifeId {
        self.text().parse().unwrap()
    }
}

struct Connection {
    read: BufReader<UnixStream>,
    write: UnixStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(socket: &Path) -> Self {
        let write = UnixStream::connect(socket).unwrap();
        write.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { read: BufReader::new(write.try_clone().unwrap()), write, buffer: Vec::new() }
    }

    fn call(&mut self, arguments: &[&[u8]]) -> Result<Reply, String> {
        self.buffer.clear();
        write!(self.buffer, "*{}\r\n", arguments.len()).unwrap();
        for argument in arguments {
            write!(self.buffer, "${}\r\n", argument.len()).unwrap();
            self.buffer.extend_from_slice(argument);
            self.buffer.extend_from_slice(b"\r\n");
        }
        self.write.write_all(&self.buffer).unwrap();
        self.reply()
    }

    fn reply(&mut self) -> Result<Reply, String> {
        let mut line = String::new();
        self.read.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "+" => Ok(Reply::Text(rest.into())),
            "-" => Err(rest.to_owned()),
            ":" => Ok(Reply::Number(rest.parse().unwrap())),
            "$" | "*" if rest == "-1" => Ok(Reply::Nothing),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.read.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Ok(Reply::Text(bytes))
            }
            "*" => (0..rest.parse().unwrap()).map(|_| self.reply()).collect::<Result<_, _>>().map(Reply::List),
            _ => panic!("no answer of a redis: {line}"),
        }
    }
}

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
            let digest = connection.call(&[b"SCRIPT", b"LOAD", text.as_bytes()]).unwrap_or_else(|e| panic!("{name}: {e}"));
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

    fn run(&self, name: &str, key: KeyId, id: Option<ReservationId>, arguments: Vec<String>) -> Result<Reply, CounterError> {
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

fn id_text(id: ReservationId) -> String {
    format!("{}.{:05}", id.request, id.attempt)
}

fn field(key: KeyId, counter: &CounterId) -> String {
    if counter.key != key {
        return "-".to_owned();
    }
    let scope = if counter.scope == Scope::Key { 'k' } else { 'w' };
    let dimension = if counter.dimension == Dimension::Requests { 'r' } else { 's' };
    let window = ['d', 'w', 'm', 't'][Window::ALL.iter().position(|window| *window == counter.window).unwrap()];
    format!("{scope}{dimension}{window}.{}", counter.first_day.number())
}

fn counter(key: KeyId, field: &str) -> Option<CounterId> {
    let (letters, day) = field.split_once('.')?;
    let letters = letters.as_bytes();
    Some(CounterId {
        key,
        scope: if letters[0] == b'k' { Scope::Key } else { Scope::Workspace },
        dimension: if letters[1] == b'r' { Dimension::Requests } else { Dimension::Spend },
        window: Window::ALL[b"dwmt".iter().position(|letter| *letter == letters[2]).unwrap()],
        first_day: CivilDay::from_number(day.parse().unwrap()),
    })
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn or_none(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "-1".to_owned(), |number| number.to_string())
}

fn rate_left(remaining: &Reply, reset: &Reply) -> Option<RateLeft> {
    let reset = Duration::from_millis(u64::try_from(reset.number()).ok()?);
    Some(RateLeft { remaining: remaining.amount(), reset })
}

fn rates_left(reply: &[Reply]) -> RatesLeft {
    RatesLeft { requests: rate_left(&reply[0], &reply[1]), tokens: rate_left(&reply[2], &reply[3]) }
}

fn standing(reply: &[Reply]) -> Standing {
    Standing {
        free: reply[0].amount(),
        used: reply[1].amount(),
        held: reply[2].amount(),
        orphaned: reply[3].amount(),
        elsewhere: reply[4].amount(),
    }
}

fn verdict(reply: &[Reply]) -> Verdict {
    let index = |reply: &Reply| usize::try_from(reply.number()).unwrap();
    match reply[0].number() {
        1 => Verdict::Admitted(Admission {
            counters: reply[6..].chunks(5).map(standing).collect(),
            rates: rates_left(&reply[2..]),
        }),
        2 => Verdict::NotJoined(reply[2].life()),
        3 => Verdict::NoBooks(reply[2..].iter().map(index).collect()),
        4 => Verdict::Short(reply[2..].chunks(6).map(|need| (index(&need[0]), standing(&need[1..]))).collect()),
        5 => Verdict::RateLimited(RateLimited {
            rate: [Rate::Requests, Rate::Tokens, Rate::Concurrency][index(&reply[2]) - 1],
            retry_after: u64::try_from(reply[3].number()).ok().map(Duration::from_millis),
            left: rates_left(&reply[4..]),
        }),
        6 => Verdict::Frozen,
        7 => Verdict::Duplicate,
        8 => Verdict::Late,
        9 => Verdict::OutsidePeriod { now: Timestamp::from_millis(reply[2].number()) },
        other => panic!("no verdict: {other}"),
    }
}

impl CounterStore for Scripts {
    async fn reserve(&self, ask: Reserve<'_>) -> Result<Verdict, CounterError> {
        let takes = ask.needs.iter().map(|need| format!("{}={}", field(ask.key, &need.counter), need.amount));
        let mut arguments = vec![
            self.next_life(),
            ask.epoch.to_string(),
            id_text(ask.id),
            millis(ask.expires_after),
            or_none(ask.not_after.map(Timestamp::millis)),
            or_none(ask.rates.requests_per_minute),
            or_none(ask.rates.tokens.map(|tokens| tokens.per_minute)),
            ask.rates.tokens.map_or(0, |tokens| tokens.amount).to_string(),
            or_none(ask.rates.concurrency.map(|concurrency| concurrency.limit)),
            millis(ask.rates.concurrency.map_or(Duration::ZERO, |concurrency| concurrency.lease)),
            takes.collect::<Vec<_>>().join(" "),
            ask.needs.len().to_string(),
        ];
        for need in ask.needs {
            arguments.extend([
                field(ask.key, &need.counter),
                need.period.start.millis().to_string(),
                need.period.end.millis().to_string(),
                need.limit.to_string(),
                need.amount.to_string(),
            ]);
        }
        Ok(verdict(&self.run("reserve", ask.key, Some(ask.id), arguments)?.list()))
    }

    async fn settle(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        settlement: Settlement,
    ) -> Result<Settled, CounterError> {
        let arguments = vec![
            epoch.to_string(),
            id_text(id),
            settlement.cost.nanos().to_string(),
            u8::from(settlement.counted).to_string(),
            or_none(settlement.tokens),
            "60000".to_owned(),
        ];
        let reply = self.run("settle", key, Some(id), arguments)?.list();
        let over_bound = reply[1].number() == 1;
        match reply[0].number() {
            1 => Ok(Settled::Done { over_bound }),
            2 => Ok(Settled::Late { over_bound }),
            3 => Ok(Settled::Duplicate),
            4 => Ok(Settled::Unknown),
            5 => Err(CounterError::Epoch { key, given: epoch, current: u32::try_from(reply[1].number()).unwrap() }),
            other => panic!("no settlement: {other}"),
        }
    }

    async fn shrink(
        &self,
        key: KeyId,
        epoch: u32,
        id: ReservationId,
        bound: NanoUsd,
        tokens: Option<u64>,
    ) -> Result<bool, CounterError> {
        let arguments = vec![epoch.to_string(), id_text(id), bound.nanos().to_string(), or_none(tokens)];
        let reply = self.run("shrink", key, Some(id), arguments)?.list();
        match reply[0].number() {
            2 => Err(CounterError::Epoch { key, given: epoch, current: u32::try_from(reply[1].number()).unwrap() }),
            lowered => Ok(lowered == 1),
        }
    }

    async fn renew(&self, key: KeyId, ids: &[ReservationId], lease: Duration) -> Result<(), CounterError> {
        let mut arguments = vec![millis(lease), ids.len().to_string()];
        arguments.extend(ids.iter().map(|id| id_text(*id)));
        self.run("renew", key, None, arguments).map(drop)
    }

    async fn grant(&self, key: KeyId, set: &GrantSet) -> Result<(), CounterError> {
        if let Some(foreign) = set.grants.iter().find(|grant| grant.counter.key != key) {
            return Err(CounterError::ForeignCounter { key, owner: foreign.counter.key });
        }
        let mut arguments = vec![
            self.next_life(),
            set.life.to_string(),
            set.epoch.to_string(),
            set.serial.to_string(),
            set.grants.len().to_string(),
        ];
        for grant in &set.grants {
            arguments.extend([
                field(key, &grant.counter),
                grant.period.end.millis().to_string(),
                grant.granted.to_string(),
                grant.elsewhere.to_string(),
            ]);
        }
        let reply = self.run("grant", key, None, arguments)?.list();
        match reply[0].number() {
            1 => Ok(()),
            2 => Err(CounterError::Life { key, current: reply[1].life() }),
            3 => {
                let current = u32::try_from(reply[1].number()).unwrap();
                Err(CounterError::Epoch { key, given: set.epoch, current })
            }
            other => panic!("no answer to a grant: {other}"),
        }
    }

    async fn claw_back(&self, key: KeyId) -> Result<Option<ClawBack>, CounterError> {
        let reply = self.run("claw_back", key, None, Vec::new())?.list();
        let [life, epoch, serial, holdings @ ..] = &reply[..] else { return Ok(None) };
        Ok(Some(ClawBack {
            life: life.life(),
            epoch: u32::try_from(epoch.number()).unwrap(),
            serial: serial.amount(),
            holdings: holdings.chunks(2).map(|pair| (counter(key, pair[0].text()).unwrap(), pair[1].amount())).collect(),
        }))
    }

    async fn vacate(&self, key: KeyId, life: LifeId) -> Result<LifeId, CounterError> {
        Ok(self.run("vacate", key, None, vec![self.next_life(), life.to_string()])?.list()[0].life())
    }

    async fn freeze(&self, key: KeyId) -> Result<(), CounterError> {
        self.run("freeze", key, None, vec!["1".to_owned()]).map(drop)
    }

    async fn unfreeze(&self, key: KeyId) -> Result<(), CounterError> {
        self.run("freeze", key, None, vec!["0".to_owned()]).map(drop)
    }

    async fn books(&self, key: KeyId) -> Result<Vec<Books>, CounterError> {
        let name = format!("kf1:{{{}}}:books", key.as_str());
        let reply = self.command(&[b"HGETALL", name.as_bytes()]).list();
        let fields: Vec<_> = reply.chunks(2).map(|pair| (pair[0].text(), pair[1].text())).collect();
        let run = format!("run{}", self.state.lock().unwrap().run);
        if !fields.contains(&("run", run.as_str())) {
            return Ok(Vec::new());
        }
        let books = fields.iter().filter_map(|(name, text)| Some((counter(key, name)?, text)));
        let read = |(counter, text): (CounterId, &&str)| {
            let numbers: Vec<_> = text.split(' ').map(|number| number.parse::<u64>().unwrap()).collect();
            let [used, held, orphaned, granted, elsewhere, ..] = numbers[..] else { panic!("no counter: {text}") };
            Books { counter, granted, used, held, orphaned, elsewhere }
        };
        Ok(books.map(read).collect())
    }
}

#[tokio::test]
async fn the_scripts_conform() {
    crate::conformance::suite(&Scripts::start(&Sources::read())).await;
}
