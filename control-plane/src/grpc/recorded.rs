//! What operators ask leaves an entry: a read is answered only after it is recorded that it was asked for, and what cannot be decoded is recorded as
//! refused.

use keyforge_proto::convert::ConvertError;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::name;
use tonic::Status;

use crate::admin::{Admin, AdminError, Caller};

/// Records how a read ended, and gives its answer.
///
/// # Errors
/// What the read failed with, or that it could not be recorded.
pub(super) async fn recorded<T>(
    admin: &Admin,
    caller: &Caller,
    method: &'static str,
    target: &str,
    answer: Result<T, AdminError>,
) -> Result<T, Status> {
    match answer {
        Ok(answer) => {
            admin.record(caller, method, target, AdminOutcome::Done, "").await?;
            Ok(answer)
        }
        Err(error) => Err(admin.refuse(caller, method, target, error).await.into()),
    }
}

/// What a request was decoded to; a request that could not be decoded is recorded as refused.
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the field.
pub(super) async fn decoded<T>(
    admin: &Admin,
    caller: &Caller,
    method: &'static str,
    target: &str,
    result: Result<T, AdminError>,
) -> Result<T, Status> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => {
            // What is no name may be anything, a secret that was pasted into the wrong place included.
            let target = if name::check(target).is_ok() { target } else { "" };
            Err(admin.refuse(caller, method, target, error).await.into())
        }
    }
}

impl From<ConvertError> for AdminError {
    fn from(error: ConvertError) -> Self {
        Self::Invalid(error.to_string())
    }
}
