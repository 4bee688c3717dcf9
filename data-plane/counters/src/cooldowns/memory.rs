//! Cooldowns in this process, for a node that shares them with nobody.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use keyforge_shared::clock::Clock;
use parking_lot::Mutex;

use super::{Cooldown, CooldownChange, CooldownClass, CooldownStore, KEPT_AFTER, MOST_GATES};
use crate::store::CounterError;

struct Standing {
    /// In milliseconds since 1970; also its stamp.
    ends: u64,
    wait: Duration,
    class: CooldownClass,
}

#[derive(Default)]
struct Gates {
    cooling: HashMap<String, Standing>,
    /// Who probes, and until when.
    probed: HashMap<String, (u64, String)>,
}

/// The in-process store of cooldowns.
pub struct MemoryCooldowns {
    clock: Arc<dyn Clock>,
    gates: Mutex<Gates>,
}

impl MemoryCooldowns {
    /// An empty store.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, gates: Mutex::default() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().millis()).unwrap_or(0)
    }
}

impl fmt::Debug for MemoryCooldowns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCooldowns").finish_non_exhaustive()
    }
}

impl CooldownStore for MemoryCooldowns {
    fn is_shared(&self) -> bool {
        false
    }

    async fn exchange(&self, changes: &[CooldownChange]) -> Result<Vec<Cooldown>, CounterError> {
        let now = self.now();
        let cooling = &mut self.gates.lock().cooling;
        for change in changes {
            match change {
                CooldownChange::Cool { gate, class, wait } => cool(cooling, gate, *class, *wait, now),
                CooldownChange::Lift { gate, stamp } => {
                    if cooling.get(gate).is_some_and(|standing| standing.ends == *stamp) {
                        cooling.remove(gate);
                    }
                }
            }
        }
        cooling.retain(|_, standing| standing.ends.saturating_add(millis(KEPT_AFTER)) >= now);
        let standing = |(gate, standing): (&String, &Standing)| Cooldown {
            gate: gate.clone(),
            class: standing.class,
            left: Duration::from_millis(standing.ends.saturating_sub(now)),
            wait: standing.wait,
            stamp: standing.ends,
        };
        Ok(cooling.iter().map(standing).collect())
    }

    async fn claim_probe(&self, gate: &str, by: &str, lease: Duration) -> Result<bool, CounterError> {
        let now = self.now();
        let probed = &mut self.gates.lock().probed;
        probed.retain(|_, (until, _)| *until > now);
        if probed.get(gate).is_some_and(|(_, who)| who != by) {
            return Ok(false);
        }
        probed.insert(gate.to_owned(), (now.saturating_add(millis(lease)), by.to_owned()));
        Ok(true)
    }
}

fn cool(cooling: &mut HashMap<String, Standing>, gate: &str, class: CooldownClass, wait: Duration, now: u64) {
    let wait = Duration::from_millis(millis(wait));
    let ends = now.saturating_add(millis(wait));
    let is_full = cooling.len() >= MOST_GATES;
    match cooling.get_mut(gate) {
        Some(standing) if standing.ends >= ends => {}
        Some(standing) => *standing = Standing { ends, wait, class },
        None if is_full => {}
        None => {
            cooling.insert(gate.to_owned(), Standing { ends, wait, class });
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
