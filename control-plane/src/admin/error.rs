//! Why administration refused or failed.

use keyforge_shared::audit::admin::AdminOutcome;

use crate::audit::AuditError;
use crate::custody::wraps::CountError;
use crate::ledger::LedgerError;
use crate::store::StoreError;
use crate::vault::VaultError;

/// Why a call was not carried out. Nothing was changed then, but for [`AdminError::Interrupted`], where nobody
/// knows, and [`AdminError::NoReceipt`].
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The caller could not prove to be an operator.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// Too many calls of the caller's address could not.
    #[error("{0}")]
    TooManyFailures(&'static str),
    /// The caller is an operator, and may not do this.
    #[error("{0}")]
    Denied(String),
    /// The request does not make sense; every problem names its field.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("there is no {noun} {name}")]
    NotFound {
        /// What kind of thing.
        noun: &'static str,
        /// Its name or id, as given.
        name: String,
    },
    /// There is such a thing already.
    #[error("{0}")]
    Exists(String),
    /// The thing is not in a state in which this could be done.
    #[error("{0}")]
    Precondition(String),
    /// The plan of the workspace does not allow it.
    #[error("{0}")]
    Plan(String),
    /// The commit was interrupted or its answer lost; the change is whole or absent.
    #[error("interrupted while committing: look whether the change is there before trying again")]
    Interrupted,
    /// A change of a key was made, but how far it has come cannot be told.
    #[error(
        "the change stands, as revision {revision}, but there is no receipt for it: {why}; make the same call again for one"
    )]
    NoReceipt {
        /// The revision that it led to.
        revision: u64,
        /// What went wrong.
        why: Box<AdminError>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
    /// The vault failed.
    #[error(transparent)]
    Vault(VaultError),
    /// A certificate could not be made.
    #[error("{0}")]
    Certificate(String),
    /// The chain could not be extended.
    #[error(transparent)]
    Audit(AuditError),
    /// The operating system gave no randomness.
    #[error("no randomness available for a new id")]
    Random,
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unanswered(_) => Self::Interrupted,
            other => Self::Store(other),
        }
    }
}

impl From<AuditError> for AdminError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Store(error @ StoreError::Unanswered(_)) => error.into(),
            other => Self::Audit(other),
        }
    }
}

impl From<VaultError> for AdminError {
    fn from(error: VaultError) -> Self {
        match error {
            // For an operator to mend.
            VaultError::Term(_) | VaultError::UsedUp | VaultError::Replaced(_) => Self::Precondition(error.to_string()),
            other => Self::Vault(other),
        }
    }
}

impl From<LedgerError> for AdminError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Store(error) => error.into(),
            LedgerError::UnknownKey(key) => Self::not_found("virtual key", key),
            other => Self::Precondition(other.to_string()),
        }
    }
}

impl From<CountError> for AdminError {
    fn from(error: CountError) -> Self {
        match error {
            CountError::Store(error) => error.into(),
            CountError::Vault(error) => error.into(),
        }
    }
}

impl AdminError {
    /// Whether the database was away, so that the same may succeed later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Interrupted => true,
            Self::Store(error) | Self::Audit(AuditError::Store(error)) => error.is_passing(),
            _ => false,
        }
    }

    /// Refuses when there are problems, with all of them.
    pub(super) fn unless_valid(problems: &[String]) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self::Invalid(problems.join("; "))) }
    }

    /// What an entry says of a call that ended so.
    pub(super) const fn outcome(&self) -> AdminOutcome {
        match self {
            Self::Unauthenticated(_) | Self::TooManyFailures(_) | Self::Denied(_) => AdminOutcome::Denied,
            Self::Interrupted => AdminOutcome::Unknown,
            Self::Invalid(_)
            | Self::NotFound { .. }
            | Self::Exists(_)
            | Self::Precondition(_)
            | Self::Plan(_)
            | Self::NoReceipt { .. }
            | Self::Store(_)
            | Self::Vault(_)
            | Self::Certificate(_)
            | Self::Audit(_)
            | Self::Random => AdminOutcome::Failed,
        }
    }

    pub(crate) fn not_found(noun: &'static str, name: impl ToString) -> Self {
        Self::NotFound { noun, name: name.to_string() }
    }
}
