//! The `keyforge` command as its users meet it: the real binary, its exit codes and its words, against a `keyforge dev` of its own.

mod admin;
mod command;
mod dev;
mod drain;
mod planes;
mod refusals;
