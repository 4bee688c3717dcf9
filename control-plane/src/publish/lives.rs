//! What is known of a node, by its lives: each start of it is one, and so is a copy of its data directory that runs somewhere else.
//!
//! Every life that is connected counts, and one that is away as long as it may be serving. The end of a life is known only by the next one: a life
//! that is followed by another and was not heard of since is taken to be gone as soon as it has no stream open. One that was heard of later is no
//! former life but a second one at the same time, and is not forgotten for the other.

use std::collections::VecDeque;
use std::time::Duration;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::BootId;

use crate::registry::LONGEST_STALENESS;

/// Lives of a node that are remembered at most, but for connected ones, of which there are no more than connections.
const MAX_LIVES: usize = 16;
/// Orders of which each life's number of cut streams is remembered, for who asks a moment late.
const CUTS: usize = 16;
/// Two lives that are connected for so long are told of in the log.
const MOMENT: Duration = Duration::from_secs(2);

/// What is known of a life of a node, or of all of them together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    /// Which life; of several the latest.
    pub boot: BootId,
    /// The version that it runs.
    pub version: String,
    /// The region that it says it is in.
    pub region: String,
    /// The last revision that it applied; 0 for none.
    pub acked_revision: u64,
    /// Changes that it refused, since this control plane started.
    pub nacks: u64,
    /// Open state streams.
    pub streams: u32,
    /// Open streams of orders.
    pub watches: u32,
    /// Orders up to here the newest of these does not give: the node's state tells what they say.
    pub(super) floor: u64,
    /// When the node can last have learned from us that its state was fresh.
    pub assured_at: Timestamp,
    /// Streams that the latest orders cut, by revision.
    cuts: VecDeque<(u64, u64)>,
    /// When it said hello first.
    pub(super) began_at: Timestamp,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// When the latest life after this one said hello.
    followed_at: Option<Timestamp>,
    /// Whether another life was there at the same time.
    pub(super) is_double: bool,
    /// Whether the log has told of that.
    is_told: bool,
}

impl NodeSeen {
    fn new(boot: BootId, now: Timestamp) -> Self {
        Self {
            boot,
            version: String::new(),
            region: String::new(),
            acked_revision: 0,
            nacks: 0,
            streams: 0,
            watches: 0,
            floor: 0,
            assured_at: now,
            cuts: VecDeque::new(),
            began_at: now,
            last_seen: now,
            followed_at: None,
            is_double: false,
            is_told: false,
        }
    }

    /// Whether the node may serve a key whose state may be this old.
    pub(super) fn may_serve(&self, now: Timestamp, max_staleness: Duration) -> bool {
        self.is_connected() || now.since(self.assured_at) <= max_staleness
    }

    /// The last revision that it has applied, orders that came ahead of their revision included.
    pub(super) fn applied_revision(&self) -> u64 {
        self.cuts.back().map_or(0, |(revision, _)| *revision).max(self.acked_revision)
    }

    /// Whether it has said all that there is to say of `revision`. One that is given an order says last how many streams it cut.
    pub(super) fn has_told(&self, revision: u64) -> bool {
        let has_cut = self.cuts.back().is_some_and(|(of, _)| *of >= revision);
        has_cut || self.told_by_state() >= revision
    }

    /// Up to where its state's acknowledgement is all that it has to say.
    pub(super) fn told_by_state(&self) -> u64 {
        if self.watches == 0 { self.acked_revision } else { self.acked_revision.min(self.floor) }
    }

    /// Whether it has a stream open.
    pub(super) const fn is_connected(&self) -> bool {
        self.streams > 0 || self.watches > 0
    }

    pub(super) fn cut_at(&self, revision: u64) -> u64 {
        let cuts = self.cuts.iter().filter(|(of, _)| *of == revision);
        cuts.fold(0, |sum, (_, cut)| sum.saturating_add(*cut))
    }

    pub(super) fn cut(&mut self, revision: u64, streams: u64) {
        if self.cuts.len() == CUTS {
            self.cuts.pop_front();
        }
        self.cuts.push_back((revision, streams));
    }

    /// Whether it is over, as far as anybody can know.
    const fn is_gone(&self) -> bool {
        self.followed_at.is_some() && !self.is_double && !self.is_connected()
    }
}

/// The lives of a node, in the order of their first hellos. There is one from the first hello on.
pub(super) struct Lives(Vec<NodeSeen>);

impl Lives {
    /// Of a node that nothing is known of.
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// A life says hello. The lives that are forgotten for it are over; but for one, if there are too many.
    pub(super) fn enter(&mut self, boot: BootId, now: Timestamp) -> (&mut NodeSeen, Vec<BootId>, Option<NodeSeen>) {
        let (mut over, mut lost) = (Vec::new(), None);
        let place = match self.0.iter().position(|life| life.boot == boot) {
            Some(place) => place,
            None => {
                self.0.retain(|life| life.is_connected() || now.since(life.assured_at) <= LONGEST_STALENESS);
                if let [only] = self.0.as_mut_slice() {
                    only.is_double = false;
                }
                for life in &mut self.0 {
                    life.followed_at = Some(now);
                }
                let is_double = self.0.iter().any(|life| life.is_double);
                self.0.push(NodeSeen { is_double, ..NodeSeen::new(boot, now) });
                over = self.forget_gone();
                if self.0.len() > MAX_LIVES {
                    let away = self.0.iter().enumerate().take(MAX_LIVES).filter(|(_, life)| !life.is_connected());
                    let oldest = away.min_by_key(|(_, life)| life.assured_at).map(|(place, _)| place);
                    lost = oldest.map(|place| self.0.remove(place));
                }
                self.0.len().saturating_sub(1)
            }
        };
        self.note(place, now);
        (&mut self.0[place], over, lost)
    }

    /// A life is heard of. Tells of two, once, that are connected at the same time for more than a moment.
    pub(super) fn heard(&mut self, boot: BootId, now: Timestamp) -> Option<(BootId, BootId)> {
        let place = self.0.iter().position(|life| life.boot == boot)?;
        self.note(place, now);
        let (life, later) = self.0.get_mut(place..)?.split_first_mut()?;
        let other = later.iter().rfind(|life| life.is_connected())?;
        if life.is_told || now.since(life.followed_at?) < MOMENT {
            return None;
        }
        life.is_told = true;
        Some((life.boot, other.boot))
    }

    /// Whoever is heard of after another life began is no former life; which of the two the next one follows, nobody can tell.
    fn note(&mut self, place: usize, now: Timestamp) {
        let Some(life) = self.0.get_mut(place) else { return };
        life.last_seen = now;
        if life.followed_at.is_some_and(|followed_at| followed_at < now) {
            life.is_double = true;
            if let Some(latest) = self.0.last_mut() {
                latest.is_double = true;
            }
        }
    }

    /// Forgets the lives that are over.
    pub(super) fn forget_gone(&mut self) -> Vec<BootId> {
        let gone = self.0.extract_if(.., |life| life.is_gone());
        let (boots, nacks): (Vec<_>, Vec<_>) = gone.map(|life| (life.boot, life.nacks)).unzip();
        if let Some(latest) = self.0.last_mut() {
            latest.nacks = nacks.into_iter().fold(latest.nacks, u64::saturating_add);
        }
        boots
    }

    pub(super) fn get(&self, boot: BootId) -> Option<&NodeSeen> {
        self.0.iter().find(|life| life.boot == boot)
    }

    pub(super) fn get_mut(&mut self, boot: BootId) -> Option<&mut NodeSeen> {
        self.0.iter_mut().find(|life| life.boot == boot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &NodeSeen> {
        self.0.iter()
    }

    pub(super) fn latest(&self) -> Option<&NodeSeen> {
        self.0.last()
    }

    /// Whether any life has a stream open.
    pub(super) fn is_connected(&self) -> bool {
        self.0.iter().any(NodeSeen::is_connected)
    }

    /// Whether two are connected, for long enough that it was told of.
    pub(super) fn is_doubled(&self) -> bool {
        let connected = || self.0.iter().filter(|life| life.is_connected());
        connected().any(|life| life.is_told) && connected().nth(1).is_some()
    }

    /// When any of them can last have learned that its state was fresh.
    pub(super) fn assured_at(&self) -> Option<Timestamp> {
        self.0.iter().map(|life| life.assured_at).max()
    }

    /// What is known of the node: as connected as any of its lives, as far as that connected one that is behind most.
    pub(super) fn together(&self) -> Option<NodeSeen> {
        let latest = self.0.iter().rfind(|life| life.is_connected()).or(self.0.last())?;
        let connected = || self.0.iter().filter(|life| life.is_connected());
        let over_all = |of: fn(&NodeSeen) -> Timestamp| self.0.iter().map(of).max();
        Some(NodeSeen {
            acked_revision: connected().map(|life| life.acked_revision).min().unwrap_or(latest.acked_revision),
            nacks: self.0.iter().fold(0, |sum, life| sum.saturating_add(life.nacks)),
            streams: connected().fold(0, |sum, life| sum.saturating_add(life.streams)),
            watches: connected().fold(0, |sum, life| sum.saturating_add(life.watches)),
            assured_at: over_all(|life| life.assured_at)?,
            last_seen: over_all(|life| life.last_seen)?,
            ..latest.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    fn boot(number: u8) -> BootId {
        BootId::from_bytes([number; 16])
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000).saturating_add(Duration::from_secs(seconds))
    }

    fn connect(lives: &mut Lives, number: u8, now: Timestamp) -> Vec<BootId> {
        let (life, over, _) = lives.enter(boot(number), now);
        life.streams += 1;
        life.assured_at = now;
        over
    }

    fn end(lives: &mut Lives, number: u8) -> Vec<BootId> {
        lives.get_mut(boot(number)).unwrap().streams -= 1;
        lives.forget_gone()
    }

    #[test]
    fn two_lives_that_are_connected_for_more_than_a_moment_are_told_of_once() {
        let mut lives = Lives::new();
        connect(&mut lives, 1, at(0));
        connect(&mut lives, 2, at(1));
        assert_eq!(
            (lives.heard(boot(2), at(9)), lives.heard(boot(1), at(2))),
            (None, None),
            "a restart takes a moment"
        );
        assert_eq!(lives.heard(boot(1), at(3)), Some((boot(1), boot(2))));
        assert_eq!(lives.heard(boot(1), at(4)), None);
        let mut alone = Lives::new();
        connect(&mut alone, 1, at(0));
        connect(&mut alone, 2, at(1));
        end(&mut alone, 2);
        assert_eq!(alone.heard(boot(1), at(9)), None, "the other one has left");
    }

    #[test]
    fn a_life_that_was_followed_is_over_with_its_streams_and_a_double_one_when_it_may_serve_no_longer() {
        let mut lives = Lives::new();
        connect(&mut lives, 1, at(0));
        assert!(end(&mut lives, 1).is_empty(), "it may come back");
        assert_eq!(connect(&mut lives, 2, at(1)), [boot(1)]);
        assert!(connect(&mut lives, 3, at(2)).is_empty(), "the stream of the one before is still open");
        assert_eq!(end(&mut lives, 2), [boot(2)]);
        // The fourth runs beside the third.
        connect(&mut lives, 4, at(3));
        lives.heard(boot(3), at(4));
        assert!(end(&mut lives, 4).is_empty() && end(&mut lives, 3).is_empty());
        assert!(connect(&mut lives, 5, at(5)).is_empty(), "nobody knows which of the two it was");
        let serving = |now| lives.iter().filter(|life| life.may_serve(now, BOUND)).count();
        assert_eq!((serving(at(32)), serving(at(34))), (3, 1));
        let later = at(4).saturating_add(LONGEST_STALENESS);
        connect(&mut lives, 6, later);
        assert_eq!(lives.iter().map(|life| life.boot).collect::<Vec<_>>(), [boot(5), boot(6)]);
    }

    #[test]
    fn the_lives_of_a_node_are_bounded_and_one_that_is_away_goes_first() {
        let mut lives = Lives::new();
        for number in 0..16 {
            connect(&mut lives, number, at(number.into()));
        }
        lives.heard(boot(7), at(20));
        end(&mut lives, 7);
        let lost = lives.enter(boot(16), at(21)).2;
        assert_eq!(lost.map(|life| life.assured_at), Some(at(7)), "it may be serving");
        assert!(lives.iter().count() == MAX_LIVES && lives.get(boot(7)).is_none() && lives.get(boot(0)).is_some());
        lives.get_mut(boot(16)).unwrap().streams += 1;
        assert_eq!(lives.enter(boot(17), at(22)).2, None);
        assert_eq!(lives.iter().count(), MAX_LIVES + 1, "nobody who is connected is forgotten");
    }
}
