//! What an import did, a line each.

use keyforge_control_plane::admin::credentials::NewCredential;
use serde::Serialize;

use super::deployment::LeftOut;
use super::plan::Step;
use crate::output::Row;

/// What became of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// It is new.
    Added,
    /// It would be.
    WouldAdd,
    /// It was there.
    Kept,
    /// It was not carried over.
    LeftOut,
    /// The control plane refused it.
    Refused,
}

/// One line.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    outcome: Outcome,
    what: String,
    /// The path in the file.
    place: String,
}

impl Line {
    pub(super) fn planned(step: &Step) -> Self {
        Self::of(step, Outcome::WouldAdd)
    }

    pub(super) fn done(step: &Step) -> Self {
        Self::of(step, Outcome::Added)
    }

    fn of(step: &Step, outcome: Outcome) -> Self {
        match step {
            Step::Credential { place, new: NewCredential { provider, base_url, limit_group, .. } } => {
                let at = if base_url.is_empty() { String::new() } else { format!(" at {base_url}") };
                Self { outcome, what: format!("credential of {provider}{at} from {limit_group}"), place: place.clone() }
            }
            Step::Model { place, entry, note } => {
                let note = note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
                let what = format!("model {}: {} of {}{note}", entry.name, entry.upstream_name, entry.provider);
                Self { outcome, what, place: place.clone() }
            }
            Step::Kept { place, what } => Self { outcome: Outcome::Kept, what: what.clone(), place: place.clone() },
        }
    }

    /// The same thing, which the control plane refused for this reason.
    pub(super) fn refused(self, why: &str) -> Self {
        Self { outcome: Outcome::Refused, what: format!("{}: {why}", self.what), ..self }
    }

    /// Whether the control plane refused it.
    pub(super) fn is_refused(&self) -> bool {
        self.outcome == Outcome::Refused
    }

    pub(super) fn left_out(LeftOut { place, why }: LeftOut) -> Self {
        Self { outcome: Outcome::LeftOut, what: why, place }
    }
}

impl Row for Line {
    const COLUMNS: &'static [&'static str] = &["OUTCOME", "WHAT", "PLACE"];

    fn cells(&self) -> Vec<String> {
        let outcome = match self.outcome {
            Outcome::Added => "added",
            Outcome::WouldAdd => "would add",
            Outcome::Kept => "kept",
            Outcome::LeftOut => "left out",
            Outcome::Refused => "refused",
        };
        vec![outcome.to_owned(), self.what.clone(), self.place.clone()]
    }
}
