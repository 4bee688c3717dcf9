//! What callers are told when administration refuses or fails.

use tonic::{Code, Status};

use crate::admin::AdminError;
use crate::audit::AuditError;
use crate::store::StoreError;

impl From<AdminError> for Status {
    fn from(error: AdminError) -> Self {
        if let AdminError::NoReceipt { revision, why } = error {
            let why = Self::from(*why);
            let told =
                AdminError::NoReceipt { revision, why: Box::new(AdminError::Precondition(why.message().to_owned())) };
            return Self::new(why.code(), told.to_string());
        }
        let code = match &error {
            AdminError::Unauthenticated(_) => Code::Unauthenticated,
            AdminError::TooManyFailures(_) | AdminError::Plan(_) => Code::ResourceExhausted,
            AdminError::Denied(_) => Code::PermissionDenied,
            AdminError::Invalid(_) => Code::InvalidArgument,
            AdminError::NotFound { .. } => Code::NotFound,
            AdminError::Exists(_) => Code::AlreadyExists,
            AdminError::Precondition(_) => Code::FailedPrecondition,
            AdminError::Interrupted => Code::Aborted,
            passing if passing.is_passing() => {
                tracing::warn!(%error, "administration failed: the database is away");
                Code::Unavailable
            }
            AdminError::NoReceipt { .. }
            | AdminError::Store(_)
            | AdminError::Vault(_)
            | AdminError::Audit(_)
            | AdminError::Certificate(_)
            | AdminError::Random => {
                tracing::error!(%error, "administration failed");
                Code::Internal
            }
        };
        let told = match &error {
            AdminError::Store(error) | AdminError::Audit(AuditError::Store(error)) => told(error),
            other => other.to_string(),
        };
        Self::new(code, told)
    }
}

/// What a caller is told of a store that failed. What the database says may name its server, its users or other tenants: that stays in the log.
pub(super) fn told(error: &StoreError) -> String {
    match error {
        StoreError::Database(_) | StoreError::Server { .. } if error.is_passing() => {
            "the database is away: try again".to_owned()
        }
        StoreError::Unanswered(_) => "the database went away in the middle of a commit: try again".to_owned(),
        StoreError::Database(_) | StoreError::Server { .. } => {
            "the database failed: the control plane's log says why".to_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::custody::wraps::CountError;
    use crate::ledger::LedgerError;
    use crate::store::CommitError;

    #[test]
    fn of_a_commit_that_was_not_answered_every_call_says_the_same() {
        let lost = || std::io::Error::from(std::io::ErrorKind::TimedOut).into();
        let unanswered = || StoreError::from(CommitError::Unanswered(lost()));
        for error in [
            AdminError::from(unanswered()),
            LedgerError::from(unanswered()).into(),
            CountError::from(unanswered()).into(),
            AuditError::from(unanswered()).into(),
        ] {
            assert_eq!(Status::from(error).code(), Code::Aborted);
        }
        let not_begun = StoreError::from(sqlx::Error::PoolTimedOut);
        assert_eq!(Status::from(AdminError::from(not_begun)).code(), Code::Unavailable);
    }

    #[test]
    fn what_the_database_says_is_not_told() {
        let hidden = || sqlx::Error::Protocol("user hidden at host hidden".to_owned());
        for error in [
            StoreError::from(hidden()),
            sqlx::Error::Configuration("hidden".into()).into(),
            CommitError::Unanswered(hidden()).into(),
        ] {
            assert!(!told(&error).contains("hidden"), "{error}");
            assert!(!Status::from(AdminError::from(error)).message().contains("hidden"));
        }
    }
}
