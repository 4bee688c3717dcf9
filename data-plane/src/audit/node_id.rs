//! The node's name, kept in a file of its own so that it is the same over restarts.

use std::path::Path;

use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_shared::id::NodeId;

use crate::audit::spool::SpoolError;

/// The node's name on disk: `node_id` in the spool's directory, as text.
pub struct NodeIdentity;

impl NodeIdentity {
    /// The node id of the node whose spool is in `dir`; made and stored durably at the first call. Blocks.
    ///
    /// # Errors
    /// The directory or the file cannot be read or made, or the file holds something else.
    pub fn load_or_create(dir: &Path) -> Result<NodeId, SpoolError> {
        private_file::private_dir(dir)?;
        let path = dir.join("node_id");
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
        let stored = private_file::read(&path)?;
        std::str::from_utf8(stored.expose())
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or(SpoolError::NodeId { path })
    }
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
}
