//! Nodes that are connected here and to another control plane at the same time, as a copy of a node's data directory is.
//!
//! What is read of others is seconds old, and a node that moves is in two lists for a while: nothing follows from one look. But two lives that both were
//! heard of after a moment at which both were known already were there at the same time, however old the lists are. So were two that stay in the lists
//! for longer than a dead connection can.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, NodeId};

use super::connected::{Connected, Elsewhere};

/// What may pass between a look and what it is compared with, and still prove nothing.
const SLACK: Duration = Duration::from_secs(2);
/// A connection whose other end is gone is found dead and closed within this time, and is in no list that is read so long after it. A life that is
/// still there was no former one, also if nothing is heard of it where only its state comes from.
const FOUND_DEAD: Duration = Duration::from_secs(90);
/// A pair that was told of is not told of again if it is missing for no longer than this.
const REMEMBERED: Duration = Duration::from_mins(2);

/// A node, its life here and its life elsewhere.
type Pair = (NodeId, BootId, BootId);

/// What is known of a pair.
#[derive(Clone, Copy)]
struct Suspect {
    /// Both lives were known at this moment.
    since: Timestamp,
    /// The last look that found both.
    seen_at: Timestamp,
    /// Both were there at the same time.
    is_founded: bool,
}

/// The pairs that were in the lists lately.
pub(super) struct Doubles {
    pairs: HashMap<Pair, Suspect>,
    looked_at: Timestamp,
}

impl Default for Doubles {
    fn default() -> Self {
        Self { pairs: HashMap::new(), looked_at: Timestamp::from_nanos(0) }
    }
}

/// A node that turned out to be connected twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Double {
    pub(super) node: NodeId,
    pub(super) boot: BootId,
    pub(super) other: BootId,
    /// Where the other life is, as operators know that control plane.
    pub(super) control_plane: String,
}

impl Doubles {
    /// Looks at the lists of here and elsewhere, and names who turned out to be there twice since the last look.
    pub(super) fn look(&mut self, now: Timestamp, here: &[Connected], elsewhere: &[Elsewhere]) -> Vec<Double> {
        let mut own: HashMap<NodeId, Vec<&Connected>> = HashMap::new();
        for life in here {
            own.entry(life.node).or_default().push(life);
        }
        self.pairs.retain(|_, suspect| now.since(suspect.seen_at) <= REMEMBERED);
        let mut found = Vec::new();
        for Elsewhere { control_plane, life: other } in elsewhere {
            for life in own.get(&other.node).into_iter().flatten().filter(|life| life.boot != other.boot) {
                let new = Suspect { since: now, seen_at: now, is_founded: false };
                let suspect = self.pairs.entry((life.node, life.boot, other.boot)).or_insert(new);
                // The database's clock may have been set back.
                suspect.since = suspect.since.min(now);
                suspect.seen_at = now;
                let is_later = |life: &Connected| life.heard < now.since(suspect.since.saturating_add(SLACK));
                let is_proved = (is_later(life) && is_later(other)) || now.since(suspect.since) > FOUND_DEAD;
                if is_proved && !suspect.is_founded {
                    suspect.is_founded = true;
                    let control_plane = control_plane.clone();
                    found.push(Double { node: life.node, boot: life.boot, other: other.boot, control_plane });
                }
            }
        }
        self.looked_at = now;
        found
    }

    /// The nodes that are there twice, as far as the last look told.
    pub(super) fn nodes(&self) -> BTreeSet<NodeId> {
        let founded = self.pairs.iter().filter(|(_, suspect)| suspect.is_founded && suspect.seen_at == self.looked_at);
        founded.map(|((node, ..), _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([1; 16]);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000).saturating_add(Duration::from_secs(seconds))
    }

    fn life(boot: u8, heard: u64) -> Connected {
        let (boot, heard) = (BootId::from_bytes([boot; 16]), Duration::from_secs(heard));
        Connected { node: NODE, boot, acked_revision: 7, heard, version: String::new(), region: String::new() }
    }

    fn there(boot: u8, heard: u64) -> [Elsewhere; 1] {
        [Elsewhere { control_plane: "there".to_owned(), life: life(boot, heard) }]
    }

    #[test]
    fn two_lives_that_are_both_heard_of_again_are_told_of_once_and_counted_until_one_is_gone() {
        let mut doubles = Doubles::default();
        assert!(doubles.look(at(0), &[life(1, 0)], &there(2, 1)).is_empty(), "it may have moved");
        assert!(doubles.look(at(4), &[life(1, 1)], &there(2, 5)).is_empty(), "nothing new of the other one");
        assert!(doubles.look(at(8), &[life(1, 1)], &there(2, 7)).is_empty(), "clocks may be apart");
        let found = doubles.look(at(12), &[life(1, 1)], &there(2, 3));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].boot, found[0].other), (BootId::from_bytes([1; 16]), BootId::from_bytes([2; 16])));
        assert!(doubles.look(at(30), &[life(1, 1)], &there(2, 1)).is_empty(), "it was told of");
        assert_eq!(doubles.nodes(), BTreeSet::from([NODE]));
        assert!(doubles.look(at(40), &[life(1, 1)], &[]).is_empty());
        assert!(doubles.nodes().is_empty());
    }

    #[test]
    fn a_node_that_moved_or_has_its_streams_at_two_control_planes_is_no_double() {
        let mut doubles = Doubles::default();
        for second in (0..120).step_by(10) {
            // Its former life is in the list of the other one until that one finds its connection dead.
            let listed = there(1, 3 + second);
            let listed = if second <= 80 { &listed[..] } else { &[] };
            assert!(doubles.look(at(second), &[life(2, 1)], listed).is_empty(), "{second}");
        }
        let mut doubles = Doubles::default();
        for second in (0..120).step_by(10) {
            assert!(doubles.look(at(second), &[life(1, 1)], &there(1, 1)).is_empty(), "{second}");
        }
    }

    #[test]
    fn a_life_that_nothing_is_heard_of_is_told_of_once_its_connection_cannot_be_dead() {
        let mut doubles = Doubles::default();
        // Its orders come from a third control plane, where it is listed, too, but not always.
        let third = Elsewhere { control_plane: "third".to_owned(), life: life(1, 70) };
        let mut told = 0;
        for second in (0..300).step_by(10) {
            let mut listed = there(1, 3 + second).to_vec();
            listed.extend((second % 20 == 0).then(|| third.clone()));
            told += doubles.look(at(second), &[life(2, 1 + second)], &listed).len();
            assert_eq!(told, usize::from(second > 90), "{second}");
        }
        assert_eq!(doubles.nodes(), BTreeSet::from([NODE]));
        // Missing for a moment, it is not told of again.
        assert!(doubles.look(at(300), &[life(2, 1)], &[]).is_empty() && doubles.nodes().is_empty());
        assert!(doubles.look(at(310), &[life(2, 1)], &there(1, 1)).is_empty());
        assert_eq!(doubles.nodes(), BTreeSet::from([NODE]));
    }
}
