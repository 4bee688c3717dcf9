//! Nodes of which a row holds any number, in one column: 16 bytes for each id, and where it is told 8 for the age of what the node knows, in
//! nanoseconds, big-endian. Ages and not moments, because clocks of different machines are not compared.

use std::time::Duration;

use keyforge_shared::id::NodeId;

use super::StoreError;
use super::sql::Row;

const ID: usize = 16;
const AGED: usize = ID + 8;

/// Ids as they stand in a column.
#[must_use]
pub fn of_ids(nodes: &[NodeId]) -> Vec<u8> {
    nodes.iter().flat_map(|node| *node.as_bytes()).collect()
}

/// Ids with ages as they stand in a column. Ages above 584 years are that.
#[must_use]
pub fn of_aged(nodes: &[(NodeId, Duration)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(nodes.len() * AGED);
    for (node, age) in nodes {
        bytes.extend_from_slice(node.as_bytes());
        bytes.extend_from_slice(&u64::try_from(age.as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
    }
    bytes
}

/// Ids out of a column.
///
/// # Errors
/// [`StoreError::Corrupt`] when it is not a whole number of them; [`StoreError::Database`] when the column is missing or of another type.
pub fn ids(row: &Row, column: &'static str) -> Result<Vec<NodeId>, StoreError> {
    let (nodes, rest) = row.try_get::<&[u8], _>(column)?.as_chunks::<ID>();
    if rest.is_empty() {
        Ok(nodes.iter().map(|bytes| NodeId::from_bytes(*bytes)).collect())
    } else {
        Err(StoreError::Corrupt(column))
    }
}

/// Ids with ages out of a column.
///
/// # Errors
/// As [`ids`].
pub fn aged(bytes: &[u8], column: &'static str) -> Result<Vec<(NodeId, Duration)>, StoreError> {
    let (nodes, rest) = bytes.as_chunks::<AGED>();
    let read = |bytes: &[u8; AGED]| {
        let (id, age) = bytes.split_first_chunk::<ID>()?;
        let age = u64::from_be_bytes(*age.first_chunk()?);
        Some((NodeId::from_bytes(*id), Duration::from_nanos(age)))
    };
    let nodes: Option<Vec<_>> = nodes.iter().map(read).collect();
    nodes.filter(|_| rest.is_empty()).ok_or(StoreError::Corrupt(column))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_come_back_as_they_were_and_a_torn_list_is_refused() {
        let node = |n: u8| NodeId::from_bytes([n; 16]);
        let nodes = [(node(1), Duration::from_nanos(7)), (node(2), Duration::from_hours(24))];
        let bytes = of_aged(&nodes);
        assert_eq!(aged(&bytes, "pending").unwrap(), nodes);
        assert!(matches!(aged(&bytes[1..], "pending"), Err(StoreError::Corrupt("pending"))));
        assert_eq!(of_ids(&[node(1), node(2)]).len(), 32);
    }
}
