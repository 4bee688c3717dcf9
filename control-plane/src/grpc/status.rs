//! What callers are told when administration refuses or fails.

use tonic::{Code, Status};

use crate::admin::AdminError;
use crate::audit::AuditError;
use crate::store::StoreError;

impl From<AdminError> for Status {
    fn from(error: AdminError) -> Self {
        let code = match &error {
            AdminError::Unauthenticated(_) => Code::Unauthenticated,
            AdminError::TooManyFailures(_) | AdminError::Plan(_) => Code::ResourceExhausted,
            AdminError::Denied(_) => Code::PermissionDenied,
            AdminError::Invalid(_) => Code::InvalidArgument,
            AdminError::NotFound { .. } => Code::NotFound,
            AdminError::Exists(_) => Code::AlreadyExists,
            AdminError::Precondition(_) => Code::FailedPrecondition,
            AdminError::Interrupted => Code::Aborted,
            AdminError::Store(error) | AdminError::Audit(AuditError::Store(error)) if error.is_passing() => {
                tracing::warn!(%error, "administration failed: the database is away");
                Code::Unavailable
            }
            AdminError::Store(_)
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
        StoreError::Database(_) if error.is_passing() => "the database is away: try again".to_owned(),
        StoreError::Database(_) => "the database failed: the control plane's log says why".to_owned(),
        other => other.to_string(),
    }
}
