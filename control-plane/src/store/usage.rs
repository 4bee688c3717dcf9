//! Sums over entries per key, day and model, kept in the transaction that chains the entries.
//!
//! They are a convenience for reports and can be recomputed from the chains; no decision is made on them. Sums stop at 2^63 - 1.

use std::collections::BTreeMap;

use keyforge_shared::id::{KeyId, WorkspaceId};
use keyforge_shared::period::CivilDay;

use super::StoreError;
use super::sql::{self, Conn, Row, sum_up_to_most};

/// What requests used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageSums {
    /// Attempts that counted as requests.
    pub requests: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Fresh input tokens.
    pub input_tokens: u64,
    /// Input tokens read from the provider's cache.
    pub cache_read_tokens: u64,
    /// Input tokens written to the provider's cache.
    pub cache_write_tokens: u64,
    /// Output tokens, reasoning included.
    pub output_tokens: u64,
    /// Reasoning tokens.
    pub reasoning_tokens: u64,
    /// Nano-dollars.
    pub cost: u64,
}

impl UsageSums {
    const fn fields(&self) -> [u64; 8] {
        [
            self.requests,
            self.refused,
            self.input_tokens,
            self.cache_read_tokens,
            self.cache_write_tokens,
            self.output_tokens,
            self.reasoning_tokens,
            self.cost,
        ]
    }

    const fn from_fields(fields: [u64; 8]) -> Self {
        let [requests, refused, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, rest @ ..] = fields;
        let [reasoning_tokens, cost] = rest;
        Self {
            requests,
            refused,
            input_tokens,
            cache_read_tokens,
            cache_write_tokens,
            output_tokens,
            reasoning_tokens,
            cost,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let (a, b) = (self.fields(), other.fields());
        Self::from_fields(std::array::from_fn(|field| a[field].saturating_add(b[field])))
    }
}

/// What one key used of one model on one day.
#[derive(Clone, Debug)]
pub struct DayUsage {
    /// Whose.
    pub key: KeyId,
    /// Number of the day in the key's calendar, see [`CivilDay`].
    pub day: u32,
    /// The catalogue model asked for; may be empty.
    pub model: String,
    /// How much.
    pub sums: UsageSums,
}

/// Adds to the stored sums, in one statement.
///
/// # Errors
/// [`StoreError`].
pub async fn add(conn: &mut Conn, usage: &[DayUsage]) -> Result<(), StoreError> {
    // Nodes say day and model. A day that no calendar has would not be found again by its name, and not every database keeps a text with a NUL.
    let mut sums: BTreeMap<(&str, u32, String), UsageSums> = BTreeMap::new();
    for row in usage {
        let day = CivilDay::from_number(row.day).number();
        let sum = sums.entry((row.key.as_str(), day, row.model.replace('\0', "\u{fffd}"))).or_default();
        *sum = sum.plus(&row.sums);
    }
    let rows: Vec<_> = sums
        .into_iter()
        .map(|(name, sums)| (name, sums.fields().map(|sum| sum.min(i64::MAX.unsigned_abs()))))
        .collect();
    sql::query(conn.either(ADD_IN_SQLITE, ADD_IN_POSTGRES))
        .bind(serde_json::to_string(&rows).map_err(|_| StoreError::Range("usage"))?)
        .execute(conn)
        .await?;
    Ok(())
}

macro_rules! add {
    ($($given:literal),*) => {
        concat!(
            "INSERT INTO usage_by_day (key_id, day, model, requests, refused, input_tokens, cache_read_tokens, \
                 cache_write_tokens, output_tokens, reasoning_tokens, cost) SELECT ",
            $($given,)*
            " WHERE true ON CONFLICT (key_id, day, model) DO UPDATE SET ",
            sum_up_to_most!("usage_by_day", "requests"), ", ", sum_up_to_most!("usage_by_day", "refused"), ", ",
            sum_up_to_most!("usage_by_day", "input_tokens"), ", ", sum_up_to_most!("usage_by_day", "cache_read_tokens"), ", ",
            sum_up_to_most!("usage_by_day", "cache_write_tokens"), ", ", sum_up_to_most!("usage_by_day", "output_tokens"), ", ",
            sum_up_to_most!("usage_by_day", "reasoning_tokens"), ", ", sum_up_to_most!("usage_by_day", "cost")
        )
    };
}

const ADD_IN_SQLITE: &str = add!(
    "value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[0][2]', value ->> '$[1][0]', value ->> '$[1][1]', value ->> '$[1][2]', \
     value ->> '$[1][3]', value ->> '$[1][4]', value ->> '$[1][5]', value ->> '$[1][6]', value ->> '$[1][7]' FROM json_each($1)"
);

const ADD_IN_POSTGRES: &str = add!(
    "value #>> '{0,0}', (value #>> '{0,1}')::bigint, value #>> '{0,2}', (value #>> '{1,0}')::bigint, (value #>> '{1,1}')::bigint, \
     (value #>> '{1,2}')::bigint, (value #>> '{1,3}')::bigint, (value #>> '{1,4}')::bigint, (value #>> '{1,5}')::bigint, \
     (value #>> '{1,6}')::bigint, (value #>> '{1,7}')::bigint FROM json_array_elements($1::json)"
);

/// What the rows of a report are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// Virtual keys.
    Key,
    /// Models.
    Model,
    /// Days.
    Day,
}

/// Which sums a report asks for.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    /// Of one workspace's keys only.
    pub workspace: Option<WorkspaceId>,
    /// Of one key only.
    pub key: Option<KeyId>,
    /// By what.
    pub grouping: Grouping,
    /// First day, in each key's own calendar; `None` for the beginning.
    pub from_day: Option<CivilDay>,
    /// First day after; `None` for no end.
    pub until_day: Option<CivilDay>,
    /// Continue after the group of this name, which a former page ended with.
    pub after: Option<String>,
    /// Most rows.
    pub limit: u32,
}

macro_rules! grouped_by {
    ($group:literal) => {
        grouped_by!($group, "$6 IS NULL")
    };
    ($group:literal, $whose:literal) => {
        concat!(
            "SELECT CAST(", $group, " AS TEXT) AS name, CAST(sum(requests) AS BIGINT), CAST(sum(refused) AS BIGINT), \
                 CAST(sum(input_tokens) AS BIGINT), CAST(sum(cache_read_tokens) AS BIGINT), CAST(sum(cache_write_tokens) AS BIGINT), \
                 CAST(sum(output_tokens) AS BIGINT), CAST(sum(reasoning_tokens) AS BIGINT), CAST(sum(cost) AS BIGINT) \
             FROM usage_by_day \
             WHERE ", $whose, " AND ($1 IS NULL OR key_id = $1) AND ($2 IS NULL OR day >= $2) AND ($3 IS NULL OR day < $3) AND ($4 IS NULL OR ", $group, " > $4) \
             GROUP BY ", $group, " ORDER BY ", $group, " LIMIT $5"
        )
    };
}

/// Sums by group, in the order of groups. Days are named `YYYY-MM-DD`, keys `vk_…`.
///
/// # Errors
/// [`StoreError`].
pub async fn query(conn: &mut Conn, query: &UsageQuery) -> Result<Vec<(String, UsageSums)>, StoreError> {
    // Rows of other workspaces are not even read then, so that how long it takes says nothing about them.
    macro_rules! theirs {
        ($group:literal) => {
            grouped_by!($group, "key_id IN (SELECT key_id FROM virtual_keys WHERE workspace_id = $6)")
        };
    }
    let sql = match (query.grouping, query.workspace) {
        (Grouping::Key, None) => grouped_by!("key_id"),
        (Grouping::Model, None) => grouped_by!("model"),
        (Grouping::Day, None) => grouped_by!("day"),
        (Grouping::Key, Some(_)) => theirs!("key_id"),
        (Grouping::Model, Some(_)) => theirs!("model"),
        (Grouping::Day, Some(_)) => theirs!("day"),
    };
    let day = |text: &str| text.parse::<CivilDay>().ok().map(CivilDay::number);
    let statement = sql::query(sql)
        .bind(query.key.as_ref().map(KeyId::as_str))
        .bind(query.from_day.map(CivilDay::number))
        .bind(query.until_day.map(CivilDay::number));
    let statement = match query.grouping {
        Grouping::Day => statement.bind(query.after.as_deref().and_then(day)),
        Grouping::Key => statement.bind(query.after.as_deref().map(|key| key.trim_start_matches("vk_"))),
        Grouping::Model => statement.bind(query.after.as_deref()),
    };
    let workspace = query.workspace.as_ref().map(|id| id.as_bytes().as_slice());
    let rows = statement.bind(query.limit).bind(workspace).fetch_all(conn).await?;
    rows.iter().map(|row| group(row, query.grouping)).collect()
}

fn group(row: &Row, grouping: Grouping) -> Result<(String, UsageSums), StoreError> {
    let name: String = row.try_get("name")?;
    let mut fields = [0; 8];
    for (index, field) in fields.iter_mut().enumerate() {
        *field = u64::try_from(row.try_get::<i64, _>(index + 1)?).map_err(|_| StoreError::Corrupt("usage_by_day"))?;
    }
    let name = match grouping {
        Grouping::Day => {
            let number = name.parse().map_err(|_| StoreError::Corrupt("day"))?;
            CivilDay::from_number(number).to_string()
        }
        Grouping::Key => format!("vk_{name}"),
        Grouping::Model => name,
    };
    Ok((name, UsageSums::from_fields(fields)))
}
