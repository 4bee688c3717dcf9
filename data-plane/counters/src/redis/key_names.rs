//! How keys, fields and ids are spelled in Redis: the only file that knows.
//!
//! All keys of one virtual key carry its id as their hash tag, so that they live in one slot of a Redis Cluster. The prefix carries the version of
//! what is stored: whoever changes the shape of a value changes it too.

use std::fmt::Write;

use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::{CivilDay, Window};
use redis::Cmd;

use crate::reserve::ReservationId;

/// The version of everything below.
const PREFIX: &str = "kf1";
/// In the order in which every script takes them.
const NAMES: [&str; 8] = ["books", "open", "expiry", "orphans", "orphaned", "rpm", "tpm", "leases"];
/// A field that no counter has: what is asked about a counter of somebody else.
const NO_COUNTER: &str = "-";
/// The hash tag of what is about pools.
const POOL: &str = "pool";
/// How many slots a Redis Cluster has.
pub(super) const SLOTS: u16 = 16_384;

/// Adds how many keys there are, and the keys themselves, to the call of a script: last the markers of the ids that it is about.
pub(super) fn put_keys(command: &mut Cmd, key: KeyId, ids: &[ReservationId]) {
    let mut name = format!("{PREFIX}:{{{}}}:", key.as_str());
    let stem = name.len();
    command.arg(NAMES.len() + ids.len());
    for suffix in NAMES {
        name.truncate(stem);
        name.push_str(suffix);
        command.arg(name.as_str());
    }
    for id in ids {
        name.truncate(stem);
        name.push_str("m:");
        push_id(&mut name, *id);
        command.arg(name.as_str());
    }
}

/// A key about pools.
pub(super) fn pool(name: &str) -> String {
    format!("{PREFIX}:{{{POOL}}}:{name}")
}

/// The slot of all keys about pools.
pub(super) fn pool_slot() -> u16 {
    crc16(POOL.as_bytes()) % SLOTS
}

/// The slot of all keys of one virtual key.
pub(super) fn slot(key: KeyId) -> u16 {
    crc16(key.as_str().as_bytes()) % SLOTS
}

/// A reservation's id: texts are in the order of the ids.
pub(super) fn reservation(id: ReservationId) -> String {
    let mut text = String::with_capacity(42);
    push_id(&mut text, id);
    text
}

fn push_id(text: &mut String, id: ReservationId) {
    // Writing to a string cannot fail.
    let _infallible = write!(text, "{}.{:05}", id.request, id.attempt);
}

/// The field of a counter in the books of `key`: whose limit, what it counts, how long its period is, and its first day: `ksm.20665`.
pub(super) fn counter(key: KeyId, counter: &CounterId) -> String {
    if counter.key != key {
        return NO_COUNTER.to_owned();
    }
    let scope = match counter.scope {
        Scope::Key => 'k',
        Scope::Workspace => 'w',
    };
    let dimension = match counter.dimension {
        Dimension::Requests => 'r',
        Dimension::Spend => 's',
    };
    let window = match counter.window {
        Window::Day => 'd',
        Window::Week => 'w',
        Window::Month => 'm',
        Window::Total => 't',
    };
    format!("{scope}{dimension}{window}.{}", counter.first_day.number())
}

/// The counter of a field; `None` for a field that is not a counter's.
pub(super) fn parse_counter(key: KeyId, field: &str) -> Option<CounterId> {
    let (letters, day) = field.split_once('.')?;
    let &[scope, dimension, window] = letters.as_bytes() else { return None };
    Some(CounterId {
        key,
        scope: match scope {
            b'k' => Scope::Key,
            b'w' => Scope::Workspace,
            _ => return None,
        },
        dimension: match dimension {
            b'r' => Dimension::Requests,
            b's' => Dimension::Spend,
            _ => return None,
        },
        window: match window {
            b'd' => Window::Day,
            b'w' => Window::Week,
            b'm' => Window::Month,
            b't' => Window::Total,
            _ => return None,
        },
        first_day: CivilDay::from_number(day.parse().ok()?),
    })
}

/// CRC-16/XMODEM, which Redis Cluster hashes tags with (polynomial 0x1021, from 0).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    })
}

#[cfg(test)]
mod tests {
    use keyforge_shared::id::RequestId;

    use super::*;

    fn key() -> KeyId {
        KeyId::from_ascii(b"Abc123Def456").unwrap()
    }

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(crc16(b"foo") % SLOTS, 12_182);
        assert!(slot(key()) < SLOTS);
    }

    #[test]
    fn counters_have_one_field_each_and_are_read_back() {
        let mut seen = std::collections::BTreeSet::new();
        for scope in Scope::ALL {
            for dimension in Dimension::ALL {
                for window in Window::ALL {
                    for day in [0, 20_665, 2_932_896] {
                        let id =
                            CounterId { key: key(), scope, dimension, window, first_day: CivilDay::from_number(day) };
                        let field = counter(key(), &id);
                        assert_eq!(parse_counter(key(), &field), Some(id), "{field}");
                        assert!(seen.insert(field));
                    }
                }
            }
        }
        for other in ["life", "-", "ksm", "ksm.", "xsm.1", "ksmm.1", "ks.1", "ksm.-1"] {
            assert_eq!(parse_counter(key(), other), None, "{other}");
        }
    }

    #[test]
    fn a_counter_of_another_key_has_no_field() {
        let other = KeyId::from_ascii(b"000000000000").unwrap();
        let id = CounterId {
            key: other,
            scope: Scope::Key,
            dimension: Dimension::Spend,
            window: Window::Day,
            first_day: CivilDay::from_number(1),
        };
        assert_eq!(parse_counter(key(), &counter(key(), &id)), None);
    }

    #[test]
    fn ids_are_written_in_their_order() {
        let id = |first: u8, attempt| {
            let mut bytes = [0; 16];
            bytes[0] = first;
            ReservationId { request: RequestId::from_bytes(bytes), attempt }
        };
        let ids = [id(0, 2), id(0, 10), id(0, u16::MAX), id(9, 1), id(10, 0), id(255, 1)];
        assert!(ids.is_sorted());
        assert!(ids.map(reservation).is_sorted());
        assert_eq!(reservation(ids[1]), "req_00000000000000000000000000000000.00010");
    }
}
