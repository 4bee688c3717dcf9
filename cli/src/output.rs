//! What a command prints: a plain table for people, or JSON for programs. Both go to the standard output; nothing else does.
//!
//! JSON is one object or one array per command, with names in snake case. Amounts are decimal texts in US dollars beside integers in
//! nano-dollars, moments are RFC 3339 in UTC. Fields are added over time, never renamed. Tables have no colours and no promise.

use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::Table;
use keyforge_shared::clock::Timestamp;
use serde::Serialize;

use crate::errors::Failure;

/// How answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Columns, for people.
    #[default]
    Table,
    /// One JSON object or array, for programs.
    Json,
}

/// Something that can be one row of a table.
pub trait Row: Serialize {
    /// The names of the columns.
    const COLUMNS: &'static [&'static str];

    /// The texts of the columns, as many as there are names.
    fn cells(&self) -> Vec<String>;
}

impl OutputFormat {
    /// Prints many things: a table with a head, or a JSON array.
    ///
    /// # Errors
    /// The standard output cannot be written to.
    pub fn list<T: Row>(self, rows: &[T]) -> Result<(), Failure> {
        self.either(|| table(rows), &rows)
    }

    /// Prints one thing: a line per column, or a JSON object.
    ///
    /// # Errors
    /// The standard output cannot be written to.
    pub fn one<T: Row>(self, row: &T) -> Result<(), Failure> {
        self.either(|| lines(row), row)
    }

    /// Prints `text`, or `value` as JSON.
    ///
    /// # Errors
    /// The standard output cannot be written to.
    pub fn either<T: Serialize + ?Sized>(self, text: impl FnOnce() -> String, value: &T) -> Result<(), Failure> {
        match self {
            Self::Table => print(&text()),
            Self::Json => {
                let json = serde_json::to_string_pretty(value);
                print(&json.map_err(|error| Failure::refused(format!("the answer cannot be written: {error}")))?)
            }
        }
    }
}

/// Writes text and a line end to the standard output. A reader that has gone away, such as `head`, is no failure.
///
/// # Errors
/// The standard output cannot be written to.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::refused(format!("cannot write to the standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A table with a head and a row for each thing.
#[must_use]
pub fn table<T: Row>(rows: &[T]) -> String {
    let mut table = plain();
    table.set_header(T::COLUMNS.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>());
    table.add_rows(rows.iter().map(|row| printable(row.cells())));
    finished(table)
}

/// A line for each column of one thing.
#[must_use]
pub fn lines<T: Row>(row: &T) -> String {
    let mut table = plain();
    table.add_rows(T::COLUMNS.iter().zip(printable(row.cells())).map(|(name, cell)| vec![(*name).to_owned(), cell]));
    finished(table)
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table
}

fn finished(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Names come from others: what would move a terminal's cursor is not passed on.
fn printable(cells: Vec<String>) -> Vec<String> {
    let clean =
        |cell: String| cell.chars().map(|character| if character.is_control() { '?' } else { character }).collect();
    cells.into_iter().map(clean).collect()
}

/// A moment in RFC 3339, UTC, whole seconds.
#[must_use]
pub fn moment(millis: i64) -> String {
    Timestamp::from_millis(millis).rfc3339()
}

/// A moment in RFC 3339, UTC, with milliseconds.
#[must_use]
pub fn moment_with_millis(millis: i64) -> String {
    let seconds = moment(millis);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), millis.rem_euclid(1_000))
}

/// What a table shows where there is nothing.
#[must_use]
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Thing {
        name: &'static str,
        size: u64,
    }

    impl Row for Thing {
        const COLUMNS: &'static [&'static str] = &["name", "size"];
        fn cells(&self) -> Vec<String> {
            vec![self.name.to_owned(), self.size.to_string()]
        }
    }

    #[test]
    fn tables_are_plain_text_in_columns() {
        let things = [Thing { name: "a longer name", size: 7 }, Thing { name: "b", size: 1234 }];
        assert_eq!(table(&things), "NAME           SIZE\na longer name  7\nb              1234");
        assert_eq!(lines(&things[0]), "name  a longer name\nsize  7");
    }

    #[test]
    fn a_name_cannot_move_the_cursor_of_a_terminal() {
        let text = table(&[Thing { name: "x\u{1b}[2Jy\r\n", size: 1 }]);
        assert!(text.contains("x?[2Jy??") && !text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn an_empty_list_is_a_head_and_no_rows() {
        assert_eq!(table::<Thing>(&[]), "NAME  SIZE");
    }

    #[test]
    fn moments_are_utc() {
        assert_eq!(moment(1_795_327_200_000), "2026-11-22T06:00:00Z");
        assert_eq!(or_dash(None::<u64>), "-");
    }
}
