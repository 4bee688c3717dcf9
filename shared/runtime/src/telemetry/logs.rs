//! The shape of a log line. Lines go to the standard error; who collects them decides what becomes of them.

use std::io;

use tracing_subscriber::fmt;
use tracing_subscriber::{Layer, Registry};

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line, for collectors.
    Json,
    /// One line of text, for people.
    #[default]
    Text,
}

pub(super) fn layer(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let lines = fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
        LogFormat::Text => lines.boxed(),
    }
}
