//! Roles of operators: what a person or a program that administers may do.
//!
//! Each role may do what the one before it may. Which call asks for which role stands in one table of the control plane.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an operator may do. A later one may do more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees what there is, without what was done with it.
    Viewer,
    /// Also reads usage and audit chains, and verifies them.
    Auditor,
    /// Also changes everything but operators and the vault.
    Admin,
    /// Everything.
    Owner,
}

impl Role {
    /// All, from the least.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Auditor, Self::Admin, Self::Owner];

    /// The word used in the store, the API and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_later_roles_are_greater() {
        for role in Role::ALL {
            assert_eq!(Role::from_word(role.as_str()), Some(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert!(Role::ALL.is_sorted());
        assert_eq!(Role::from_word("root"), None);
    }
}
