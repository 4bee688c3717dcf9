//! Lives of nodes of which a row holds any number, in one column: for each the node and the boot, 16 bytes each; how long ago it began, was last heard of
//! and learned that its state was fresh, 8 bytes each in nanoseconds, big-endian; and a byte of flags. Ages and not moments, because clocks of different machines
//! are not compared.

use std::time::Duration;

use keyforge_shared::audit::canonical::Writer;
use keyforge_shared::id::{BootId, NodeId};

use super::StoreError;

const ID: usize = 16;
const AGE: usize = 8;
const LIFE: usize = 2 * ID + 3 * AGE + 1;
const DOUBLE: u8 = 1;
const CONNECTED: u8 = 2;

/// A life of a node as a control plane knew it, by how long ago things were. Ages above 584 years are that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgedLife {
    /// Whose life.
    pub node: NodeId,
    /// Which.
    pub boot: BootId,
    /// Since it said hello first.
    pub began: Duration,
    /// Since it was last heard of.
    pub heard: Duration,
    /// Since it can last have learned that its state was fresh.
    pub assured: Duration,
    /// Whether another life of the node was there at the same time.
    pub is_double: bool,
    /// Whether it had a stream open.
    pub is_connected: bool,
}

/// Lives as they stand in a column.
#[must_use]
pub fn of_lives(lives: &[AgedLife]) -> Vec<u8> {
    let mut writer = Writer::default();
    let nanos = |age: Duration| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
    for AgedLife { node, boot, began, heard, assured, is_double, is_connected } in lives {
        writer.raw(node.as_bytes()).raw(boot.as_bytes());
        writer
            .u64(nanos(*began))
            .u64(nanos(*heard))
            .u64(nanos(*assured))
            .u8((DOUBLE * u8::from(*is_double)) | (CONNECTED * u8::from(*is_connected)));
    }
    writer.finish()
}

/// Lives out of a column.
///
/// # Errors
/// [`StoreError::Corrupt`] with the column's name when it is not a whole number of them.
pub fn lives(bytes: &[u8], column: &'static str) -> Result<Vec<AgedLife>, StoreError> {
    let (lives, rest) = bytes.as_chunks::<LIFE>();
    let lives: Option<Vec<_>> = lives.iter().map(|life| read(life)).collect();
    lives.filter(|_| rest.is_empty()).ok_or(StoreError::Corrupt(column))
}

fn read(bytes: &[u8]) -> Option<AgedLife> {
    let (node, rest) = bytes.split_first_chunk::<ID>()?;
    let (boot, rest) = rest.split_first_chunk::<ID>()?;
    let (began, rest) = rest.split_first_chunk::<AGE>()?;
    let (heard, rest) = rest.split_first_chunk::<AGE>()?;
    let (assured, rest) = rest.split_first_chunk::<AGE>()?;
    let age = |bytes: &[u8; AGE]| Duration::from_nanos(u64::from_be_bytes(*bytes));
    let [flags] = rest else { return None };
    if flags & !(DOUBLE | CONNECTED) != 0 {
        return None;
    }
    let (is_double, is_connected) = (flags & DOUBLE != 0, flags & CONNECTED != 0);
    let (node, boot) = (NodeId::from_bytes(*node), BootId::from_bytes(*boot));
    Some(AgedLife { node, boot, began: age(began), heard: age(heard), assured: age(assured), is_double, is_connected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_come_back_as_they_were_and_a_torn_list_is_refused() {
        let life = |n: u8, is_double| AgedLife {
            node: NodeId::from_bytes([n; 16]),
            boot: BootId::from_bytes([n + 10; 16]),
            began: Duration::from_hours(24),
            heard: Duration::from_nanos(7),
            assured: Duration::from_secs(n.into()),
            is_double,
            is_connected: !is_double,
        };
        let known = [life(1, false), life(2, true)];
        let bytes = of_lives(&known);
        assert_eq!((bytes.len(), lives(&bytes, "pending").unwrap().as_slice()), (2 * 57, &known[..]));
        assert!(matches!(lives(&bytes[1..], "pending"), Err(StoreError::Corrupt("pending"))));
        let odd = [&bytes[..113], &[4]].concat();
        assert!(lives(&odd, "pending").is_err());
    }
}
