//! The providers that are known by name: where their API is, what it speaks, and which header carries a credential.
//!
//! A provider with any other name is a host that speaks OpenAI's chat completions at the base URL of its credentials.

/// What a provider's API speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// OpenAI's `/chat/completions` and `/embeddings`, also spoken by most other hosts.
    OpenAi,
    /// Anthropic's `/messages`.
    Anthropic,
    /// Google's `:generateContent`, `:streamGenerateContent` and `:batchEmbedContents`.
    Google,
}

/// The header that carries a credential's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecretHeader {
    /// `authorization: Bearer SECRET`.
    Bearer,
    /// `x-api-key: SECRET`.
    XApiKey,
    /// `x-goog-api-key: SECRET`.
    XGoogApiKey,
    /// `api-key: SECRET`.
    ApiKey,
}

/// How one provider is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provider {
    /// The lower-case word that models and credentials name it by.
    pub name: &'static str,
    /// Its public address with the version path and without a trailing slash; `None` where each customer has an own one.
    pub base_url: Option<&'static str>,
    /// What it speaks.
    pub api: Api,
    /// Where the secret goes.
    pub secret_header: SecretHeader,
}

const fn openai(name: &'static str, base_url: Option<&'static str>) -> Provider {
    Provider { name, base_url, api: Api::OpenAi, secret_header: SecretHeader::Bearer }
}

/// The known providers. Addresses are those of their API references (2026-11).
pub const KNOWN: [Provider; 17] = [
    openai("openai", Some("https://api.openai.com/v1")),
    Provider {
        name: "anthropic",
        base_url: Some("https://api.anthropic.com/v1"),
        api: Api::Anthropic,
        secret_header: SecretHeader::XApiKey,
    },
    Provider {
        name: "google",
        base_url: Some("https://generativelanguage.googleapis.com/v1beta"),
        api: Api::Google,
        secret_header: SecretHeader::XGoogApiKey,
    },
    Provider { name: "azure", base_url: None, api: Api::OpenAi, secret_header: SecretHeader::ApiKey },
    openai("mistral", Some("https://api.mistral.ai/v1")),
    openai("groq", Some("https://api.groq.com/openai/v1")),
    openai("deepseek", Some("https://api.deepseek.com/v1")),
    openai("xai", Some("https://api.x.ai/v1")),
    openai("together", Some("https://api.together.xyz/v1")),
    openai("fireworks", Some("https://api.fireworks.ai/inference/v1")),
    openai("openrouter", Some("https://openrouter.ai/api/v1")),
    openai("cerebras", Some("https://api.cerebras.ai/v1")),
    openai("perplexity", Some("https://api.perplexity.ai")),
    openai("huggingface", Some("https://router.huggingface.co/v1")),
    openai("zai", Some("https://api.z.ai/api/paas/v4")),
    openai("ollama", Some("http://127.0.0.1:11434/v1")),
    openai("vllm", None),
];

/// A host that is not known by name.
const OTHER: Provider = openai("", None);

/// How the provider of this name is called.
#[must_use]
pub fn of(name: &str) -> &'static Provider {
    known(name).unwrap_or(&OTHER)
}

/// The provider of this name, if it is known.
#[must_use]
pub fn known(name: &str) -> Option<&'static Provider> {
    KNOWN.iter().find(|provider| provider.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_other_name_is_a_host_of_openais_api() {
        assert_eq!((of("my-gpu-farm").api, of("my-gpu-farm").base_url), (Api::OpenAi, None));
        assert_eq!(of("anthropic").secret_header, SecretHeader::XApiKey);
    }

    #[test]
    fn base_urls_are_addresses_without_a_trailing_slash() {
        for url in KNOWN.iter().filter_map(|provider| provider.base_url) {
            assert!(url.starts_with("http") && !url.ends_with('/'), "{url}");
        }
    }
}
