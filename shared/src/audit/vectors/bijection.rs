//! I-22: for every kind, `decode(encode(x)) = x`; and whatever bytes can be decoded are the ones that encoding gives back.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::audit::admin::{AdminOutcome, AdminRecord};
use crate::audit::canonical::DecodeError;
use crate::audit::chain::{Entry, Genesis};
use crate::audit::gap::GapRecord;
use crate::audit::record::Record;
use crate::audit::request::{Flags, Outcome, PrivateTag, PrivateValue, RequestRecord};
use crate::audit::subject::Subject;
use crate::audit::unchained::{Unchained, UnchainedRecord};
use crate::clock::Timestamp;
use crate::id::{BootId, ChainId, CredentialId, DeploymentId, NodeId, OperatorId, RequestId};
use crate::money::NanoUsd;

type Id = [u8; 16];

fn request() -> impl Strategy<Value = RequestRecord> {
    let outcome = prop_oneof![Just(Outcome::Completed), Just(Outcome::Refused), Just(Outcome::Unresolved)];
    let private = vec((any::<u16>(), any::<Id>(), vec(any::<u8>(), 0..40)), 0..4);
    (
        any::<[Id; 6]>(),
        (outcome, any::<[u64; 8]>(), any::<[u32; 3]>(), any::<[u16; 2]>(), any::<i64>()),
        (any::<String>(), any::<[u8; 32]>(), any::<[u8; 32]>(), private),
    )
        .prop_map(|(ids, (outcome, n, w, s, t_node), (model, request_digest, response_digest, private))| {
            RequestRecord {
                deployment: DeploymentId::from_bytes(ids[0]),
                chain: ChainId::from_bytes(ids[1]),
                outcome,
                node: NodeId::from_bytes(ids[2]),
                boot: BootId::from_bytes(ids[3]),
                node_seq: n[0],
                request: RequestId::from_bytes(ids[4]),
                attempt: s[0],
                period: w[0],
                quota_epoch: w[1],
                t_node: Timestamp::from_nanos(t_node),
                t_mono_ns: n[1],
                model,
                credential: CredentialId::from_bytes(ids[5]),
                status: s[1],
                input_tokens: n[2],
                output_tokens: n[3],
                cache_read_tokens: n[4],
                cache_write_tokens: n[5],
                cost: NanoUsd::new(n[6]),
                bound: NanoUsd::new(n[7]),
                flags: Flags(w[2]),
                request_digest,
                response_digest,
                private: private
                    .into_iter()
                    .map(|(tag, salt, value)| PrivateValue { tag: PrivateTag(tag), salt, value })
                    .collect(),
            }
        })
}

fn admin() -> impl Strategy<Value = AdminRecord> {
    let outcome = prop::sample::select(vec![
        AdminOutcome::Done,
        AdminOutcome::Denied,
        AdminOutcome::Failed,
        AdminOutcome::Unknown,
    ]);
    (any::<[Id; 4]>(), any::<i64>(), any::<[String; 4]>(), outcome).prop_map(|(ids, at, text, outcome)| {
        let [peer, method, target, detail] = text;
        AdminRecord {
            deployment: DeploymentId::from_bytes(ids[0]),
            chain: ChainId::from_bytes(ids[1]),
            request: RequestId::from_bytes(ids[2]),
            operator: OperatorId::from_bytes(ids[3]),
            at: Timestamp::from_nanos(at),
            peer,
            method,
            target,
            outcome,
            detail,
        }
    })
}

fn subject(ids: [Id; 4]) -> Subject {
    Subject {
        deployment: DeploymentId::from_bytes(ids[0]),
        chain: ChainId::from_bytes(ids[1]),
        node: NodeId::from_bytes(ids[2]),
        boot: BootId::from_bytes(ids[3]),
    }
}

fn gap() -> impl Strategy<Value = GapRecord> {
    (any::<[Id; 4]>(), any::<[u64; 2]>(), any::<i64>(), vec(any::<Id>(), 0..5)).prop_map(|(ids, n, at, requests)| {
        GapRecord {
            subject: subject(ids),
            last_seq: n[0],
            at: Timestamp::from_nanos(at),
            charged: NanoUsd::new(n[1]),
            requests: requests.into_iter().map(RequestId::from_bytes).collect(),
        }
    })
}

fn unchained() -> impl Strategy<Value = UnchainedRecord> {
    let one = (any::<[Id; 2]>(), any::<[u64; 2]>(), any::<[u8; 32]>()).prop_map(|(ids, n, digest)| Unchained {
        node_seq: n[0],
        chain: ChainId::from_bytes(ids[0]),
        request: RequestId::from_bytes(ids[1]),
        cost: NanoUsd::new(n[1]),
        digest,
    });
    (any::<[Id; 4]>(), any::<[u64; 2]>(), any::<i64>(), vec(one, 0..5)).prop_map(|(ids, n, at, records)| {
        UnchainedRecord {
            subject: subject(ids),
            at: Timestamp::from_nanos(at),
            lost_from: n[0],
            lost_through: n[1],
            records,
        }
    })
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        request().prop_map(|record| Record::Request(Box::new(record))),
        admin().prop_map(Record::Admin),
        gap().prop_map(Record::Gap),
        unchained().prop_map(Record::Unchained),
    ]
}

fn genesis() -> impl Strategy<Value = Genesis> {
    (any::<[Id; 3]>(), any::<i64>(), any::<u32>(), any::<[[u8; 32]; 3]>(), vec(any::<u8>(), 0..40)).prop_map(
        |(ids, created, key_epoch, digests, checkpoint_key)| Genesis {
            deployment: DeploymentId::from_bytes(ids[0]),
            chain: ChainId::from_bytes(ids[1]),
            created: Timestamp::from_nanos(created),
            policy_digest: digests[0],
            key_epoch,
            key_commitment: digests[1],
            checkpoint_key,
            previous: (ChainId::from_bytes(ids[2]), digests[2]),
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    (any::<u64>(), any::<i64>(), any::<u32>(), vec(any::<u8>(), 0..200))
        .prop_map(|(seq, t_cp, key_epoch, record)| Entry { seq, t_cp: Timestamp::from_nanos(t_cp), key_epoch, record })
}

/// One change to an encoding: a byte set, dropped or added somewhere, or the end cut off.
fn damage(mut bytes: Vec<u8>, at: usize, value: u8, kind: u8) -> Vec<u8> {
    let at = at % bytes.len();
    match kind % 4 {
        0 => bytes[at] = value,
        1 => drop(bytes.remove(at)),
        2 => bytes.insert(at, value),
        _ => bytes.truncate(at),
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn i_22_every_record_decodes_to_itself(record in record()) {
        let bytes = record.encode();
        prop_assert_eq!(Record::decode(&bytes), Ok(record));
        let mut longer = bytes.clone();
        longer.push(0);
        prop_assert_eq!(Record::decode(&longer), Err(DecodeError::Trailing));
        prop_assert!(Record::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn i_22_every_genesis_and_entry_decodes_to_itself(genesis in genesis(), entry in entry()) {
        prop_assert_eq!(Genesis::decode(&genesis.encode()), Ok(genesis));
        prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn i_22_damaged_bytes_are_refused_or_are_the_canonical_bytes_of_something_else(
        record in record(), genesis in genesis(), entry in entry(), at in any::<usize>(), value in any::<u8>(), kind in any::<u8>(),
    ) {
        let bytes = damage(record.encode(), at, value, kind);
        if let Ok(other) = Record::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
        let bytes = damage(genesis.encode(), at, value, kind);
        if let Ok(other) = Genesis::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
        let bytes = damage(entry.encode(), at, value, kind);
        if let Ok(other) = Entry::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
        }
    }

    #[test]
    fn i_22_decoding_is_total_on_arbitrary_bytes(magic in 0usize..7, tail in vec(any::<u8>(), 0..400)) {
        let magics: [&[u8]; 7] = [b"KFN1", b"KFA1", b"KFG1", b"KFU1", b"KFC1", b"KFE1", b""];
        let bytes = [magics[magic], tail.as_slice()].concat();
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes.clone());
        }
        if let Ok(genesis) = Genesis::decode(&bytes) {
            prop_assert_eq!(genesis.encode(), bytes.clone());
        }
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode(), bytes);
        }
    }
}
