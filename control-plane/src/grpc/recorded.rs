//! Reads by operators leave an entry: an answer is given only after it is recorded that it was asked for.

use keyforge_shared::audit::admin::AdminOutcome;
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
