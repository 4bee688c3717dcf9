//! What is shown of audit entries and of a chain's verification.

use keyforge_proto::admin::v1 as proto;
use keyforge_shared::money::NanoUsd;
use serde::Serialize;

use super::changes::changes;
use crate::output::{Row, moment};

/// One entry of a chain.
#[derive(Debug, Serialize)]
pub(super) struct EntryView {
    seq: u64,
    chained_at: String,
    hash: String,
    #[serde(flatten)]
    record: RecordView,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum RecordView {
    Request(Box<RequestView>),
    Admin(AdminView),
    Gap(GapView),
    Unchained(UnchainedView),
    /// A kind that this version does not know.
    Unknown,
}

#[derive(Debug, Serialize)]
struct RequestView {
    outcome: String,
    request_id: String,
    attempt: u32,
    at: String,
    node_id: String,
    model: String,
    credential_id: String,
    status: u32,
    input_tokens: u64,
    output_tokens: u64,
    cache_read_tokens: u64,
    cache_write_tokens: u64,
    reasoning_tokens: u64,
    input_audio_tokens: u64,
    output_audio_tokens: u64,
    cost_usd: String,
    cost_nano_usd: u64,
    bound_usd: String,
    bound_nano_usd: u64,
    flags: Vec<String>,
    rejection: String,
}

#[derive(Debug, Serialize)]
struct AdminView {
    outcome: String,
    operator_id: String,
    peer: String,
    method: String,
    target: String,
    detail: String,
}

#[derive(Debug, Serialize)]
struct GapView {
    node_id: String,
    boot_id: String,
    last_seq: u64,
    request_ids: Vec<String>,
    charged_usd: String,
    charged_nano_usd: u64,
}

#[derive(Debug, Serialize)]
struct UnchainedView {
    node_id: String,
    boot_id: String,
    /// First and last number of what is gone on both sides; 0 when nothing is.
    lost_from: u64,
    lost_through: u64,
    /// First and last number of the records that came; 0 when none did.
    first_seq: u64,
    last_seq: u64,
    chains: Vec<UnknownChainView>,
}

#[derive(Debug, Serialize)]
struct UnknownChainView {
    chain_id: String,
    records: u64,
    cost_usd: String,
    cost_nano_usd: u64,
}

impl EntryView {
    pub(super) fn of(entry: proto::Entry) -> Self {
        let record = match entry.record {
            Some(proto::entry::Record::Request(request)) => RecordView::Request(Box::new(RequestView::of(request))),
            Some(proto::entry::Record::Admin(admin)) => RecordView::Admin(AdminView::of(admin)),
            Some(proto::entry::Record::Gap(gap)) => RecordView::Gap(GapView::of(gap)),
            Some(proto::entry::Record::Unchained(entry)) => RecordView::Unchained(UnchainedView::of(entry)),
            None => RecordView::Unknown,
        };
        Self { seq: entry.seq, chained_at: moment(entry.t_cp_ms), hash: hex::encode(entry.hash), record }
    }
}

impl RequestView {
    fn of(request: proto::RequestEntry) -> Self {
        Self {
            outcome: request.outcome,
            request_id: request.request_id,
            attempt: request.attempt,
            at: moment(request.t_node_ms),
            node_id: request.node_id,
            model: request.model,
            credential_id: request.credential_id,
            status: request.status,
            input_tokens: request.input_tokens,
            output_tokens: request.output_tokens,
            cache_read_tokens: request.cache_read_tokens,
            cache_write_tokens: request.cache_write_tokens,
            reasoning_tokens: request.reasoning_tokens,
            input_audio_tokens: request.input_audio_tokens,
            output_audio_tokens: request.output_audio_tokens,
            cost_usd: NanoUsd::new(request.cost_nano_usd).decimal(),
            cost_nano_usd: request.cost_nano_usd,
            bound_usd: NanoUsd::new(request.bound_nano_usd).decimal(),
            bound_nano_usd: request.bound_nano_usd,
            flags: request.flags,
            rejection: request.rejection,
        }
    }

    fn line(&self) -> String {
        let tokens = format!("{} in, {} out, ${}", self.input_tokens, self.output_tokens, self.cost_usd);
        let what = if self.rejection.is_empty() { tokens } else { self.rejection.clone() };
        format!("{} {} {what} ({})", self.model, self.status, self.request_id)
    }
}

impl AdminView {
    fn of(admin: proto::AdminEntry) -> Self {
        Self {
            outcome: admin.outcome,
            operator_id: admin.operator_id,
            peer: admin.peer,
            method: admin.method,
            target: admin.target,
            detail: admin.detail,
        }
    }
}

impl GapView {
    fn of(gap: proto::GapEntry) -> Self {
        Self {
            node_id: gap.node_id,
            boot_id: gap.boot_id,
            last_seq: gap.last_seq,
            request_ids: gap.request_ids,
            charged_usd: NanoUsd::new(gap.charged_nano_usd).decimal(),
            charged_nano_usd: gap.charged_nano_usd,
        }
    }
}

impl UnchainedView {
    fn of(entry: proto::UnchainedEntry) -> Self {
        let chain = |chain: proto::UnknownChain| UnknownChainView {
            chain_id: chain.chain_id,
            records: chain.records,
            cost_usd: NanoUsd::new(chain.cost_nano_usd).decimal(),
            cost_nano_usd: chain.cost_nano_usd,
        };
        Self {
            node_id: entry.node_id,
            boot_id: entry.boot_id,
            lost_from: entry.lost_from,
            lost_through: entry.lost_through,
            first_seq: entry.first_seq,
            last_seq: entry.last_seq,
            chains: entry.chains.into_iter().map(chain).collect(),
        }
    }

    fn line(&self) -> String {
        let mut said = Vec::new();
        if self.lost_from > 0 {
            said.push(format!("records {} to {} are gone", self.lost_from, self.lost_through));
        }
        if !self.chains.is_empty() {
            let records: u64 = self.chains.iter().map(|chain| chain.records).sum();
            let cost = self.chains.iter().fold(0u64, |sum, chain| sum.saturating_add(chain.cost_nano_usd));
            let names = self.chains.iter().map(|chain| chain.chain_id.as_str()).take(3).collect::<Vec<_>>().join(", ");
            let more = if self.chains.len() > 3 { ", …" } else { "" };
            let cost = NanoUsd::new(cost).decimal();
            said.push(format!(
                "{records} from {} to {} name no key's chain ({names}{more}): ${cost}",
                self.first_seq, self.last_seq
            ));
        }
        format!("{} {}: {}", self.node_id, self.boot_id, said.join("; "))
    }
}

impl Row for EntryView {
    const COLUMNS: &'static [&'static str] = &["seq", "chained at", "kind", "outcome", "what"];

    fn cells(&self) -> Vec<String> {
        let (kind, outcome, what) = match &self.record {
            RecordView::Request(request) => ("request", request.outcome.as_str(), request.line()),
            RecordView::Admin(admin) => {
                let space = if admin.target.is_empty() { "" } else { " " };
                let what = format!("{}{space}{}", admin.method, admin.target);
                let by = format!("{what} by {} from {}", admin.operator_id, admin.peer);
                let by = std::iter::once(by).chain(changes(&admin.detail)).collect::<Vec<_>>().join("; ");
                ("admin", admin.outcome.as_str(), by)
            }
            RecordView::Gap(gap) => {
                let lost = format!("{} after record {}: ${} charged", gap.node_id, gap.last_seq, gap.charged_usd);
                ("gap", "lost", lost)
            }
            RecordView::Unchained(unchained) => ("unchained", "told", unchained.line()),
            RecordView::Unknown => ("unknown", "-", "written by a later version".to_owned()),
        };
        vec![self.seq.to_string(), self.chained_at.clone(), kind.to_owned(), outcome.to_owned(), what]
    }
}

/// Whether a chain holds.
#[derive(Debug, Serialize)]
pub(super) struct VerdictView {
    chain_id: String,
    /// `null` for the administrators' chain.
    key_id: Option<String>,
    holds: bool,
    entries: u64,
    first_bad_seq: Option<u64>,
    fault: Option<String>,
}

impl VerdictView {
    pub(super) fn of(verdict: proto::ChainVerdict) -> Self {
        let given = |text: String| (!text.is_empty()).then_some(text);
        let (key_id, fault) = (given(verdict.key_id), given(verdict.fault));
        let holds = verdict.first_bad_seq.is_none() && fault.is_none();
        let (chain_id, entries) = (verdict.chain_id, verdict.entries);
        Self { chain_id, key_id, holds, entries, first_bad_seq: verdict.first_bad_seq, fault }
    }

    pub(super) const fn holds(&self) -> bool {
        self.holds
    }

    pub(super) fn line(&self) -> String {
        let of = self.key_id.as_deref().unwrap_or("administrators");
        let name = format!("chain {} ({of})", self.chain_id);
        if self.holds {
            let entries =
                if self.entries == 1 { "1 entry holds".to_owned() } else { format!("{} entries hold", self.entries) };
            return format!("{name}: {entries}");
        }
        let bad = self.first_bad_seq.map_or_else(|| "broken".to_owned(), |seq| format!("first bad entry {seq}"));
        format!("{name}: {bad}: {}", self.fault.as_deref().unwrap_or("no reason given"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(first_bad_seq: Option<u64>, fault: &str) -> VerdictView {
        VerdictView::of(proto::ChainVerdict {
            chain_id: "c1".to_owned(),
            key_id: String::new(),
            entries: 7,
            first_bad_seq,
            fault: fault.to_owned(),
        })
    }

    #[test]
    fn a_broken_chain_names_its_first_bad_entry_and_why() {
        let broken = verdict(Some(8), "hash differs");
        assert!(!broken.holds());
        assert_eq!(broken.line(), "chain c1 (administrators): first bad entry 8: hash differs");
        assert!(!verdict(None, "head differs").holds());
        assert_eq!(verdict(None, "").line(), "chain c1 (administrators): 7 entries hold");
    }

    #[test]
    fn every_kind_of_entry_is_one_row_and_one_object_with_its_kind() {
        let request = proto::RequestEntry {
            outcome: "completed".to_owned(),
            model: "gpt-4o".to_owned(),
            status: 200,
            cost_nano_usd: 2_500_000,
            ..Default::default()
        };
        let admin = proto::AdminEntry {
            method: "keys/Create".to_owned(),
            outcome: "done".to_owned(),
            detail: r#"{"before": {"name": "a"}, "after": {"name": "keys/Create b"}}"#.to_owned(),
            ..Default::default()
        };
        let chain = proto::UnknownChain { chain_id: "chain_a".to_owned(), records: 2, cost_nano_usd: 2_500_000 };
        let unchained = proto::UnchainedEntry {
            node_id: "n".to_owned(),
            lost_from: 1,
            lost_through: 4,
            chains: vec![chain],
            first_seq: 6,
            last_seq: 9,
            ..Default::default()
        };
        for (record, kind, word) in [
            (proto::entry::Record::Request(request), "request", "$0.0025"),
            (proto::entry::Record::Admin(admin), "admin", "; name: a → keys/Create b"),
            (proto::entry::Record::Gap(proto::GapEntry::default()), "gap", "charged"),
            (
                proto::entry::Record::Unchained(unchained),
                "unchained",
                "n : records 1 to 4 are gone; 2 from 6 to 9 name no key's chain (chain_a): $0.0025",
            ),
        ] {
            let view =
                EntryView::of(proto::Entry { seq: 3, hash: vec![0xab], record: Some(record), ..Default::default() });
            let cells = view.cells();
            assert_eq!((cells[0].as_str(), cells[2].as_str()), ("3", kind));
            assert!(cells[4].contains(word), "{}", cells[4]);
            let json = serde_json::to_value(&view).unwrap();
            assert_eq!((json["kind"].as_str(), json["hash"].as_str()), (Some(kind), Some("ab")));
        }
    }
}
