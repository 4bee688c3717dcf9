//! Collects everything that is wrong with a configuration, each problem at its path, so that an operator fixes all of
//! it in one round instead of one problem per start.

use std::fmt;
use std::net::SocketAddr;

use super::ConfigError;

/// One thing that is wrong: where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The dotted path of the key, such as `listen.agents`.
    pub at: String,
    /// What is wrong with it; never a secret.
    pub message: String,
}

/// The problems found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    found: Vec<Problem>,
}

impl Problems {
    /// No problems.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a problem at a dotted path.
    pub fn push(&mut self, at: impl Into<String>, message: impl fmt::Display) {
        self.found.push(Problem { at: at.into(), message: message.to_string() });
    }

    /// Records the error of a result, and hands on its value.
    pub fn check<T, E: fmt::Display>(&mut self, at: impl Into<String>, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.push(at, error)).ok()
    }

    /// Records `message` unless `holds`.
    pub fn require(&mut self, at: impl Into<String>, holds: bool, message: impl fmt::Display) {
        if !holds {
            self.push(at, message);
        }
    }

    /// Reads a socket address.
    pub fn address(&mut self, at: impl Into<String>, text: &str) -> Option<SocketAddr> {
        let parsed = text.parse().map_err(|_| format!("{text:?} is not an address such as 127.0.0.1:8080"));
        self.check(at, parsed)
    }

    /// What was found, in the order in which it was found.
    #[must_use]
    pub fn found(&self) -> &[Problem] {
        &self.found
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Ends the check: all problems at once, or `Ok`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when there is any problem.
    pub fn into_result(self) -> Result<(), ConfigError> {
        if self.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(self)) }
    }

    /// Ends the check of a shape whose parts came from [`Problems::check`]: `checked` is `Some` when every part was.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when there is any problem, or when `checked` is missing.
    pub fn finish<T>(mut self, checked: Option<T>) -> Result<T, ConfigError> {
        match checked {
            Some(checked) if self.is_empty() => Ok(checked),
            _ => {
                if self.is_empty() {
                    self.push("", "a part is missing, and its check did not say which");
                }
                Err(ConfigError::Invalid(self))
            }
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { at, message }) in self.found.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            let colon = if at.is_empty() { "" } else { ": " };
            write!(f, "{line_break}  {at}{colon}{message}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_reported_at_once_each_with_its_path() {
        let mut problems = Problems::new();
        assert_eq!(problems.address("listen.agents", "everywhere"), None);
        assert!(problems.address("listen.ops", "127.0.0.1:9090").is_some());
        assert_eq!(problems.check("drain.seconds", "x".parse::<u64>()), None);
        problems.require("limits.connections", false, "must be at least 1");
        assert_eq!(problems.found().len(), 3);
        assert_eq!(
            problems.finish(None::<()>).unwrap_err().to_string(),
            "the configuration has 3 problems:\n  listen.agents: \"everywhere\" is not an address such as \
             127.0.0.1:8080\n  drain.seconds: invalid digit found in string\n  limits.connections: must be at least 1"
        );
    }

    #[test]
    fn shape_without_problems_is_handed_on() {
        assert_eq!(Problems::new().finish(Some(7)).unwrap(), 7);
        assert!(Problems::new().finish(None::<()>).is_err());
        assert!(Problems::new().into_result().is_ok());
    }
}
