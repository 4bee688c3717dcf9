//! Children of a measurement: started on a core, logged to a file, ended on request and killed with their handle.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a child may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a child may take to end when it is asked to.
const END_LIMIT: Duration = Duration::from_secs(40);

/// Time between two looks at a child that starts.
const POLL: Duration = Duration::from_millis(20);

/// Letters of a child's log that are repeated when it fails.
const LOG_LETTERS: usize = 2000;

/// The core of generator and provider.
pub const BENCH_CORE: u8 = 0;

/// The core of the gateway under test.
pub const GATEWAY_CORE: u8 = 1;

/// A running child and the file with what it wrote.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program on one core (if `taskset` is there) with both outputs going to `FOLDER/NAME.log`.
    ///
    /// # Errors
    /// The program cannot be started, or the log cannot be made.
    pub fn start(
        program: &Path,
        core: u8,
        folder: &Path,
        name: &str,
        prepare: impl FnOnce(&mut Command),
    ) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = on_core(program, core);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        prepare(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, log })
    }

    /// The process id; `None` when it has ended.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it wrote so far.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until `GET path` at `addr` is answered with 200.
    ///
    /// # Errors
    /// It ended, or did not answer in time; the end of its log is part of the message.
    pub async fn wait_until_ready(&mut self, addr: SocketAddr, path: &str) -> anyhow::Result<()> {
        self.wait_for(async |_| answers(addr, path).await.then_some(())).await
    }

    /// Waits for a sign of the child.
    ///
    /// # Errors
    /// It ended, or gave no sign in time; the end of its log is part of the message.
    pub async fn wait_for<T>(&mut self, sign: impl AsyncFn(&Self) -> Option<T>) -> anyhow::Result<T> {
        let start = Instant::now();
        loop {
            if let Some(found) = sign(self).await {
                return Ok(found);
            }
            let ended = self.child.try_wait().context("cannot watch the process")?;
            if ended.is_some() || start.elapsed() > START_LIMIT {
                let why = ended.map_or_else(|| "did not get ready".to_owned(), |status| format!("ended with {status}"));
                bail!("it {why}; its output ends with:\n{}", tail(&self.output()));
            }
            sleep(POLL).await;
        }
    }

    /// Asks it to end (SIGTERM) and waits until it has, so that it can end its own children; one that takes too long is killed.
    pub async fn end(mut self) {
        let Some(process) = self.id() else { return };
        let asked = std::process::Command::new("kill").args(["-TERM", &process.to_string()]).status();
        if asked.is_ok_and(|status| status.success()) {
            // Dropping the handle kills what has not ended by then.
            drop(timeout(END_LIMIT, self.child.wait()).await);
        }
    }
}

fn tail(output: &str) -> String {
    output.chars().skip(output.chars().count().saturating_sub(LOG_LETTERS)).collect()
}

fn on_core(program: &Path, core: u8) -> Command {
    if !installed("taskset") {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command
}

/// Moves this process to the core of generator and provider, if `taskset` is there and there are two cores.
pub fn pin_self() {
    pin(std::process::id(), BENCH_CORE);
}

/// Moves a running process with all its threads to a core, if `taskset` is there.
pub fn pin(process: u32, core: u8) {
    // Without it the figures are noisier, and the table says so.
    drop(
        std::process::Command::new("taskset")
            .args(["-a", "-c", "-p", &core.to_string(), &process.to_string()])
            .output(),
    );
}

/// Whether a program can be run by its name; for `taskset`, whether there are two cores to choose from.
#[must_use]
pub fn installed(program: &str) -> bool {
    let version = if program == "nginx" { "-v" } else { "--version" };
    let found = std::process::Command::new(program).arg(version).output().is_ok_and(|output| output.status.success());
    found && (program != "taskset" || Path::new("/sys/devices/system/cpu/cpu1").exists())
}

/// A port of 127.0.0.1 that is free now.
///
/// # Errors
/// None is.
pub fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

async fn answers(addr: SocketAddr, path: &str) -> bool {
    let ask = async {
        let mut socket = TcpStream::connect(addr).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut start = [0; 12];
        socket.read_exact(&mut start).await?;
        std::io::Result::Ok(start)
    };
    matches!(timeout(Duration::from_secs(1), ask).await, Ok(Ok(start)) if start.ends_with(b" 200"))
}
