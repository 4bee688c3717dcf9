//! Real PostgreSQL servers for tests and measurements, from the programs of the distribution's packages.
//!
//! A [`Server`] listens on a free port of the loopback interface, keeps its files in a directory of its own, can be frozen, or killed and started
//! again, and ends with the value that stands for it. A [`shared`] one is started by the first process that asks and ends after the last.
//! PostgreSQL refuses to run as root; then it runs as the user `postgres` that its package made.

pub mod shared;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use tempfile::TempDir;

/// Who connects; the server believes everybody on this host.
const USER: &str = "keyforge";
/// The user that the package made.
const SERVER_USER: &str = "postgres";
/// Where Debian keeps the programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";
const STEP: Duration = Duration::from_millis(20);
/// Steps until a server must answer: half a minute.
const STEPS: u32 = 1_500;

/// A server of its own.
pub struct Server {
    place: Place,
    _directory: TempDir,
    process: Option<Child>,
}

/// Where a server's files and programs are, and where it listens.
pub(crate) struct Place {
    programs: PathBuf,
    directory: PathBuf,
    port: u16,
}

impl Server {
    /// A server that keeps what it commits, as an operator's would.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or does not start.
    pub fn start() -> anyhow::Result<Self> {
        let directory = TempDir::new()?;
        let place = Place::new(directory.path().to_owned())?;
        place.initialise()?;
        let mut server = Self { place, _directory: directory, process: None };
        server.run()?;
        Ok(server)
    }

    /// Starts what was stopped or killed, at the same address and with the same files.
    ///
    /// # Errors
    /// It does not start.
    pub fn run(&mut self) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "it runs already");
        self.process = Some(self.place.command(&["-c", "fsync=on"])?.spawn()?);
        self.place.wait()
    }

    /// Kills it and all its processes at once, as a crash would.
    ///
    /// # Errors
    /// The processes cannot be listed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let mut ids = children(process.id())?;
        ids.insert(0, process.id());
        signal("-KILL", &ids)?;
        process.wait()?;
        for _ in 0..STEPS {
            if !ids.iter().any(|id| Path::new(&format!("/proc/{id}")).exists()) {
                return Ok(());
            }
            sleep(STEP);
        }
        Err(anyhow!("processes of the server are still there"))
    }

    /// Lets it hold its connections but answer nothing, as a host that hangs, until [`Server::thaw`] or [`Server::kill`].
    ///
    /// # Errors
    /// The processes cannot be listed.
    pub fn freeze(&self) -> anyhow::Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        // The one that starts others first, so that none is missed.
        signal("-STOP", &[process.id()])?;
        signal("-STOP", &children(process.id())?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// The processes cannot be listed.
    pub fn thaw(&self) -> anyhow::Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        signal("-CONT", &children(process.id())?)?;
        signal("-CONT", &[process.id()])
    }

    /// Runs SQL in a database that [`Server::create`] made.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn run_in(&self, database: &str, sql: &str) -> anyhow::Result<()> {
        self.place.tell_in(database, sql)
    }

    /// What it logged so far.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.place.directory.join("log"))?)
    }

    /// Makes a database and gives its URL.
    ///
    /// # Errors
    /// There is one of this name already.
    pub fn create(&self, name: &str) -> anyhow::Result<String> {
        self.place.create(name, "template1")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

impl Place {
    pub(crate) fn new(directory: PathBuf) -> anyhow::Result<Self> {
        let port = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()?.port();
        Ok(Self { programs: programs()?, directory, port })
    }

    pub(crate) const fn at(programs: PathBuf, directory: PathBuf, port: u16) -> Self {
        Self { programs, directory, port }
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Makes the files of a new server.
    pub(crate) fn initialise(&self) -> anyhow::Result<()> {
        if is_root() {
            let owned = Command::new("chown").arg(SERVER_USER).arg(&self.directory).status()?;
            ensure!(owned.success(), "the user {SERVER_USER} is missing: install the package postgresql");
        }
        let made = self
            .as_server("initdb")
            .arg("--pgdata")
            .arg(self.data())
            .args(["--username", USER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"])
            .output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        Ok(())
    }

    /// The server's own command, which does not return.
    pub(crate) fn command(&self, options: &[&str]) -> anyhow::Result<Command> {
        let log = File::options().create(true).append(true).open(self.directory.join("log"))?;
        let mut command = self.as_server("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-c", "unix_socket_directories="])
            .args(["-c", "max_connections=400", "-c", "shared_buffers=128MB", "-c", "max_wal_size=2GB"])
            .args(options)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log);
        Ok(command)
    }

    fn as_server(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        if !is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", SERVER_USER, "--regid", SERVER_USER, "--clear-groups"]).arg(program);
        command
    }

    pub(crate) fn answers(&self) -> anyhow::Result<bool> {
        let asked = Command::new(self.programs.join("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER, "-d", "postgres"])
            .status()?;
        Ok(asked.success())
    }

    pub(crate) fn wait(&self) -> anyhow::Result<()> {
        for _ in 0..STEPS {
            if self.answers()? {
                return Ok(());
            }
            sleep(STEP);
        }
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        Err(anyhow!("the server does not answer: {log}"))
    }

    pub(crate) fn create(&self, name: &str, template: &str) -> anyhow::Result<String> {
        self.tell(&format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\""))?;
        Ok(format!("postgres://{USER}@127.0.0.1:{}/{name}", self.port))
    }

    pub(crate) fn tell(&self, sql: &str) -> anyhow::Result<()> {
        self.tell_in("postgres", sql)
    }

    fn tell_in(&self, database: &str, sql: &str) -> anyhow::Result<()> {
        let told = Command::new(self.programs.join("psql"))
            .args(["-X", "-q", "-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER, "-d", database, "-c", sql])
            .stdin(Stdio::null())
            .output()?;
        ensure!(told.status.success(), "{sql}: {}", String::from_utf8_lossy(&told.stderr));
        Ok(())
    }
}

/// Where the programs are: those of the newest version that Debian's packages brought, else those in the path.
pub(crate) fn programs() -> anyhow::Result<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN).into_iter().flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        let version: u32 = path.file_name()?.to_str()?.parse().ok()?;
        let programs = path.join("bin");
        programs.join("initdb").exists().then_some((version, programs))
    });
    if let Some((_, programs)) = versions.max() {
        return Ok(programs);
    }
    let found = Command::new("sh").args(["-c", "command -v initdb"]).output()?;
    let path = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    path.parent()
        .filter(|_| found.status.success())
        .map(Path::to_owned)
        .context("PostgreSQL is not installed: install the package postgresql")
}

/// What `pg_dump` writes of the database at `url`: its schema and every row, bytes in hexadecimal.
///
/// # Errors
/// PostgreSQL is not installed, or the database cannot be read.
pub fn dump(url: &str) -> anyhow::Result<Vec<u8>> {
    let dumped = Command::new(programs()?.join("pg_dump")).arg(url).stdin(Stdio::null()).output()?;
    ensure!(dumped.status.success(), "pg_dump: {}", String::from_utf8_lossy(&dumped.stderr));
    Ok(dumped.stdout)
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// The processes that a process started and that still run.
fn children(of: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The parent is the second word after the name, which stands in parentheses.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1));
        if parent.and_then(|parent| parent.parse().ok()) == Some(of) {
            found.push(id);
        }
    }
    Ok(found)
}

fn signal(name: &str, ids: &[u32]) -> anyhow::Result<()> {
    // One that ended by itself meanwhile is none to complain about.
    let _sent = Command::new("kill").arg(name).args(ids.iter().map(u32::to_string)).stderr(Stdio::null()).status()?;
    Ok(())
}
