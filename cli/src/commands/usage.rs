//! `keyforge usage`: what keys used and what it cost, and for one key how much of its limits is left.

use clap::{Args, ValueEnum};
use keyforge_proto::admin::v1 as proto;
use keyforge_shared::money::NanoUsd;
use serde::Serialize;

use super::balance::BalanceView;
use super::key_id;
use crate::client::{AdminArgs, AdminClient, pages};
use crate::errors::Failure;
use crate::limit_syntax;
use crate::output::{Row, table};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_exact() {
        let view = UsageView::of(proto::UsageRow { cost_nano_usd: 1_234_567, ..Default::default() });
        assert_eq!((view.cost_usd.as_str(), view.cost_nano_usd), ("0.001234567", 1_234_567));
        assert_eq!(view.cells().len(), UsageView::COLUMNS.len());
    }
}
