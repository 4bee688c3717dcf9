//! What happens to a virtual key in its life besides changes of what it is: it gets another token, and more of
//! a limit for a while.

use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::KeyId;
use keyforge_shared::policy::Raise;
use keyforge_shared::state::FormerToken;
use keyforge_shared::token::NewToken;
use serde_json::json;

use super::keys::{policy_problems, raises_over, unless_revoked};
use super::{Admin, AdminError, Call, Caller};
use crate::store::keys::StoredKey;

/// Longest time that a token goes on to work after it was replaced.
const MAX_GRACE: Duration = Duration::from_hours(30 * 24);

impl Admin {
    /// Raises limits of a key for a while, on top of what it has.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] with every problem, [`AdminError::NotFound`], [`AdminError::Precondition`] for a revoked key.
    pub async fn raise_key(&self, caller: &Caller, id: KeyId, raises: Vec<Raise>) -> Result<StoredKey, AdminError> {
        let call = Call::new(caller, "keys/Raise", id);
        self.attempt(&call, async {
            let (edit, before) = self.edit_key(&call, id).await?;
            unless_revoked(&before)?;
            let mut problems = Vec::new();
            if raises.is_empty() {
                problems.push("raises: none; name what is to be raised".to_owned());
            }
            problems.extend(raises_over(&raises, edit.now));
            let mut after = before.clone();
            let policy = Arc::make_mut(&mut after.record.policy);
            policy.drop_ended_raises(edit.now);
            policy.raises = policy.raises.iter().copied().chain(raises).collect();
            problems.extend(policy_problems(&after.record.policy));
            AdminError::unless_valid(&problems)?;
            self.save_key(edit, &call, &before, after).await
        })
        .await
    }

    /// Gives a key another token, and lets the one so far go on to work for `grace`. There are never more than two: a token that was replaced before
    /// ends now. The new one is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a longer grace than 30 days, [`AdminError::NotFound`], [`AdminError::Precondition`] for a revoked key.
    pub async fn rotate_key(
        &self,
        caller: &Caller,
        id: KeyId,
        grace: Duration,
    ) -> Result<(StoredKey, NewToken), AdminError> {
        let token = NewToken::generate_for(id).map_err(|_| AdminError::Random)?;
        let call = Call::new(caller, "keys/Rotate", id);
        let work = async {
            if grace > MAX_GRACE {
                return Err(AdminError::Invalid("grace_ms: at most 30 days".to_owned()));
            }
            let (edit, mut key) = self.edit_key(&call, id).await?;
            unless_revoked(&key)?;
            let until = (!grace.is_zero()).then(|| Timestamp::from_millis(edit.now.saturating_add(grace).millis()));
            key.record.former = Some(Box::new(FormerToken { digest: key.record.digest, until }));
            key.record.digest = token.digest();
            key.revision = edit.revision();
            let detail = json!({ "name": key.record.name, "former_token_until": until.map(Timestamp::rfc3339) });
            self.write_key(edit, &call, detail, &key).await?;
            Ok(key)
        };
        let key = self.attempt(&call, work).await?;
        Ok((key, token))
    }
}
