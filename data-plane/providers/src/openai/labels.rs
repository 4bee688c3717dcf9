//! What an answer says of itself beside its content, in whole and in pieces: id, model, why it ended.

use crate::chat::response::Finish;
use crate::exchange::Stamp;

/// How ids of chat completions begin.
const PREFIX: &str = "chatcmpl-";

/// The provider's id, or that of the stamp; some clients want the usual beginning.
pub(super) fn id(provider: &str, stamp: &Stamp) -> String {
    let id = if provider.is_empty() { stamp.id.as_str() } else { provider };
    if id.starts_with(PREFIX) { id.to_owned() } else { format!("{PREFIX}{id}") }
}

/// The model that answered, or if the provider does not say the one that was asked for.
pub(super) fn model<'a>(answered: &'a str, stamp: &'a Stamp) -> &'a str {
    if answered.is_empty() { &stamp.model } else { answered }
}

/// OpenAI's word for why an answer ended: clients that check know no others. And the provider's own, where there is no such word.
pub(super) fn finish(finish: &Finish, has_calls: bool) -> (&'static str, Option<&str>) {
    match finish {
        // Agents run calls by this word.
        Finish::Stop if has_calls => ("tool_calls", None),
        Finish::Stop => ("stop", None),
        Finish::Length => ("length", None),
        Finish::ToolCalls => ("tool_calls", None),
        Finish::ContentFilter => ("content_filter", None),
        Finish::Other(word) => ("stop", Some(word)),
    }
}
