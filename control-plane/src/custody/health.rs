//! Whether the secrets can be opened: each is tried, and what cannot be opened is named with its credential. Nothing is skipped in silence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::id::CredentialId;
use keyforge_shared::secret::SecretBytes;

use super::Custodian;
use crate::store::vault_records::{self, Kept};
use crate::store::{Store, StoreError, vault_keys};
use crate::vault::{MOST_WRAPS, Place, Vault, VaultError};

/// How often every secret is tried.
const EXAMINE_EVERY: Duration = Duration::from_mins(1);
/// From so many ciphertexts on the log asks for another key.
const MANY_WRAPS: u64 = MOST_WRAPS / 2;
/// Secrets that are read at a time.
const PAGE: u32 = 256;

/// Why a secret cannot be opened.
#[derive(Debug)]
pub enum Fault {
    /// There is none.
    Missing,
    /// It is of another version than the credential: somebody put an older one back.
    Version {
        /// Which version it is.
        found: u32,
        /// Which it should be.
        expected: u32,
    },
    /// The vault refuses it.
    Vault(VaultError),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the secret is not in the vault: rotate the credential"),
            Self::Version { found, expected } => write!(
                f,
                "version {found} of the secret is there, and {expected} should be: the database was changed by something else; rotate the \
                 credential"
            ),
            Self::Vault(VaultError::Seal(error)) => write!(f, "{error}; rotate the credential"),
            Self::Vault(error) => error.fmt(f),
        }
    }
}

/// How the secrets stand.
#[derive(Debug, Default)]
pub struct Findings {
    /// How many secrets there are under each term, and how many of them cannot be opened. Those that are missing are under none.
    pub by_term: BTreeMap<u32, Tally>,
    /// Which cannot be opened, and why.
    pub unreadable: Vec<(CredentialId, Fault)>,
    /// How many credentials there are.
    pub credentials: u64,
}

/// Secrets under one term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub secrets: u64,
    /// Those that cannot be opened.
    pub unreadable: u64,
}

/// Opens a credential's secret; with it comes its version.
///
/// # Errors
/// [`Fault`].
pub fn open(vault: &Vault, kept: &Kept) -> Result<(u32, SecretBytes), Fault> {
    let (version, sealed) = kept.found.as_ref().ok_or(Fault::Missing)?;
    if *version != kept.expected {
        return Err(Fault::Version { found: *version, expected: kept.expected });
    }
    let opened = vault.open(Place::credential(&kept.credential, *version), sealed);
    opened.map(|secret| (*version, secret)).map_err(Fault::Vault)
}

/// Tries every secret.
///
/// # Errors
/// [`StoreError`].
pub async fn examine(store: &Store, vault: &Vault) -> Result<Findings, StoreError> {
    let mut findings = Findings::default();
    let mut after = None;
    loop {
        // A page at a time, so that no reader is held for long.
        let page = vault_records::kept_after(&mut *store.read().await?, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(findings) };
        after = Some(last.credential);
        for kept in &page {
            let fault = open(vault, kept).err();
            findings.credentials = findings.credentials.saturating_add(1);
            if let Some((_, sealed)) = &kept.found {
                let tally = findings.by_term.entry(sealed.kek_term).or_default();
                tally.secrets = tally.secrets.saturating_add(1);
                tally.unreadable = tally.unreadable.saturating_add(u64::from(fault.is_some()));
            }
            findings.unreadable.extend(fault.map(|fault| (kept.credential, fault)));
        }
    }
}

impl Custodian {
    /// Tries every secret at once, then every minute and when another key was taken up, for the log, the metric and the nodes that lack some.
    pub async fn watch(self) {
        let mut often = tokio::time::interval(EXAMINE_EVERY);
        loop {
            tokio::select! {
                _ = often.tick() => {}
                () = self.taken_up.notified() => {}
            }
            if let Err(error) = self.examine().await {
                tracing::warn!(%error, "the vault's secrets could not be tried");
            }
            if let Err(error) = self.look_at_wraps().await {
                tracing::warn!(%error, "the uses of the vault key could not be looked at");
            }
        }
    }

    pub(super) async fn examine(&self) -> Result<Findings, StoreError> {
        let findings = examine(&self.store, &self.vault).await?;
        let now: BTreeSet<_> = findings.unreadable.iter().map(|(credential, _)| *credential).collect();
        let now = Arc::new(now);
        let named = self.unreadable.send_replace(Arc::clone(&now));
        for (credential, fault) in &findings.unreadable {
            if !named.contains(credential) {
                tracing::error!(%credential, reason = %fault, "the secret of a credential cannot be opened");
            }
        }
        for credential in named.difference(&now) {
            tracing::info!(%credential, "the secret of a credential can be opened again, or is gone");
        }
        Ok(findings)
    }

    async fn look_at_wraps(&self) -> Result<(), StoreError> {
        let current = self.current();
        let known = vault_keys::all(&mut *self.store.read().await?).await?;
        let wraps = known.iter().find(|key| key.id == current).map_or(0, |key| key.wraps);
        if wraps >= MANY_WRAPS {
            tracing::warn!(key = %current, wraps, most = MOST_WRAPS, "the vault key is used up soon: rotate it");
        }
        Ok(())
    }
}
