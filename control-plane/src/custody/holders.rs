//! Several control planes on one database: which of them hold which vault keys.
//!
//! A key comes into use only when every control plane that is there holds it; otherwise one of them could not open what another one sealed. Each
//! says which keys it holds when it starts, when it takes others up, and every [`ATTEND_EVERY`]; one that is silent for [`SILENCE`] is taken for
//! gone. Should it come back without the key, it seals nothing, and names what it cannot open. All moments are of the database server's clock.

use std::collections::BTreeMap;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;

use crate::instance::Instance;
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

/// A control plane and the terms of the vault keys that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyHolder {
    /// Its host and data directory.
    pub name: String,
    /// The terms, in their order.
    pub terms: Vec<u32>,
    /// When it last said so.
    pub seen_at: Timestamp,
    /// Whether it is this one.
    pub is_this: bool,
}

/// Says that this process holds the keys of `keyring` that are configured.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn hold(conn: &mut Conn, this: &Instance, keyring: &Keyring) -> Result<(), StoreError> {
    let mut terms: Vec<_> = keyring.all().filter(|held| held.configured).map(|held| held.term).collect();
    terms.sort_unstable();
    terms.dedup();
    let now = control_planes::now(conn).await?;
    vault_holders::forget_before(conn, before(now, SILENCE)).await?;
    vault_holders::hold(conn, this.id(), this.name(), &terms, now).await
}

/// Says that this process is gone.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn leave(store: &Store, this: &Instance) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    vault_holders::leave(&mut tx, this.id()).await?;
    Ok(tx.commit().await?)
}

/// Every control plane that is there, by its name.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn all(conn: &mut Conn, this: &Instance) -> Result<Vec<KeyHolder>, StoreError> {
    let now = control_planes::now(conn).await?;
    let mut found: BTreeMap<(String, [u8; 16]), KeyHolder> = BTreeMap::new();
    for Holding { holder, name, term, seen_at } in vault_holders::since(conn, before(now, SILENCE)).await? {
        let is_this = holder == *this.id();
        let key_holder = found.entry((name.clone(), holder));
        let key_holder = key_holder.or_insert_with(|| KeyHolder { name, terms: Vec::new(), seen_at, is_this });
        key_holder.terms.push(term);
    }
    Ok(found.into_values().collect())
}

/// The names of the other control planes that are there and do not hold the key of a term.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn lacking(conn: &mut Conn, this: &Instance, term: u32) -> Result<Vec<String>, StoreError> {
    let all = all(conn, this).await?.into_iter();
    Ok(all.filter(|holder| !holder.is_this && !holder.terms.contains(&term)).map(|holder| holder.name).collect())
}
