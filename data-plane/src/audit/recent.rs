//! The newest records in memory, so that shipping reads the disk only when it has fallen behind.

use std::collections::VecDeque;

use bytes::Bytes;

/// Records kept at most.
const MAX_RECORDS: usize = 4096;
/// Bytes kept at most.
const MAX_BYTES: usize = 4 << 20;

/// A run of records without gaps, up to the newest.
#[derive(Default)]
pub(super) struct Recent {
    records: VecDeque<Bytes>,
    bytes: usize,
    /// Number of the first one kept, or of the next one if none is.
    first: u64,
}

impl Recent {
    pub(super) fn starting_at(first: u64) -> Self {
        Self { first, ..Self::default() }
    }

    /// Adds the newest record.
    pub(super) fn push(&mut self, record: Bytes) {
        self.bytes += record.len();
        self.records.push_back(record);
        while self.records.len() > MAX_RECORDS || self.bytes > MAX_BYTES {
            self.drop_first();
        }
    }

    /// Forgets everything up to `seq`.
    pub(super) fn forget_through(&mut self, seq: u64) {
        while self.first <= seq && !self.records.is_empty() {
            self.drop_first();
        }
    }

    /// Records `from ..= to`, as many as the limits allow; `None` if `from` is no longer kept.
    pub(super) fn batch(&self, from: u64, to: u64, max_records: usize, max_bytes: usize) -> Option<Vec<Bytes>> {
        let skip = usize::try_from(from.checked_sub(self.first)?).ok()?;
        let wanted = usize::try_from((to + 1).saturating_sub(from)).unwrap_or(usize::MAX).min(max_records);
        let mut bytes = 0;
        let fits = |record: &&Bytes| {
            bytes += record.len();
            bytes <= max_bytes || bytes == record.len()
        };
        Some(self.records.iter().skip(skip).take(wanted).take_while(fits).cloned().collect())
    }

    fn drop_first(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= record.len();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(records: u64) -> Recent {
        let mut recent = Recent::starting_at(1);
        (1..=records).for_each(|seq| recent.push(Bytes::copy_from_slice(&seq.to_be_bytes())));
        recent
    }

    #[test]
    fn memory_is_bounded_and_what_was_forgotten_is_not_made_up() {
        let recent = filled(MAX_RECORDS as u64 + 10);
        assert_eq!(recent.records.len(), MAX_RECORDS);
        assert_eq!(recent.batch(10, 100, 500, 1 << 20), None);
        let batch = recent.batch(11, 12, 500, 1 << 20).unwrap();
        assert_eq!(batch, [Bytes::copy_from_slice(&11u64.to_be_bytes()), Bytes::copy_from_slice(&12u64.to_be_bytes())]);
    }

    #[test]
    fn batch_ends_at_each_of_its_limits_but_is_never_empty_for_its_size() {
        let recent = filled(100);
        assert_eq!(recent.batch(1, 50, 500, 1 << 20).unwrap().len(), 50);
        assert_eq!(recent.batch(1, 100, 7, 1 << 20).unwrap().len(), 7);
        assert_eq!(recent.batch(1, 100, 500, 20).unwrap().len(), 2);
        assert_eq!(recent.batch(1, 100, 500, 1).unwrap().len(), 1);
        assert_eq!(recent.batch(101, 100, 500, 1).unwrap().len(), 0);
    }

    #[test]
    fn acknowledged_records_are_forgotten() {
        let mut recent = filled(10);
        recent.forget_through(4);
        assert_eq!(recent.batch(4, 10, 500, 1 << 20), None);
        assert_eq!(recent.batch(5, 10, 500, 1 << 20).unwrap().len(), 6);
        recent.forget_through(10);
        recent.push(Bytes::from_static(b"next"));
        assert_eq!(recent.batch(11, 11, 500, 1 << 20).unwrap(), [Bytes::from_static(b"next")]);
    }
}
