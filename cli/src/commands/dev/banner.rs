//! What `keyforge dev` prints: where everything is, the first key's token (once), and three requests to copy. Only what works is printed.

use std::path::Path;

use serde::Serialize;

use super::first_key::{self, FirstKey, reachable};
use super::{Running, data_option};

/// What a first request needs.
#[derive(Serialize)]
pub(super) struct Banner {
    version: &'static str,
    base_url: String,
    admin_url: String,
    ops_url: String,
    data_dir: String,
    /// Whether answers come from the sandbox, and not from a model.
    sandbox: bool,
    providers: Vec<String>,
    notes: Vec<String>,
    /// The first key; `null` when there were keys already.
    first_key: Option<KeyView>,
    #[serde(skip)]
    data_option: String,
}

#[derive(Serialize)]
struct KeyView {
    id: String,
    token: String,
}

impl Banner {
    pub(super) fn new(running: &Running, data: &Path, data_was_named: bool, first_key: Option<FirstKey>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            base_url: format!("http://{}/v1", reachable(running.agents)),
            admin_url: format!("http://{}", running.admin),
            ops_url: format!("http://{}", reachable(running.ops)),
            data_dir: data.display().to_string(),
            sandbox: running.providers.is_sandbox(),
            providers: running.providers.real.clone(),
            notes: running.providers.notes.clone(),
            first_key: first_key.map(|key| KeyView { id: key.id, token: key.token.to_string() }),
            data_option: data_option(data, data_was_named),
        }
    }

    /// The same for people.
    pub(super) fn text(&self) -> String {
        let Self { version, base_url, admin_url, ops_url, data_dir, .. } = self;
        let mut text = format!(
            "KeyForge {version} is running. Ctrl-C stops it.\n\n  \
             Base URL   {base_url}\n  \
             Provider   {}\n  \
             Admin      {admin_url} (gRPC)\n  \
             Health     {ops_url}/readyz\n  \
             Metrics    {ops_url}/metrics\n  \
             Data       {data_dir}\n",
            self.provider(),
        );
        for note in &self.notes {
            text.push_str(&format!("  Note       {note}\n"));
        }
        text.push_str(&self.key());
        text.push_str(&EXAMPLES.replace("MODEL", self.model()));
        text
    }

    fn provider(&self) -> String {
        match (self.sandbox, self.providers.join(", ")) {
            (true, _) => "SANDBOX: answers come from a script, not from a model. \
                          Set OPENAI_API_KEY, ANTHROPIC_API_KEY or GEMINI_API_KEY and start again for real ones"
                .to_owned(),
            (false, none) if none.is_empty() => {
                "none enabled: `keyforge credential list` shows what there is".to_owned()
            }
            (false, providers) => providers,
        }
    }

    /// A model that can be called now, for the examples.
    fn model(&self) -> &'static str {
        let known = [("openai", "gpt-4o-mini"), ("anthropic", "claude-haiku-4-5"), ("google", "gemini-2.5-flash")];
        let serves = |name: &str| self.sandbox || self.providers.iter().any(|provider| provider == name);
        known.iter().find(|(provider, _)| serves(provider)).map_or("gpt-4o-mini", |(_, model)| model)
    }

    fn key(&self) -> String {
        let Self { base_url, data_option, .. } = self;
        match &self.first_key {
            Some(KeyView { id, token }) => format!(
                "\nYour first virtual key is {id}: {}. This is its token, shown this once:\n\n  \
                 export OPENAI_API_KEY={token}\n  export OPENAI_BASE_URL={base_url}\n",
                first_key::limits()
            ),
            None => format!(
                "\nThe virtual keys that exist still work. `keyforge key create NAME{data_option}` makes another one.\n\n  \
                 export OPENAI_API_KEY=YOUR_VIRTUAL_KEY\n  export OPENAI_BASE_URL={base_url}\n"
            ),
        }
    }
}

const EXAMPLES: &str = r#"
curl
  curl "$OPENAI_BASE_URL/chat/completions" \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
    -d '{"model": "MODEL", "messages": [{"role": "user", "content": "Say hello"}]}'

OpenAI Python
  from openai import OpenAI
  messages = [{"role": "user", "content": "Say hello"}]
  answer = OpenAI().chat.completions.create(model="MODEL", messages=messages)
  print(answer.choices[0].message.content)

OpenAI Node
  import OpenAI from "openai";
  const messages = [{ role: "user", content: "Say hello" }];
  const answer = await new OpenAI().chat.completions.create({ model: "MODEL", messages });
  console.log(answer.choices[0].message.content);
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(first_key: Option<KeyView>, sandbox: bool) -> Banner {
        Banner {
            version: "1.2.3",
            base_url: "http://127.0.0.1:8080/v1".to_owned(),
            admin_url: "http://127.0.0.1:7070".to_owned(),
            ops_url: "http://127.0.0.1:9464".to_owned(),
            data_dir: "/data".to_owned(),
            sandbox,
            providers: if sandbox { Vec::new() } else { vec!["openai".to_owned()] },
            notes: vec!["a note".to_owned()],
            first_key,
            data_option: " --data /data".to_owned(),
        }
    }

    fn first() -> Option<KeyView> {
        Some(KeyView { id: "vk_0123456789ab".to_owned(), token: "vk_0123456789ab_secret".to_owned() })
    }

    #[test]
    fn the_first_token_is_printed_once() {
        assert_eq!(banner(first(), true).text().matches("vk_0123456789ab_secret").count(), 1);
        assert_eq!(serde_json::to_string(&banner(first(), true)).unwrap().matches("_secret").count(), 1);
    }

    #[test]
    fn later_starts_say_that_keys_still_work_and_how_to_make_another() {
        let text = banner(None, false).text();
        assert!(text.contains("still work") && text.contains("keyforge key create NAME --data /data"), "{text}");
        assert!(text.contains("Provider   openai\n") && !text.contains("SANDBOX"), "{text}");
    }

    #[test]
    fn the_sandbox_is_not_mistaken_for_a_model() {
        let text = banner(first(), true).text();
        assert!(
            text.contains("SANDBOX") && text.contains("not from a model") && text.contains("OPENAI_API_KEY"),
            "{text}"
        );
    }

    #[test]
    fn everything_that_runs_is_named_with_its_address() {
        let text = banner(first(), true).text();
        for part in [
            "http://127.0.0.1:8080/v1",
            "http://127.0.0.1:7070",
            "http://127.0.0.1:9464/readyz",
            "9464/metrics",
            "/data",
            "a note",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for client in ["\ncurl\n", "\nOpenAI Python\n", "\nOpenAI Node\n"] {
            assert!(text.contains(client), "{client}");
        }
    }

    #[test]
    fn the_examples_name_a_model_that_can_be_called() {
        let google = Banner { providers: vec!["google".to_owned()], ..banner(None, false) };
        assert!(google.text().contains("gemini-2.5-flash") && !google.text().contains("gpt-4o-mini"));
        assert!(!google.text().contains("MODEL"), "{}", google.text());
        assert!(banner(None, true).text().contains("gpt-4o-mini"));
    }
}
