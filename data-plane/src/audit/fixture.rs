//! Intents, records and spools for the tests of this module.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use keyforge_shared::audit::request::{Flags, Outcome, RequestRecord};
use keyforge_shared::clock::{ManualClock, Timestamp};
use keyforge_shared::id::{BootId, ChainId, CredentialId, DeploymentId, KeyId, NodeId, RequestId};
use keyforge_shared::money::NanoUsd;

use crate::audit::{Identity, Intent, Leftover, Spool, SpoolError, SpoolLimits};

pub(super) fn identity(boot: u8) -> Identity {
    Identity {
        deployment: DeploymentId::from_bytes([0xd; 16]),
        node: NodeId::from_bytes([0xe; 16]),
        boot: BootId::from_bytes([boot; 16]),
    }
}

pub(super) fn request(number: u32) -> RequestId {
    let mut bytes = [0xa; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    RequestId::from_bytes(bytes)
}

pub(super) fn intent(number: u32) -> Intent {
    Intent {
        request: request(number),
        attempt: 1,
        chain: ChainId::from_bytes([0xc; 16]),
        key: KeyId::from_ascii(b"abcdefghijkl").unwrap(),
        model: "gpt-5".to_owned(),
        credential: CredentialId::from_bytes([0xb; 16]),
        period: 20_000,
        quota_epoch: 3,
        bound: NanoUsd::new(1_000 + u64::from(number)),
        flags: Flags::CLAMPED,
        t_node: Timestamp::from_millis(1_700_000_000_000),
        holds: true,
    }
}

/// The bytes of an intent as they were before intents said whether a store holds anything for them.
pub(super) fn without_hold(intent: &Intent) -> Vec<u8> {
    let mut bytes = intent.encode();
    bytes[..4].copy_from_slice(b"KFI1");
    bytes.pop();
    bytes
}

pub(super) fn record(number: u32) -> RequestRecord {
    let template = intent(number).unresolved(&identity(0), 0, Timestamp::from_millis(0));
    RequestRecord { outcome: Outcome::Completed, status: 200, cost: NanoUsd::new(u64::from(number)), ..template }
}

pub(super) fn refusal(number: u32) -> RequestRecord {
    RequestRecord { outcome: Outcome::Refused, attempt: 0, status: 429, cost: NanoUsd::ZERO, ..record(number) }
}

pub(super) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000_000)))
}

pub(super) fn open(dir: &Path, boot: u8) -> (Spool, Vec<Leftover>) {
    open_limited(dir, boot, SpoolLimits::default()).unwrap()
}

pub(super) fn open_limited(dir: &Path, boot: u8, limits: SpoolLimits) -> Result<(Spool, Vec<Leftover>), SpoolError> {
    Spool::open(&dir.join("spool"), limits, identity(boot), clock())
}

/// The folder of life 1, as a later start would find it.
pub(super) fn leftover(dir: &Path) -> Leftover {
    let identity = identity(1);
    Leftover {
        identity,
        dir: dir.join("spool").join(identity.boot.to_string()),
        elsewhere: Arc::default(),
        parts_done: AtomicU8::new(0),
    }
}
