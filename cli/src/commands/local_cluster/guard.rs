//! The guard: a shell that waits at the end of a pipe and kills the cluster's processes when the other end is gone without a farewell, which
//! is what remains of a supervisor that was killed with SIGKILL.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Remembers the last whole line of process ids; an empty one is the farewell.
const SCRIPT: &str = r#"while IFS= read -r line; do pids=$line; done; [ -z "$pids" ] || kill -KILL $pids"#;

/// A running guard.
pub(super) struct Guard {
    shell: Child,
    pipe: ChildStdin,
}

impl Guard {
    /// Starts one that guards nothing yet. A Ctrl-C of the terminal does not reach it.
    pub(super) fn start() -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = shell.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { shell, pipe })
    }

    /// Tells it which processes there are now.
    ///
    /// # Errors
    /// It is gone; another one has to be started.
    pub(super) fn tell(&mut self, pids: impl Iterator<Item = u32>) -> io::Result<()> {
        let line: Vec<String> = pids.map(|pid| pid.to_string()).collect();
        self.pipe.write_all(format!("{}\n", line.join(" ")).as_bytes())
    }

    /// Sends it home, with nothing to kill.
    pub(super) fn dismiss(mut self) {
        drop(self.tell(std::iter::empty()));
        let Self { mut shell, pipe } = self;
        drop(pipe);
        drop(shell.wait());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn what_it_was_told_last_is_killed_when_the_pipe_breaks_and_nothing_after_a_farewell() {
        let sleep = || Command::new("sleep").arg("60").spawn().unwrap();
        let (mut early, mut late) = (sleep(), sleep());
        let mut guard = Guard::start().unwrap();
        guard.tell([early.id()].into_iter()).unwrap();
        guard.tell([late.id()].into_iter()).unwrap();
        let Guard { mut shell, pipe } = guard;
        drop(pipe);
        shell.wait().unwrap();
        assert_eq!(late.wait().unwrap().signal(), Some(9));
        assert_eq!(early.try_wait().unwrap(), None);

        let mut guard = Guard::start().unwrap();
        guard.tell([early.id()].into_iter()).unwrap();
        guard.dismiss();
        assert_eq!(early.try_wait().unwrap(), None);
        early.kill().unwrap();
        early.wait().unwrap();
    }
}
