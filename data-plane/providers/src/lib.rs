//! Provider dialects: what clients and providers write to each other, read and metered without a socket.
//!
//! Everything here is pure and synchronous, bytes in and bytes out, and total: no input makes it panic, and its memory is
//! bounded by the input. In reading order:
//!
//! * [`exchange`]: one request to one provider and its answer back, whatever either of them speaks
//! * [`chat`] and [`embeddings`]: the hub forms that translations go through; [`translate`]: the seam to a provider that speaks something else
//! * `form`: what is put around an answer whose form a provider cannot be asked for, and taken off again
//! * [`dialect`]: what KeyForge itself says in a client's dialect, errors and keep-alives
//! * [`patch`]: a body changed in places, the rest passed on as the same bytes
//! * [`sse`]: an event stream cut into whole events
//! * [`refusal`] and [`verdict`]: what cannot be served or used, and what becomes of each event of a stream
//! * [`fault`]: who failed, whether another credential may help, and when
//! * [`headroom`]: what is left of an account's limits
//! * [`redact`]: what identifies an account, taken out of a text
//! * [`bound`]: the most input tokens that a request can be billed, by what is known of the host ([`metering`])
//! * `credible`: what is believed of counts and kept of names
//! * [`picture`] and `sound`: how large and how long media are, from their first bytes
//! * [`openai`]: chat completions: request scan and rewrite, answer, stream, faults, and to and from the hub form
//! * [`anthropic`] and [`google`]: from and to the hub form, and their faults

pub mod anthropic;
pub mod bound;
pub mod chat;
mod credible;
pub mod dialect;
pub mod embeddings;
pub mod exchange;
pub mod fault;
mod form;
pub mod google;
pub mod headroom;
mod json;
pub mod metering;
pub mod openai;
pub mod patch;
pub mod picture;
mod plain_run;
pub mod redact;
pub mod refusal;
mod sound;
pub mod sse;
mod tally;
pub mod translate;
mod translated;
pub mod verdict;
