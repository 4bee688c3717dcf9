//! `keyforge usage`: what keys used and what it cost, and for one key how much of its limits is left.

use clap::{Args, ValueEnum};
use keyforge_proto::admin::v1 as proto;
use keyforge_shared::money::NanoUsd;
use serde::Serialize;

use super::{key_id, period_limits};
use crate::client::{AdminArgs, AdminClient, pages};
use crate::errors::Failure;
use crate::limit_syntax;
use crate::output::{Row, moment, or_dash, table};

/// What `keyforge usage` takes.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  keyforge usage --key vk_0123456789ab --by day --from 2026-11-01")]
pub struct UsageArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Only this key, and its limits and its workspace's: vk_ and 12 characters
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// One row for each of these
    #[arg(long, value_enum, default_value_t = Grouping::Key)]
    by: Grouping,
    /// First day in each key's own time zone, such as 2026-11-01 [default: the beginning]
    #[arg(long, value_name = "DAY", value_parser = limit_syntax::day)]
    from: Option<String>,
    /// Day after the last, such as 2026-12-01 [default: no end]
    #[arg(long, value_name = "DAY", value_parser = limit_syntax::day)]
    until: Option<String>,
    /// Show at most this many rows
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Grouping {
    /// A virtual key
    Key,
    /// A model
    Model,
    /// A day in each key's own time zone
    Day,
}

impl From<Grouping> for proto::UsageGrouping {
    fn from(grouping: Grouping) -> Self {
        match grouping {
            Grouping::Key => Self::Key,
            Grouping::Model => Self::Model,
            Grouping::Day => Self::Day,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// [`Failure`].
pub async fn run(args: UsageArgs) -> Result<(), Failure> {
    let key_id = args.key.as_deref().map(key_id).transpose()?;
    if let (Some(from), Some(until)) = (&args.from, &args.until)
        && from >= until
    {
        return Err(Failure::usage("--until is a day after --from: the day it names is not included"));
    }
    let client = AdminClient::find(&args.admin).await?;
    let mut usage = client.usage();
    let rows = pages(args.limit, async |page_size, page_token| {
        let request = proto::QueryUsageRequest {
            key_id: key_id.clone(),
            group_by: proto::UsageGrouping::from(args.by).into(),
            from_day: args.from.clone(),
            until_day: args.until.clone(),
            page_size,
            page_token,
        };
        let answer = usage.query_usage(request).await?.into_inner();
        Ok((answer.rows, answer.next_page_token))
    });
    let rows = rows.await?.into_iter().map(UsageView::of).collect();
    let limits = match key_id {
        Some(key_id) => {
            let answer = usage.get_balance(proto::GetBalanceRequest { key_id }).await?.into_inner();
            Some(answer.balances.into_iter().map(BalanceView::of).collect())
        }
        None => None,
    };
    let report = UsageReport { by: args.by, rows, limits };
    args.admin.output.either(|| report.text(), &report)
}

/// What was asked for, together.
#[derive(Debug, Serialize)]
struct UsageReport {
    by: Grouping,
    rows: Vec<UsageView>,
    /// The limits of the one key that was asked for, and of its workspace.
    limits: Option<Vec<BalanceView>>,
}

impl UsageReport {
    fn text(&self) -> String {
        match self.limits.as_deref() {
            None => table(&self.rows),
            Some([]) => format!("{}\n\nNeither the key nor its workspace has limits per period.", table(&self.rows)),
            Some(limits) => format!("{}\n\nLimits in their current periods\n{}", table(&self.rows), table(limits)),
        }
    }
}

#[derive(Debug, Serialize)]
struct UsageView {
    group: String,
    requests: u64,
    refused: u64,
    input_tokens: u64,
    cache_read_tokens: u64,
    cache_write_tokens: u64,
    output_tokens: u64,
    reasoning_tokens: u64,
    cost_usd: String,
    cost_nano_usd: u64,
}

impl UsageView {
    fn of(row: proto::UsageRow) -> Self {
        Self {
            group: row.group,
            requests: row.requests,
            refused: row.refused,
            input_tokens: row.input_tokens,
            cache_read_tokens: row.cache_read_tokens,
            cache_write_tokens: row.cache_write_tokens,
            output_tokens: row.output_tokens,
            reasoning_tokens: row.reasoning_tokens,
            cost_usd: NanoUsd::new(row.cost_nano_usd).decimal(),
            cost_nano_usd: row.cost_nano_usd,
        }
    }
}

impl Row for UsageView {
    const COLUMNS: &'static [&'static str] =
        &["group", "requests", "refused", "input", "cache read", "cache write", "output", "reasoning", "cost"];

    fn cells(&self) -> Vec<String> {
        let counts = [
            self.requests,
            self.refused,
            self.input_tokens,
            self.cache_read_tokens,
            self.cache_write_tokens,
            self.output_tokens,
            self.reasoning_tokens,
        ];
        let group = if self.group.is_empty() { "-" } else { &self.group };
        let mut cells = vec![group.to_owned()];
        cells.extend(counts.map(|count| count.to_string()));
        cells.push(format!("${}", self.cost_usd));
        cells
    }
}

/// A limit in its current period: requests or dollars.
#[derive(Debug, Serialize)]
struct BalanceView {
    /// Whose limit it is: the key's own, or its workspace's.
    scope: String,
    dimension: String,
    window: &'static str,
    /// First day of the period in the key's time zone; none for its whole life.
    first_day: Option<String>,
    /// Requests or nano-dollars, by `dimension`.
    limit: u64,
    settled: u64,
    granted: u64,
    left: u64,
    /// In dollars, when money is limited.
    limit_usd: Option<String>,
    settled_usd: Option<String>,
    granted_usd: Option<String>,
    left_usd: Option<String>,
    resets_at: Option<String>,
}

impl BalanceView {
    fn of(balance: proto::Balance) -> Self {
        let left = balance.limit.saturating_sub(balance.settled).saturating_sub(balance.granted);
        let money = balance.dimension == "spend";
        let usd = |nanos: u64| money.then(|| NanoUsd::new(nanos).decimal());
        Self {
            window: period_limits::window(balance.window),
            first_day: balance.first_day,
            scope: balance.scope,
            limit_usd: usd(balance.limit),
            settled_usd: usd(balance.settled),
            granted_usd: usd(balance.granted),
            left_usd: usd(left),
            dimension: balance.dimension,
            limit: balance.limit,
            settled: balance.settled,
            granted: balance.granted,
            left,
            resets_at: balance.resets_at_ms.map(moment),
        }
    }
}

impl Row for BalanceView {
    const COLUMNS: &'static [&'static str] =
        &["of", "limit", "period", "since", "at most", "settled", "with nodes", "left", "resets"];

    fn cells(&self) -> Vec<String> {
        let amount =
            |number: u64, usd: &Option<String>| usd.as_ref().map_or(number.to_string(), |usd| format!("${usd}"));
        vec![
            self.scope.clone(),
            self.dimension.clone(),
            self.window.to_owned(),
            or_dash(self.first_day.as_ref()),
            amount(self.limit, &self.limit_usd),
            amount(self.settled, &self.settled_usd),
            amount(self.granted, &self.granted_usd),
            amount(self.left, &self.left_usd),
            or_dash(self.resets_at.as_ref()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(dimension: &str) -> BalanceView {
        BalanceView::of(proto::Balance {
            scope: "workspace".to_owned(),
            dimension: dimension.to_owned(),
            window: proto::Window::Month.into(),
            first_day: Some("2026-11-01".to_owned()),
            limit: 5_000_000_000,
            settled: 1_000_000_000,
            granted: 500_000_000,
            resets_at_ms: None,
        })
    }

    #[test]
    fn what_is_left_of_a_limit_is_neither_settled_nor_with_a_node() {
        let money = balance("spend");
        assert_eq!((money.left, money.left_usd.as_deref()), (3_500_000_000, Some("3.50")));
        assert_eq!(money.cells()[..4], ["workspace", "spend", "month", "2026-11-01"]);
        assert_eq!(money.cells()[4..], ["$5.00", "$1.00", "$0.50", "$3.50", "-"]);
        assert_eq!(balance("requests").cells()[4], "5000000000");
        assert_eq!(money.cells().len(), BalanceView::COLUMNS.len());
    }

    #[test]
    fn costs_are_exact() {
        let view = UsageView::of(proto::UsageRow { cost_nano_usd: 1_234_567, ..Default::default() });
        assert_eq!((view.cost_usd.as_str(), view.cost_nano_usd), ("0.001234567", 1_234_567));
        assert_eq!(view.cells().len(), UsageView::COLUMNS.len());
    }
}
