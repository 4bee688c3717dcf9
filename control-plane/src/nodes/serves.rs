//! Which providers a node serves: it is given the secrets of these and of no others.

use keyforge_shared::catalog::ProviderName;

/// Most providers that may be named.
const MOST: usize = 64;

/// Providers that a node serves; as it was decided when its join token was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serves {
    /// Sorted, each once; empty for all.
    names: Vec<String>,
}

impl Serves {
    /// Those with these names; all without any.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    pub fn only(names: Vec<String>, is_provider: impl Fn(&str) -> bool) -> Result<Self, String> {
        if names.len() > MOST {
            return Err(format!("providers: at most {MOST}"));
        }
        // By its place: what is no provider may be a secret that was pasted here, and errors are recorded.
        if let Some(unknown) = names.iter().position(|name| !is_provider(name)) {
            return Err(format!("providers[{unknown}]: no provider of this name has a credential or a model"));
        }
        let mut names = names;
        names.sort_unstable();
        names.dedup();
        Ok(Self { names })
    }

    /// As it is stored.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self { names: text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect() }
    }

    /// To be stored.
    #[must_use]
    pub fn text(&self) -> String {
        self.names.join(",")
    }

    /// Their names; none for all.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether this provider's secrets are for the node.
    #[must_use]
    pub fn includes(&self, provider: &ProviderName) -> bool {
        self.names.is_empty() || self.names.contains(&provider.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_serves_the_providers_that_are_named_or_all() {
        let known = |name: &str| name != "opneai";
        let some = Serves::only(vec!["openai".into(), "anthropic".into(), "openai".into()], known).unwrap();
        assert_eq!((some.text().as_str(), Serves::parse("anthropic,openai") == some), ("anthropic,openai", true));
        let provider = |name: &str| ProviderName(name.to_owned());
        assert!(some.includes(&provider("openai")) && !some.includes(&provider("google")));
        assert!(Serves::parse("").includes(&provider("google")) && Serves::default().names().is_empty());
        let error = Serves::only(vec!["openai".into(), "opneai".into()], known).unwrap_err();
        assert!(error.contains("providers[1]") && !error.contains("opneai"), "{error}");
    }
}
