//! What no chain can tell by itself: that all records of each node's life are chained, that no virtual key is gone with its
//! chain, and that the state is as new as the administrators' chain.
//!
//! A key's chain that is replaced by an older copy holds, and one that is deleted with its key is not missed by any hash. But lives of nodes number
//! their records through all chains, and the administrators' chain says which keys were made and how often the state was changed.

use keyforge_shared::audit::admin::{AdminOutcome, AdminRecord};
use keyforge_shared::id::{BootId, ChainId, KeyId};

use super::unchained;
use crate::store::boots::{self, Stocktaking};
use crate::store::sql::Conn;
use crate::store::{StoreError, deployment, keys};

/// Detail of an act that was carried out and left everything as it was.
pub const NOTHING_CHANGED: &str = "nothing changed";
/// The acts that move the state to its next revision when they are carried out and change anything.
const CHANGES: [&str; 23] = [
    "workspaces/Create",
    "workspaces/Update",
    "workspaces/Delete",
    "keys/Create",
    "keys/Update",
    "keys/Revoke",
    "keys/Pause",
    "keys/PauseOverspent",
    // What that was called in chains of the first versions.
    "keys/Freeze",
    "keys/Resume",
    "keys/Zero",
    "keys/Rotate",
    "keys/Raise",
    "credentials/Add",
    "credentials/Update",
    "credentials/Rotate",
    "credentials/Remove",
    "models/Set",
    "models/Remove",
    "operators/Create",
    "operators/SetRole",
    "operators/Rotate",
    "operators/Revoke",
];
/// Revision of the state that a deployment begins with.
const FIRST_REVISION: i64 = 1;
/// Most keys that a fault names one by one.
const NAMED: usize = 20;

/// The next boot after `after`, with what is wrong with its records; an empty text when nothing is. `None` after the last boot.
///
/// A watermark says how far a life has shipped, and a declared gap names what comes after it. So all up to it is chained, gap or not; or the
/// administrators' chain, `admin`, tells of it.
pub(super) async fn boot_after(
    conn: &mut Conn,
    admin: ChainId,
    after: &[u8],
) -> Result<Option<(Vec<u8>, String)>, StoreError> {
    let Some(boot) = boots::named_after(conn, after).await? else { return Ok(None) };
    let told = unchained::told_of(conn, admin, &boot).await?;
    let found = boots::stocktaking(conn, boot, &told.runs()).await?;
    let fault = boot_fault(&found);
    Ok(Some((found.boot, fault)))
}

fn boot_fault(found: &Stocktaking) -> String {
    let boot = BootId::from_slice(&found.boot).map_or_else(|| format!("{:02x?}", found.boot), |boot| boot.to_string());
    let Some(watermark) = found.watermark else {
        return format!("entries name {boot}, which is not known as a life of any node: its row was deleted");
    };
    let said = format!("{boot} has shipped {watermark} records");
    match found.first_astray {
        Some((place, number)) if number > place => {
            format!("{said}, but number {place} is not chained: entries were deleted, or replaced by an older copy")
        }
        Some((_, number)) => format!("{said}, but number {number} is chained more than once, or is none"),
        None if found.entries < watermark => format!(
            "{said}, but only {} are chained: entries were deleted, or replaced by an older copy",
            found.entries
        ),
        None if found.entries > watermark => {
            format!("{said}, but {} are chained: its row was replaced by an older copy", found.entries)
        }
        None => String::new(),
    }
}

/// What the administrators' chain says must be there: the keys that were made, and as many revisions as there were changes.
#[derive(Default)]
pub(super) struct Acts {
    vanished: Vec<KeyId>,
    more_vanished: u64,
    changes: i64,
}

impl Acts {
    /// Takes an act of administration. Of a key that it made, only that it is there is looked up: chains of keys are checked for every key.
    pub(super) async fn add(&mut self, conn: &mut Conn, act: &AdminRecord) -> Result<(), StoreError> {
        if act.outcome != AdminOutcome::Done {
            return Ok(());
        }
        if CHANGES.contains(&act.method.as_str()) && act.detail != NOTHING_CHANGED {
            self.changes = self.changes.saturating_add(1);
        }
        let made = (act.method == "keys/Create").then(|| act.target.parse::<KeyId>().ok()).flatten();
        let Some(key) = made else { return Ok(()) };
        if keys::exists(conn, key).await? {
            return Ok(());
        }
        if self.vanished.len() < NAMED {
            self.vanished.push(key);
        } else {
            self.more_vanished = self.more_vanished.saturating_add(1);
        }
        Ok(())
    }

    /// What is wrong, once all acts were taken; empty when nothing is.
    pub(super) async fn fault(&self, conn: &mut Conn) -> Result<String, StoreError> {
        Ok(self.fault_at(deployment::revision(conn).await?))
    }

    fn fault_at(&self, revision: Option<i64>) -> String {
        if !self.vanished.is_empty() {
            let names: Vec<String> = self.vanished.iter().map(ToString::to_string).collect();
            let more =
                if self.more_vanished == 0 { String::new() } else { format!(" and {} more", self.more_vanished) };
            let names = names.join(", ");
            return format!(
                "{names}{more}: made according to this chain, but no such virtual key is stored: it was deleted"
            );
        }
        let led_to = self.changes.saturating_add(FIRST_REVISION);
        match revision {
            Some(revision) if revision != led_to => format!(
                "the state is at revision {revision}, but the changes of this chain lead to {led_to}: keys, models and credentials were \
                 replaced by an older copy, or this chain was"
            ),
            Some(_) | None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_boot_are_complete_only_from_one_to_its_watermark() {
        let fault = |watermark, entries, first_astray| {
            boot_fault(&Stocktaking { boot: vec![1; 16], watermark, entries, first_astray })
        };
        assert_eq!(fault(Some(0), 0, None), "");
        assert_eq!(fault(Some(7), 7, None), "");
        for (found, words) in [
            (fault(Some(7), 6, None), "only 6 are chained"),
            (fault(Some(7), 8, None), "8 are chained"),
            (fault(Some(7), 6, Some((3, 4))), "number 3 is not chained"),
            (fault(Some(7), 8, Some((4, 3))), "number 3 is chained more than once"),
            (fault(Some(7), 7, Some((1, 0))), "or is none"),
            (fault(None, 2, None), "its row was deleted"),
        ] {
            assert!(found.contains(words), "{found}");
        }
    }

    #[test]
    fn as_many_keys_as_fit_are_named_and_the_others_counted() {
        let key = KeyId::from_ascii(b"key000000001").unwrap();
        let fault = Acts { vanished: vec![key], more_vanished: 2, changes: 1 }.fault_at(Some(2));
        assert!(fault.starts_with("vk_key000000001 and 2 more: "), "{fault}");
    }

    #[test]
    fn revision_is_one_more_than_there_were_changes() {
        let acts = Acts { changes: 4, ..Acts::default() };
        assert_eq!((acts.fault_at(Some(5)).as_str(), acts.fault_at(None).as_str()), ("", ""));
        for revision in [4, 6] {
            assert!(acts.fault_at(Some(revision)).contains("lead to 5"), "{revision}");
        }
    }
}
