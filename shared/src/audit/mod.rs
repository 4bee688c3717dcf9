//! Audit: what is recorded about each request and each act of administration, and how entries are chained.
//!
//! * [`canonical`]: the one binary encoding, read and written
//! * [`request`], [`admin`], [`gap`], [`unchained`]: the four kinds of records; [`record`] tells them apart
//! * [`subject`]: what the last two begin with
//! * [`chain`]: genesis, links and heads under HMAC-SHA256, and the verifier
//!
//! `docs/audit-format.md` describes the same byte by byte, with test vectors.

pub mod admin;
pub mod canonical;
pub mod chain;
pub mod gap;
pub mod record;
pub mod request;
pub mod subject;
pub mod unchained;

#[cfg(test)]
mod vectors;
