//! Provider dialects: what clients and providers write to each other, read and metered without a socket.
//!
//! Everything here is pure and synchronous, bytes in and bytes out, and total: no input makes it panic, and its memory is
//! bounded by the input. In reading order:
//!
//! * [`dialect`]: what KeyForge itself says in a client's dialect, errors and keep-alives
//! * [`patch`]: a body changed in places, the rest passed on as the same bytes
//! * [`sse`]: an event stream cut into whole events
//! * [`fault`]: who failed, whether another credential may help, and when
//! * [`redact`]: what identifies an account, taken out of a text
//! * [`bound`]: the most input tokens that a request can be billed, by what is known of the host ([`metering`])
//! * [`picture`] and [`sound`]: how large and how long media are, from their first bytes
//! * [`openai`]: chat completions: request scan and rewrite, answer, stream, faults

pub mod bound;
pub mod dialect;
pub mod fault;
mod json;
pub mod metering;
pub mod openai;
pub mod patch;
pub mod picture;
mod plain_run;
pub mod redact;
pub mod sound;
pub mod sse;
mod tally;
