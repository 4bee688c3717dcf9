//! OpenAI's chat completions: the request as it is scanned and rewritten, the answer and the stream as they are metered.
//!
//! In the order of a request's life: [`request`] and [`content`], [`rewrite`], then [`response`] or [`stream`], both
//! through [`usage`], or else [`fault`].

pub mod content;
pub mod fault;
mod fields;
mod produced;
mod reading;
pub mod request;
pub mod response;
mod retry;
pub mod rewrite;
mod scanner;
pub mod stream;
pub mod usage;
