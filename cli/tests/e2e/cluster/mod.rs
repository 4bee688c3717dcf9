//! Several nodes, Redis and the control plane as processes of their own, while they are killed, stopped and emptied. The provider's own bill is the
//! truth. `KEYFORGE_LONG_TESTS=1` makes these tests as long as they are meant to be; `KEYFORGE_SEED` repeats an order of faults.

mod agents;
mod books;
mod chance;
mod deployment;
mod fleet;

mod aborts;
mod admissions;
mod chaos;
mod cut_off;
mod life;
mod outage;
mod plans;
mod pools;
mod recovery;
mod replicas;
mod rotation;
mod settling;
mod vault;

use std::time::Duration;

/// How long a test lasts: the short time, or with `KEYFORGE_LONG_TESTS` the long one. Seconds.
fn seconds(short: u64, long: u64) -> Duration {
    Duration::from_secs(if is_long() { long } else { short })
}

fn is_long() -> bool {
    std::env::var("KEYFORGE_LONG_TESTS").is_ok_and(|value| !value.is_empty())
}
