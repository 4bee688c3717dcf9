//! What a request finds before it at the gates of a pool's credentials, and when the first of them can be used.
//!
//! Nothing is taken here: whoever looks decides.

use std::time::Duration;

use keyforge_counters::CooldownClass;

use super::gate::Look;
use super::members::Member;
use super::moment::Moment;
use super::registry::Registry;

/// A pool all of whose credentials are closed or dead for longer than this is of no use to anybody who waits.
const HOPELESS: Duration = Duration::from_secs(60);

/// What a request would find at a credential's gates: the worst of them.
pub(super) fn look(registry: &mut Registry, member: &Member, now: Moment) -> Look {
    let mut worst = Look::Open;
    for gate in member.gates {
        worst = match (registry.gate(gate).look(now), worst) {
            (Look::Shut { until, class }, Look::Shut { until: other, .. }) if until > other => {
                Look::Shut { until, class }
            }
            (_, shut @ Look::Shut { .. }) => shut,
            (shut @ Look::Shut { .. }, _) => shut,
            (Look::Probe, _) | (_, Look::Probe) => Look::Probe,
            (Look::Open, Look::Open) => Look::Open,
        };
    }
    worst
}

/// The gates of a credential that a request would probe.
pub(super) fn probes(registry: &mut Registry, member: &Member, now: Moment) -> Vec<usize> {
    let is_probe = |registry: &mut Registry, at: usize| registry.gate(member.gates[at]).look(now) == Look::Probe;
    (0..Member::GATES).filter(|at| is_probe(registry, *at)).collect()
}

/// The same, and its limit has room only from `moment` on.
pub(super) fn later_of(look: Look, moment: Moment) -> Look {
    match look {
        Look::Shut { until, .. } if until >= moment => look,
        Look::Shut { .. } | Look::Open | Look::Probe => Look::Shut { until: moment, class: CooldownClass::Throttled },
    }
}

/// When the first of them can be used; an error when none ever can unless somebody does something, `None` when there is none.
pub(super) fn soonest(looks: &[Look], now: Moment) -> Option<Result<Moment, ()>> {
    let moment = |look: &Look| match *look {
        Look::Open | Look::Probe => Ok(now),
        Look::Shut { until, class: CooldownClass::Closed | CooldownClass::Dead } if until.since(now) > HOPELESS => {
            Err(())
        }
        Look::Shut { until, .. } => Ok(until),
    };
    let all: Vec<_> = looks.iter().map(moment).collect();
    let usable = all.iter().filter_map(|one| one.ok()).min();
    usable.map(Ok).or_else(|| all.first().copied())
}
