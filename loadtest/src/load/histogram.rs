//! Latencies in buckets of at most 1.6 % width: linear below 64 ns, then 64 buckets per power of two.
//!
//! Recording costs one increment and no allocation; quantiles are exact to the width of their bucket.

use std::time::Duration;

/// Buckets per power of two, as bits.
const BITS: u32 = 6;

/// Buckets that hold every `u64`.
const BUCKETS: usize = (64 - BITS as usize + 1) << BITS;

/// Counts of durations, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), count: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[index(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// Adds all counts of another.
    pub fn merge(&mut self, other: &Self) {
        for (own, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *own += more;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many durations were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The duration that a share of `share` (0 to 1) does not exceed; zero if nothing was recorded.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper(bucket).min(self.max));
            }
        }
        Duration::ZERO
    }

    /// The longest duration, exact.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }
}

fn index(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(BITS + 1);
    ((shift as usize) << BITS) + (nanos >> shift) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let shift = (bucket >> BITS).saturating_sub(1) as u32;
    let top = bucket as u64 - (u64::from(shift) << BITS);
    (top << shift) + ((1_u64 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_that_is_narrow_enough() {
        let mut values: Vec<u64> = (0..1000).collect();
        values.extend((6..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 12345 % (1 << bit)]));
        values.push(u64::MAX);
        for value in values {
            let bucket = index(value);
            let above = upper(bucket);
            assert!(above >= value && above - value <= value / 64, "{value} {above}");
            assert!(bucket == 0 || upper(bucket - 1) < value, "{value}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        for share in [0.5, 0.99] {
            let exact = share * 1000.0;
            let got = twice.quantile(share).as_secs_f64() * 1e6;
            assert!((exact..exact * 1.017).contains(&got), "{share} {got}");
        }
        assert_eq!((twice.count(), twice.quantile(1.0)), (2000, Duration::from_millis(1)));
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }
}
