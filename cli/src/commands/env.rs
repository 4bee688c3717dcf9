//! `keyforge env`: what to export so that a client speaks to KeyForge. It prints references to a key, never a key.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use keyforge_runtime::config::SecretRef;
use serde::Serialize;

use crate::client::{AGENTS_ADDR_FILE, data_dir, read_address};
use crate::errors::Failure;
use crate::output::OutputFormat;

const DEFAULT_URL: &str = "http://127.0.0.1:8080/v1";
const PLACEHOLDER: &str = "<your vk_ key>";

/// What `keyforge env` takes.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  eval \"$(keyforge env --for openai-python --key env:AGENT_KEY)\"")]
pub struct EnvArgs {
    /// Which client
    #[arg(long = "for", value_enum, value_name = "CLIENT")]
    client: Client,
    /// Where the virtual key is: env:NAME or file:PATH; printed as a reference, never as itself
    #[arg(long, value_name = "REF")]
    key: Option<String>,
    /// Base URL that agents use [default: that of the `keyforge dev` that runs here, or http://127.0.0.1:8080/v1]
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Data directory of a `keyforge dev` that runs on this host [env: KEYFORGE_DATA] [default: ./keyforge-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How to print the answer
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: OutputFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Client {
    /// The OpenAI SDK for Python
    OpenaiPython,
    /// The OpenAI SDK for Node
    OpenaiNode,
    /// curl
    Curl,
    /// LangChain's ChatOpenAI
    Langchain,
    /// The OpenAI Agents SDK
    OpenaiAgents,
    /// Claude Code (not served by this version)
    ClaudeCode,
    /// Codex CLI (not served by this version)
    Codex,
}

impl Client {
    /// Why a client cannot be served, if it cannot.
    const fn obstacle(self) -> Option<&'static str> {
        match self {
            Self::ClaudeCode => Some("Claude Code speaks the Anthropic messages API (POST /v1/messages)"),
            Self::Codex => Some("Codex CLI speaks the OpenAI responses API (POST /v1/responses)"),
            Self::OpenaiPython | Self::OpenaiNode | Self::Curl | Self::Langchain | Self::OpenaiAgents => None,
        }
    }

    const fn note(self) -> &'static str {
        match self {
            Self::OpenaiAgents => {
                "In the program, before the first run: set_default_openai_api(\"chat_completions\"). \
                 Tracing is switched off because it would send the virtual key to OpenAI."
            }
            Self::Curl => "curl \"$OPENAI_BASE_URL/models\" -H \"Authorization: Bearer $OPENAI_API_KEY\"",
            Self::Langchain => "ChatOpenAI(model=\"gpt-4o-mini\") takes both from the environment.",
            Self::OpenaiPython | Self::OpenaiNode | Self::ClaudeCode | Self::Codex => {
                "The client takes both from the environment: OpenAI() needs no arguments."
            }
        }
    }
}

#[derive(Debug, Serialize)]
struct Variable {
    name: &'static str,
    /// As a POSIX shell reads it.
    value: String,
}

#[derive(Debug, Serialize)]
struct Exports {
    variables: Vec<Variable>,
    note: &'static str,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`]; a client whose API is not served is one.
pub fn run(args: &EnvArgs) -> Result<(), Failure> {
    if let Some(obstacle) = args.client.obstacle() {
        return Err(Failure::refused(format!("{obstacle}, which this version does not serve"))
            .hint("this version serves POST /v1/chat/completions and GET /v1/models"));
    }
    let running = || {
        let data = data_dir(args.data.clone())?;
        read_address(&data, AGENTS_ADDR_FILE).map(|addr| format!("http://{addr}/v1"))
    };
    let url = args.base_url.clone().or_else(running).unwrap_or_else(|| DEFAULT_URL.to_owned());
    let exports = exports(args.client, url, args.key.as_deref())?;
    args.output.either(|| exports.text(), &exports)
}

fn exports(client: Client, url: String, key: Option<&str>) -> Result<Exports, Failure> {
    let key = match key.map(SecretRef::parse).transpose() {
        Ok(None) => quoted(PLACEHOLDER),
        Ok(Some(SecretRef::Env(name))) => format!("\"${name}\""),
        Ok(Some(SecretRef::File(path))) => format!("\"$(cat {})\"", quoted(&path.display().to_string())),
        Ok(Some(SecretRef::Stdin)) | Err(_) => {
            return Err(Failure::usage(
                "--key takes a reference to the key, env:NAME or file:PATH, not the key itself",
            ));
        }
    };
    let mut variables = vec![
        Variable { name: "OPENAI_BASE_URL", value: quoted(&url) },
        Variable { name: "OPENAI_API_KEY", value: key },
    ];
    if client == Client::Langchain {
        variables.push(Variable { name: "OPENAI_API_BASE", value: quoted(&url) });
    }
    if client == Client::OpenaiAgents {
        variables.push(Variable { name: "OPENAI_AGENTS_DISABLE_TRACING", value: "1".to_owned() });
    }
    Ok(Exports { variables, note: client.note() })
}

impl Exports {
    fn text(&self) -> String {
        let lines: Vec<String> =
            self.variables.iter().map(|Variable { name, value }| format!("export {name}={value}")).collect();
        format!("{}\n# {}", lines.join("\n"), self.note)
    }
}

/// A word that a POSIX shell takes as it is.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+=,[]".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(client: Client, key: Option<&str>) -> String {
        exports(client, "http://127.0.0.1:8080/v1".to_owned(), key).unwrap().text()
    }

    #[test]
    fn exports_name_the_base_url_and_the_key_by_reference() {
        let plain = text(Client::OpenaiPython, None);
        assert!(
            plain.starts_with(
                "export OPENAI_BASE_URL=http://127.0.0.1:8080/v1\nexport OPENAI_API_KEY='<your vk_ key>'\n"
            )
        );
        assert!(text(Client::OpenaiNode, Some("env:AGENT_KEY")).contains("export OPENAI_API_KEY=\"$AGENT_KEY\"\n"));
        assert!(text(Client::Curl, Some("file:/run/it's")).contains(r#"OPENAI_API_KEY="$(cat '/run/it'\''s')""#));
    }

    #[test]
    fn the_agents_sdk_does_not_send_the_key_to_anyone_else() {
        let agents = text(Client::OpenaiAgents, None);
        assert!(agents.contains("export OPENAI_AGENTS_DISABLE_TRACING=1\n") && agents.contains("chat_completions"));
    }

    #[test]
    fn a_literal_key_is_refused_without_repeating_it() {
        let error = exports(Client::Curl, String::new(), Some("vk_topsecret")).unwrap_err().to_string();
        assert!(error.contains("--key") && !error.contains("topsecret"), "{error}");
    }

    #[test]
    fn clients_of_apis_that_are_not_served_are_told_which_one_they_need() {
        assert!(Client::ClaudeCode.obstacle().unwrap().contains("/v1/messages"));
        assert!(Client::Codex.obstacle().unwrap().contains("/v1/responses"));
    }

    #[test]
    fn what_a_shell_would_expand_is_quoted() {
        assert_eq!(quoted("http://[::1]:8080/v1"), "http://[::1]:8080/v1");
        assert_eq!(quoted("a b$c"), "'a b$c'");
        assert_eq!(quoted(""), "''");
    }
}
