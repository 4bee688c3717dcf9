//! The body of a client's request, chat or embeddings.
#![no_main]

#[path = "../../tests/it/entry_points.rs"]
#[allow(dead_code, reason = "each target calls one of them")]
mod entry_points;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry_points::request(bytes));
