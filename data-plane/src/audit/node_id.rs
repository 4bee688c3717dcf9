//! The node's name, kept in a file of its own so that it is the same over restarts.

use std::path::{Path, PathBuf};

use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_shared::id::NodeId;

use crate::audit::spool::SpoolError;

const FILE: &str = "node_id";

/// The node's name on disk: `node_id` in the spool's directory, as text.
pub struct NodeIdentity;

impl NodeIdentity {
    /// The node id of the node whose spool is in `dir`; made and stored durably at the first call. Blocks.
    ///
    /// # Errors
    /// The directory or the file cannot be read or made, or the file holds something else.
    pub fn load_or_create(dir: &Path) -> Result<NodeId, SpoolError> {
        private_file::private_dir(dir)?;
        let path = dir.join(FILE);
        if !path.exists() {
            let id =
                NodeId::generate().map_err(|error| SpoolError::disk("name", &path, std::io::Error::other(error)))?;
            match private_file::create_new(&path, format!("{id}\n").as_bytes()) {
                Ok(()) => return Ok(id),
                // Another start was faster; its name counts.
                Err(PrivateFileError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        read(path)
    }

    /// The node id in `dir`, if it has one. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn load(dir: &Path) -> Result<Option<NodeId>, SpoolError> {
        let path = dir.join(FILE);
        if path.exists() { read(path).map(Some) } else { Ok(None) }
    }

    /// Stores `id` as the node id of `dir`, unless it is that already. Blocks.
    ///
    /// # Errors
    /// The directory is another node's, or the file cannot be read or made.
    pub fn keep(dir: &Path, id: NodeId) -> Result<(), SpoolError> {
        match Self::load(dir)? {
            Some(found) if found == id => Ok(()),
            Some(found) => Err(SpoolError::OtherNode { path: dir.to_owned(), found, expected: id }),
            None => {
                private_file::private_dir(dir)?;
                Ok(private_file::create_new(&dir.join(FILE), format!("{id}\n").as_bytes())?)
            }
        }
    }
}

fn read(path: PathBuf) -> Result<NodeId, SpoolError> {
    let stored = private_file::read(&path)?;
    std::str::from_utf8(stored.expose())
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or(SpoolError::NodeId { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_id_is_the_same_at_the_second_start_and_a_foreign_file_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("spool");
        let first = NodeIdentity::load_or_create(&dir).unwrap();
        assert_eq!(NodeIdentity::load_or_create(&dir).unwrap(), first);
        private_file::replace(&dir.join("node_id"), b"boot_00").unwrap();
        let error = NodeIdentity::load_or_create(&dir).unwrap_err();
        assert!(matches!(error, SpoolError::NodeId { .. }), "{error}");
    }

    #[test]
    fn a_directory_is_kept_for_one_node() {
        let root = tempfile::tempdir().unwrap();
        let (dir, id) = (root.path().join("data"), NodeId::from_bytes([1; 16]));
        assert_eq!(NodeIdentity::load(&dir).unwrap(), None);
        NodeIdentity::keep(&dir, id).unwrap();
        NodeIdentity::keep(&dir, id).unwrap();
        assert_eq!(NodeIdentity::load_or_create(&dir).unwrap(), id);
        let error = NodeIdentity::keep(&dir, NodeId::from_bytes([2; 16])).unwrap_err();
        assert!(matches!(error, SpoolError::OtherNode { .. }), "{error}");
    }
}
