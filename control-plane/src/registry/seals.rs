//! The seals of what control planes write for one another: whoever can write to the database alone can make none of it say something else.

use keyforge_shared::row_seal::RowSealKey;

use crate::store::connected_nodes::Published;
use crate::store::control_planes::KnownPlane;
use crate::store::receipt_parts::{Part, Question};

const PLANES: &str = "control_planes";
const PARTS: &str = "receipt_answers";
const CONNECTED: &str = "connected_nodes";

/// The seal of a row of the registry.
pub fn of_plane(key: &RowSealKey, plane: &KnownPlane) -> [u8; 32] {
    key.seal(PLANES, &plane.canonical())
}

/// Whether a row of the registry has its seal.
pub fn plane_holds(key: &RowSealKey, plane: &KnownPlane, seal: &[u8]) -> bool {
    key.holds(seal, PLANES, &plane.canonical())
}

/// The seal of the answer of `by` to a question.
pub fn of_part(key: &RowSealKey, part: &Part, question: &Question, by: &[u8; 16]) -> [u8; 32] {
    key.seal(PARTS, &part.canonical(question, by))
}

/// Whether that answer to that question has its seal.
pub fn part_holds(key: &RowSealKey, (part, seal): &(Part, Vec<u8>), question: &Question, by: &[u8; 16]) -> bool {
    key.holds(seal, PARTS, &part.canonical(question, by))
}

/// The seal of a list of connected nodes.
pub fn of_published(key: &RowSealKey, published: &Published) -> [u8; 32] {
    key.seal(CONNECTED, &published.canonical())
}

/// Whether a list of connected nodes has its seal.
pub fn published_holds(key: &RowSealKey, published: &Published, seal: &[u8]) -> bool {
    key.holds(seal, CONNECTED, &published.canonical())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyforge_shared::clock::Timestamp;
    use keyforge_shared::id::{BootId, DeploymentId, NodeId};
    use keyforge_shared::secret::Key256;

    use super::*;
    use crate::store::control_planes::Gone;
    use crate::store::node_lists::AgedLife;

    fn key() -> RowSealKey {
        RowSealKey::derive(&Key256::new([1; 32]), DeploymentId::from_bytes([1; 16]))
    }

    fn life() -> AgedLife {
        AgedLife {
            node: NodeId::from_bytes([1; 16]),
            boot: BootId::from_bytes([2; 16]),
            began: Duration::from_secs(3),
            heard: Duration::from_secs(2),
            assured: Duration::from_secs(1),
            is_double: false,
            is_connected: false,
        }
    }

    #[test]
    fn i_13_an_answers_seal_is_over_all_of_it_and_over_the_question() {
        let question =
            Question { id: [1; 16], revision: 7, max_staleness: Duration::from_secs(30), wait: Duration::ZERO };
        let part = Part { writes: 1, is_settled: true, acked: vec![life()], pending: vec![], streams_cut: 2 };
        let sealed = |part: Part| (part, of_part(&key(), &part_of(), &question, &[4; 16]).to_vec());
        fn part_of() -> Part {
            Part { writes: 1, is_settled: true, acked: vec![life()], pending: vec![], streams_cut: 2 }
        }
        assert!(part_holds(&key(), &sealed(part.clone()), &question, &[4; 16]));
        for changed in [
            Part { writes: 2, ..part.clone() },
            Part { is_settled: false, ..part.clone() },
            Part { acked: vec![], pending: vec![life()], ..part.clone() },
            Part { acked: vec![AgedLife { began: Duration::ZERO, ..life() }], ..part.clone() },
            Part { streams_cut: 3, ..part.clone() },
        ] {
            assert!(!part_holds(&key(), &sealed(changed), &question, &[4; 16]));
        }
        for asked in [
            Question { id: [2; 16], ..question.clone() },
            Question { revision: 8, ..question.clone() },
            Question { max_staleness: Duration::from_secs(31), ..question.clone() },
        ] {
            assert!(!part_holds(&key(), &sealed(part.clone()), &asked, &[4; 16]));
        }
        assert!(!part_holds(&key(), &sealed(part), &question, &[5; 16]), "it is somebody else's answer");
    }

    #[test]
    fn i_13_the_seal_of_a_row_of_the_registry_is_over_all_of_it() {
        let at = Timestamp::from_millis;
        let (known_since, max_staleness) = (at(1), Duration::from_secs(30));
        let row =
            |gone| KnownPlane { id: [1; 16], name: "a".to_owned(), known_since, max_staleness, seen_at: at(2), gone };
        let seal = of_plane(&key(), &row(None));
        assert!(plane_holds(&key(), &row(None), &seal));
        for changed in [
            row(Some(Gone { at: at(3), left: None })),
            KnownPlane { id: [2; 16], ..row(None) },
            KnownPlane { known_since: at(0), ..row(None) },
            KnownPlane { max_staleness: Duration::from_secs(1), ..row(None) },
            KnownPlane { seen_at: at(3), ..row(None) },
        ] {
            assert!(!plane_holds(&key(), &changed, &seal), "{changed:?}");
        }
        let seal = of_plane(&key(), &row(Some(Gone { at: at(3), left: None })));
        assert!(!plane_holds(&key(), &row(Some(Gone { at: at(3), left: Some(vec![]) })), &seal));
        assert!(!plane_holds(&key(), &row(Some(Gone { at: at(2), left: None })), &seal));
    }
}
