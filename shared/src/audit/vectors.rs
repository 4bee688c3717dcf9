//! The audit format pinned down: golden vectors that a second language recomputes, the bijection of every encoding, and what the verifier finds.
//!
//! The vectors live in `docs/audit-vectors.json`, made from the fixed inputs below. `docs/audit_verify.py` reads the same file with nothing but
//! Python's standard library, so an accidental change of the format fails in two languages.

mod bijection;
mod tamper;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::audit::admin::{AdminOutcome, AdminRecord};
use crate::audit::chain::{ChainKey, Entry, Genesis, Hash, head_seal};
use crate::audit::gap::GapRecord;
use crate::audit::record::Record;
use crate::audit::request::{Flags, Outcome, PrivateTag, PrivateValue, RequestRecord};
use crate::audit::subject::Subject;
use crate::audit::unchained::{Unchained, UnchainedRecord};
use crate::clock::Timestamp;
use crate::id::{BootId, ChainId, CredentialId, DeploymentId, NodeId, OperatorId, RequestId};
use crate::money::NanoUsd;
use crate::secret::Key256;

const ROOT: [u8; 32] = [0x4b; 32];
const DEPLOYMENT: DeploymentId = DeploymentId::from_bytes([0xd0; 16]);
const KEY_CHAIN: ChainId = ChainId::from_bytes([0xc1; 16]);
const ADMIN_CHAIN: ChainId = ChainId::from_bytes([0xc2; 16]);
const NODE: NodeId = NodeId::from_bytes([0xa0; 16]);
const BOOT: BootId = BootId::from_bytes([0xb0; 16]);
/// 2026-11-22T06:00:00Z.
const CREATED: Timestamp = Timestamp::from_millis(1_795_327_200_000);

/// A chain as it is stored, with the key it is made under.
struct Chain {
    key: ChainKey,
    id: ChainId,
    genesis: Genesis,
    genesis_hash: Hash,
    entries: Vec<(Entry, Hash)>,
    head: (u64, Hash, Hash),
}

impl Chain {
    fn build(id: ChainId, policy_digest: [u8; 32], records: Vec<Record>) -> Self {
        let key = ChainKey::derive(&Key256::new(ROOT), id, 0);
        let genesis = Genesis {
            deployment: DEPLOYMENT,
            chain: id,
            created: CREATED,
            policy_digest,
            key_epoch: 0,
            key_commitment: key.commitment(),
            checkpoint_key: Vec::new(),
            previous: (ChainId::from_bytes([0; 16]), [0; 32]),
        };
        let genesis_hash = genesis.hash(&key);
        let (mut hash, mut entries) = (genesis_hash, Vec::new());
        for (seq, record) in (1..).zip(records) {
            let t_cp = Timestamp::from_millis(CREATED.millis() + 1_000 * i64::try_from(seq).unwrap());
            let entry = Entry { seq, t_cp, key_epoch: 0, record: record.encode() };
            hash = entry.hash(&key, id, &hash);
            entries.push((entry, hash));
        }
        let seq = entries.len() as u64;
        let seal = head_seal(&key, id, seq, &hash);
        Self { key, id, genesis, genesis_hash, entries, head: (seq, hash, seal) }
    }
}

fn completed() -> RequestRecord {
    RequestRecord {
        deployment: DEPLOYMENT,
        chain: KEY_CHAIN,
        outcome: Outcome::Completed,
        node: NODE,
        boot: BOOT,
        node_seq: 1,
        request: RequestId::from_bytes([0x11; 16]),
        attempt: 1,
        period: 20_779,
        quota_epoch: 3,
        t_node: Timestamp::from_nanos(1_795_327_200_123_456_789),
        t_mono_ns: 987_654_321,
        model: "gpt-5-mini".to_owned(),
        credential: CredentialId::from_bytes([0xcc; 16]),
        status: 200,
        input_tokens: 1_200,
        output_tokens: 340,
        cache_read_tokens: 1_024,
        cache_write_tokens: 0,
        cost: NanoUsd::new(1_005_600),
        bound: NanoUsd::new(8_492_000),
        flags: Flags::STREAMED.with(Flags::USAGE_KNOWN).with(Flags::DIGESTS),
        request_digest: [0x5a; 32],
        response_digest: [0xa5; 32],
        private: vec![
            PrivateValue { tag: PrivateTag::REASONING_TOKENS, salt: [7; 16], value: 128u64.to_be_bytes().to_vec() },
            PrivateValue { tag: PrivateTag::ANSWERED_MODEL, salt: [8; 16], value: b"gpt-5-mini-2025-08-07".to_vec() },
        ],
    }
}

fn refused() -> RequestRecord {
    RequestRecord {
        outcome: Outcome::Refused,
        node_seq: 2,
        request: RequestId::from_bytes([0x22; 16]),
        attempt: 0,
        quota_epoch: 0,
        model: String::new(),
        credential: CredentialId::from_bytes([0; 16]),
        status: 429,
        input_tokens: 0,
        output_tokens: 0,
        cache_read_tokens: 0,
        cost: NanoUsd::ZERO,
        bound: NanoUsd::ZERO,
        flags: Flags::NOT_COUNTED,
        request_digest: [0; 32],
        response_digest: [0; 32],
        private: vec![PrivateValue { tag: PrivateTag::REJECTION, salt: [9; 16], value: b"spend_limit".to_vec() }],
        ..completed()
    }
}

fn unresolved() -> RequestRecord {
    RequestRecord {
        outcome: Outcome::Unresolved,
        node_seq: u64::MAX,
        attempt: u16::MAX,
        t_node: Timestamp::from_nanos(-1),
        model: "modèle-日本".to_owned(),
        cost: NanoUsd::new(u64::MAX),
        private: Vec::new(),
        ..completed()
    }
}

fn gap() -> GapRecord {
    GapRecord {
        subject: Subject { deployment: DEPLOYMENT, chain: KEY_CHAIN, node: NODE, boot: BOOT },
        last_seq: 2,
        at: CREATED,
        charged: NanoUsd::new(8_492_000),
        requests: vec![RequestId::from_bytes([0x33; 16]), RequestId::from_bytes([0x44; 16])],
    }
}

fn administered() -> AdminRecord {
    AdminRecord {
        deployment: DEPLOYMENT,
        chain: ADMIN_CHAIN,
        request: RequestId::from_bytes([0x55; 16]),
        operator: OperatorId::from_bytes([0x0e; 16]),
        at: CREATED,
        peer: "192.0.2.7:50411".to_owned(),
        method: "keys/Revoke".to_owned(),
        target: "vk_abcdefghijkl".to_owned(),
        outcome: AdminOutcome::Done,
        detail: "active -> revoked".to_owned(),
    }
}

fn unchained() -> UnchainedRecord {
    let record = |node_seq, cost| Unchained {
        node_seq,
        chain: ChainId::from_bytes([0xc3; 16]),
        request: RequestId::from_bytes([0x66; 16]),
        cost: NanoUsd::new(cost),
        digest: [0x6d; 32],
    };
    UnchainedRecord {
        subject: Subject { deployment: DEPLOYMENT, chain: ADMIN_CHAIN, node: NODE, boot: BOOT },
        at: CREATED,
        lost_from: 3,
        lost_through: 9,
        records: vec![record(10, 1_005_600), record(12, 0)],
    }
}

fn golden_chains() -> [Chain; 2] {
    let requests = [completed(), refused(), unresolved()].map(|record| Record::Request(Box::new(record)));
    let denied = AdminRecord { outcome: AdminOutcome::Denied, detail: String::new(), ..administered() };
    let failed = AdminRecord { outcome: AdminOutcome::Failed, target: String::new(), ..administered() };
    let unknown = AdminRecord { outcome: AdminOutcome::Unknown, ..administered() };
    let acts = [administered(), denied, failed, unknown].map(Record::Admin);
    [
        Chain::build(KEY_CHAIN, [0x77; 32], requests.into_iter().chain([Record::Gap(gap())]).collect()),
        Chain::build(ADMIN_CHAIN, [0; 32], acts.into_iter().chain([Record::Unchained(unchained())]).collect()),
    ]
}

/// The fields of a record as the vectors spell them: numbers, texts, and bytes in hexadecimal digits.
fn fields(record: &Record) -> Value {
    match record {
        Record::Request(r) => {
            let private = r.private.iter();
            let private: Vec<_> =
                private.map(|p| json!([p.tag.0, hex::encode(p.salt), hex::encode(&p.value)])).collect();
            json!({
                "kind": "KFN1", "deployment_id": hex::encode(r.deployment.as_bytes()),
                "chain_id": hex::encode(r.chain.as_bytes()), "outcome": r.outcome.as_str(),
                "node_id": hex::encode(r.node.as_bytes()), "boot_id": hex::encode(r.boot.as_bytes()),
                "node_seq": r.node_seq, "request_id": hex::encode(r.request.as_bytes()), "attempt": r.attempt,
                "period": r.period, "quota_epoch": r.quota_epoch, "t_node_ns": r.t_node.nanos(),
                "t_mono_ns": r.t_mono_ns, "model": r.model, "credential_id": hex::encode(r.credential.as_bytes()),
                "status": r.status, "input_tokens": r.input_tokens, "output_tokens": r.output_tokens,
                "cache_read_tokens": r.cache_read_tokens, "cache_write_tokens": r.cache_write_tokens,
                "cost": r.cost.nanos(), "bound": r.bound.nanos(), "flags": r.flags.0,
                "request_digest": hex::encode(r.request_digest), "response_digest": hex::encode(r.response_digest),
                "private": private,
            })
        }
        Record::Admin(r) => json!({
            "kind": "KFA1", "deployment_id": hex::encode(r.deployment.as_bytes()),
            "chain_id": hex::encode(r.chain.as_bytes()), "request_id": hex::encode(r.request.as_bytes()),
            "operator_id": hex::encode(r.operator.as_bytes()), "at_ns": r.at.nanos(), "peer": r.peer,
            "method": r.method, "target": r.target, "outcome": r.outcome.as_str(), "detail": r.detail,
        }),
        Record::Gap(r) => json!({
            "kind": "KFG1", "deployment_id": hex::encode(r.subject.deployment.as_bytes()),
            "chain_id": hex::encode(r.subject.chain.as_bytes()), "node_id": hex::encode(r.subject.node.as_bytes()),
            "boot_id": hex::encode(r.subject.boot.as_bytes()), "last_seq": r.last_seq, "at_ns": r.at.nanos(),
            "charged": r.charged.nanos(),
            "requests": r.requests.iter().map(|id| hex::encode(id.as_bytes())).collect::<Vec<_>>(),
        }),
        Record::Unchained(r) => {
            let one = |one: &Unchained| {
                let (chain, request) = (hex::encode(one.chain.as_bytes()), hex::encode(one.request.as_bytes()));
                json!([one.node_seq, chain, request, one.cost.nanos(), hex::encode(one.digest)])
            };
            json!({
                "kind": "KFU1", "deployment_id": hex::encode(r.subject.deployment.as_bytes()),
                "chain_id": hex::encode(r.subject.chain.as_bytes()), "node_id": hex::encode(r.subject.node.as_bytes()),
                "boot_id": hex::encode(r.subject.boot.as_bytes()), "at_ns": r.at.nanos(), "lost_from": r.lost_from,
                "lost_through": r.lost_through, "records": r.records.iter().map(one).collect::<Vec<_>>(),
            })
        }
    }
}

fn vectors() -> String {
    let chains: Vec<_> = golden_chains()
        .iter()
        .map(|chain| {
            let entry = |(entry, hash): &(Entry, Hash)| {
                json!({
                    "seq": entry.seq, "t_cp_ns": entry.t_cp.nanos(), "key_epoch": entry.key_epoch,
                    "record": fields(&Record::decode(&entry.record).unwrap()),
                    "encoding": hex::encode(entry.encode()), "hash": hex::encode(hash),
                })
            };
            json!({
                "chain_id": hex::encode(chain.id.as_bytes()), "key_epoch": chain.key.epoch(),
                "chain_key": hex::encode(chain.key.expose_for_vectors()),
                "key_commitment": hex::encode(chain.key.commitment()),
                "genesis": hex::encode(chain.genesis.encode()), "genesis_hash": hex::encode(chain.genesis_hash),
                "entries": chain.entries.iter().map(entry).collect::<Vec<_>>(),
                "head": {
                    "seq": chain.head.0, "hash": hex::encode(chain.head.1), "seal": hex::encode(chain.head.2),
                },
            })
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&json!({ "audit_root": hex::encode(ROOT), "chains": chains })).unwrap();
    text.push('\n');
    text
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[test]
fn the_vectors_in_the_documentation_are_what_the_code_produces() {
    let produced = vectors();
    let stored = std::fs::read_to_string(docs().join("audit-vectors.json")).unwrap_or_default();
    if produced != stored {
        let path = std::env::temp_dir().join("audit-vectors.json");
        std::fs::write(&path, &produced).unwrap();
        panic!("the audit format changed; if that was meant, put {} in its place", path.display());
    }
}

#[test]
fn the_format_description_shows_the_hashes_of_the_vectors() {
    let text = std::fs::read_to_string(docs().join("audit-format.md")).unwrap();
    let [chain, _] = golden_chains();
    let shown = [
        ("K", chain.key.expose_for_vectors().to_vec()),
        ("commitment", chain.key.commitment().to_vec()),
        ("h_0", chain.genesis_hash.to_vec()),
        ("h_1", chain.entries[0].1.to_vec()),
        ("h_2", chain.entries[1].1.to_vec()),
        ("head", chain.head.2.to_vec()),
    ];
    for (name, value) in shown {
        let row = format!("| `{name}` | `{}` |", hex::encode(value));
        assert!(text.contains(&row), "missing in docs/audit-format.md: {row}");
    }
}

#[test]
fn i_22_a_verifier_in_python_agrees_on_every_vector_and_refuses_a_changed_one() {
    let run = |vectors: &Path| Command::new("python3").arg(docs().join("audit_verify.py")).arg(vectors).output();
    let Ok(output) = run(&docs().join("audit-vectors.json")) else {
        println!("skipped: there is no python3 here to run docs/audit_verify.py with");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    let mut changed: Value = serde_json::from_str(&vectors()).unwrap();
    let encoding = changed["chains"][0]["entries"][1]["encoding"].as_str().unwrap();
    // The status 429 = 0x01ad of the refused request becomes 428.
    let forged = encoding.replacen("01ad", "01ac", 1);
    assert_ne!(encoding, forged);
    changed["chains"][0]["entries"][1]["encoding"] = forged.into();
    let path = std::env::temp_dir().join(format!("audit-vectors-changed-{}.json", std::process::id()));
    std::fs::write(&path, changed.to_string()).unwrap();
    let output = run(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("entry 2"), "{said}");
}
