//! The receipt of a change that stops a key or lets it go on: who has done it, how fast, and from when on it holds everywhere.

use keyforge_proto::admin::v1 as proto;
use serde::Serialize;

use super::view::KeyView;
use crate::output::{self, moment_with_millis};

/// A key and how far its change has come.
#[derive(Serialize)]
pub(super) struct ReceiptView {
    #[serde(flatten)]
    key: KeyView,
    receipt: Receipt,
}

#[derive(Serialize)]
struct Receipt {
    revision: u64,
    nodes_acked: u32,
    nodes_total: u32,
    took_ms: f64,
    streams_cut: u64,
    effective_by: String,
    nodes_pending: Vec<String>,
    control_planes_pending: Vec<String>,
    /// Whether it holds from that moment on at the latest.
    is_bound: bool,
}

impl ReceiptView {
    pub(super) fn of(answer: proto::KeyReceipt) -> Self {
        let receipt = answer.receipt.unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "a wait of milliseconds is far below 2^53 microseconds")]
        let took_ms = receipt.took_us as f64 / 1e3;
        Self {
            key: KeyView::of(answer.key.unwrap_or_default()),
            receipt: Receipt {
                revision: receipt.revision,
                nodes_acked: receipt.nodes_acked,
                nodes_total: receipt.nodes_total,
                took_ms,
                streams_cut: receipt.streams_cut,
                effective_by: moment_with_millis(receipt.effective_by_ms),
                nodes_pending: receipt.nodes_pending,
                control_planes_pending: receipt.control_planes_pending,
                is_bound: receipt.is_bound,
            },
        }
    }

    pub(super) fn text(&self) -> String {
        format!("{}\n\n{}\n", output::lines(&self.key), self.receipt.text())
    }
}

impl Receipt {
    fn text(&self) -> String {
        let Self { nodes_acked, nodes_total, took_ms, streams_cut, effective_by, is_bound, .. } = self;
        let Self { nodes_pending, control_planes_pending, .. } = self;
        let done = match nodes_total {
            0 if control_planes_pending.is_empty() => {
                "No node is connected; one that connects begins with this state.".to_owned()
            }
            _ => format!(
                "{nodes_acked} of {nodes_total} nodes have done it, after {took_ms:.1} ms; streams cut: {streams_cut}."
            ),
        };
        let mut text = match is_bound {
            false => format!("{done}\nIt holds everywhere since {effective_by}."),
            true => format!("{done}\nIt holds everywhere by {effective_by}, also on nodes that cannot be reached."),
        };
        for (what, names) in [
            ("Nodes that have not answered", nodes_pending),
            ("Control planes whose nodes are not counted", control_planes_pending),
        ] {
            if !names.is_empty() {
                text.push_str(&format!("\n{what}:\n  {}", names.join("\n  ")));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(acked: u32, total: u32, pending: &[&str]) -> ReceiptView {
        ReceiptView::of(proto::KeyReceipt {
            key: None,
            receipt: Some(proto::Receipt {
                revision: 7,
                nodes_acked: acked,
                nodes_total: total,
                took_us: 1_234,
                streams_cut: 3,
                effective_by_ms: 1_795_327_200_500,
                nodes_pending: pending.iter().map(|name| (*name).to_owned()).collect(),
                control_planes_pending: Vec::new(),
                is_bound: acked < total,
            }),
        })
    }

    #[test]
    fn a_receipt_says_who_has_done_it_and_from_when_on_it_holds() {
        let all = receipt(2, 2, &[]).text();
        assert!(all.contains("2 of 2 nodes have done it, after 1.2 ms; streams cut: 3."), "{all}");
        assert!(all.contains("It holds everywhere since 2026-11-22T06:00:00.500Z."), "{all}");
        let some = receipt(1, 2, &["node_1"]).text();
        assert!(
            some.contains("1 of 2") && some.contains("everywhere by 2026") && some.contains("answered:\n  node_1"),
            "{some}"
        );
        assert!(receipt(0, 0, &[]).text().contains("No node is connected"));
        let mut silent = receipt(2, 2, &[]);
        silent.receipt.control_planes_pending = vec!["host:/data".to_owned()];
        silent.receipt.is_bound = true;
        let silent = silent.text();
        assert!(silent.contains("everywhere by 2026") && silent.contains("not counted:\n  host:/data"), "{silent}");
        let mut young = receipt(2, 2, &[]);
        young.receipt.is_bound = true;
        assert!(young.text().contains("everywhere by 2026"), "{}", young.text());
    }

    #[test]
    fn json_holds_the_key_and_its_receipt() {
        let json = serde_json::to_value(receipt(1, 2, &["node_1"])).unwrap();
        assert_eq!(
            (json["receipt"]["nodes_total"].as_u64(), json["receipt"]["took_ms"].as_f64()),
            (Some(2), Some(1.234))
        );
        assert!(json["status"].is_string() && json["policy"].is_object(), "{json}");
    }
}
