//! Where a local cluster keeps what: its directory is the control plane's data directory, so that every admin command finds it by `--data`;
//! the nodes, the Redis servers, the configuration files and the logs are in folders and files beside.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use keyforge_control_plane::store::LOCK_FILE;
use keyforge_runtime::private_file;

use crate::errors::Failure;

/// Held by the process that keeps a cluster alive.
const CLUSTER_LOCK: &str = "local-cluster.lock";
/// Held by a node, in its data directory.
const SPOOL_LOCK: &str = "spool/lock";

/// Name of the control plane among the processes.
pub(super) const CONTROL_PLANE: &str = "control-plane";

/// The paths of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    data: PathBuf,
}

impl Layout {
    /// Makes the directories, for their owner only. Nothing is made or changed in a directory that belongs to a process which runs.
    pub(super) fn make(data: &Path) -> Result<Self, Failure> {
        let data = std::path::absolute(data).map_err(|error| Failure::usage(format!("--data: {error}")))?;
        for (lock, who) in [(CLUSTER_LOCK, "a local cluster"), (LOCK_FILE, "a control plane"), (SPOOL_LOCK, "a node")] {
            unless_locked(&data, lock, who)?;
        }
        for directory in [data.clone(), data.join("logs")] {
            private_file::private_dir(&directory).map_err(Failure::refused)?;
        }
        Ok(Self { data })
    }

    /// Makes the directory of one process.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.data.join(name);
        private_file::private_dir(&path).map_err(Failure::refused)?;
        Ok(path)
    }

    /// Writes a file of the cluster's directory.
    pub(super) fn write(&self, file: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.data.join(file);
        private_file::replace(&path, text.as_bytes()).map_err(Failure::refused)?;
        Ok(path)
    }

    /// Keeps a second cluster off this directory for as long as the file is open.
    pub(super) fn lock(&self) -> Result<File, Failure> {
        let path = self.data.join(CLUSTER_LOCK);
        let file = File::create(&path).map_err(|error| Failure::refused(format!("{}: {error}", path.display())))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(in_use(&self.data, "a local cluster")),
            Err(TryLockError::Error(error)) => Err(Failure::refused(format!("{}: {error}", path.display()))),
        }
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// Where the operator's token is once the control plane has started.
    pub(super) fn operator_token(&self) -> PathBuf {
        self.data.join("operator.token")
    }

    /// Where nodes find the token that they present.
    pub(super) fn fleet_token(&self) -> PathBuf {
        self.data.join("fleet.token")
    }

    /// What runs, for programs.
    pub(super) fn status(&self) -> PathBuf {
        self.data.join("cluster.json")
    }

    pub(super) fn ports(&self) -> PathBuf {
        self.data.join("ports.json")
    }

    pub(super) fn config(&self, name: &str) -> PathBuf {
        self.data.join(config_file(name))
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.data.join("logs").join(format!("{name}.log"))
    }

    /// While this file exists, a process that has ended is not started again.
    pub(super) fn hold(&self, name: &str) -> PathBuf {
        self.data.join(format!("{name}.down"))
    }
}

/// Refuses a directory in which another process holds a lock. It is looked for and never made; the lock is let go again for whoever is to have it.
fn unless_locked(data: &Path, lock: &str, who: &str) -> Result<(), Failure> {
    let path = data.join(lock);
    let file = match OpenOptions::new().append(true).open(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(Failure::refused(format!("{}: {error}", path.display()))),
    };
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(in_use(data, who)),
        Err(TryLockError::Error(error)) => Err(Failure::refused(format!("{}: {error}", path.display()))),
    }
}

fn in_use(data: &Path, who: &str) -> Failure {
    Failure::refused(format!("{who} runs in {} already, so nothing was changed there", data.display()))
        .hint("stop it, or name another directory with --data DIR")
}

/// Name of a process's configuration file.
pub(super) fn config_file(name: &str) -> String {
    format!("{name}.toml")
}

/// Name of a node, counted from 1.
pub(super) fn node(index: usize) -> String {
    format!("node-{}", index + 1)
}

/// Name of a Redis server: `redis` alone, else counted from 1.
pub(super) fn redis(index: usize, servers: usize) -> String {
    if servers == 1 { "redis".to_owned() } else { format!("redis-{}", index + 1) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A process that another test is starting holds what is open here until it runs its own program.
    fn soon(mut is_so: impl FnMut() -> bool) -> bool {
        let wait = || std::thread::sleep(Duration::from_millis(10));
        (0..1_000).any(|_| is_so() || (wait(), false).1)
    }

    #[test]
    fn a_second_cluster_in_the_same_directory_is_refused_while_the_first_runs() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::make(&directory.path().join("cluster")).unwrap();
        let lock = layout.lock().unwrap();
        let error = layout.lock().unwrap_err().to_string();
        assert!(error.contains("already") && error.contains("--data"), "{error}");
        drop(lock);
        assert!(soon(|| layout.lock().is_ok()));
    }

    #[test]
    fn a_directory_of_a_process_that_runs_is_refused_and_left_as_it_was() {
        for (lock, who) in [(LOCK_FILE, "a control plane"), (SPOOL_LOCK, "a node"), (CLUSTER_LOCK, "a local cluster")] {
            let directory = tempfile::tempdir().unwrap();
            let data = directory.path().join("data");
            private_file::private_dir(&data.join("spool")).unwrap();
            let held = File::create(data.join(lock)).unwrap();
            held.lock().unwrap();
            let names = || -> Vec<_> { std::fs::read_dir(&data).unwrap().map(|it| it.unwrap().path()).collect() };
            let before = names();
            let error = Layout::make(&data).unwrap_err().to_string();
            assert!(error.contains(who) && error.contains("nothing was changed"), "{error}");
            assert_eq!(names(), before);
            drop(held);
            assert!(soon(|| Layout::make(&data).is_ok()), "{lock}");
        }
    }

    #[test]
    fn the_two_kinds_of_redis_never_share_a_directory() {
        assert_eq!((redis(0, 1).as_str(), redis(0, 3).as_str(), node(0).as_str()), ("redis", "redis-1", "node-1"));
    }
}
