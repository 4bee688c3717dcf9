//! A deployment: one model at one provider with one key, as a gateway's configuration lists it.

use keyforge_shared::catalog::Operation;
use keyforge_shared::money::PicoUsdPerToken;
use keyforge_shared::provider;

/// Where a provider key is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KeySource {
    /// In the environment, under this name.
    Env(String),
    /// In the file itself, under the path of this field. It is not copied out of it.
    Literal(String),
}

/// One model at one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Deployment {
    /// Where it is in the file, such as `model_list[2]`.
    pub(super) place: String,
    /// What agents call it; `*` in it stands for any text.
    pub(super) name: String,
    pub(super) provider: String,
    /// What the provider calls it; `*` for all it has.
    pub(super) upstream_name: String,
    /// Empty for the provider's public API.
    pub(super) base_url: String,
    pub(super) key: KeySource,
    /// 0 when the file names none.
    pub(super) weight: u32,
    pub(super) operation: Operation,
    pub(super) context_tokens: Option<u64>,
    pub(super) max_output_tokens: Option<u64>,
    /// Of input and output.
    pub(super) prices: Option<(PicoUsdPerToken, PicoUsdPerToken)>,
    /// The catalogue's name of a model that is deployed under another.
    pub(super) base_model: Option<String>,
}

impl Deployment {
    /// Whether it stands for all models of its provider.
    pub(super) fn is_wildcard(&self) -> bool {
        self.name.contains('*') || self.upstream_name.contains('*')
    }
}

/// Something that is not carried over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// The path of the field.
    pub(super) place: String,
    pub(super) why: String,
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Config {
    pub(super) deployments: Vec<Deployment>,
    pub(super) left_out: Vec<LeftOut>,
}

impl Config {
    pub(super) fn leave_out(&mut self, place: impl Into<String>, why: impl Into<String>) {
        self.left_out.push(LeftOut { place: place.into(), why: why.into() });
    }
}

/// The provider that a base URL of a host without a name of its own gets: its host's labels, as far as a provider's name allows.
pub(super) fn provider_of_host(base_url: &str) -> Option<String> {
    let rest = base_url.split_once("://")?.1;
    let host = rest.split(['/', '?', '#']).next()?.rsplit('@').next()?;
    let name: String =
        host.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let name = name.trim_matches('-').to_owned();
    (!name.is_empty() && provider::known(&name).is_none()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_provider_of_its_own() {
        assert_eq!(provider_of_host("https://llm.internal:8000/v1").unwrap(), "llm-internal-8000");
        assert_eq!(provider_of_host("http://user:secret@10.0.0.1/v1").unwrap(), "10-0-0-1");
        assert_eq!(provider_of_host("llm.internal"), None);
        assert_eq!(provider_of_host("https://openai/v1"), None, "not taken for the provider of that name");
    }
}
