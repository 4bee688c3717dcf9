//! Files and directories that only their owner may read: keys, node identities, the last known good state.
//!
//! A write is whole or absent, also after a power cut: a new file next to the target, fsync, rename or link, fsync of
//! the directory. A read refuses a file that its group or the world could have read, because it may have been.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use keyforge_shared::secret::SecretBytes;
use thiserror::Error;

const OWNER_FILE: u32 = 0o600;
const OWNER_DIRECTORY: u32 = 0o700;
const GROUP_OR_WORLD: u32 = 0o077;

/// Why a private file or directory cannot be used.
#[derive(Debug, Error)]
pub enum PrivateFileError {
    /// Others could read the file.
    #[error("{} can be read by others (mode {mode:04o}): run `chmod 600 {}`", path.display(), path.display())]
    FileTooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others could enter the directory.
    #[error("{} can be entered by others (mode {mode:04o}): run `chmod 700 {}`", path.display(), path.display())]
    DirectoryTooOpen {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// [`create_new`] never replaces a file.
    #[error("{} exists already; move it away if it is no longer needed", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
}

/// Writes a new file of mode 0600. Blocks until it is on disk.
///
/// # Errors
/// The file exists, or the operating system refused.
pub fn create_new(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let staged = Staged::write(path, bytes)?;
    // A link, not a rename: it fails if the name is taken, even by someone who took it a moment ago.
    match fs::hard_link(&staged.path, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(PrivateFileError::Exists { path: path.to_owned() });
        }
        Err(cause) => return Err(failed("create", path, cause)),
    }
    drop(staged);
    sync_directory(path)
}

/// Writes a file of mode 0600 in place of the one at `path`, if there is one. Blocks until it is on disk.
///
/// # Errors
/// The operating system refused; the old file is then untouched.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let staged = Staged::write(path, bytes)?;
    fs::rename(&staged.path, path).map_err(|cause| failed("replace", path, cause))?;
    sync_directory(path)
}

/// The same with content that is written piece by piece.
///
/// # Errors
/// As [`replace`].
pub fn replace_by(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), PrivateFileError> {
    let staged = Staged::write_by(path, |file| {
        let mut buffered = BufWriter::new(file);
        write(&mut buffered)?;
        buffered.flush()
    })?;
    fs::rename(&staged.path, path).map_err(|cause| failed("replace", path, cause))?;
    sync_directory(path)
}

/// Reads a file that only its owner may read, without the newline that it may end with.
///
/// # Errors
/// Its group or the world may read it (the message says which `chmod` to run), or it cannot be read.
pub fn read(path: &Path) -> Result<SecretBytes, PrivateFileError> {
    let mut file = File::open(path).map_err(|cause| failed("open", path, cause))?;
    // Asked of the open file, so that it cannot be exchanged between the check and the read.
    let metadata = file.metadata().map_err(|cause| failed("inspect", path, cause))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & GROUP_OR_WORLD != 0 {
        return Err(PrivateFileError::FileTooOpen { path: path.to_owned(), mode });
    }
    let expected = usize::try_from(metadata.len()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(expected.saturating_add(1));
    file.read_to_end(&mut bytes).map_err(|cause| failed("read", path, cause))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(SecretBytes::new(bytes))
}

/// Makes a directory (and its parents) of mode 0700, or accepts one that others cannot enter.
///
/// # Errors
/// It exists and others may enter it, or it cannot be made.
pub fn private_dir(path: &Path) -> Result<(), PrivateFileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(OWNER_DIRECTORY)
        .create(path)
        .map_err(|cause| failed("create the directory", path, cause))?;
    let metadata = fs::metadata(path).map_err(|cause| failed("inspect", path, cause))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & GROUP_OR_WORLD != 0 {
        return Err(PrivateFileError::DirectoryTooOpen { path: path.to_owned(), mode });
    }
    Ok(())
}

/// A finished file under a temporary name; the name goes away with the value.
struct Staged {
    path: PathBuf,
}

impl Staged {
    fn write(target: &Path, bytes: &[u8]) -> Result<Self, PrivateFileError> {
        Self::write_by(target, |file| file.write_all(bytes))
    }

    fn write_by(target: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<Self, PrivateFileError> {
        let staged = Self { path: temporary_name(target)? };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(OWNER_FILE)
            .open(&staged.path)
            .map_err(|cause| failed("create", &staged.path, cause))?;
        write(&mut file).and_then(|()| file.sync_all()).map_err(|cause| failed("write", &staged.path, cause))?;
        Ok(staged)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and a leftover is private and harmless.
        drop(fs::remove_file(&self.path));
    }
}

fn temporary_name(target: &Path) -> Result<PathBuf, PrivateFileError> {
    let Some(name) = target.file_name() else {
        return Err(failed("create", target, io::Error::other("the path does not end in a file name")));
    };
    let random = getrandom::u64().map_err(|error| failed("create", target, io::Error::other(error)))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{random:016x}.tmp"));
    Ok(target.with_file_name(temporary))
}

fn sync_directory(file: &Path) -> Result<(), PrivateFileError> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|cause| failed("sync the directory", directory, cause))
}

fn failed(action: &'static str, path: &Path, cause: io::Error) -> PrivateFileError {
    PrivateFileError::Io { action, path: path.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn new_file_is_owner_only_and_leaves_nothing_else_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        create_new(&path, b"seed").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read(&path).ok().unwrap().expose(), b"seed");
        assert_eq!(names(directory.path()), ["node.key"]);
    }

    #[test]
    fn existing_file_is_never_overwritten_by_create_new() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        create_new(&path, b"first").unwrap();
        assert!(matches!(create_new(&path, b"second"), Err(PrivateFileError::Exists { .. })));
        assert_eq!(read(&path).ok().unwrap().expose(), b"first");
        assert_eq!(names(directory.path()), ["node.key"]);
    }

    #[test]
    fn replace_exchanges_the_whole_file_and_narrows_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        fs::write(&path, b"a longer old state").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (b"new".as_slice(), 0o600));
        assert_eq!(names(directory.path()), ["state"]);
    }

    #[test]
    fn file_that_others_can_read_is_refused_with_the_command_that_repairs_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        create_new(&path, b"seed").unwrap();
        for open_mode in [0o640, 0o604, 0o644, 0o660] {
            fs::set_permissions(&path, Permissions::from_mode(open_mode)).unwrap();
            let error = read(&path).err().unwrap().to_string();
            assert!(error.ends_with(&format!("run `chmod 600 {}`", path.display())), "{error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(read(&path).is_ok());
    }

    #[test]
    fn private_directory_is_made_with_its_parents_and_an_open_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        private_dir(&path).unwrap();
        private_dir(&path).unwrap();
        assert_eq!((mode(&path), mode(&directory.path().join("a"))), (0o700, 0o700));
        fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        assert!(private_dir(&path).unwrap_err().to_string().contains("chmod 700"));
    }
}
