//! The in-process store on a clock that the test holds.

use std::sync::Arc;

use keyforge_counters::MemoryCounters;
use keyforge_shared::clock::{Clock, ManualClock, Timestamp};

use crate::conformance::{Harness, START, suite};

/// The in-process store.
pub struct Memory {
    store: MemoryCounters,
    clock: Arc<ManualClock>,
}

impl Memory {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::at(START));
        Self { store: MemoryCounters::new(Arc::clone(&clock) as Arc<dyn Clock>), clock }
    }
}

impl Harness for Memory {
    type Store = MemoryCounters;

    fn store(&self) -> &MemoryCounters {
        &self.store
    }

    fn set_clock(&self, now: Timestamp) {
        self.clock.set(now);
    }
}

#[tokio::test]
async fn the_in_process_store_conforms() {
    suite(&Memory::new()).await;
}
