//! The seals of what is stored of nodes and of join tokens: over every field, so that whoever can write to the database alone can neither make a used token
//! good again nor free the place of a node that is there.
//!
//! Rows of earlier versions have seals over fewer fields. They hold until the row is written again: a token's within a week, a node's within a day.

use keyforge_shared::row_seal::RowSealKey;

use crate::store::StoreError;
use crate::store::nodes::{JoinToken, Node};

/// Table names in seals, and the same of earlier versions.
const NODES: [&str; 2] = ["nodes/2", "nodes"];
const JOIN_TOKENS: [&str; 2] = ["node_join_tokens/2", "node_join_tokens"];

/// The seal of a node as it is to be stored.
pub fn of_node(key: &RowSealKey, node: &Node) -> [u8; 32] {
    key.seal(NODES[0], &node.canonical())
}

/// A node's row, if its seal holds.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn open_node(key: &RowSealKey, (node, seal): (Node, Vec<u8>)) -> Result<Node, StoreError> {
    let holds = key.holds(&seal, NODES[0], &node.canonical()) || key.holds(&seal, NODES[1], &node.canonical_before());
    if holds { Ok(node) } else { Err(StoreError::Corrupt("nodes")) }
}

/// The seal of a join token as it is to be stored.
pub fn of_token(key: &RowSealKey, token: &JoinToken) -> [u8; 32] {
    key.seal(JOIN_TOKENS[0], &token.canonical())
}

/// A join token's row, if its seal holds.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn open_token(key: &RowSealKey, (token, seal): (JoinToken, Vec<u8>)) -> Result<JoinToken, StoreError> {
    let [now, before] = JOIN_TOKENS;
    let holds = key.holds(&seal, now, &token.canonical()) || key.holds(&seal, before, &token.canonical_before());
    if holds { Ok(token) } else { Err(StoreError::Corrupt("node_join_tokens")) }
}

#[cfg(test)]
mod tests {
    use keyforge_shared::clock::Timestamp;
    use keyforge_shared::id::{DeploymentId, NodeId, OperatorId};
    use keyforge_shared::secret::Key256;
    use keyforge_shared::token::TokenDigest;

    use super::*;

    fn key() -> RowSealKey {
        RowSealKey::derive(&Key256::new([1; 32]), DeploymentId::from_bytes([1; 16]))
    }

    fn node() -> Node {
        Node {
            id: NodeId::from_bytes([2; 16]),
            name: "edge".to_owned(),
            serves: Default::default(),
            joined_at: Timestamp::from_millis(1),
            removed_at: None,
            certificate_serial: vec![3; 16],
            certificate_expires_at: Timestamp::from_millis(2),
            certificate_used: true,
        }
    }

    fn token() -> JoinToken {
        JoinToken {
            digest: TokenDigest([4; 32]),
            name: "edge".to_owned(),
            serves: Default::default(),
            created_by: OperatorId::from_bytes([5; 16]),
            created_at: Timestamp::from_millis(1),
            expires_at: Timestamp::from_millis(2),
            used_at: Some(Timestamp::from_millis(1)),
        }
    }

    #[test]
    fn seals_are_over_what_changes_and_those_of_earlier_versions_hold() {
        let key = key();
        let (sealed, of_token) = (of_node(&key, &node()).to_vec(), super::of_token(&key, &token()).to_vec());
        assert!(open_node(&key, (node(), sealed.clone())).is_ok());
        assert!(open_token(&key, (token(), of_token.clone())).is_ok());
        for changed in [
            Node { certificate_serial: vec![9; 16], ..node() },
            Node { certificate_expires_at: Timestamp::from_millis(3), ..node() },
            Node { certificate_used: false, ..node() },
            Node { removed_at: Some(Timestamp::from_millis(3)), ..node() },
        ] {
            assert!(open_node(&key, (changed, sealed.clone())).is_err());
        }
        assert!(open_token(&key, (JoinToken { used_at: None, ..token() }, of_token)).is_err());
        let before = key.seal("nodes", &node().canonical_before()).to_vec();
        assert!(open_node(&key, (node(), before)).is_ok());
        let before = key.seal("node_join_tokens", &token().canonical_before()).to_vec();
        assert!(open_token(&key, (token(), before)).is_ok());
    }
}
