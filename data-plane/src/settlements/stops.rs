//! What a counter store that nodes share is to be told of keys that stop or go on by the state: so that a node that cannot hear it is refused there.
//!
//! Every node tells it, because nobody knows which of them can. Of each key only the latest word waits, and only of so many keys: a node that is cut
//! off from everything stops by itself once its state is too old.

use std::time::Duration;

use futures_util::future::join_all;
use hashbrown::HashMap;
use keyforge_counters::{CounterStore, Counters, Freeze};
use keyforge_runtime::backoff::Backoff;
use keyforge_shared::id::KeyId;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Most keys that wait; less than a hundred bytes each.
const MOST_WAITING: usize = 10_000;
/// Keys that the store is told of at the same time.
const AT_ONCE: usize = 64;
/// Waits before it is told again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The latest word about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Since when.
    pub revision: u64,
    /// Whether it is to stop.
    pub stopped: bool,
}

#[derive(Default)]
pub(super) struct Stops {
    waiting: Mutex<HashMap<KeyId, Wish>>,
    more: Notify,
}

impl Stops {
    pub(super) fn wish(&self, key: KeyId, wish: Wish) {
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= MOST_WAITING && !waiting.contains_key(&key) {
                tracing::warn!(%key, "the counter store will not be told whether the key works: too many wait for it");
                return;
            }
            let latest = waiting.entry(key).or_insert(wish);
            if latest.revision < wish.revision {
                *latest = wish;
            }
        }
        self.more.notify_one();
    }

    pub(super) async fn work(&self, counters: &Counters) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            let some = self.take();
            if some.is_empty() {
                self.more.notified().await;
                continue;
            }
            let told = join_all(some.into_iter().map(async |(key, wish)| (key, wish, tell(counters, key, wish).await)));
            let untold: Vec<_> = told.await.into_iter().filter(|(.., told)| !told).collect();
            if untold.is_empty() {
                backoff.reset();
                continue;
            }
            untold.into_iter().for_each(|(key, wish, _)| self.wish(key, wish));
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    fn take(&self) -> Vec<(KeyId, Wish)> {
        let mut waiting = self.waiting.lock();
        let some: Vec<_> = waiting.iter().take(AT_ONCE).map(|(key, wish)| (*key, *wish)).collect();
        for (key, _) in &some {
            waiting.remove(key);
        }
        some
    }
}

async fn tell(counters: &Counters, key: KeyId, Wish { revision, stopped }: Wish) -> bool {
    let told = if stopped {
        counters.freeze(key, Freeze { revision, lasting: false }).await
    } else {
        counters.unfreeze(key, revision).await.map(drop)
    };
    if let Err(error) = &told {
        tracing::debug!(%key, %error, "the counter store cannot be told yet whether the key works");
    }
    told.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::key_id;

    #[test]
    fn only_the_latest_word_about_a_key_waits_and_only_so_many_do() {
        let stops = Stops::default();
        for (revision, stopped) in [(3, true), (5, false), (4, true)] {
            stops.wish(key_id(1), Wish { revision, stopped });
        }
        assert_eq!(stops.take(), [(key_id(1), Wish { revision: 5, stopped: false })]);
        for number in 0..2 * MOST_WAITING {
            let key = KeyId::from_ascii(format!("k{number:011}").as_bytes()).unwrap();
            stops.wish(key, Wish { revision: 1, stopped: true });
        }
        assert_eq!(stops.waiting.lock().len(), MOST_WAITING);
    }
}
