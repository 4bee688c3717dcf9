//! The streams that are running, by key: a revocation cuts those of its key and touches no other.

use std::sync::Arc;

use hashbrown::HashMap;
use keyforge_shared::id::KeyId;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct OfKey {
    cut: CancellationToken,
    streams: usize,
}

/// The streams that are running. Clones share it.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<HashMap<KeyId, OfKey>>>);

/// One stream's place among the running ones; leaves it when dropped.
pub struct Place {
    running: Running,
    key: KeyId,
    cut: CancellationToken,
}

impl Running {
    /// Takes a place for a stream of `key`.
    #[must_use]
    pub fn enter(&self, key: KeyId) -> Place {
        let mut running = self.0.lock();
        let of_key = running.entry(key).or_default();
        of_key.streams += 1;
        Place { running: self.clone(), key, cut: of_key.cut.clone() }
    }

    /// Cuts every running stream of `key`, and says how many. Streams that begin later are not touched: they are refused elsewhere.
    pub fn cut(&self, key: KeyId) -> usize {
        let (cut, streams) = match self.0.lock().get_mut(&key) {
            Some(of_key) => (std::mem::take(&mut of_key.cut), of_key.streams),
            None => return 0,
        };
        // Whoever is woken may want the lock.
        cut.cancel();
        streams
    }

    /// How many streams are running.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().values().map(|of_key| of_key.streams).sum()
    }
}

impl Place {
    /// Resolves when the stream must be cut.
    #[must_use]
    pub fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self.running.0.lock();
        if let Some(of_key) = running.get_mut(&self.key) {
            of_key.streams -= 1;
            if of_key.streams == 0 {
                running.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i_12_a_cut_reaches_the_streams_of_its_key_and_no_other() {
        let running = Running::default();
        let key = |text: &str| KeyId::from_ascii(text.as_bytes()).unwrap();
        let (a, b) = (running.enter(key("aaaaaaaaaaaa")), running.enter(key("bbbbbbbbbbbb")));
        assert_eq!(running.cut(key("aaaaaaaaaaaa")), 1);
        assert_eq!(running.cut(key("cccccccccccc")), 0);
        assert!(a.cut().is_cancelled() && !b.cut().is_cancelled());
        assert!(!running.enter(key("aaaaaaaaaaaa")).cut().is_cancelled());
        drop((a, b));
        assert_eq!(running.count(), 0);
    }
}
