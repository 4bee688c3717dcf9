//! One file per command. Each holds what the command takes, what it does, and what it shows.

pub mod audit;
mod balance;
pub mod control_plane;
pub mod credential;
pub mod data_plane;
pub mod dev;
pub mod env;
pub mod import;
pub mod key;
pub mod local_cluster;
pub mod model;
pub mod move_database;
pub mod node;
pub mod operator;
mod period_limits;
mod process;
pub mod usage;
pub mod vault;
pub mod workspace;

use keyforge_runtime::config::{SecretRef, SecretRefError};
use keyforge_shared::id::{KeyId, WorkspaceId};
use keyforge_shared::secret::SecretBytes;

use crate::args::Command;
use crate::errors::Failure;

/// Length of a virtual key's id, `vk_` and 12 characters.
const KEY_ID_LEN: usize = 15;

/// Runs a command to its end.
///
/// # Errors
/// [`Failure`], which says what went wrong and what to do next.
pub async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Dev(args) => Box::pin(dev::run(args)).await,
        Command::LocalCluster(args) => Box::pin(local_cluster::run(args)).await,
        Command::ControlPlane(args) => Box::pin(control_plane::run(args)).await,
        Command::MoveDatabase(args) => Box::pin(move_database::run(args)).await,
        Command::DataPlane(args) => Box::pin(data_plane::run(args)).await,
        Command::Key(args) => Box::pin(key::run(args)).await,
        Command::Workspace(args) => Box::pin(workspace::run(args)).await,
        Command::Operator(args) => Box::pin(operator::run(args)).await,
        Command::Credential(args) => Box::pin(credential::run(args)).await,
        Command::Model(args) => Box::pin(model::run(args)).await,
        Command::Import(args) => Box::pin(import::run(args)).await,
        Command::Node(args) => Box::pin(node::run(args)).await,
        Command::Vault(args) => Box::pin(vault::run(args)).await,
        Command::Usage(args) => Box::pin(usage::run(args)).await,
        Command::Audit(args) => Box::pin(audit::run(args)).await,
        Command::Env(args) => env::run(&args),
    }
}

/// Reads a virtual key's id. A whole token is refused without repeating its secret.
fn key_id(text: &str) -> Result<String, Failure> {
    if let Ok(id) = text.parse::<KeyId>() {
        return Ok(id.to_string());
    }
    if text.starts_with("vk_") && text.len() > KEY_ID_LEN && text.is_char_boundary(KEY_ID_LEN) {
        let id = text.get(..KEY_ID_LEN).unwrap_or_default();
        return Err(Failure::usage("a key is named by its id, not by its token").hint(format!(
            "its id is {id}; the token has been written down here, so think of `keyforge key revoke {id}`"
        )));
    }
    Err(Failure::usage("a key is named by its id: vk_ and 12 letters or digits")
        .hint("`keyforge key list` shows every key"))
}

/// Checks how a workspace is named: by its id, or by its name, which does not begin like an id.
fn workspace_name(text: String) -> Result<String, Failure> {
    if !text.starts_with("ws_") || text.parse::<WorkspaceId>().is_ok() {
        return Ok(text);
    }
    Err(Failure::usage("a workspace is named by its name, or by its id: ws_ and 32 hexadecimal digits")
        .hint("`keyforge workspace list` shows every workspace"))
}

/// Follows `--secret`. A secret given literally is refused without repeating it.
fn secret(reference: &str) -> Result<SecretBytes, Failure> {
    let reference = SecretRef::parse_allowing_stdin(reference).map_err(|error| match error {
        SecretRefError::Literal => Failure::usage(
            "--secret takes a reference to the secret, not the secret: env:NAME, file:PATH, or - for the standard input",
        )
        .hint(
            "a secret on a command line ends up in the shell's history and in process lists: \
             if this was a real one, replace it at the provider",
        ),
        other => Failure::usage(format!("--secret: {other}")),
    })?;
    reference.resolve().map_err(|error| Failure::refused(format!("--secret: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_id_and_a_token_is_refused_without_its_secret() {
        assert_eq!(key_id("vk_abcDEF123456").unwrap(), "vk_abcDEF123456");
        let error = key_id("vk_abcDEF123456_topsecret").unwrap_err().to_string();
        assert!(error.contains("vk_abcDEF123456") && !error.contains("topsecret"), "{error}");
        for wrong in ["", "vk_", "key", "vk_abc", "vk_äöüäöüäöüäöü"] {
            assert!(key_id(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_workspace_is_named_by_its_name_or_a_whole_id() {
        let id = format!("ws_{}", "0".repeat(32));
        for good in ["default", "my team", &id] {
            assert_eq!(workspace_name(good.to_owned()).unwrap(), good);
        }
        assert!(workspace_name("ws_123".to_owned()).is_err());
    }

    #[test]
    fn a_literal_secret_is_refused_without_repeating_it() {
        let error = secret("sk-topsecret").err().unwrap().to_string();
        assert!(error.contains("--secret") && !error.contains("topsecret"), "{error}");
        assert!(secret("env:").err().unwrap().to_string().contains("--secret"));
        assert!(secret("file:/does/not/exist").err().unwrap().to_string().contains("/does/not/exist"));
    }
}
