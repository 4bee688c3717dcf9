//! One gate: whether something that a provider may refuse can be used now.
//!
//! A refusal shuts it for a while. After that one attempt probes it; when the probe passes, attempts are let through one, two, four, … at a time until
//! it is open again. A refusal on that way shuts it for longer. An attempt that was let through before a refusal says nothing about what came after it.
//!
//! Pure: time and chance are given. Providers refuse at once, so an attempt that was not refused for a while counts as passed: nobody waits for the
//! whole of a long answer.

use std::time::Duration;

use keyforge_counters::{Cooldown, CooldownClass};

use super::moment::Moment;
use super::wait;

/// An attempt that was not refused within this time was not refused at all.
pub const SILENCE: Duration = Duration::from_secs(2);
/// How long it is believed that another node probes.
pub const DENIED_FOR: Duration = Duration::from_millis(200);
/// When so many are let through at a time the gate is open.
const WIDE_OPEN: u32 = 64;

/// What whoever wants to pass finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It can be passed.
    Open,
    /// One may try.
    Probe,
    /// Nobody may until then, at the earliest.
    Shut {
        /// When to look again.
        until: Moment,
        /// Why.
        class: CooldownClass,
    },
}

/// A gate.
#[derive(Clone, Debug)]
pub struct Gate {
    phase: Phase,
    /// How many cooldowns it has had.
    cooldowns: u64,
    /// Why it was shut last.
    class: CooldownClass,
    /// For how long it was shut last.
    wait: Duration,
    /// Until when, by that. Waiting for a probe of another node may make it longer, and is told to nobody.
    ends: Moment,
    /// Attempts on the way back to open that were neither refused nor answered, oldest first.
    trying: Vec<(u64, Moment)>,
    entries: u64,
    /// The cooldown of this gate that the other nodes know.
    stamp: Option<u64>,
    /// Whether the others are to be told of this cooldown.
    untold: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Cooling { until: Moment },
    Probing,
    SlowStart { width: u32, passed: u32 },
}

/// An attempt that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How many cooldowns the gate had had by then.
    cooldowns: u64,
    /// Its number if it was let through on the way back to open.
    trying: Option<u64>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            phase: Phase::Open,
            cooldowns: 0,
            class: CooldownClass::Throttled,
            wait: Duration::ZERO,
            ends: Moment::default(),
            trying: Vec::new(),
            entries: 0,
            stamp: None,
            untold: false,
        }
    }
}

impl Gate {
    /// What is found at `now`.
    pub fn look(&mut self, now: Moment) -> Look {
        self.hear_silence(now);
        let class = self.class;
        match self.phase {
            Phase::Open => Look::Open,
            Phase::Cooling { until } if until <= now => Look::Probe,
            Phase::Cooling { until } => Look::Shut { until, class },
            Phase::SlowStart { width, .. } if self.trying.len() < width as usize => Look::Open,
            Phase::Probing | Phase::SlowStart { .. } => {
                let until = self.trying.first().map_or(now, |(_, since)| since.plus(SILENCE));
                Look::Shut { until, class }
            }
        }
    }

    /// An attempt goes through. Whoever is told [`Look::Shut`] does not.
    pub fn enter(&mut self, now: Moment) -> Entry {
        let trying = match self.phase {
            Phase::Open => None,
            Phase::Cooling { .. } | Phase::Probing => {
                self.phase = Phase::Probing;
                Some(self.begin(now))
            }
            Phase::SlowStart { .. } => Some(self.begin(now)),
        };
        Entry { cooldowns: self.cooldowns, trying }
    }

    /// The attempt was not refused here.
    pub fn passed(&mut self, entry: Entry) {
        if self.end(entry) {
            self.one_passed();
        }
    }

    /// Nobody knows what the attempt would have said about this gate.
    pub fn unknown(&mut self, entry: Entry, now: Moment) {
        if self.end(entry) && self.phase == Phase::Probing {
            self.phase = Phase::Cooling { until: now };
        }
    }

    /// Another node probes: nobody here does for a moment.
    pub fn denied(&mut self, entry: Entry, now: Moment) {
        if self.end(entry) && self.phase == Phase::Probing {
            self.phase = Phase::Cooling { until: now.plus(DENIED_FOR) };
        }
    }

    /// The attempt was refused. Answers whether this is a new cooldown, and not just more of one that stands.
    pub fn refused(
        &mut self,
        entry: Entry,
        (class, asked): (CooldownClass, Option<Duration>),
        now: Moment,
        chance: f64,
    ) -> bool {
        let was_trying = self.end(entry);
        let wait = wait::after(class, asked, was_trying.then_some(self.wait), chance);
        let until = now.plus(wait);
        let is_new = match self.phase {
            // What was let through before the refusal that shut it may ask for more, and never for less.
            Phase::Cooling { until: stands } if until <= stands => return false,
            Phase::Cooling { .. } => false,
            // Sent before the last cooldown: the provider had not said then what it has said since.
            Phase::Probing | Phase::SlowStart { .. } if entry.cooldowns != self.cooldowns => return false,
            Phase::Open | Phase::Probing | Phase::SlowStart { .. } => true,
        };
        (self.class, self.wait, self.untold) = (class, wait, true);
        self.shut(until, is_new);
        is_new
    }

    /// What the others are to be told: a cooldown with what is left of it, or that one is over.
    #[must_use]
    pub fn news(&self, now: Moment) -> Option<News> {
        match (self.phase, self.stamp) {
            (Phase::Cooling { until }, _) if self.untold => {
                Some(News::Cool { class: self.class, left: until.since(now) })
            }
            (Phase::Open | Phase::SlowStart { .. }, Some(stamp)) => Some(News::Lift { stamp }),
            _ => None,
        }
    }

    /// Whether there is anything to tell.
    #[must_use]
    pub const fn has_news(&self) -> bool {
        match self.phase {
            Phase::Cooling { .. } => self.untold,
            Phase::Open | Phase::SlowStart { .. } => self.stamp.is_some(),
            Phase::Probing => false,
        }
    }

    /// The cooldown of this gate that the other nodes know, by its stamp.
    #[must_use]
    pub const fn stamp(&self) -> Option<u64> {
        self.stamp
    }

    /// The others know what [`Self::news`] said.
    pub fn told(&mut self, news: &News, now: Moment) {
        if let (News::Cool { class, left }, Phase::Cooling { until }) = (news, self.phase)
            && *class == self.class
            && until <= now.plus(*left)
        {
            self.untold = false;
        }
    }

    /// What the others know of this gate.
    pub fn learn(&mut self, cooldown: &Cooldown, now: Moment) {
        if self.stamp.is_some_and(|known| known >= cooldown.stamp) {
            return;
        }
        self.stamp = Some(cooldown.stamp);
        let until = now.plus(cooldown.left);
        match self.phase {
            Phase::Cooling { until: stands } if stands >= until => {}
            Phase::Cooling { .. } => {
                (self.class, self.wait) = (cooldown.class, cooldown.wait);
                self.shut(until, false);
            }
            Phase::Open | Phase::Probing | Phase::SlowStart { .. } => {
                (self.class, self.wait) = (cooldown.class, cooldown.wait);
                self.shut(until, true);
            }
        }
    }

    /// The others know of no cooldown: a probe of theirs passed, or their store was lost. A wait that is not over stands, and is told again.
    pub fn nothing_known(&mut self, now: Moment) {
        if self.stamp.take().is_none() || self.untold {
            return;
        }
        match self.phase {
            Phase::Cooling { .. } if self.ends > now => self.untold = true,
            Phase::Cooling { .. } => self.phase = Phase::SlowStart { width: 1, passed: 0 },
            Phase::Open | Phase::Probing | Phase::SlowStart { .. } => {}
        }
    }

    /// The class and the wait of the last cooldown; `None` if there was none.
    #[must_use]
    pub fn shut_last_for(&self) -> Option<(CooldownClass, Duration)> {
        (self.cooldowns > 0).then_some((self.class, self.wait))
    }

    /// Why it is shut, and until when; `None` when attempts pass. A wait that is over lasts until a probe has passed.
    #[must_use]
    pub fn shut_for(&self) -> Option<(CooldownClass, Option<Moment>)> {
        match self.phase {
            Phase::Cooling { until } => Some((self.class, Some(until))),
            Phase::Probing => Some((self.class, None)),
            Phase::Open | Phase::SlowStart { .. } => None,
        }
    }

    /// Its state, for reports. What was refused for a moment and waits for its probe is shut no longer; what is closed or dead is, until one has passed.
    #[must_use]
    pub fn condition(&self, now: Moment) -> Condition {
        match self.phase {
            Phase::Open => Condition::Healthy,
            Phase::SlowStart { .. } => Condition::SlowStart,
            Phase::Probing if self.class == CooldownClass::Dead => Condition::Shut(self.class, now),
            Phase::Probing => Condition::Probing,
            Phase::Cooling { until } if until <= now && self.is_of_the_moment() => Condition::Probing,
            Phase::Cooling { until } => Condition::Shut(self.class, until),
        }
    }

    const fn is_of_the_moment(&self) -> bool {
        matches!(self.class, CooldownClass::Throttled | CooldownClass::Overloaded)
    }

    fn begin(&mut self, now: Moment) -> u64 {
        self.entries += 1;
        self.trying.push((self.entries, now));
        self.entries
    }

    /// Whether the attempt was still awaited on the way back to open.
    fn end(&mut self, entry: Entry) -> bool {
        let Some(number) = entry.trying.filter(|_| entry.cooldowns == self.cooldowns) else { return false };
        let found = self.trying.iter().position(|(trying, _)| *trying == number);
        found.map(|at| self.trying.remove(at)).is_some()
    }

    fn hear_silence(&mut self, now: Moment) {
        while self.trying.first().is_some_and(|(_, since)| since.plus(SILENCE) <= now) {
            self.trying.remove(0);
            self.one_passed();
        }
    }

    fn one_passed(&mut self) {
        self.phase = match self.phase {
            Phase::Probing => Phase::SlowStart { width: 1, passed: 0 },
            Phase::SlowStart { width, passed } if passed + 1 < width => Phase::SlowStart { width, passed: passed + 1 },
            Phase::SlowStart { width, .. } if width * 2 < WIDE_OPEN => Phase::SlowStart { width: width * 2, passed: 0 },
            Phase::SlowStart { .. } => {
                self.trying.clear();
                Phase::Open
            }
            other @ (Phase::Open | Phase::Cooling { .. }) => other,
        };
    }

    fn shut(&mut self, until: Moment, is_new: bool) {
        (self.phase, self.ends) = (Phase::Cooling { until }, until);
        if is_new {
            self.cooldowns += 1;
            self.trying.clear();
        }
    }
}

/// A gate's state, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Everybody passes.
    Healthy,
    /// Some pass at a time.
    SlowStart,
    /// One tries, or may.
    Probing,
    /// Nobody passes.
    Shut(CooldownClass, Moment),
}

/// What a gate has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is shut.
    Cool {
        /// Why.
        class: CooldownClass,
        /// For how long from now on.
        left: Duration,
    },
    /// A probe passed.
    Lift {
        /// Of the cooldown that is over.
        stamp: u64,
    },
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
