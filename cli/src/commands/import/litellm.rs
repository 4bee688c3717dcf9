//! The configuration file of a LiteLLM proxy, read as far as it says which models are served with which keys.
//!
//! Format: <https://docs.litellm.ai/docs/proxy/configs> (2026-10). Whatever is there and is not understood is named as left out.

use std::cell::Cell;

use keyforge_shared::catalog::Operation;
use keyforge_shared::money::PicoUsdPerToken;
use keyforge_shared::provider;
use serde_json::{Map, Value};

use super::deployment::{Config, Deployment, KeySource, provider_of_host};

type Object = Map<String, Value>;

/// LiteLLM's words for providers that have another here.
const PROVIDERS: [(&str, &str); 8] = [
    ("azure_ai", "azure"),
    ("fireworks_ai", "fireworks"),
    ("gemini", "google"),
    ("hosted_vllm", "vllm"),
    ("ollama_chat", "ollama"),
    ("text-completion-openai", "openai"),
    ("together_ai", "together"),
    ("z_ai", "zai"),
];
/// Its words for any host that speaks OpenAI's API.
const ANY_HOST: [&str; 4] = ["custom_openai", "litellm_proxy", "openai_like", "lm_studio"];
/// Where it looks for a key that the file does not name.
const DEFAULT_KEYS: [(&str, &str); 6] = [
    ("azure", "AZURE_API_KEY"),
    ("google", "GEMINI_API_KEY"),
    ("together", "TOGETHERAI_API_KEY"),
    ("fireworks", "FIREWORKS_AI_API_KEY"),
    ("perplexity", "PERPLEXITYAI_API_KEY"),
    ("vllm", "HOSTED_VLLM_API_KEY"),
];
/// How it marks a name of the environment.
const ENVIRONMENT: &str = "os.environ/";
/// Fields of `litellm_params` and `model_info` that are read, or say nothing that matters here.
const READ: [&str; 8] = [
    "model",
    "api_key",
    "api_base",
    "base_url",
    "custom_llm_provider",
    "weight",
    "api_version",
    "litellm_credential_name",
];
const READ_INFO: [&str; 9] = [
    "mode",
    "base_model",
    "id",
    "max_tokens",
    "max_input_tokens",
    "max_output_tokens",
    "input_cost_per_token",
    "output_cost_per_token",
    "litellm_provider",
];

/// Reads a file.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn read(text: &str) -> Result<Config, String> {
    // The lines around an error may hold secrets, and so may what it says of a value.
    let file: Value = serde_saphyr::from_str(text).map_err(|error| match error.location() {
        Some(at) => format!("not a configuration in YAML: wrong at line {}, column {}", at.line(), at.column()),
        None => "not a configuration in YAML".to_owned(),
    })?;
    let Value::Object(file) = file else { return Err("a mapping with model_list is expected".to_owned()) };
    let Some(models) = file.get("model_list") else { return Err("model_list is missing".to_owned()) };
    let Value::Array(models) = models else { return Err("model_list: a list is expected".to_owned()) };
    let mut config = Config::default();
    let shared = credentials(&mut config, &file)?;
    for (index, entry) in models.iter().enumerate() {
        let place = format!("model_list[{index}]");
        let Value::Object(entry) = entry else { return Err(format!("{place}: a mapping is expected")) };
        deployment(&mut config, &place, entry, &shared)?;
    }
    for shared in shared.iter().filter(|shared| !shared.is_used.get()) {
        config.leave_out(&shared.place, format!("no model of the list uses {}", shared.name));
    }
    aliases(&mut config, &file);
    for (section, value) in &file {
        leave_out_section(&mut config, section, value);
    }
    Ok(config)
}

/// One of `credential_list`.
struct Shared {
    place: String,
    name: String,
    values: Object,
    is_used: Cell<bool>,
}

fn credentials(config: &mut Config, file: &Object) -> Result<Vec<Shared>, String> {
    let Some(list) = file.get("credential_list") else { return Ok(Vec::new()) };
    let Value::Array(list) = list else { return Err("credential_list: a list is expected".to_owned()) };
    let mut shared = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let place = format!("credential_list[{index}]");
        let name = entry.get("credential_name").and_then(Value::as_str);
        let values = entry.get("credential_values").and_then(Value::as_object);
        let Some((name, values)) = name.zip(values) else {
            return Err(format!("{place}: credential_name and credential_values are expected"));
        };
        for field in values.keys().filter(|field| !READ.contains(&field.as_str())) {
            config.leave_out(format!("{place}.credential_values.{field}"), "unknown here");
        }
        shared.push(Shared { place, name: name.to_owned(), values: values.clone(), is_used: Cell::new(false) });
    }
    Ok(shared)
}

fn deployment(config: &mut Config, place: &str, entry: &Object, shared: &[Shared]) -> Result<(), String> {
    let params = entry.get("litellm_params").and_then(Value::as_object);
    let params = params.ok_or_else(|| format!("{place}.litellm_params: a mapping is expected"))?;
    let model = text(params, "model").ok_or_else(|| format!("{place}.litellm_params.model is missing"))?;
    let name = text(entry, "model_name").ok_or_else(|| format!("{place}.model_name is missing"))?;
    let nothing = Object::new();
    let info = entry.get("model_info").and_then(Value::as_object).unwrap_or(&nothing);
    let common = match text(params, "litellm_credential_name") {
        None => None,
        Some(wanted) => {
            let Some(found) = shared.iter().find(|shared| shared.name == wanted) else {
                let place = format!("{place}.litellm_params.litellm_credential_name");
                config.leave_out(place, format!("{name}: credential_list has no such credential"));
                return Ok(());
            };
            found.is_used.set(true);
            Some(found)
        }
    };
    let param = |field: &str| text(params, field).or_else(|| common.and_then(|common| text(&common.values, field)));

    let Some(operation) = operation(info) else {
        let mode = text(info, "mode").unwrap_or_default();
        config.leave_out(place, format!("{name}: {mode} is not served; chat completions and embeddings are"));
        return Ok(());
    };
    let base_url = param("api_base").or_else(|| param("base_url")).unwrap_or_default();
    if base_url.starts_with(ENVIRONMENT) {
        config.leave_out(
            format!("{place}.litellm_params.api_base"),
            format!("{name}: write the address itself, then import again"),
        );
        return Ok(());
    }
    let (provider, upstream_name) = match provider_of(model, param("custom_llm_provider"), base_url) {
        Ok(found) => found,
        Err(why) => {
            config.leave_out(place, format!("{name}: {why}"));
            return Ok(());
        }
    };
    let key = match param("api_key") {
        Some(key) => match key.strip_prefix(ENVIRONMENT) {
            Some(variable) => KeySource::Env(variable.to_owned()),
            None => KeySource::Literal(match common.filter(|_| text(params, "api_key").is_none()) {
                Some(common) => format!("{}.credential_values.api_key", common.place),
                None => format!("{place}.litellm_params.api_key"),
            }),
        },
        None => KeySource::Env(default_key(&provider)),
    };
    leave_out_fields(config, place, params, info);
    config.deployments.push(Deployment {
        place: place.to_owned(),
        name: name.to_owned(),
        base_url: base_url_of(&provider, base_url),
        provider,
        upstream_name,
        key,
        weight: params.get("weight").and_then(Value::as_u64).and_then(|weight| u32::try_from(weight).ok()).unwrap_or(0),
        operation,
        context_tokens: tokens(info, "max_input_tokens"),
        max_output_tokens: tokens(info, "max_output_tokens").or_else(|| tokens(info, "max_tokens")),
        prices: price(info, "input_cost_per_token").zip(price(info, "output_cost_per_token")),
        base_model: text(info, "base_model").map(str::to_owned),
    });
    Ok(())
}

fn text<'a>(object: &'a Object, field: &str) -> Option<&'a str> {
    object.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn tokens(info: &Object, field: &str) -> Option<u64> {
    let value = info.get(field)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).filter(|tokens| *tokens > 0)
}

/// Dollars per token, as pico-dollars, rounded up.
fn price(info: &Object, field: &str) -> Option<PicoUsdPerToken> {
    const PICO: f64 = 1e12;
    let value = info.get(field)?;
    let dollars = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    // What binary fractions add below a millionth of a pico-dollar is not the file's.
    let pico = (dollars * PICO * (1.0 - 1e-9)).ceil();
    let exact = format!("{pico:.0}").parse().ok();
    exact.filter(|_| (0.0..1.0).contains(&dollars)).map(PicoUsdPerToken)
}

fn operation(info: &Object) -> Option<Operation> {
    match text(info, "mode").unwrap_or("chat") {
        "chat" | "completion" => Some(Operation::Chat),
        "embedding" => Some(Operation::Embedding),
        "responses" => Some(Operation::Responses),
        _ => None,
    }
}

/// Who serves a model, and what it is called there.
fn provider_of(model: &str, said: Option<&str>, base_url: &str) -> Result<(String, String), String> {
    let (word, upstream_name) = match (said, model.split_once('/')) {
        (Some(word), Some((prefix, rest))) if word == prefix => (word, rest),
        (Some(word), _) => (word, model),
        (None, Some((prefix, rest))) => (prefix, rest),
        (None, None) if model.starts_with("claude") => ("anthropic", model),
        (None, None) if model.starts_with("gemini") => ("gemini", model),
        (None, None) => ("openai", model),
    };
    let word = PROVIDERS.iter().find(|(theirs, _)| *theirs == word).map_or(word, |(_, ours)| ours);
    let own_host =
        ANY_HOST.contains(&word) || (word == "openai" && !base_url.is_empty() && !base_url.contains("api.openai.com"));
    if own_host {
        let host = provider_of_host(base_url).ok_or("api_base with the host's address is missing")?;
        return Ok((host, upstream_name.to_owned()));
    }
    match provider::known(word) {
        Some(known) if known.base_url.is_none() && base_url.is_empty() => Err(format!("{word} needs an api_base")),
        Some(_) => Ok((word.to_owned(), upstream_name.to_owned())),
        None => Err(format!(
            "there is no provider {word} here; a host that speaks OpenAI's API can be added by its base URL"
        )),
    }
}

/// The base URL as credentials have it; empty for the provider's public API.
fn base_url_of(provider: &str, base_url: &str) -> String {
    let base_url = base_url.trim_end_matches('/');
    let is_public = provider::known(provider).and_then(|known| known.base_url).is_some_and(|public| {
        let host =
            |url: &str| url.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default().to_owned());
        host(public) == host(base_url)
    });
    match provider {
        _ if is_public => String::new(),
        "azure" if !base_url.contains("/openai") => format!("{base_url}/openai/v1"),
        "ollama" if !base_url.is_empty() && !base_url.ends_with("/v1") => format!("{base_url}/v1"),
        _ => base_url.to_owned(),
    }
}

fn default_key(provider: &str) -> String {
    let own = DEFAULT_KEYS.iter().find(|(known, _)| *known == provider).map(|(_, key)| (*key).to_owned());
    own.unwrap_or_else(|| format!("{}_API_KEY", provider.to_ascii_uppercase().replace('-', "_")))
}

/// `router_settings.model_group_alias`: further names of models.
fn aliases(config: &mut Config, file: &Object) {
    let router = file.get("router_settings").and_then(Value::as_object);
    let Some(aliases) = router.and_then(|router| router.get("model_group_alias")).and_then(Value::as_object) else {
        return;
    };
    for (alias, target) in aliases {
        let place = format!("router_settings.model_group_alias.{alias}");
        let target = target.as_str().or_else(|| target.get("model").and_then(Value::as_str)).unwrap_or_default();
        let found = config.deployments.iter().find(|deployment| deployment.name == target).cloned();
        match found {
            Some(found) => config.deployments.push(Deployment { place, name: alias.clone(), ..found }),
            None => config.leave_out(place, format!("no model of the list is called {target:?}")),
        }
    }
}

fn leave_out_fields(config: &mut Config, place: &str, params: &Object, info: &Object) {
    for field in params.keys().filter(|field| !READ.contains(&field.as_str())) {
        let why = match field.as_str() {
            "rpm" | "tpm" | "max_parallel_requests" => {
                "limits of a provider key are learnt from the provider's own headers; limits of an agent belong to its virtual key"
            }
            "temperature" | "max_tokens" | "top_p" | "stop" | "seed" | "drop_params" | "extra_body" => {
                "agents say in each request what they want; nothing is added to it or taken away"
            }
            "timeout" | "stream_timeout" | "max_retries" | "num_retries" => {
                "time limits and retries are those of the data plane's [upstream]"
            }
            "fallbacks" | "order" => "a request is never served by another model or provider than the one it names",
            _ => "unknown here",
        };
        config.leave_out(format!("{place}.litellm_params.{field}"), why);
    }
    for field in info.keys().filter(|field| !READ_INFO.contains(&field.as_str())) {
        config.leave_out(format!("{place}.model_info.{field}"), "not kept in the catalogue");
    }
}

fn leave_out_section(config: &mut Config, section: &str, value: &Value) {
    let why = match section {
        "model_list" | "credential_list" => return,
        "general_settings" => {
            "a deployment has its own operators and database; give each agent a key of its own with `keyforge key create`"
        }
        "litellm_settings" => "callbacks, caches and fallbacks of the proxy have no counterpart",
        "router_settings" => {
            "each request goes to a healthy credential of its own provider and model; there is nothing to tune"
        }
        "environment_variables" => "variables of the environment are set where the process is started",
        "include" => "import each of these files by itself",
        _ => "unknown here",
    };
    match value {
        Value::Object(fields) => {
            for field in fields.keys().filter(|field| *field != "model_group_alias") {
                config.leave_out(format!("{section}.{field}"), why);
            }
        }
        _ => config.leave_out(section, why),
    }
}

#[cfg(test)]
#[path = "litellm_tests.rs"]
mod tests;
