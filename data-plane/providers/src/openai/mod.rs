//! OpenAI's chat completions: the request as it is scanned and rewritten, the answer and the stream as they are metered.
//!
//! In the order of a request's life: [`request`] and [`content`], [`rewrite`], then [`response`] or [`stream`], both
//! through [`usage`], or else [`fault`]. To and from the hub form: [`conversation`], then `completion` or `chunk`.
//! [`embeddings`] has all of that for the other endpoint.

pub(crate) mod chunk;
pub(crate) mod completion;
pub mod content;
pub mod conversation;
mod echo;
mod effort;
pub mod embeddings;
pub mod fault;
mod fields;
pub mod headroom;
mod labels;
mod offer;
mod parts;
mod produced;
mod reading;
pub mod request;
pub mod response;
mod retry;
pub mod rewrite;
mod scanner;
pub mod stream;
mod thoughts;
mod turns;
pub mod usage;
mod walk;
