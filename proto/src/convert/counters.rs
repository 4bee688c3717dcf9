//! [`CounterId`] and [`Dimension`]: what grants are about.

use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{CounterId, Dimension};

use super::{ConvertError, time, unspecified, window};
use crate::admin::v1::Window;
use crate::fleet::v1 as proto;

impl From<Dimension> for proto::Dimension {
    fn from(dimension: Dimension) -> Self {
        match dimension {
            Dimension::Requests => Self::Requests,
            Dimension::Spend => Self::Spend,
        }
    }
}

/// A dimension out of the enum's number.
///
/// # Errors
/// [`ConvertError`] naming `field` when it is unspecified or unknown.
pub fn dimension(number: i32, field: &str) -> Result<Dimension, ConvertError> {
    match proto::Dimension::try_from(number) {
        Ok(proto::Dimension::Requests) => Ok(Dimension::Requests),
        Ok(proto::Dimension::Spend) => Ok(Dimension::Spend),
        Ok(proto::Dimension::Unspecified) => Err(unspecified(field)),
        Err(_) => Err(ConvertError::new(field, format!("no dimension has the number {number}"))),
    }
}

impl From<CounterId> for proto::Counter {
    fn from(counter: CounterId) -> Self {
        Self {
            dimension: proto::Dimension::from(counter.dimension).into(),
            window: Window::from(counter.window).into(),
            period_start_ms: counter.period_start.millis(),
        }
    }
}

/// The counter of `key` that a message names.
///
/// # Errors
/// [`ConvertError`] when the dimension or window is none, or when no period of that window starts at the given moment.
pub fn counter_id(key: KeyId, counter: &proto::Counter) -> Result<CounterId, ConvertError> {
    let window = window(counter.window, "window")?;
    let period_start = time(counter.period_start_ms, "period_start_ms")?;
    if window.period_at(period_start).start != period_start {
        return Err(ConvertError::new("period_start_ms", format!("no {window} starts at this moment")));
    }
    Ok(CounterId { key, dimension: dimension(counter.dimension, "dimension")?, window, period_start })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::convert::samples;

    proptest! {
        #[test]
        fn every_counter_survives_the_wire(key in samples::key_id(), spend: bool, number in 0usize..4, at in samples::moment()) {
            let window = keyforge_shared::period::Window::ALL[number];
            let dimension = if spend { Dimension::Spend } else { Dimension::Requests };
            let counter = CounterId { key, dimension, window, period_start: window.period_at(at).start };
            prop_assert_eq!(counter_id(key, &counter.into()), Ok(counter));
        }
    }

    #[test]
    fn a_start_in_the_middle_of_a_period_is_refused() {
        let key = KeyId::from_ascii(b"abcdefghijkl").unwrap();
        let counter = proto::Counter { dimension: 1, window: 1, period_start_ms: 1 };
        assert_eq!(counter_id(key, &counter).unwrap_err().field, "period_start_ms");
        let counter = proto::Counter { dimension: 0, window: 1, period_start_ms: 0 };
        assert_eq!(counter_id(key, &counter).unwrap_err().field, "dimension");
    }
}
