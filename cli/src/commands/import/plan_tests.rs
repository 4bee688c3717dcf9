//! What an import adds, keeps and leaves out.

use keyforge_shared::money::PicoUsdPerToken;

use super::super::litellm;
use super::*;

const ENV: [(&str, &str); 4] = [
    ("OPENAI_API_KEY", "sk-number-one"),
    ("SECOND", "sk-number-two"),
    ("OWN", "vk_0123456789ab_hidden"),
    ("SHORT", "sk-x"),
];

fn env(name: &str) -> Option<String> {
    ENV.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

fn catalogue() -> Vec<Model> {
    let standard = Rates { input: PicoUsdPerToken(7), output: PicoUsdPerToken(9), ..Rates::default() };
    vec![Model {
        name: "gpt-4o".to_owned(),
        provider: ProviderName("openai".to_owned()),
        upstream_name: "gpt-4o".to_owned(),
        operation: keyforge_shared::catalog::Operation::Chat,
        context_tokens: Some(128_000),
        max_output_tokens: Some(16_384),
        prices: Some(Prices { standard, priority: None, flex: None, long_context: Vec::new() }),
        source: "a price list".to_owned(),
        as_of: "2026-11-01".to_owned(),
    }]
}

fn plan(file: &str, credentials: Vec<proto::Credential>) -> Plan {
    Plan::of(litellm::read(file).unwrap(), &Known { credentials, models: catalogue() }, env)
}

fn steps(plan: &Plan) -> Vec<String> {
    let show = |step: &Step| match step {
        Step::Credential { new, .. } => format!("credential {} {} {}", new.provider, new.limit_group, new.weight),
        Step::Model { entry, .. } => format!("model {} = {}/{}", entry.name, entry.provider, entry.upstream_name),
        Step::Kept { what, .. } => format!("kept {what}"),
    };
    plan.steps.iter().map(show).collect()
}

const POOL: &str = "
model_list:
- {model_name: gpt-4o, litellm_params: {model: openai/gpt-4o, weight: 3}}
- {model_name: gpt-4o, litellm_params: {model: openai/gpt-4o, api_key: os.environ/SECOND}}
- {model_name: mine, litellm_params: {model: gpt-4o}}
";

#[test]
fn deployments_of_one_model_become_a_pool_and_a_name_of_ones_own_a_model_with_its_prices() {
    let plan = plan(POOL, Vec::new());
    assert_eq!(
        steps(&plan),
        [
            "credential openai OPENAI_API_KEY 3",
            "kept model gpt-4o",
            "credential openai SECOND 0",
            "model mine = openai/gpt-4o"
        ]
    );
    let Step::Model { entry, note, .. } = &plan.steps[3] else { panic!("model") };
    assert_eq!((&entry.prices, entry.source.as_str(), note), (&catalogue()[0].prices, "a price list", &None));
    assert_eq!(entry.context_tokens, Some(128_000));
    assert!(plan.left_out.is_empty(), "{:?}", plan.left_out);
}

#[test]
fn an_import_that_is_repeated_adds_nothing() {
    let known = |variable: &str| proto::Credential {
        provider: "openai".to_owned(),
        limit_group: variable.to_owned(),
        base_url: "https://api.openai.com/v1".to_owned(),
        ..proto::Credential::default()
    };
    let plan = plan(POOL, vec![known("SECOND"), known("OPENAI_API_KEY")]);
    let added = steps(&plan).into_iter().filter(|step| !step.starts_with("kept")).collect::<Vec<_>>();
    assert_eq!(added, ["model mine = openai/gpt-4o"], "the catalogue of this test does not change");
}

#[test]
fn a_name_never_stands_for_two_providers() {
    let file = "
model_list:
- {model_name: best, litellm_params: {model: openai/gpt-4o}}
- {model_name: best, litellm_params: {model: anthropic/claude-opus-4-5}}
";
    let plan = plan(file, Vec::new());
    assert_eq!(steps(&plan), ["credential openai OPENAI_API_KEY 0", "model best = openai/gpt-4o"]);
    assert!(plan.left_out[0].place == "model_list[1]" && plan.left_out[0].why.contains("gpt-4o of openai"));
}

#[test]
fn a_wildcard_is_a_credential_and_no_model() {
    let file = "
model_list:
- {model_name: 'openai/*', litellm_params: {model: 'openai/*'}}
- {model_name: 'mine-*', litellm_params: {model: 'openai/gpt-*', api_key: os.environ/SECOND}}
";
    let plan = plan(file, Vec::new());
    assert_eq!(steps(&plan), ["credential openai OPENAI_API_KEY 0", "credential openai SECOND 0"]);
    assert!(plan.left_out.len() == 1 && plan.left_out[0].why.contains("mine-*"), "{:?}", plan.left_out);
}

#[test]
fn a_host_of_its_own_is_made_known_by_its_model_before_its_key() {
    let host = "{model: openai/opt, api_base: 'https://llm.internal/v1', api_key: os.environ/SECOND}";
    let plan = plan(&format!("model_list: [{{model_name: ours, litellm_params: {host}}}]"), Vec::new());
    assert_eq!(steps(&plan), ["model ours = llm-internal/opt", "credential llm-internal SECOND 0"]);
    let all = host.replace("opt", "*");
    let plan = self::plan(&format!("model_list: [{{model_name: '*', litellm_params: {all}}}]"), Vec::new());
    assert!(plan.steps.is_empty() && plan.left_out[0].why.contains("no model"), "{:?}", plan.left_out);
}

#[test]
fn what_the_control_plane_would_refuse_is_left_out_and_the_rest_goes_on() {
    let file = "
model_list:
- {model_name: a, litellm_params: {model: openai/a, api_key: os.environ/SHORT}}
- {model_name: b, litellm_params: {model: groq/b, api_base: 'https://me:hidden@llm.internal/v1', api_key: os.environ/SECOND}}
- {model_name: c, litellm_params: {model: openai/c}}
";
    let plan = plan(file, Vec::new());
    let added: Vec<_> = steps(&plan).into_iter().filter(|step| step.starts_with("credential")).collect();
    assert_eq!(added, ["credential openai OPENAI_API_KEY 0"]);
    let why: Vec<_> = plan.left_out.iter().map(|left| left.why.as_str()).collect();
    assert!(why[0].contains("SHORT: secret") && why[1].contains("base_url"), "{why:?}");
    assert!(!format!("{why:?}").contains("hidden"), "{why:?}");
}

#[test]
fn a_model_whose_provider_has_no_credential_says_so() {
    let file = "
model_list:
- {model_name: a, litellm_params: {model: openai/gpt-4o, api_key: sk-in-the-file}}
- {model_name: b, litellm_params: {model: openai/b, api_base: 'https://llm.internal/v1', api_key: sk-in-the-file}}
- {model_name: c, litellm_params: {model: groq/c, api_key: os.environ/SECOND}}
";
    let of = |enabled| proto::Credential { provider: "openai".to_owned(), enabled, ..proto::Credential::default() };
    let lacking = |credentials: Vec<proto::Credential>| -> Vec<String> {
        let lacks = |note: &Option<String>| note.as_ref().is_some_and(|note| note.contains("has no credential yet"));
        let steps = plan(file, credentials).steps.into_iter();
        let name = |step| match step {
            Step::Model { entry, note, .. } => lacks(&note).then_some(entry.name),
            Step::Credential { .. } | Step::Kept { .. } => None,
        };
        steps.filter_map(name).collect()
    };
    assert_eq!(lacking(Vec::new()), ["b", "a"]);
    assert_eq!(lacking(vec![of(false)]), ["b", "a"]);
    assert_eq!(lacking(vec![of(true)]), ["b"]);
}

#[test]
fn keys_that_are_not_there_or_not_the_providers_are_left_out_and_never_shown() {
    for (key, words) in
        [("os.environ/MISSING", "MISSING is not set"), ("os.environ/OWN", "virtual key"), ("sk-x", "api_key")]
    {
        let file = format!("model_list: [{{model_name: gpt-4o, litellm_params: {{model: gpt-4o, api_key: {key}}}}}]");
        let plan = plan(&file, Vec::new());
        assert_eq!(steps(&plan), ["kept model gpt-4o"], "{key}");
        let why = &plan.left_out[0].why;
        assert!(why.contains(words) && !why.contains("sk-x") && !why.contains("hidden"), "{why}");
    }
}

#[test]
fn a_model_without_prices_says_so_and_one_that_changes_says_what_it_was() {
    let file = "
model_list:
- {model_name: new, litellm_params: {model: openai/not-in-the-list}}
- {model_name: gpt-4o, litellm_params: {model: openai/gpt-4o-mini}, model_info: {input_cost_per_token: 1e-12, output_cost_per_token: 2e-12}}
";
    let plan = plan(file, Vec::new());
    let notes = plan.steps.iter().filter_map(|step| match step {
        Step::Model { note, .. } => note.clone(),
        Step::Credential { .. } | Step::Kept { .. } => None,
    });
    let notes: Vec<_> = notes.collect();
    assert!(notes[0].contains("no prices") && notes[1] == "it was gpt-4o of openai", "{notes:?}");
    let Some(Step::Model { entry, .. }) = plan.steps.last() else { panic!("model") };
    assert_eq!(entry.prices.as_ref().map(|prices| prices.standard.input), Some(PicoUsdPerToken(1)));
    assert_eq!(entry.source, OWN_SOURCE);
}
