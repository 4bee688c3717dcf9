//! One process that is kept alive: started again half a second after it died, with the same arguments, until it is told to stop.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use keyforge_runtime::shutdown::Shutdown;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::layout::Layout;
use super::roll::Roll;
use crate::errors::Failure;

/// From a death to the next start.
const RESTART: Duration = Duration::from_millis(500);
/// How often it is looked whether a process may come back that is held down.
const HELD: Duration = Duration::from_millis(50);
/// How long a process may take to end when it is asked to; a node waits 30 seconds for its requests.
const ENDING: Duration = Duration::from_secs(40);
/// Bytes of a log that are shown when a process does not start.
const LAST_WORDS: usize = 800;

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<OsString>,
}

impl Program {
    /// Runs it in a process group of its own, which a Ctrl-C of the terminal does not reach. It dies with the handle.
    fn spawn(&self, log: &PathBuf) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        Command::new(&self.path)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// A process that is kept alive.
pub(super) struct Supervised {
    name: String,
    log: PathBuf,
    stop: watch::Sender<bool>,
    deaths: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Starts it, and again whenever it ends.
    pub(super) fn start(program: Program, layout: &Layout, roll: &Arc<Roll>, process: &Shutdown) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (died, deaths) = watch::channel(0);
        let (name, log) = (program.name.clone(), layout.log(&program.name));
        let hold = layout.hold(&name);
        let keeper = Keeper { program, log: log.clone(), hold, roll: Arc::clone(roll), stopped, died };
        let task = process.spawn_background("supervisor", keeper.keep());
        Self { name, log, stop, deaths, task }
    }

    /// Waits for a sign that it works. A process that dies during its first start is not given another chance.
    pub(super) async fn until<T>(&self, sign: impl Future<Output = T>, patience: Duration) -> Result<T, Failure> {
        let mut deaths = self.deaths.clone();
        let problem = tokio::select! {
            biased;
            waited = timeout(patience, sign) => match waited {
                Ok(found) => return Ok(found),
                Err(_) => format!("{} does not become ready", self.name),
            },
            _ = deaths.wait_for(|deaths| *deaths > 0) => format!("{} ended while it started", self.name),
        };
        let words = std::fs::read(&self.log).unwrap_or_default();
        let last = words.get(words.len().saturating_sub(LAST_WORDS)..).unwrap_or_default();
        Err(Failure::refused(problem).hint(format!("{} says:\n{}", self.log.display(), String::from_utf8_lossy(last))))
    }

    /// Asks it to end.
    pub(super) fn ask_to_end(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until it has ended, which it was asked for.
    pub(super) async fn ended(self) {
        if self.task.await.is_err() {
            tracing::warn!(name = self.name, "its supervisor was lost");
        }
    }
}

/// How a process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// By itself, or by somebody's hand.
    Died,
    /// It was asked to.
    Over,
}

/// The task behind a [`Supervised`].
struct Keeper {
    program: Program,
    log: PathBuf,
    hold: PathBuf,
    roll: Arc<Roll>,
    stopped: watch::Receiver<bool>,
    died: watch::Sender<u64>,
}

impl Keeper {
    async fn keep(mut self) {
        let mut stopped = self.stopped.clone();
        while let Life::Died = self.live_once().await {
            self.died.send_modify(|deaths| *deaths += 1);
            let rest = async {
                sleep(RESTART).await;
                while self.hold.exists() {
                    sleep(HELD).await;
                }
            };
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => return,
                () = rest => {}
            }
        }
    }

    /// From a start to its end.
    async fn live_once(&mut self) -> Life {
        let name = self.program.name.as_str();
        let mut child = match self.program.spawn(&self.log) {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(name, %error, "cannot be started");
                return Life::Died;
            }
        };
        self.roll.came(name, child.id().unwrap_or_default());
        let life = tokio::select! {
            biased;
            _ = self.stopped.wait_for(|stop| *stop) => Life::Over,
            status = child.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::warn!(name, status, "ended; it is started again");
                Life::Died
            }
        };
        if life == Life::Over {
            end(name, &mut child).await;
        }
        self.roll.went(name);
        life
    }
}

/// SIGTERM, also to a process that was stopped by a signal, and SIGKILL when that takes too long.
async fn end(name: &str, child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    for signal in [Signal::TERM, Signal::CONT] {
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
            tracing::debug!(name, %error, "has ended by itself");
        }
    }
    if timeout(ENDING, child.wait()).await.is_err() {
        tracing::warn!(name, "took too long to end and was killed");
        drop(child.kill().await);
    }
}
