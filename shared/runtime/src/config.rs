//! Configuration enters the process here, and only here.
//!
//! A file is read into the caller's *raw* shape ([`load`]), which the caller turns into a checked shape while
//! [`Problems`] collects everything that is wrong, so that one start names all of it. Secrets are named by reference
//! ([`SecretRef`]). No error of this module repeats a value that could be a secret.

mod load;
mod problems;
mod secret_ref;

pub use load::{ConfigError, load, parse};
pub use problems::{Problem, Problems};
pub use secret_ref::{SecretError, SecretRef, SecretRefError};

/// The value of an environment variable: `None` when it is unset, empty or not UTF-8.
///
/// An empty variable counts as unset because compose files and charts cannot unset one.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one home of environment reads")]
pub fn env_var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
