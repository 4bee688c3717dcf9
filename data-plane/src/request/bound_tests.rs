//! Bounds in money and in tokens, and how far they can be cut.

use keyforge_providers::openai::request::scan;
use keyforge_shared::catalog::Operation;
use keyforge_shared::money::PicoUsdPerToken;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn rates(input: u64, output: u64) -> Rates {
    let input_audio = Some(PicoUsdPerToken(input * 16));
    let output_audio = Some(PicoUsdPerToken(output * 8));
    Rates {
        input: PicoUsdPerToken(input),
        output: PicoUsdPerToken(output),
        input_audio,
        output_audio,
        ..Rates::default()
    }
}

fn model(name: &str) -> Model {
    let standard = rates(2_500_000, 10_000_000);
    let priority = Some(rates(4_250_000, 17_000_000));
    Model {
        name: name.to_owned(),
        provider: ProviderName("openai".to_owned()),
        upstream_name: name.to_owned(),
        operation: Operation::Chat,
        context_tokens: Some(128_000),
        max_output_tokens: Some(16_384),
        prices: Some(Prices { standard, priority, flex: None, long_context: Vec::new() }),
        source: "a price list".to_owned(),
        as_of: "2026-11-22".to_owned(),
    }
}

fn request(members: Value) -> ChatRequest {
    let mut body =
        json!({ "model": "m", "messages": [{ "role": "user", "content": "0123456789" }], "service_tier": "default" });
    for (name, value) in members.as_object().unwrap() {
        body[name] = value.clone();
    }
    scan(body.to_string().as_bytes()).unwrap()
}

fn capped(members: Value) -> Result<Bound, Rejection> {
    compute(&model("gpt-4o"), &Policy::default(), true, &request(members))
}

/// Tokens of the least request: 32 once, 8 for its message, 4 of the role, 10 of the text.
const INPUT: u64 = 54;

fn refused(result: Result<Bound, Rejection>) -> String {
    match result {
        Err(Rejection::CostUnbounded(field)) => field.into_owned(),
        Err(_) => "another rejection".to_owned(),
        Ok(_) => "nothing".to_owned(),
    }
}

#[test]
fn an_account_whose_requests_stay_in_one_region_pays_more_and_the_bound_covers_it() {
    let usage = Usage { input: 1_000, output: 100, ..Usage::default() };
    for (name, percent) in
        [("claude-opus-4-6", 110), ("claude-sonnet-4-6", 110), ("claude-opus-5", 110), ("claude-opus-4-5", 100)]
    {
        let claude = Model { provider: ProviderName("anthropic".to_owned()), ..model(name) };
        let bound = compute(&claude, &Policy::default(), true, &request(json!({ "max_tokens": 100 }))).unwrap();
        let cost = |in_region| bound.cost(&claude, &usage, Some(ServiceTier::Standard), in_region).nanos();
        assert_eq!(cost(true), cost(false) * percent / 100, "{name}");
        let listed = claude.prices.as_ref().unwrap().bound(&bound.most(100), bound.tiers);
        assert_eq!(bound.amount.nanos(), listed.nanos() * percent / 100, "{name}");
        let cut = bound.cut_to_budget(&claude, NanoUsd::new(bound.amount.nanos() - 1)).unwrap();
        assert!(cut.amount < bound.amount && cut.output < Some(100), "{name}: {cut:?}");
    }
}

#[test]
fn a_limit_beyond_what_the_model_can_give_is_lowered_wherever_it_says_that_it_is() {
    let model = model("gpt-4o-mini");
    for capped in [false, true] {
        let bound_of = |members: Value| {
            let request = request(members);
            let bound = compute(&model, &Policy::default(), capped, &request).unwrap();
            (bound.limit_to_show(), bound.chat_limit_to_send(&request))
        };
        for field in ["max_tokens", "max_completion_tokens"] {
            assert_eq!(bound_of(json!({ field: 100_000 })), (Some(16_384), Some(16_384)), "{field}");
            assert_eq!(bound_of(json!({ field: 16_384 })), (None, None), "{field}");
        }
        let unknown = Model { max_output_tokens: None, ..model.clone() };
        let asked = request(json!({ "max_tokens": 100_000 }));
        let bound = compute(&unknown, &Policy::default(), capped, &asked).unwrap();
        assert_eq!((bound.limit_to_show(), bound.chat_limit_to_send(&asked)), (None, None), "nobody knows");
    }
}

#[test]
fn the_amount_is_the_input_and_every_choice_at_its_price() {
    let bound = capped(json!({ "max_tokens": 100, "n": 3 })).unwrap();
    assert_eq!(bound.amount, NanoUsd::new(INPUT * 2_500 + 300 * 10_000));
    assert_eq!(bound.tokens(), Some(INPUT + 300));
    let bound = capped(json!({})).unwrap();
    assert_eq!((bound.output, bound.tokens()), (Some(16_384), Some(INPUT + 16_384)));
}

#[test]
fn a_prediction_can_be_billed_as_output_beyond_the_limit() {
    let prediction = json!({ "type": "content", "content": "abc" });
    let bytes = prediction.to_string().len() as u64;
    let bound = capped(json!({ "max_tokens": 100, "prediction": prediction })).unwrap();
    let most = bound.most(100);
    assert_eq!(most.output, 100 + bytes);
    let budget = NanoUsd::new(bound.amount.nanos() - 1);
    assert_eq!(bound.cut_to_budget(&model("gpt-4o"), budget).unwrap().output, Some(99));
}

#[test]
fn what_has_no_price_or_no_bound_is_refused_by_name_on_a_capped_key() {
    let part = |part: Value| json!({ "messages": [{ "role": "user", "content": [part] }] });
    let sound = part(json!({ "type": "input_audio", "input_audio": { "data": "AA", "format": "wav" } }));
    for (members, field) in [
        (json!({ "web_search_options": {} }), "web_search_options"),
        (json!({ "tools": [{ "type": "browser_search" }] }), "tools"),
        (json!({ "modalities": ["image"] }), "modalities"),
        (part(json!({ "type": "video_url" })), "messages: content of type video_url"),
        (json!({ "audio": {} }), "nothing"),
        (sound.clone(), "nothing"),
    ] {
        assert_eq!(refused(capped(members.clone())), field, "{members}");
        assert!(compute(&model("gpt-4o"), &Policy::default(), false, &request(members)).is_ok(), "{field}");
    }
    let mut silent = model("gpt-4o");
    let prices = silent.prices.as_mut().unwrap();
    (prices.standard.input_audio, prices.standard.output_audio) = (None, None);
    let compute = |members| compute(&silent, &Policy::default(), true, &request(members));
    assert_eq!(refused(compute(json!({ "audio": {} }))), "audio");
    assert_eq!(refused(compute(sound)), "messages: content of type input_audio");
    silent.prices = None;
    let unpriced = super::compute(&silent, &Policy::default(), true, &request(json!({})));
    assert!(matches!(unpriced, Err(Rejection::ModelNotPriced(_))));
}

#[test]
fn a_cache_that_is_written_needs_a_price_on_a_capped_key() {
    let marked = json!({ "messages": [{ "role": "user", "content": [
        { "type": "text", "text": "x", "cache_control": { "type": "ephemeral" } }] }] });
    let null = json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "x", "cache_control": null }] }] });
    let tool = json!({ "tools": [{ "type": "function", "function": { "name": "f", "cache_control": {} } }] });
    let compute = |model: &Model, members: &Value, capped| {
        super::compute(model, &Policy::default(), capped, &request(members.clone()))
    };
    let mut claude = Model { provider: ProviderName("anthropic".to_owned()), ..model("claude-sonnet-5") };
    for members in [&marked, &tool, &json!({ "cache_control": { "type": "ephemeral" } })] {
        assert_eq!(refused(compute(&claude, members, true)), "cache_control");
        assert!(compute(&claude, members, false).is_ok());
    }
    assert!(compute(&claude, &null, true).is_ok());
    let gemini = Model { provider: ProviderName("google".to_owned()), ..model("gemini-2.5-pro") };
    assert!(compute(&gemini, &marked, true).is_ok(), "it is not sent there");
    let prices = claude.prices.as_mut().unwrap();
    for rates in [Some(&mut prices.standard), prices.priority.as_mut()].into_iter().flatten() {
        rates.cache_write_5m = Some(PicoUsdPerToken(3_000_000));
    }
    assert_eq!(refused(compute(&claude, &marked, true)), "cache_control", "it may be kept for an hour");
    let prices = claude.prices.as_mut().unwrap();
    for rates in [Some(&mut prices.standard), prices.priority.as_mut()].into_iter().flatten() {
        rates.cache_write_1h = Some(PicoUsdPerToken(6_000_000));
    }
    let bound = compute(&claude, &marked, true).unwrap();
    let written = Usage { cache_write_1h: bound.input.unwrap().text, output: 16_384, ..Usage::default() };
    assert!(bound.cost(&claude, &written, None, true) <= bound.amount);
}

#[test]
fn what_may_be_sound_needs_a_price_of_sound_on_a_capped_key() {
    let gemini = |sound: Option<PicoUsdPerToken>| {
        let mut model = Model { provider: ProviderName("google".to_owned()), ..model("gemini-2.5-pro") };
        let prices = model.prices.as_mut().unwrap();
        prices.standard.input_audio = sound;
        prices.priority.as_mut().unwrap().input_audio = sound;
        model
    };
    let (deaf, hears) = (gemini(None), gemini(Some(PicoUsdPerToken(5_000_000))));
    let part = |part: Value| json!({ "messages": [{ "role": "user", "content": [part] }] });
    let file = |data: &str| part(json!({ "type": "file", "file": { "file_data": data } }));
    let compute =
        |model: &Model, members: &Value| super::compute(model, &Policy::default(), true, &request(members.clone()));
    for unknown in [
        part(json!({ "type": "image_url", "image_url": { "url": "https://x/y.png" } })),
        file("https://x/y.pdf"),
        file("data:audio/wav;base64,AAAA"),
        file("data:video/mp4;base64,AAAA"),
    ] {
        assert_eq!(refused(compute(&deaf, &unknown)), "messages: content that may be sound", "{unknown}");
        assert!(compute(&hears, &unknown).unwrap().input.unwrap().audio > 0, "{unknown}");
    }
    for silent in [
        file("data:application/pdf;base64,JVBERi0x"),
        file("JVBERi0x"),
        part(json!({ "type": "image_url", "image_url": { "url": "data:image/heic;base64,AAAA" } })),
    ] {
        assert_eq!(compute(&deaf, &silent).unwrap().input.unwrap().audio, 0, "{silent}");
    }
}

#[test]
fn a_class_of_service_that_nobody_names_is_the_dearest_that_it_can_have_been() {
    let model = model("gpt-4o");
    let usage = Usage { input: 1000, output: 1000, ..Usage::default() };
    let cost = |asked: Value, told| capped(json!({ "service_tier": asked })).unwrap().cost(&model, &usage, told, false);
    let (standard, priority) = (NanoUsd::new(12_500_000), NanoUsd::new(21_250_000));
    assert_eq!(cost(json!("default"), None), standard);
    for asked in [json!("priority"), json!("auto"), json!(null), json!("other")] {
        assert_eq!(cost(asked.clone(), None), priority, "{asked}");
        assert_eq!(cost(asked.clone(), Some(ServiceTier::Standard)), standard, "{asked}");
    }
    let google = ProviderName("google".to_owned());
    assert_eq!(tiers(&google, None), [ServiceTier::Standard], "it has no setting that could make it another");
    assert!(tiers(&google, Some(&RequestedTier::Priority)).contains(&ServiceTier::Priority));
}

#[test]
fn what_searches_on_its_own_is_refused_where_money_or_tokens_are_limited() {
    let model = model("gpt-4o-search-preview");
    let by_tokens = Policy { tokens_per_minute: Some(1000), ..Policy::default() };
    assert_eq!(refused(compute(&model, &Policy::default(), true, &request(json!({})))), "model");
    assert_eq!(refused(compute(&model, &by_tokens, false, &request(json!({})))), "model");
    let free = compute(&model, &Policy::default(), false, &request(json!({}))).unwrap();
    assert_eq!(free.tokens(), None);
}

#[test]
fn a_cut_leaves_at_least_a_few_words() {
    let (model, bound) = (model("gpt-4o"), capped(json!({ "max_tokens": 100 })).unwrap());
    let cut = |tokens: u64| bound.cut_to_room(&model, tokens);
    assert_eq!(cut(INPUT + 100).map(|cut| (cut.output, cut.clamped)), Some((Some(100), false)));
    assert_eq!(cut(INPUT + 99).map(|cut| (cut.output, cut.clamped)), Some((Some(99), true)));
    assert_eq!(cut(INPUT + 16).and_then(|cut| cut.tokens()), Some(INPUT + 16));
    assert!(cut(INPUT + 15).is_none() && cut(INPUT - 1).is_none() && cut(0).is_none());
    let short = capped(json!({ "max_tokens": 3 })).unwrap();
    assert_eq!(short.cut_to_room(&model, INPUT + 3).unwrap().output, Some(3));
    let no_limit = Bound { output: None, ..bound };
    assert_eq!((no_limit.tokens(), no_limit.cut_to_room(&model, 1000).unwrap().output), (None, Some(1000 - INPUT)));
}

#[test]
fn the_limit_is_sent_unless_every_field_says_it_already() {
    let sent = |members: Value, field: MaxTokensField| {
        let request = request(members.clone());
        let mut bound = capped(members).unwrap();
        bound.metering.limit_field = field;
        bound.chat_limit_to_send(&request)
    };
    let (current, legacy) = (MaxTokensField::Current, MaxTokensField::Legacy);
    assert_eq!(sent(json!({}), current), Some(16_384));
    assert_eq!(sent(json!({ "max_tokens": 7 }), current), None);
    assert_eq!(sent(json!({ "max_completion_tokens": 7 }), current), None);
    assert_eq!(sent(json!({ "max_completion_tokens": 7 }), legacy), Some(7), "this host does not know that field");
    assert_eq!(
        sent(json!({ "max_completion_tokens": 7, "max_tokens": 9 }), current),
        Some(7),
        "the host may take the other"
    );
    assert_eq!(sent(json!({ "max_tokens": 99_999 }), current), Some(16_384));
    let free = compute(&model("gpt-4o"), &Policy::default(), false, &request(json!({}))).unwrap();
    assert_eq!(free.chat_limit_to_send(&request(json!({}))), None);
}

#[test]
fn a_lowered_limit_is_shown_whoever_lowered_it() {
    let policy = Policy { max_output_tokens: Some(50), ..Policy::default() };
    let shown = |members| compute(&model("gpt-4o"), &policy, true, &request(members)).unwrap().limit_to_show();
    assert_eq!(
        (shown(json!({ "max_tokens": 51 })), shown(json!({ "max_tokens": 50 })), shown(json!({}))),
        (Some(50), None, None)
    );
    let bound = capped(json!({ "max_tokens": 100 })).unwrap();
    assert_eq!(bound.cut_to_room(&model("gpt-4o"), INPUT + 20).unwrap().limit_to_show(), Some(20));
}

#[test]
fn the_output_that_a_policy_allows_is_that_of_all_choices_together() {
    let policy = Policy { max_output_tokens: Some(50), ..Policy::default() };
    let model = model("gpt-4o");
    for capped in [false, true] {
        let of = |members: Value| {
            let request = request(members);
            let bound = compute(&model, &policy, capped, &request).unwrap();
            (bound.output, bound.limit_to_show(), bound.chat_limit_to_send(&request))
        };
        assert_eq!(of(json!({ "n": 1, "max_tokens": 50 })), (Some(50), None, None));
        assert_eq!(of(json!({ "n": 2, "max_tokens": 25 })), (Some(25), None, None));
        assert_eq!(of(json!({ "n": 2, "max_tokens": 26 })), (Some(25), Some(25), Some(25)));
        assert_eq!(of(json!({ "n": 3 })), (Some(16), None, Some(16)), "48 of 50");
        assert_eq!(of(json!({ "n": 50, "max_tokens": 50 })), (Some(1), Some(1), Some(1)));
        assert_eq!(of(json!({ "best_of": 1, "max_tokens": 9 })), (Some(9), None, None), "as good as nothing");
    }
    let (wide, n) = (Policy::default(), json!({ "n": 128, "max_tokens": 4 }));
    assert_eq!(
        compute(&model, &wide, false, &request(n)).unwrap().output,
        Some(4),
        "the model's own limit is a choice's"
    );
}

#[test]
fn what_leaves_a_choice_no_token_of_what_the_policy_allows_is_refused_by_name() {
    let policy = Policy { max_output_tokens: Some(4), ..Policy::default() };
    let refusal = |model: &Model, members: Value| match compute(model, &policy, false, &request(members)) {
        Err(Rejection::BodyInvalid { field: Some(field), message }) => (field, message),
        other => panic!("{other:?}"),
    };
    let model = model("gpt-4o");
    let (field, message) = refusal(&model, json!({ "n": 128, "max_tokens": 4 }));
    assert_eq!(field, "n");
    assert!(message.starts_with("`n` must be at most 4, got 128"), "{message}");
    for multiplier in ["best_of", "num_return_sequences", "num_generations", "candidate_count", "num_beams"] {
        assert_eq!(refusal(&model, json!({ multiplier: 2 })).0, multiplier);
    }
    let predicted = json!({ "prediction": { "type": "content", "content": "abc" } });
    assert_eq!(refusal(&model, predicted.clone()).0, "prediction");
    let claude = Model { provider: ProviderName("anthropic".to_owned()), ..model };
    assert_eq!(compute(&claude, &policy, false, &request(predicted)).unwrap().output, Some(4), "it is left out there");
}

#[test]
fn a_prediction_takes_of_the_output_that_a_policy_allows() {
    let prediction = json!({ "type": "content", "content": "abc" });
    let bytes = prediction.to_string().len() as u64;
    let policy = Policy { max_output_tokens: Some(bytes + 10), ..Policy::default() };
    let asked = request(json!({ "prediction": prediction, "n": 2, "max_tokens": 100 }));
    let bound = compute(&model("gpt-4o"), &policy, false, &asked).unwrap();
    assert_eq!((bound.output, bound.limit_to_show(), bound.most(5).output), (Some(5), Some(5), bytes + 10));
}

#[test]
fn a_known_input_only_ever_lowers_the_bound_and_only_where_it_is_final() {
    let (model, mut bound) = (model("gpt-4o"), capped(json!({ "max_tokens": 100 })).unwrap());
    let seen = |input| Usage { input, ..Usage::default() };
    assert!(bound.with_input(&model, &seen(12)).is_none(), "a first count that may not be the last");
    bound.metering.reports_input_early = true;
    let known = bound.with_input(&model, &seen(12)).unwrap();
    assert_eq!(known.amount, NanoUsd::new(12 * 2_500 + 100 * 10_000));
    assert_eq!(known.tokens(), Some(112));
    assert!(bound.with_input(&model, &seen(INPUT)).is_none() && bound.with_input(&model, &seen(u64::MAX)).is_none());
}

proptest! {
    #[test]
    fn i_3_no_usage_within_the_limits_costs_more_than_the_bound(
        text in "\\PC{0,60}", n in 1u64..5, limit in prop::option::of(1u64..2000), spoken: bool,
        shares in any::<[u16; 6]>(), budget in 0u64..3_000_000,
    ) {
        let mut members = json!({ "messages": [{ "role": "user", "content": text }], "n": n, "max_tokens": limit });
        if spoken {
            members["audio"] = json!({ "voice": "x" });
        }
        let model = model("gpt-4o");
        let bound = capped(members).unwrap();
        let cut = bound.cut_to_budget(&model, NanoUsd::new(budget));
        prop_assert!(cut.is_none_or(|cut| cut.amount.nanos() <= budget));
        for bound in [Some(bound), cut].into_iter().flatten() {
            let share = |of: u64, share: u16| of * u64::from(share) / u64::from(u16::MAX);
            let (input, output) = (bound.input.unwrap().text, bound.output.unwrap() * n);
            let read = share(input, shares[0]);
            let said = if spoken { share(output, shares[1]) } else { 0 };
            let usage = Usage {
                input: share(input - read, shares[2]),
                cache_read: read,
                output_audio: said,
                reasoning: share(output - said, shares[3]),
                output: output - said - share(output - said, shares[3]),
                ..Usage::default()
            };
            let cost = model.prices.as_ref().unwrap().cost(&usage, ServiceTier::Standard);
            prop_assert!(cost <= bound.amount, "{} > {}", cost, bound.amount);
            prop_assert!(usage.input_total() + usage.output_total() <= bound.tokens().unwrap());
        }
    }

    #[test]
    fn no_request_has_more_output_than_its_policy_allows(n in 1u64..=128, ceiling in 1u64..2_000, limit in prop::option::of(1u64..2_000)) {
        let policy = Policy { max_output_tokens: Some(ceiling), ..Policy::default() };
        match compute(&model("gpt-4o"), &policy, false, &request(json!({ "n": n, "max_tokens": limit }))) {
            Ok(bound) => prop_assert!(bound.most(bound.output.unwrap()).output <= ceiling),
            Err(_) => prop_assert!(n > ceiling),
        }
    }

    #[test]
    fn no_request_and_no_budget_makes_it_panic(body: Vec<u8>, n in 1u64..=128, output: u64, budget: u64, limit: u64) {
        let model = model("gpt-4o");
        if let Ok(request) = scan(&body) {
            let bound = compute(&model, &Policy::default(), true, &request);
            prop_assert!(bound.is_ok() || !refused(bound).is_empty());
        }
        let bound = Bound { output: Some(output), choices: n, prediction: limit, ..capped(json!({})).unwrap() };
        prop_assert!(bound.tokens().is_some());
        prop_assert!(bound.cut_to_budget(&model, NanoUsd::new(budget)).is_none_or(|cut| cut.amount.nanos() <= budget));
        prop_assert!(bound.cut_to_room(&model, limit).is_none_or(|cut| cut.tokens() <= Some(limit)));
    }
}
