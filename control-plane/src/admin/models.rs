//! The model catalogue: entries set, removed, listed.

use std::sync::Arc;

use keyforge_shared::catalog::Model;
use keyforge_shared::state::{Change, Resource, ResourceId};
use serde_json::json;

use super::page::{Page, PageRequest};
use super::{Admin, AdminError, Call, Caller};
use crate::audit::completeness::NOTHING_CHANGED;
use crate::store::models;

/// Longest note on where an entry was read, in characters.
const MAX_SOURCE: usize = 500;
/// Price steps of one entry. With the bound on texts, no entry outgrows what a node takes in one message.
const MAX_STEPS: usize = 16;

impl Admin {
    /// Creates or replaces an entry.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] with every problem.
    pub async fn set_model(&self, caller: &Caller, model: Model) -> Result<Model, AdminError> {
        let call = Call::new(caller, "models/Set", &model.name);
        self.attempt(&call, async {
            AdminError::unless_valid(&problems(&model))?;
            let mut edit = self.edit().await?;
            let before = models::get(edit.connection(), &model.name).await?;
            if before.as_ref() == Some(&model) {
                self.commit(edit, &call, NOTHING_CHANGED.to_owned(), Vec::new()).await?;
                return Ok(model.clone());
            }
            models::put(edit.connection(), &model).await?;
            let detail = json!({ "before": before, "after": model }).to_string();
            let changes = vec![Change::Upsert(Resource::Model(Arc::new(model.clone())))];
            self.commit(edit, &call, detail, changes).await?;
            Ok(model.clone())
        })
        .await
    }

    /// Removes an entry: no key can call the model then.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub async fn remove_model(&self, caller: &Caller, name: &str) -> Result<(), AdminError> {
        let call = Call::new(caller, "models/Remove", name.chars().take(128).collect::<String>());
        self.attempt(&call, async {
            let mut edit = self.edit().await?;
            let found = models::get(edit.connection(), name).await?;
            let before = found.ok_or_else(|| AdminError::not_found("model", &call.target))?;
            models::remove(edit.connection(), name).await?;
            let detail = json!({ "before": before }).to_string();
            self.commit(edit, &call, detail, vec![Change::Remove(ResourceId::Model(before.name))]).await
        })
        .await
    }

    /// A page of the catalogue, by name.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a page that cannot be.
    pub async fn list_models(&self, caller: &Caller, request: &PageRequest) -> Result<Page<Model>, AdminError> {
        let call = Call::new(caller, "models/List", "");
        self.look(&call, async {
            let size = request.size()?;
            let after = request.after(|bytes| String::from_utf8(bytes.to_vec()).ok())?.unwrap_or_default();
            let found = models::page(&mut *self.inner.store.read().await?, &after, size + 1).await?;
            Ok(Page::cut(found, size, |last| last.name.as_bytes().to_vec()))
        })
        .await
    }
}

fn problems(model: &Model) -> Vec<String> {
    let mut problems = model.problems();
    if model.source.chars().count() > MAX_SOURCE {
        problems.push(format!("source: at most {MAX_SOURCE} characters"));
    }
    if model.prices.as_ref().is_some_and(|prices| prices.long_context.len() > MAX_STEPS) {
        problems.push(format!("prices.long_context: at most {MAX_STEPS} steps"));
    }
    problems.into_iter().map(|problem| format!("model.{problem}")).collect()
}
