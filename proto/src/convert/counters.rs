//! [`CounterId`], [`Dimension`] and [`Scope`]: what grants are about.

use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::CivilDay;

use super::{ConvertError, unspecified, window};
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

impl From<Scope> for proto::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Key => Self::Key,
            Scope::Workspace => Self::Workspace,
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

/// A scope out of the enum's number.
///
/// # Errors
/// [`ConvertError`] naming `field` when it is unspecified or unknown.
pub fn scope(number: i32, field: &str) -> Result<Scope, ConvertError> {
    match proto::Scope::try_from(number) {
        Ok(proto::Scope::Key) => Ok(Scope::Key),
        Ok(proto::Scope::Workspace) => Ok(Scope::Workspace),
        Ok(proto::Scope::Unspecified) => Err(unspecified(field)),
        Err(_) => Err(ConvertError::new(field, format!("no scope has the number {number}"))),
    }
}

impl From<CounterId> for proto::Counter {
    fn from(counter: CounterId) -> Self {
        Self {
            scope: proto::Scope::from(counter.scope).into(),
            dimension: proto::Dimension::from(counter.dimension).into(),
            window: Window::from(counter.window).into(),
            first_day: counter.first_day.number(),
        }
    }
}

/// The counter of `key` that a message names.
///
/// # Errors
/// [`ConvertError`] when the scope, dimension or window is none, or when no period of that window begins on the given day.
pub fn counter_id(key: KeyId, counter: &proto::Counter) -> Result<CounterId, ConvertError> {
    let window = window(counter.window, "window")?;
    let first_day = CivilDay::from_number(counter.first_day);
    if first_day.number() != counter.first_day || window.first_day(first_day) != first_day {
        return Err(ConvertError::new("first_day", format!("no {window} begins on this day")));
    }
    let (scope, dimension) = (scope(counter.scope, "scope")?, dimension(counter.dimension, "dimension")?);
    Ok(CounterId { key, scope, dimension, window, first_day })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admin::v1 as admin;
    use crate::convert::samples;

    proptest! {
        #[test]
        fn every_counter_survives_the_wire(
            key in samples::key_id(), scope in 0usize..2, dimension in 0usize..2, number in 0usize..4, day in 0u32..3_000_000,
        ) {
            let (window, day) = (keyforge_shared::period::Window::ALL[number], CivilDay::from_number(day));
            let (scope, dimension) = (Scope::ALL[scope], Dimension::ALL[dimension]);
            let counter = CounterId { key, scope, dimension, window, first_day: window.first_day(day) };
            prop_assert_eq!(counter_id(key, &counter.into()), Ok(counter));
        }
    }

    #[test]
    fn what_names_no_counter_is_refused_by_field() {
        let key = KeyId::from_ascii(b"abcdefghijkl").unwrap();
        // 2026-11-16 is a Monday, which begins a week and no month.
        let week = proto::Counter { scope: 1, dimension: 1, window: admin::Window::Week.into(), first_day: 20_773 };
        assert!(counter_id(key, &week).is_ok());
        for (wrong, field) in [
            (proto::Counter { first_day: 20_774, ..week }, "first_day"),
            (proto::Counter { window: admin::Window::Month.into(), ..week }, "first_day"),
            (proto::Counter { first_day: u32::MAX, ..week }, "first_day"),
            (proto::Counter { scope: 0, ..week }, "scope"),
            (proto::Counter { scope: 3, ..week }, "scope"),
            (proto::Counter { dimension: 0, ..week }, "dimension"),
            (proto::Counter { window: 0, ..week }, "window"),
        ] {
            assert_eq!(counter_id(key, &wrong).unwrap_err().field, field, "{wrong:?}");
        }
    }
}
