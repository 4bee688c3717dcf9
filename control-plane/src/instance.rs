//! This process among the control planes that may share a database: what tells it from the others, and how operators know it.

use std::path::Path;

/// A control plane process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    id: [u8; 16],
    name: String,
}

impl Instance {
    /// This process, which keeps its things in `data_dir`.
    ///
    /// # Errors
    /// The operating system gave no randomness.
    pub fn new(data_dir: &Path) -> Result<Self, getrandom::Error> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { id, name: format!("{host}:{}", data_dir.display()) })
    }

    /// Drawn for this process.
    #[must_use]
    pub const fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// Its host and data directory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}
