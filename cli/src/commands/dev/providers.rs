//! Which providers a `keyforge dev` has: keys of its environment go into the vault once; without any, a sandbox provider answers in this process.
//!
//! A provider that has a credential, enabled or not, is never imported again, and the sandbox never takes the place of a real credential:
//! what an operator disabled stays disabled.

use std::net::SocketAddr;

use keyforge_loadtest::provider::{Script, ScriptedProvider};
use keyforge_proto::admin::v1 as proto;
use keyforge_runtime::config::env_var;
use prost_types::FieldMask;

use super::super::credential;
use crate::client::AdminClient;
use crate::errors::Failure;

/// Marks the credential that leads to the sandbox.
const SANDBOX: &str = "keyforge-sandbox";
const SANDBOX_PROVIDERS: [&str; 3] = ["openai", "anthropic", "google"];

/// A provider key that the environment may hold.
struct FromEnv {
    provider: &'static str,
    key: &'static str,
    base_url: Option<&'static str>,
}

const FROM_ENV: [FromEnv; 3] = [
    FromEnv { provider: "openai", key: "OPENAI_API_KEY", base_url: Some("OPENAI_BASE_URL") },
    FromEnv { provider: "anthropic", key: "ANTHROPIC_API_KEY", base_url: None },
    FromEnv { provider: "google", key: "GEMINI_API_KEY", base_url: None },
];

/// The providers that requests can go to.
pub(in crate::commands) struct Providers {
    /// Providers with an enabled credential, each once, without the sandbox.
    pub(super) real: Vec<String>,
    /// What a person should know about how they came to be.
    pub(super) notes: Vec<String>,
    sandbox: Option<ScriptedProvider>,
}

impl Providers {
    /// Imports what the environment holds and is not in the vault, and starts or retires the sandbox.
    pub(in crate::commands) async fn set_up(client: &AdminClient, own: SocketAddr) -> Result<Self, Failure> {
        let mut vault = credential::list(client, None).await?;
        let mut notes = Vec::new();
        for source in FROM_ENV {
            if vault.iter().any(|known| known.provider == source.provider && !is_sandbox(known)) {
                continue;
            }
            match import(&source, own, env_var) {
                Import::Nothing => {}
                Import::Note(note) => notes.push(note),
                Import::Add(request) => {
                    let added = client.credentials().add_credential(request).await?;
                    notes.push(format!("{} was imported into the vault", source.key));
                    vault.push(added.into_inner());
                }
            }
        }
        let sandbox = sandbox(client, &vault, &mut notes).await?;
        let mut real: Vec<String> =
            vault.into_iter().filter(|known| known.enabled && !is_sandbox(known)).map(|known| known.provider).collect();
        real.sort();
        real.dedup();
        Ok(Self { real, notes, sandbox })
    }

    /// Base URL of the sandbox, if there is one.
    pub(in crate::commands) fn sandbox_url(&self) -> Option<String> {
        self.sandbox.as_ref().map(ScriptedProvider::base_url)
    }

    /// Whether answers come from the sandbox.
    pub(super) const fn is_sandbox(&self) -> bool {
        self.sandbox.is_some()
    }
}

fn is_sandbox(credential: &proto::Credential) -> bool {
    credential.limit_group == SANDBOX
}

enum Import {
    Nothing,
    Note(String),
    Add(proto::AddCredentialRequest),
}

/// What to do about one provider key of the environment.
fn import(source: &FromEnv, own: SocketAddr, env: impl Fn(&str) -> Option<String>) -> Import {
    let Some(secret) = env(source.key) else { return Import::Nothing };
    // Whoever points clients at KeyForge by the same variables would make it its own provider.
    if secret.starts_with("vk_") {
        return Import::Note(format!("{} holds a virtual key, so it was not imported as a provider key", source.key));
    }
    let mut base_url = source.base_url.and_then(&env).unwrap_or_default();
    let host = base_url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    if host == own.to_string() || host == format!("localhost:{}", own.port()) {
        base_url.clear();
    }
    Import::Add(proto::AddCredentialRequest {
        provider: source.provider.to_owned(),
        secret: secret.into_bytes(),
        base_url,
        ..proto::AddCredentialRequest::default()
    })
}

/// Starts the sandbox when there is no real credential, and retires it when there is one. It stands for every provider whose language it speaks.
async fn sandbox(
    client: &AdminClient,
    vault: &[proto::Credential],
    notes: &mut Vec<String>,
) -> Result<Option<ScriptedProvider>, Failure> {
    if !vault.iter().all(is_sandbox) {
        let enabled: Vec<_> = vault.iter().filter(|known| is_sandbox(known) && known.enabled).collect();
        for known in &enabled {
            client.credentials().update_credential(credential::enabled(known.id.clone(), false)).await?;
        }
        if !enabled.is_empty() {
            notes.push("the sandbox is switched off: requests go to the real provider from now on".to_owned());
        }
        return Ok(None);
    }
    let provider = ScriptedProvider::start(Script::sandbox())
        .map_err(|error| Failure::refused(format!("the sandbox provider cannot listen: {error}")))?;
    for name in SANDBOX_PROVIDERS {
        let base_url = provider.base_url();
        match vault.iter().find(|known| known.provider == name) {
            Some(known) => {
                let paths = ["enabled", "base_url"].map(str::to_owned).to_vec();
                let request = proto::UpdateCredentialRequest {
                    id: known.id.clone(),
                    enabled: true,
                    base_url,
                    update_mask: Some(FieldMask { paths }),
                    ..proto::UpdateCredentialRequest::default()
                };
                client.credentials().update_credential(request).await?;
            }
            None => {
                let request = proto::AddCredentialRequest {
                    provider: name.to_owned(),
                    // The sandbox takes any key; this one opens nothing.
                    secret: b"sandbox-key-without-value".to_vec(),
                    pool: String::new(),
                    base_url,
                    limit_group: SANDBOX.to_owned(),
                    weight: 0,
                };
                client.credentials().add_credential(request).await?;
            }
        }
    }
    Ok(Some(provider))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(env: &[(&str, &str)]) -> Import {
        let own = "127.0.0.1:8080".parse().unwrap();
        import(&FROM_ENV[0], own, |name| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_key_of_the_environment_is_imported_with_its_base_url() {
        let env = [("OPENAI_API_KEY", "sk-1"), ("OPENAI_BASE_URL", "https://llm.internal/v1")];
        let Import::Add(request) = imported(&env) else { panic!("not imported") };
        assert_eq!((request.provider.as_str(), request.secret.as_slice()), ("openai", b"sk-1".as_slice()));
        assert_eq!(request.base_url, "https://llm.internal/v1");
        assert!(matches!(imported(&env[1..]), Import::Nothing));
    }

    #[test]
    fn a_gateway_is_never_its_own_provider() {
        let Import::Note(note) = imported(&[("OPENAI_API_KEY", "vk_0123456789ab_secret")]) else { panic!("imported") };
        assert!(note.contains("OPENAI_API_KEY") && !note.contains("secret"), "{note}");
        for own in ["http://127.0.0.1:8080/v1", "http://localhost:8080/v1", "http://127.0.0.1:8080"] {
            let Import::Add(request) = imported(&[("OPENAI_API_KEY", "sk-1"), ("OPENAI_BASE_URL", own)]) else {
                panic!()
            };
            assert_eq!(request.base_url, "", "{own}");
        }
    }
}
