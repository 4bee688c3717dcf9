//! What is read of a configuration of LiteLLM, and what is named as left out.

use super::*;

fn one(params: &str) -> Config {
    read(&format!("model_list:\n- model_name: m\n  litellm_params: {{{params}}}\n")).unwrap()
}

fn found(params: &str) -> (String, String, String) {
    let config = one(params);
    let first = config.deployments.first().unwrap_or_else(|| panic!("{params}: {:?}", config.left_out)).clone();
    (first.provider, first.upstream_name, first.base_url)
}

#[test]
fn providers_are_found_by_prefix_by_name_and_by_address() {
    let cases = [
        ("model: gpt-4o", ("openai", "gpt-4o", "")),
        ("model: openai/gpt-4o, api_base: 'https://api.openai.com/v1'", ("openai", "gpt-4o", "")),
        ("model: claude-sonnet-4-5", ("anthropic", "claude-sonnet-4-5", "")),
        ("model: gemini/gemini-2.5-pro", ("google", "gemini-2.5-pro", "")),
        ("model: together_ai/meta-llama/Llama-3", ("together", "meta-llama/Llama-3", "")),
        (
            "model: azure/eu-gpt, api_base: 'https://x.openai.azure.com/'",
            ("azure", "eu-gpt", "https://x.openai.azure.com/openai/v1"),
        ),
        (
            "model: ollama_chat/llama3, api_base: 'http://localhost:11434'",
            ("ollama", "llama3", "http://localhost:11434/v1"),
        ),
        (
            "model: openai/facebook/opt, api_base: 'http://gpu.internal:8000/v1'",
            ("gpu-internal-8000", "facebook/opt", "http://gpu.internal:8000/v1"),
        ),
        ("model: gpt-4o, custom_llm_provider: groq", ("groq", "gpt-4o", "")),
    ];
    for (params, (provider, upstream_name, base_url)) in cases {
        assert_eq!(found(params), (provider.to_owned(), upstream_name.to_owned(), base_url.to_owned()), "{params}");
    }
}

#[test]
fn what_has_no_counterpart_is_left_out_by_its_place() {
    let config = one("model: bedrock/anthropic.claude");
    assert!(config.deployments.is_empty());
    assert!(config.left_out[0].place == "model_list[0]" && config.left_out[0].why.contains("bedrock"), "{config:?}");
    for params in ["model: vllm/opt", "model: openai_like/opt", "model: openai/x, api_base: os.environ/BASE"] {
        assert!(one(params).deployments.is_empty() && !one(params).left_out.is_empty(), "{params}");
    }
    let config = one("model: gpt-4o, rpm: 10, temperature: 0, new_thing: 1");
    let places: Vec<_> = config.left_out.iter().map(|left| left.place.as_str()).collect();
    let params = ["rpm", "temperature", "new_thing"].map(|field| format!("model_list[0].litellm_params.{field}"));
    assert!(params.iter().all(|place| places.contains(&place.as_str())), "{places:?}");
    let file =
        "model_list: []\ngeneral_settings: {master_key: sk-1234}\nrouter_settings: {routing_strategy: x}\nother: 1\n";
    let config = read(file).unwrap();
    let places: Vec<_> = config.left_out.iter().map(|left| left.place.as_str()).collect();
    assert_eq!(places, ["general_settings.master_key", "other", "router_settings.routing_strategy"]);
    assert!(!format!("{config:?}").contains("sk-1234"), "a secret is not repeated");
}

#[test]
fn keys_are_names_of_the_environment_or_stay_where_they_are() {
    let key = |params: &str| one(params).deployments.remove(0).key;
    assert_eq!(key("model: gpt-4o, api_key: os.environ/OTHER"), KeySource::Env("OTHER".to_owned()));
    assert_eq!(key("model: gpt-4o"), KeySource::Env("OPENAI_API_KEY".to_owned()));
    assert_eq!(key("model: gemini/x"), KeySource::Env("GEMINI_API_KEY".to_owned()));
    let config = one("model: gpt-4o, api_key: sk-secret");
    assert_eq!(config.deployments[0].key, KeySource::Literal("model_list[0].litellm_params.api_key".to_owned()));
    assert!(!format!("{config:?}").contains("sk-secret"), "{config:?}");
}

#[test]
fn shared_credentials_and_aliases_are_followed() {
    let file = "
credential_list:
- credential_name: eu
  credential_values: {api_key: os.environ/EU_KEY, api_base: 'https://eu.internal/v1'}
model_list:
- model_name: m
  litellm_params: {model: openai/opt, litellm_credential_name: eu}
router_settings:
  model_group_alias: {fast: m, gone: nothing, hidden: {model: m, hidden: true}}
";
    let config = read(file).unwrap();
    let names: Vec<_> = config.deployments.iter().map(|found| (found.name.as_str(), found.provider.as_str())).collect();
    assert_eq!(names, [("m", "eu-internal"), ("fast", "eu-internal"), ("hidden", "eu-internal")]);
    assert_eq!(config.deployments[1].key, KeySource::Env("EU_KEY".to_owned()));
    assert_eq!(config.left_out[0].place, "router_settings.model_group_alias.gone");
}

#[test]
fn a_shared_credential_that_is_not_used_or_not_there_is_left_out_by_its_place() {
    let file = "
credential_list:
- {credential_name: used, credential_values: {api_key: sk-hidden, aws_region: x}}
- {credential_name: spare, credential_values: {api_key: os.environ/SPARE}}
model_list:
- {model_name: m, litellm_params: {model: gpt-x, litellm_credential_name: used}}
- {model_name: other, litellm_params: {model: gpt-y, litellm_credential_name: nosuch}}
";
    let config = read(file).unwrap();
    let key = KeySource::Literal("credential_list[0].credential_values.api_key".to_owned());
    assert_eq!(config.deployments.iter().map(|found| &found.key).collect::<Vec<_>>(), [&key]);
    let places: Vec<_> = config.left_out.iter().map(|left| left.place.as_str()).collect();
    let wanted = [
        "credential_list[0].credential_values.aws_region",
        "model_list[1].litellm_params.litellm_credential_name",
        "credential_list[1]",
    ];
    assert_eq!(places, wanted);
}

#[test]
fn a_file_that_is_not_yaml_is_refused_by_the_place_alone() {
    let file = "general_settings:\n  master_key: sk-hidden\n  url: 'postgres://u:hidden@h/db'\nmodel_list: [\n  {api_key: sk-hidden: x}]\n";
    let error = read(file).unwrap_err();
    assert!(error.contains("line") && !error.contains("hidden"), "{error}");
}

#[test]
fn prices_and_limits_are_exact() {
    let info = "model_list:\n- model_name: m\n  litellm_params: {model: gpt-x}\n  model_info: {input_cost_per_token: 2.5e-06, \
                output_cost_per_token: '0.00001', max_input_tokens: 1000, max_tokens: '50', mode: chat}\n";
    let found = read(info).unwrap().deployments.remove(0);
    assert_eq!(found.prices, Some((PicoUsdPerToken(2_500_000), PicoUsdPerToken(10_000_000))));
    assert_eq!((found.context_tokens, found.max_output_tokens), (Some(1_000), Some(50)));
    for (text, pico) in [("1.5e-07", 150_000), ("3e-07", 300_000), ("0.00000055", 550_000), ("0", 0)] {
        let info: Object = [("p".to_owned(), Value::String(text.to_owned()))].into_iter().collect();
        assert_eq!(price(&info, "p"), Some(PicoUsdPerToken(pico)), "{text}");
    }
    for text in ["-1", "2", "NaN", "inf", "free"] {
        let info: Object = [("p".to_owned(), Value::String(text.to_owned()))].into_iter().collect();
        assert_eq!(price(&info, "p"), None, "{text}");
    }
}

#[test]
fn a_broken_file_is_refused_with_the_place() {
    for (file, words) in [
        ("model_list: [", "YAML"),
        ("- a", "mapping"),
        ("general_settings: {}", "model_list is missing"),
        ("model_list: 5", "model_list: a list"),
        ("model_list: [5]", "model_list[0]"),
        ("model_list: [{model_name: m}]", "model_list[0].litellm_params"),
        ("model_list: [{model_name: m, litellm_params: {}}]", "model_list[0].litellm_params.model"),
        ("model_list: [{litellm_params: {model: x}}]", "model_list[0].model_name"),
        ("model_list: []\ncredential_list: [{credential_name: x}]", "credential_list[0]"),
    ] {
        let error = read(file).unwrap_err();
        assert!(error.contains(words), "{file}: {error}");
    }
}
