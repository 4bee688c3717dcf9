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
