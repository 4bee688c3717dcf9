//! Several control planes on one database: which of them hold which vault keys.
//!
//! A key comes into use only when every control plane that is there holds it; otherwise one of them could not open what another one sealed. Each
//! says which keys it holds when it starts, when it takes others up, and every [`ATTEND_EVERY`]; one that is silent for [`SILENCE`] is taken for
//! gone. Should it come back without the key, it seals nothing, and names what it cannot open. All moments are of the database server's clock.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;

use crate::registry::before;
use crate::store::control_planes;
use crate::store::sql::Conn;
use crate::store::vault_holders::{self, Holding};
use crate::store::{Store, StoreError};
use crate::vault::Keyring;

/// How often a control plane says which keys it holds, and looks which one seals.
pub const ATTEND_EVERY: Duration = Duration::from_secs(10);
/// After this a control plane is taken for gone.
pub const SILENCE: Duration = Duration::from_mins(2);

/// A control plane as the others know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    id: [u8; 16],
    name: String,
}

/// A control plane and the terms of the keys that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its host and data directory.
    pub name: String,
    /// The terms, in their order.
    pub terms: Vec<u32>,
    /// When it last said so.
    pub seen_at: Timestamp,
    /// Whether it is this one.
    pub is_this: bool,
}

impl Holder {
    /// This process, which keeps its things in `data_dir`.
    ///
    /// # Errors
    /// The operating system gave no randomness.
    pub fn new(data_dir: &Path) -> Result<Self, getrandom::Error> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { id, name: format!("{host}:{}", data_dir.display()) })
    }

    /// Drawn for this process.
    #[must_use]
    pub const fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// Its host and data directory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says that this process holds the keys of `keyring` that are configured.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn hold(&self, conn: &mut Conn, keyring: &Keyring) -> Result<(), StoreError> {
        let mut terms: Vec<_> = keyring.all().filter(|held| held.configured).map(|held| held.term).collect();
        terms.sort_unstable();
        terms.dedup();
        let now = control_planes::now(conn).await?;
        vault_holders::forget_before(conn, before(now, SILENCE)).await?;
        vault_holders::hold(conn, &self.id, &self.name, &terms, now).await
    }

    /// Says that this process is gone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leave(&self, store: &Store) -> Result<(), StoreError> {
        let mut tx = store.write().await?;
        vault_holders::leave(&mut tx, &self.id).await?;
        Ok(tx.commit().await?)
    }

    /// Every control plane that is there, by its name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn all(&self, conn: &mut Conn) -> Result<Vec<Held>, StoreError> {
        let now = control_planes::now(conn).await?;
        let mut found: BTreeMap<(String, [u8; 16]), Held> = BTreeMap::new();
        for Holding { holder, name, term, seen_at } in vault_holders::since(conn, before(now, SILENCE)).await? {
            let is_this = holder == self.id;
            let held = found.entry((name.clone(), holder));
            let held = held.or_insert_with(|| Held { name, terms: Vec::new(), seen_at, is_this });
            held.terms.push(term);
        }
        Ok(found.into_values().collect())
    }

    /// The other control planes that are there and do not hold the key of a term.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn lacking(&self, conn: &mut Conn, term: u32) -> Result<Vec<String>, StoreError> {
        let all = self.all(conn).await?.into_iter();
        Ok(all.filter(|held| !held.is_this && !held.terms.contains(&term)).map(|held| held.name).collect())
    }
}
