//! CPU time and memory of a process and its children, read from the kernel.
//!
//! CPU time is the sum of `/proc/PID/task/*/schedstat` (nanoseconds on a CPU, see proc(5)); the spent time between two
//! samples is summed task by task, so a thread that ended in between loses its last share and nothing else. Memory is
//! `VmRSS` of `/proc/PID/status`. Linux only.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::time::Duration;

use anyhow::Context;

/// A process and all that it started.
#[derive(Clone, Debug)]
pub struct ProcessTree {
    roots: Vec<u32>,
}

/// CPU time of every thread at one moment.
#[derive(Clone, Debug, Default)]
pub struct CpuSample {
    nanos_by_thread: HashMap<u32, u64>,
}

impl CpuSample {
    /// CPU time spent since an earlier sample.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Duration {
        let spent =
            |(thread, now): (&u32, &u64)| now.saturating_sub(earlier.nanos_by_thread.get(thread).copied().unwrap_or(0));
        Duration::from_nanos(self.nanos_by_thread.iter().map(spent).sum())
    }
}

impl ProcessTree {
    /// The processes with these ids and their descendants.
    #[must_use]
    pub fn of(roots: impl Into<Vec<u32>>) -> Self {
        Self { roots: roots.into() }
    }

    /// CPU time so far.
    ///
    /// # Errors
    /// A root process is gone, or the kernel does not tell.
    pub fn cpu(&self) -> anyhow::Result<CpuSample> {
        let mut sample = CpuSample::default();
        for process in self.processes()? {
            let tasks = format!("/proc/{process}/task");
            let Ok(entries) = fs::read_dir(&tasks) else { continue };
            for entry in entries.flatten() {
                // A thread may end between the listing and the reading.
                let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
                let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
                let nanos = text.split_whitespace().next().and_then(|first| first.parse().ok());
                sample.nanos_by_thread.insert(thread, nanos.context("schedstat: no number")?);
            }
        }
        Ok(sample)
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// A root process is gone, or the kernel does not tell.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for process in self.processes()? {
            let Ok(status) = fs::read_to_string(format!("/proc/{process}/status")) else { continue };
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib: Option<u64> =
                line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
            sum += kib.unwrap_or(0) * 1024;
        }
        Ok(sum)
    }

    /// The roots and their descendants.
    fn processes(&self) -> anyhow::Result<Vec<u32>> {
        for root in &self.roots {
            anyhow::ensure!(fs::exists(format!("/proc/{root}/task"))?, "process {root} is gone");
        }
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in fs::read_dir("/proc").context("cannot list processes")?.flatten() {
            let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(parent) = parent_of(process) {
                children.entry(parent).or_default().push(process);
            }
        }
        let mut found = self.roots.clone();
        let mut next = 0;
        while let Some(process) = found.get(next) {
            let more = children.remove(process).unwrap_or_default();
            found.extend(more);
            next += 1;
        }
        found.dedup();
        Ok(found)
    }
}

/// The fourth field of `/proc/PID/stat`; the second is a name in parentheses that may hold anything.
fn parent_of(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_shows_as_cpu_time() {
        let tree = ProcessTree::of([std::process::id()]);
        let before = tree.cpu().unwrap();
        let mut sum = 0_u64;
        while tree.cpu().unwrap().since(&before) < Duration::from_millis(5) {
            sum = std::hint::black_box((0..100_000_u64).fold(sum, |sum, value| sum.rotate_left(5) ^ value));
        }
        assert!(tree.resident_bytes().unwrap() > 1 << 20);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(ProcessTree::of([u32::MAX]).cpu().is_err());
    }
}
