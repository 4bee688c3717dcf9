//! The program that prints a vault key: it is run only if nobody but root and the own user can have put it there, with an environment of its own, and
//! never for longer or with more output than a key takes.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use keyforge_runtime::config::env_var;
use keyforge_shared::secret::SecretBytes;
use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use zeroize::Zeroizing;

/// How long a program may take: a key store in a network answers within seconds or not at all.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes that a program may print: far more than 64 digits and a line end.
const MOST_PRINTED: usize = 4_096;
/// What it has of the control plane's environment. Whatever else it needs it sets itself.
const KEPT: [&str; 3] = ["PATH", "HOME", "LANG"];
/// Where it finds others if the control plane was not told.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const GROUP_OR_WORLD_WRITES: u32 = 0o022;
/// In such a directory only the owner of a file can exchange it.
const STICKY: u32 = 0o1000;

/// Why a program gave no key. No message repeats what it printed.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be run, or failed.
    #[error("{} {what}; what it said stands above", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it failed.
        what: String,
    },
    /// Somebody else can change what would be run.
    #[error(
        "{} {what}: whoever can change a program that opens the vault key has that key. It and the directories above it must belong to root or \
         to the control plane's user, and be writable by nobody else (`chmod go-w`)", path.display()
    )]
    Untrusted {
        /// The program, or a directory above it.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What `program` prints.
///
/// # Errors
/// [`ProgramError`].
pub async fn printed_by(program: &Path) -> Result<SecretBytes, ProgramError> {
    printed_within(program, PATIENCE).await
}

async fn printed_within(program: &Path, patience: Duration) -> Result<SecretBytes, ProgramError> {
    let failed = |what: String| ProgramError::Failed { program: program.to_owned(), what };
    unless_exchangeable(program)?;
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", DEFAULT_PATH)
        .envs(KEPT.into_iter().filter_map(|name| Some((name, env_var(name)?))));
    command.current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be run: {error}")))?;
    let group = Group::of(child.id());
    // Reserved at once, so that growing leaves no copies of the key behind.
    let mut printed = Zeroizing::new(Vec::with_capacity(MOST_PRINTED + 1));
    let stdout = child.stdout.take().ok_or_else(|| failed("has no output".to_owned()))?;
    let limit = u64::try_from(MOST_PRINTED).unwrap_or(u64::MAX).saturating_add(1);
    let ended = async {
        stdout.take(limit).read_to_end(&mut printed).await?;
        if printed.len() > MOST_PRINTED {
            return Ok(None);
        }
        child.wait().await.map(Some)
    };
    let ended = tokio::time::timeout(patience, ended).await;
    let seconds = patience.as_secs();
    let ended = ended.map_err(|_| failed(format!("did not end within {seconds} seconds")))?;
    let status = ended.map_err(|error| failed(format!("cannot be read from: {error}")))?;
    let status = status.ok_or_else(|| failed(format!("printed more than {MOST_PRINTED} bytes, which is no key")))?;
    group.has_ended();
    if !status.success() {
        return Err(failed(format!("failed ({status})")));
    }
    Ok(SecretBytes::new(std::mem::take(&mut *printed)))
}

/// The processes of a program. Dropping it ends them, so that none is left that holds a key.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: Option<u32>) -> Self {
        Self(leader.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// The leader has ended by itself, and its number may be another's from now on.
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0.take() {
            // An error means that nothing of it is left.
            if let Err(error) = kill_process_group(leader, Signal::KILL) {
                tracing::debug!(%error, "a program that was to print a vault key has ended by itself");
            }
        }
    }
}

/// Refuses a program that anybody but root and the own user can exchange or change, also by a link or a directory on its way.
fn unless_exchangeable(program: &Path) -> Result<(), ProgramError> {
    let failed = |error: io::Error| ProgramError::Failed {
        program: program.to_owned(),
        what: format!("cannot be run: {error}"),
    };
    let found = program.canonicalize().map_err(failed)?;
    unless_writable(&found, &fs::metadata(&found).map_err(failed)?, false)?;
    // Where the name is, and where a link leads to.
    let named_in = program.parent().unwrap_or(program).canonicalize().map_err(failed)?;
    for start in [Some(named_in.as_path()), found.parent()].into_iter().flatten() {
        for (above, directory) in start.ancestors().enumerate() {
            unless_writable(directory, &fs::metadata(directory).map_err(failed)?, above > 0)?;
        }
    }
    Ok(())
}

fn unless_writable(path: &Path, metadata: &Metadata, may_be_sticky: bool) -> Result<(), ProgramError> {
    let untrusted = |what| Err(ProgramError::Untrusted { path: path.to_owned(), what });
    if ![0, geteuid().as_raw()].contains(&metadata.uid()) {
        return untrusted("belongs to another user");
    }
    let is_kept_apart = may_be_sticky && metadata.mode() & STICKY != 0;
    if metadata.mode() & GROUP_OR_WORLD_WRITES != 0 && !is_kept_apart {
        return untrusted("can be written by its group or by everybody");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use tempfile::TempDir;

    use super::*;

    fn program(script: &str) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("open");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        set_mode(&path, 0o700);
        (directory, path)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    async fn run(script: &str) -> Result<String, ProgramError> {
        let (_directory, path) = program(script);
        Ok(String::from_utf8(printed_by(&path).await?.expose().to_vec()).unwrap())
    }

    async fn refused(path: &Path) -> String {
        printed_by(path).await.err().unwrap().to_string()
    }

    #[tokio::test]
    async fn a_program_is_asked_once_and_gets_neither_arguments_nor_input_nor_the_environment() {
        assert_eq!(run("cat; echo \"$#\"").await.unwrap(), "0\n");
        let said = run("env | cut -d= -f1; pwd").await.unwrap();
        // The tests run with more than these; the shell adds some of its own.
        let known = ["PATH", "HOME", "LANG", "PWD", "OLDPWD", "SHLVL", "_", "/"];
        assert!(said.lines().all(|name| known.contains(&name)) && said.contains("PATH\n"), "{said}");
        assert!(std::env::vars().count() > 4, "there was something to keep from it");
    }

    #[tokio::test]
    async fn a_program_that_fails_is_named_and_nothing_that_it_printed_is_repeated() {
        for (script, said) in [("echo 4711; exit 3", "exit status: 3"), ("yes 4711", "more than 4096 bytes")] {
            let error = run(script).await.unwrap_err().to_string();
            assert!(error.contains("/open ") && error.contains(said) && !error.contains("4711 "), "{error}");
        }
        let missing = refused(Path::new("/no/such/program")).await;
        assert!(missing.contains("/no/such/program cannot be run"), "{missing}");
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended_with_all_that_it_started() {
        let (directory, path) = program("sleep 600 & echo $! > \"$(dirname \"$0\")/child\"; wait");
        let error = printed_within(&path, Duration::from_secs(1)).await.err().unwrap().to_string();
        assert!(error.contains("did not end within 1 seconds"), "{error}");
        let child = fs::read_to_string(directory.path().join("child")).unwrap();
        let (stat, mut looks) = (format!("/proc/{}/stat", child.trim()), 0);
        // Ended, or waiting for somebody to take note of it.
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            looks += 1;
            assert!(looks < 500, "it runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_program_that_somebody_else_can_exchange_is_not_run() {
        let (directory, path) = program("echo ran");
        for (what, mode) in
            [(path.as_path(), 0o720), (&path, 0o702), (directory.path(), 0o770), (directory.path(), 0o1777)]
        {
            let kept = fs::metadata(what).unwrap().mode();
            set_mode(what, mode);
            let error = refused(&path).await;
            assert!(error.contains("can be written by its group") && error.contains("chmod go-w"), "{error}");
            set_mode(what, kept);
        }
        assert_eq!(printed_by(&path).await.ok().unwrap().expose(), b"ran\n");
        // By the link that leads to it, or a directory further up.
        let (open, shut) = (directory.path().join("open-to-all"), directory.path().join("open-to-all/shut"));
        fs::create_dir_all(&shut).unwrap();
        symlink(&path, open.join("link")).unwrap();
        fs::copy(&path, shut.join("copy")).unwrap();
        set_mode(&open, 0o777);
        for path in [open.join("link"), shut.join("copy")] {
            let error = refused(&path).await;
            assert!(error.contains("open-to-all can be written"), "{error}");
        }
        set_mode(&open, 0o1777);
        assert!(printed_by(&shut.join("copy")).await.is_ok(), "nobody else can rename what is in there");
        if geteuid().is_root() {
            chown(&path, Some(12_345), None).unwrap();
            let error = refused(&path).await;
            assert!(error.contains("belongs to another user"), "{error}");
        }
    }
}
