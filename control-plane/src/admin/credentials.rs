//! Credentials: real provider keys, added, changed, rotated, removed. Their secrets go into the vault and into no answer, entry or error.

use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
use http::uri::Scheme;
use keyforge_shared::catalog::ProviderName;
use keyforge_shared::id::CredentialId;
use keyforge_shared::provider;
use keyforge_shared::secret::SecretBytes;
use keyforge_shared::state::{Change, CredentialRecord, MAX_WEIGHT, Resource, ResourceId, State};
use serde_json::{Value, json};

use super::page::{self, Page, PageRequest};
use super::{Admin, AdminError, Call, Caller, Edit};
use crate::audit::completeness::NOTHING_CHANGED;
use crate::custody::wraps::count;
use crate::store::credentials::{self, After, StoredCredential};
use crate::store::vault_keys;
use crate::vault::Place;

const DEFAULT_POOL: &str = "default";
const MIN_SECRET: usize = 8;
const MAX_SECRET: usize = 4_096;
const MAX_WORD: usize = 100;
const MAX_URL: usize = 2_048;

/// A credential to be added. Empty texts mean the default.
pub struct NewCredential {
    /// Whose key it is: a provider of the catalogue.
    pub provider: String,
    /// The key: 8 to 4096 visible ASCII characters; white space around it is dropped.
    pub secret: SecretBytes,
    /// Which pool of that provider it belongs to; by default `default`.
    pub pool: String,
    /// Where the provider's API is; by default its public one.
    pub base_url: String,
    /// What it shares its limit at the provider with; by default nothing.
    pub limit_group: String,
    /// How often it is chosen compared with the others of its provider, from 1 to 1000; by default 1.
    pub weight: u32,
}

impl NewCredential {
    /// What is wrong with it, each with its field; whether its provider is known is not asked. Nothing repeats the secret.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let secret = trimmed(&self.secret).err();
        secret.into_iter().chain(record_problems(&self.record(CredentialId::from_bytes([0; 16])))).collect()
    }

    fn record(&self, id: CredentialId) -> CredentialRecord {
        CredentialRecord {
            id,
            base_url: base_url_or_default(self.base_url.clone(), &self.provider),
            provider: ProviderName(self.provider.clone()),
            pool: or_default(self.pool.clone(), DEFAULT_POOL),
            limit_group: or_default(self.limit_group.clone(), &id.to_string()),
            secret_version: 1,
            enabled: true,
            weight: self.weight.max(1),
        }
    }
}

/// A change of a credential; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialUpdate {
    /// Whether requests may use it.
    pub enabled: Option<bool>,
    /// Where the provider's API is; empty for its public one.
    pub base_url: Option<String>,
    /// What it shares its limit with; empty for nothing.
    pub limit_group: Option<String>,
    /// Which pool it belongs to; empty for `default`.
    pub pool: Option<String>,
    /// How often it is chosen compared with the others of its provider; 0 for 1.
    pub weight: Option<u32>,
}

impl CredentialUpdate {
    /// Takes from `values`, which must have every field, those that a mask names.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] naming every path that a credential does not have, or when there is none.
    pub fn masked<'a>(values: Self, paths: impl IntoIterator<Item = &'a str>) -> Result<Self, AdminError> {
        let (mut update, mut problems) = (Self::default(), Vec::new());
        for path in paths {
            match path {
                "enabled" => update.enabled = values.enabled,
                "base_url" => update.base_url.clone_from(&values.base_url),
                "limit_group" => update.limit_group.clone_from(&values.limit_group),
                "pool" => update.pool.clone_from(&values.pool),
                "weight" => update.weight = values.weight,
                _ => problems.push(format!(
                    "update_mask: a credential has no `{}` that could be changed; use enabled, base_url, limit_group, pool, weight",
                    path.chars().take(60).collect::<String>()
                )),
            }
        }
        if update == Self::default() && problems.is_empty() {
            problems.push("update_mask: empty; name what is to change, such as enabled".to_owned());
        }
        AdminError::unless_valid(&problems)?;
        Ok(update)
    }
}

impl Admin {
    /// Adds a credential.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] with every problem; none repeats the secret.
    pub async fn add_credential(&self, caller: &Caller, new: NewCredential) -> Result<StoredCredential, AdminError> {
        let id = CredentialId::generate().map_err(|_| AdminError::Random)?;
        let call = Call::new(caller, "credentials/Add", id);
        self.attempt(&call, async {
            let mut problems = Vec::new();
            if !self.knows_provider(&new.provider) {
                problems.push("provider: not one of the catalogue; set a model of it first".to_owned());
            }
            problems.extend(new.problems());
            AdminError::unless_valid(&problems)?;
            let (record, secret) = (new.record(id), trimmed(&new.secret).map_err(AdminError::Invalid)?);
            let mut edit = self.edit().await?;
            let added = StoredCredential { record, created_at: edit.now };
            credentials::insert(edit.connection(), &added).await?;
            self.put_secret(&mut edit, id, 1, &secret).await?;
            let detail = json!({ "after": shown(&added.record) }).to_string();
            self.commit(edit, &call, detail, publish(&added.record)).await?;
            Ok(added)
        })
        .await
    }

    /// A page of all credentials, newest first.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a page that cannot be.
    pub async fn list_credentials(
        &self,
        caller: &Caller,
        request: &PageRequest,
    ) -> Result<Page<StoredCredential>, AdminError> {
        let call = Call::new(caller, "credentials/List", "");
        self.look(&call, async {
            let size = request.size()?;
            let after = request.after(|bytes| {
                let (created_at, id) = page::marked(bytes)?;
                Some(After { created_at, id: CredentialId::from_slice(id)? })
            })?;
            let found = credentials::page(&mut *self.inner.store.read().await?, after, size + 1).await?;
            Ok(Page::cut(found, size, |last| page::mark(last.created_at, last.record.id.as_bytes())))
        })
        .await
    }

    /// Changes what the update holds.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] with every problem, [`AdminError::NotFound`].
    pub async fn update_credential(
        &self,
        caller: &Caller,
        id: CredentialId,
        update: CredentialUpdate,
    ) -> Result<StoredCredential, AdminError> {
        let call = Call::new(caller, "credentials/Update", id);
        self.attempt(&call, async {
            let (mut edit, before) = self.edit_credential(id).await?;
            let mut record = before.record.clone();
            record.enabled = update.enabled.unwrap_or(record.enabled);
            if let Some(url) = update.base_url {
                record.base_url = base_url_or_default(url, &record.provider.0);
            }
            if let Some(group) = update.limit_group {
                record.limit_group = or_default(group, &id.to_string());
            }
            if let Some(pool) = update.pool {
                record.pool = or_default(pool, DEFAULT_POOL);
            }
            if let Some(weight) = update.weight {
                record.weight = weight.max(1);
            }
            AdminError::unless_valid(&record_problems(&record))?;
            if record == before.record {
                self.commit(edit, &call, NOTHING_CHANGED.to_owned(), Vec::new()).await?;
                return Ok(before);
            }
            credentials::update(edit.connection(), &record).await?;
            let detail = json!({ "before": shown(&before.record), "after": shown(&record) }).to_string();
            self.commit(edit, &call, detail, publish(&record)).await?;
            Ok(StoredCredential { record, ..before })
        })
        .await
    }

    /// Replaces a credential's secret by a new version; the old one is forgotten.
    ///
    /// # Errors
    /// [`AdminError::Invalid`], which does not repeat the secret; [`AdminError::NotFound`].
    pub async fn rotate_credential(
        &self,
        caller: &Caller,
        id: CredentialId,
        secret: &SecretBytes,
    ) -> Result<StoredCredential, AdminError> {
        let call = Call::new(caller, "credentials/Rotate", id);
        self.attempt(&call, async {
            let secret = trimmed(secret).map_err(AdminError::Invalid)?;
            let (mut edit, before) = self.edit_credential(id).await?;
            let mut record = before.record.clone();
            let next = record.secret_version.checked_add(1);
            record.secret_version =
                next.ok_or_else(|| AdminError::Precondition(format!("{id} was rotated too often: add a new one")))?;
            credentials::update(edit.connection(), &record).await?;
            self.put_secret(&mut edit, id, record.secret_version, &secret).await?;
            let detail = json!({ "before": shown(&before.record), "after": shown(&record) }).to_string();
            self.commit(edit, &call, detail, publish(&record)).await?;
            Ok(StoredCredential { record, ..before })
        })
        .await
    }

    /// Removes a credential and its secret.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub async fn remove_credential(&self, caller: &Caller, id: CredentialId) -> Result<(), AdminError> {
        let call = Call::new(caller, "credentials/Remove", id);
        self.attempt(&call, async {
            let (mut edit, before) = self.edit_credential(id).await?;
            credentials::remove(edit.connection(), id).await?;
            let detail = json!({ "before": shown(&before.record) }).to_string();
            self.commit(edit, &call, detail, vec![Change::Remove(ResourceId::Credential(id))]).await
        })
        .await
    }

    async fn edit_credential(&self, id: CredentialId) -> Result<(Edit, StoredCredential), AdminError> {
        let mut edit = self.edit().await?;
        let found = credentials::get(edit.connection(), id).await?;
        let found = found.ok_or_else(|| AdminError::not_found("credential", id))?;
        let published = |state: &State| state.credentials().find(|credential| credential.id == id).cloned();
        self.unless_published(&found.record, published, "credentials")?;
        Ok((edit, found))
    }

    fn knows_provider(&self, provider: &str) -> bool {
        let in_catalogue =
            || self.inner.hub.with_state(|state| state.models().any(|model| model.provider.0 == provider));
        provider::known(provider).is_some() || in_catalogue()
    }

    /// Puts a secret into the vault, under the key that seals in all control planes, and counts it.
    async fn put_secret(
        &self,
        edit: &mut Edit,
        id: CredentialId,
        version: u32,
        secret: &SecretBytes,
    ) -> Result<(), AdminError> {
        let vault = &self.inner.vault;
        vault.seal_with(vault_keys::sealing(edit.connection()).await?)?;
        let sealed = vault.seal(Place::credential(&id, version), secret)?;
        count(edit.connection(), sealed.kek_term, 1).await?;
        Ok(credentials::put_secret(edit.connection(), id, version, &sealed).await?)
    }
}

fn or_default(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}

fn base_url_or_default(given: String, provider: &str) -> String {
    if given.is_empty() {
        return provider::of(provider).base_url.unwrap_or_default().to_owned();
    }
    given.trim_end_matches('/').to_owned()
}

fn record_problems(record: &CredentialRecord) -> Vec<String> {
    let word = |text: &str| (1..=MAX_WORD).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let mut problems = Vec::new();
    for (field, text) in [("pool", &record.pool), ("limit_group", &record.limit_group)] {
        if !word(text) {
            problems.push(format!("{field}: 1 to {MAX_WORD} printable characters without spaces"));
        }
    }
    if record.weight > MAX_WEIGHT {
        problems.push(format!("weight: 1 to {MAX_WEIGHT}"));
    }
    problems.extend(url_problem(&record.base_url).map(|problem| format!("base_url: {problem}")));
    problems
}

/// What is wrong with a base URL, without repeating it: it may hold a password.
fn url_problem(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("missing, and this provider has no built-in one");
    }
    let query = text.split_once('?').map(|(_, query)| query);
    if text.len() > MAX_URL || text.contains('#') || query.is_some_and(|query| !is_api_version(query)) {
        return Some("a URL without fragment, of at most 2048 characters, and without query but for an `api-version`");
    }
    let Ok(url) = text.parse::<Uri>() else { return Some("not a URL such as https://api.example.com/v1") };
    let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
        return Some("not a URL such as https://api.example.com/v1");
    };
    if authority.as_str().contains('@') {
        return Some("must not hold a user or a password");
    }
    if *scheme == Scheme::HTTPS || (*scheme == Scheme::HTTP && is_loopback(authority.host())) {
        return None;
    }
    Some("must be https; http is only for this host's own loopback addresses, since secrets are sent there")
}

/// Whether a query says nothing but which version of the API is meant, as Azure wants it. Anything else may be a secret, and base URLs are shown.
fn is_api_version(query: &str) -> bool {
    let version = query.strip_prefix("api-version=");
    version
        .is_some_and(|version| version.len() <= 32 && version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
}

fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A secret without the white space around it, such as the newline that pasting adds.
fn trimmed(secret: &SecretBytes) -> Result<SecretBytes, String> {
    let bytes = secret.expose().trim_ascii();
    if (MIN_SECRET..=MAX_SECRET).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic) {
        return Ok(SecretBytes::new(bytes.to_vec()));
    }
    Err(format!("secret: {MIN_SECRET} to {MAX_SECRET} visible ASCII characters"))
}

fn publish(record: &CredentialRecord) -> Vec<Change> {
    vec![Change::Upsert(Resource::Credential(Arc::new(record.clone())))]
}

fn shown(record: &CredentialRecord) -> Value {
    json!({
        "provider": record.provider, "pool": record.pool, "base_url": record.base_url, "limit_group": record.limit_group,
        "enabled": record.enabled, "secret_version": record.secret_version, "weight": record.weight,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_out_in_the_clear_to_loopback_hosts_only() {
        for good in [
            "https://api.openai.com/v1",
            "https://llm.internal:8443",
            "https://me.openai.azure.com/openai/v1?api-version=2026-01-01-preview",
            "http://localhost:9000/v1",
            "http://127.0.0.1:1",
            "http://127.8.9.1/v1",
            "http://[::1]:80/v1",
        ] {
            assert_eq!(url_problem(good), None, "{good}");
        }
        for (bad, problem) in [
            ("http://api.openai.com/v1", "must be https"),
            ("http://localhost.example.com", "must be https"),
            ("http://10.0.0.1", "must be https"),
            ("ftp://localhost", "must be https"),
            ("https://user:pass@example.com", "must not hold a user"),
            ("http://127.0.0.1@example.com", "must not hold a user"),
            ("https://example.com/v1?key=1", "without query"),
            ("https://example.com/v1?api-version=1&key=1", "without query"),
            ("https://example.com/v1#x", "without fragment"),
            ("example.com", "not a URL"),
            ("/v1", "not a URL"),
            ("https://exa mple.com", "not a URL"),
            ("", "missing"),
        ] {
            assert!(url_problem(bad).is_some_and(|found| found.contains(problem)), "{bad}: {:?}", url_problem(bad));
        }
    }

    #[test]
    fn secrets_are_trimmed_and_only_visible_characters_pass() {
        let check = |text: &str| trimmed(&SecretBytes::new(text.as_bytes().to_vec()));
        assert!(check(" sk-12345678\r\n").ok().unwrap().expose() == b"sk-12345678");
        for bad in ["", "short", "sk-1234 5678", "sk-1234\u{e9}5678", "sk-\n12345678", &"x".repeat(4_097)] {
            let problem = check(bad).err().unwrap();
            assert!(problem.starts_with("secret: ") && !problem.contains("1234"), "{problem}");
        }
    }

    #[test]
    fn mask_names_what_changes_and_nothing_else() {
        let values = CredentialUpdate {
            enabled: Some(false),
            base_url: Some("https://a".to_owned()),
            limit_group: Some("g".to_owned()),
            pool: Some("p".to_owned()),
            weight: Some(3),
        };
        let masked = |paths: &[&str]| CredentialUpdate::masked(values.clone(), paths.iter().copied());
        let only_pool = CredentialUpdate { pool: Some("p".to_owned()), ..CredentialUpdate::default() };
        assert_eq!(masked(&["pool"]).unwrap(), only_pool);
        assert_eq!(masked(&["enabled", "base_url", "limit_group", "pool", "weight"]).unwrap(), values);
        assert!(masked(&["secret"]).unwrap_err().to_string().contains("`secret`"));
        assert!(masked(&[]).unwrap_err().to_string().starts_with("update_mask: empty"));
    }
}
