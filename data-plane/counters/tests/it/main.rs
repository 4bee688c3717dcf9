//! The counter stores, seen from outside.

mod conformance;
mod differential;
mod memory;
mod random;
mod scripts;
