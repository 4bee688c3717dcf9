//! OpenAI's embeddings.
//!
//! * `scan`, with `inputs`: the request as it is scanned and rewritten for a host of the same API
//! * `reading`: the request in hub form
//! * `answer`: what a host of the same API answered, metered
//! * `written`: an answer in hub form, as OpenAI writes it

mod answer;
mod inputs;
mod reading;
mod scan;
mod written;

pub use self::answer::read_answer;
pub use self::inputs::MOST_INPUTS;
pub use self::reading::read;
pub use self::scan::{EmbeddingsRequest, Encoding, scan};
pub use self::written::write;

#[cfg(test)]
mod tests;
