//! Recorded exchanges, replayed through the gateway: what the provider said arrives, and what it took is metered.
//!
//! Every exchange gets a model of its own in the catalogue, named after it; the provider answers that model with the recording. So all of
//! them run at the same time on one gateway and one key. What is expected is read from the recordings here, by other code than the gateway's.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};
use keyforge_loadtest::provider::{FaultRule, Recording, Reply as Scripted, Script, ScriptedProvider, load_folder};
use keyforge_proto::admin::v1 as admin;
use serde_json::{Value, json};

use crate::harness::{Gateway, PROVIDER_KEY, Reply, provider};

/// Pico-dollars a token, no two alike and none of them round.
pub const RATES: admin::Rates = admin::Rates {
    input: 2_503,
    output: 8_009,
    cache_read: Some(311),
    cache_write_5m: Some(3_001),
    cache_write_1h: Some(5_003),
    input_audio: Some(40_009),
    output_audio: Some(80_021),
    reasoning: Some(9_011),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invented_exchanges_arrive_and_are_metered_as_they_are_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let entries = replay(&load_folder(&folder).unwrap(), "fixtures").await;
    // These figures by hand, so that not everything rests on the reading below.
    let entry = &entries["every-kind-of-token"];
    let input = (entry.input_tokens, entry.input_audio_tokens, entry.cache_read_tokens, entry.cache_write_tokens);
    assert_eq!(input, (176, 60, 1024, 0));
    assert_eq!((entry.output_tokens, entry.reasoning_tokens, entry.output_audio_tokens), (350, 192, 31));
    let pico = 116 * 2_503 + 60 * 40_009 + 1024 * 311 + 127 * 8_009 + 192 * 9_011 + 31 * 80_021_u64;
    assert_eq!(entry.cost_nano_usd, pico.div_ceil(1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_exchanges_arrive_and_are_metered_as_they_were_recorded() {
    let Some(folder) = corpus() else {
        eprintln!("skipped: no recordings; set KEYFORGE_CORPUS to their directory");
        return;
    };
    let providers = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join("chat.completions"));
    let mut recordings: Vec<_> =
        providers.filter(|path| path.is_dir()).flat_map(|path| load_folder(&path).unwrap()).collect();
    assert!(recordings.len() > 100, "the recordings are incomplete: {}", recordings.len());
    recordings.retain(|recording| match left_out(recording) {
        Some(reason) => {
            eprintln!("left out: {}: {reason}", recording.id);
            false
        }
        None => true,
    });
    replay(&recordings, "corpus").await;
}

pub fn corpus() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    std::env::var_os("KEYFORGE_CORPUS").map(PathBuf::from).or(Some(beside)).filter(|path| path.is_dir())
}

/// Why an exchange cannot be replayed.
fn left_out(recording: &Recording) -> Option<&'static str> {
    let kind = recording.response.headers.get("content-type");
    if recording.request.body.is_null() {
        Some("its request was not recorded")
    } else if is_stream(recording) && kind.is_some_and(|kind| !kind.starts_with("text/event-stream")) {
        Some("its stream was recorded under another content type")
    } else {
        None
    }
}

/// Adds models of OpenAI's to the catalogue, and waits until the node serves them to the first key.
pub async fn add_models(gateway: &Gateway, names: &[&str]) {
    add_models_of(gateway, "openai", names).await;
}

/// Adds models of one provider to the catalogue, and waits until the node serves them to the first key.
pub async fn add_models_of(gateway: &Gateway, provider: &str, names: &[&str]) {
    let mut models = admin::model_service_client::ModelServiceClient::new(gateway.admin().await);
    for name in names {
        let model = admin::Model {
            name: (*name).to_owned(),
            provider: provider.to_owned(),
            upstream_name: (*name).to_owned(),
            operation: admin::Operation::Chat.into(),
            context_tokens: Some(1_000_000),
            max_output_tokens: Some(100_000),
            prices: Some(admin::Prices { standard: Some(RATES), ..admin::Prices::default() }),
            source: "invented for a test".to_owned(),
            as_of: "2026-11-22".to_owned(),
        };
        models.set_model(admin::SetModelRequest { model: Some(model) }).await.unwrap();
    }
    let last = names.last().copied().unwrap_or_default();
    gateway
        .eventually("the node knows the new models", async || {
            let list = gateway.send(hyper::Method::GET, "/v1/models", &gateway.key, "").await.json();
            list["data"].as_array().unwrap().iter().any(|model| model["id"] == last)
        })
        .await;
}

/// How an exchange is replayed.
#[derive(Clone, Copy)]
struct Way {
    /// Bytes of one write of the provider; 0 writes all at once.
    piece: usize,
    /// Whether the client keeps to itself that it wants usage, whatever the recorded one did.
    unasked: bool,
    /// Which exchanges.
    takes: fn(&Recording) -> bool,
}

/// The way that takes the failures is the last, since they say something of the credential that all share.
const WAYS: [Way; 5] = [
    Way { piece: 1000, unasked: false, takes: |one| one.response.status == 200 },
    Way { piece: 7, unasked: false, takes: is_stream },
    Way { piece: 1, unasked: false, takes: is_stream },
    Way { piece: 7, unasked: true, takes: |one| is_stream(one) && asks_for_usage(&one.request.body) },
    Way { piece: 0, unasked: false, takes: |_| true },
];

/// What went wrong with an exchange, by its id: the first thing only.
type Problems = BTreeMap<String, String>;

/// Replays every exchange in every way that takes it. Returns the last entry of each.
async fn replay(recordings: &[Recording], title: &str) -> HashMap<String, admin::RequestEntry> {
    let provider = provider(Script::default());
    let gateway = Gateway::start(&provider).await;
    let names: Vec<_> = recordings.iter().map(|recording| recording.id.as_str()).collect();
    add_models(&gateway, &names).await;
    let (key, key_id) = gateway.create_key("replay", admin::Policy::default()).await;
    let (mut problems, mut sent) = (Problems::new(), HashMap::new());
    for way in WAYS {
        let rules = recordings.iter().map(|recording| rule(recording, way.piece)).collect();
        provider.change_script(|script| script.faults = rules);
        let mut chosen: Vec<_> = recordings.iter().filter(|recording| (way.takes)(recording)).collect();
        chosen.sort_by_key(|recording| (recording.response.status == 401, recording.response.status == 429));
        let (failures, answers): (Vec<&Recording>, Vec<_>) =
            chosen.into_iter().partition(|recording| recording.response.status != 200);
        let replies = answers.into_iter().map(|recording| {
            let (gateway, key) = (&gateway, &key);
            async move { (recording, gateway.chat_as(key, &asked(recording, way.unasked)).await) }
        });
        let mut replies: Vec<_> = stream::iter(replies).buffer_unordered(8).collect().await;
        // One after the other, each with a credential that nothing was said of.
        for recording in failures {
            replies.push((recording, gateway.chat_in_haste(&key, &asked(recording, way.unasked)).await));
            gateway.rotate_credentials().await;
        }
        for (recording, reply) in replies {
            let checked = check_reply(recording, way, &reply);
            note(&mut problems, recording, checked.map_err(|problem| format!("pieces of {}: {problem}", way.piece)));
            sent.insert(reply.header("x-request-id").to_owned(), recording);
        }
    }
    let mut entries = HashMap::new();
    for entry in gateway.entries(&key_id, sent.len()).await {
        let recording = sent.remove(&entry.request_id).expect("an entry of a request that was sent");
        note(&mut problems, recording, check_entry(recording, &entry));
        entries.insert(recording.id.clone(), entry);
    }
    assert!(sent.is_empty(), "without an entry: {sent:?}");
    check_forwarded(recordings, &provider, &mut problems);
    gateway.assert_chains_hold();
    let (good, requests) = (recordings.len() - problems.len(), provider.request_count());
    eprintln!("{title}: {good} of {} replayed, {requests} requests", recordings.len());
    let report: Vec<_> = problems.iter().map(|(id, problem)| format!("{id}: {problem}")).collect();
    assert!(report.is_empty(), "{}", report.join("\n"));
    entries
}

fn note(problems: &mut Problems, recording: &Recording, checked: Result<(), String>) {
    if let Err(problem) = checked {
        problems.entry(recording.id.clone()).or_insert(problem);
    }
}

/// The recording as the provider's answer to the model named after it.
fn rule(recording: &Recording, piece: usize) -> FaultRule {
    let mut reply = Scripted::from_recording(recording, Some(piece).filter(|piece| *piece > 0));
    // Some recordings kept only a part of the headers.
    if is_stream(recording) && !recording.response.headers.contains_key("content-type") {
        reply = reply.with_header("content-type", "text/event-stream");
    }
    FaultRule { model: Some(recording.id.clone()), ..FaultRule::always(reply) }
}

/// The recorded request, for the model named after it.
fn asked(recording: &Recording, unasked: bool) -> Value {
    let mut body = recording.request.body.clone();
    body["model"] = json!(recording.id);
    if unasked {
        body.as_object_mut().unwrap().remove("stream_options");
    }
    body
}

fn asks_for_usage(request: &Value) -> bool {
    request["stream_options"]["include_usage"] == true
}

/// Whether the answer is an event stream.
fn is_stream(recording: &Recording) -> bool {
    recording.response.status == 200 && recording.request.body["stream"] == true
}

/// The JSON of a line of an event stream.
fn data(line: &str) -> Option<Value> {
    serde_json::from_str(line.strip_prefix("data:")?).ok()
}

fn is_error(chunk: &Value) -> bool {
    !chunk["error"].is_null()
}

/// Everything that the body of an answer says: itself, or its chunks.
fn answers(recording: &Recording) -> Vec<Value> {
    let body = &recording.response.body;
    if is_stream(recording) {
        return body.lines().filter_map(data).collect();
    }
    serde_json::from_str(body).into_iter().collect()
}

pub fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

fn check_reply(recording: &Recording, way: Way, reply: &Reply) -> Result<(), String> {
    ensure(!reply.text().contains(PROVIDER_KEY), || "it shows the provider's key".to_owned())?;
    let recorded = &recording.response;
    if recorded.status != 200 {
        return check_refusal(recording, reply);
    }
    ensure(reply.status == 200, || format!("status {}: {}", reply.status, reply.text()))?;
    for name in reply.headers.keys() {
        let name = name.as_str();
        let ours =
            name.starts_with("x-keyforge-") || ["x-request-id", "x-accel-buffering", "cache-control"].contains(&name);
        let said = ["content-type", "content-length", "transfer-encoding", "date"].contains(&name);
        let harmless = ours || said || name.starts_with("openai-processing-ms") || name.starts_with("openai-version");
        ensure(harmless, || format!("the header {name} is passed on"))?;
    }
    if answers(recording).iter().any(is_error) {
        return check_broken_stream(recording, way, reply);
    }
    if is_stream(recording) && (way.unasked || !asks_for_usage(&recording.request.body)) {
        return same_lines(&without_usage(&recorded.body), &reply.text());
    }
    ensure(reply.body == recorded.body, || format!("other bytes: {}", reply.text()))
}

/// The lines of a stream that its client would have got without usage, each with whether its bytes are the recorded ones.
fn without_usage(body: &str) -> Vec<(String, bool)> {
    let mut lines = Vec::new();
    for line in body.split_inclusive('\n') {
        let Some(mut chunk) = data(line).filter(|chunk| chunk.get("usage").is_some()) else {
            lines.push((line.trim_end_matches(['\r', '\n']).to_owned(), true));
            continue;
        };
        if chunk["usage"].is_object() && chunk["choices"] == json!([]) {
            continue;
        }
        chunk.as_object_mut().unwrap().remove("usage");
        lines.push((format!("data: {chunk}"), false));
    }
    lines
}

fn same_lines(expected: &[(String, bool)], got: &str) -> Result<(), String> {
    let mut got = got.lines().filter(|line| !line.trim().is_empty());
    for (line, exact) in expected.iter().filter(|(line, _)| !line.trim().is_empty()) {
        let found = got.next().unwrap_or_default();
        let same = if *exact { found == line } else { data(found) == data(line) };
        ensure(same, || format!("{found:?} instead of {line:?}"))?;
    }
    ensure(got.next().is_none(), || "more lines than expected".to_owned())
}

/// All events before the error arrive, and then one that says it in our words.
fn check_broken_stream(recording: &Recording, way: Way, reply: &Reply) -> Result<(), String> {
    let body = &recording.response.body;
    let error_at = body.split_inclusive('\n').take_while(|line| !data(line).is_some_and(|chunk| is_error(&chunk)));
    let before: String = error_at.filter(|line| !line.starts_with("event:")).collect();
    let text = reply.text();
    let (got, last) = text.trim_end().rsplit_once("\n\n").ok_or("no events")?;
    let error = data(last).ok_or_else(|| format!("it ends with {last:?}"))?["error"].clone();
    let told = error["message"].as_str().is_some_and(|message| !message.is_empty()) && error["type"].is_string();
    ensure(told, || format!("it ends with {last:?}"))?;
    if !way.unasked && asks_for_usage(&recording.request.body) {
        return ensure(before.trim_end() == got, || "other bytes before the error".to_owned());
    }
    same_lines(&without_usage(&before), got)
}

fn check_refusal(recording: &Recording, reply: &Reply) -> Result<(), String> {
    let (status, body) = (recording.response.status, reply.text());
    let problem = || format!("{}: {body}", reply.status);
    let error = reply.json()["error"].clone();
    for private in ["sk-", "**", "org-", "REDACTED", "user_", "<html"] {
        ensure(!body.contains(private), problem)?;
    }
    let recorded: Value = serde_json::from_str(&recording.response.body).unwrap_or_default();
    let recorded = if recorded["error"].is_object() { &recorded["error"] } else { &recorded };
    let message = recorded["message"].as_str().unwrap_or_default();
    let refused = |status: u16| {
        // A provider's own word for the kind of a 429 is not one that clients know.
        let same_kind = status == 429 || error["type"] == recorded["type"];
        let same = error["code"] == recorded["code"] && error["param"] == recorded["param"] && same_kind;
        let message =
            error["message"] == message || error["message"].as_str().is_some_and(|text| text.contains("[redacted]"));
        ensure(reply.status == status && same && message && reply.header("x-should-retry") == "false", problem)
    };
    let failed =
        |code: &str| ensure(reply.status == 502 && error["code"] == code && error["type"] == "server_error", problem);
    match status {
        401 | 403 => {
            failed("upstream_credentials_exhausted")?;
            ensure(reply.header("x-should-retry") == "false", problem)
        }
        429 if message.starts_with("Request too large") => refused(429),
        429 => {
            let told = error["code"] == "rate_limit_exceeded" && error["type"] == "rate_limit_error";
            ensure(reply.status == 429 && told, problem)?;
            let wait = |name: &str| reply.header(name).parse::<u64>().unwrap_or_default();
            let recorded = recording.response.headers.get("retry-after-ms").map(|ms| ms.parse::<u64>().unwrap());
            let (seconds, millis) = (wait("retry-after"), wait("retry-after-ms"));
            // Up to a tenth more, so that not all come back in the same moment; and some of it has passed.
            let fits = |recorded: u64| (recorded * 99 / 100..=recorded * 11 / 10 + 1).contains(&millis);
            ensure(seconds > 0 && millis > 0 && recorded.is_none_or(fits), problem)
        }
        // The pool is shut for a moment, and says until when.
        498 | 503 | 529 => {
            let told = error["code"] == "rate_limit_exceeded" && reply.status == 429;
            ensure(told && !reply.header("retry-after").is_empty(), problem)
        }
        408 | 500.. => failed("upstream_error"),
        _ => refused(status),
    }
}

/// Disjoint counts, but for the totals that an entry gives.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    input: u64,
    input_audio: u64,
    cached: u64,
    written: u64,
    output: u64,
    output_audio: u64,
    reasoning: u64,
}

/// The last usage that a recording tells.
fn recorded_counts(recording: &Recording) -> Option<Counts> {
    let answers = answers(recording);
    let mut usages = answers.iter().flat_map(|answer| [&answer["usage"], &answer["x_groq"]["usage"]]);
    let usage = usages.rfind(|usage| usage.is_object())?;
    let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64);
    let (prompt, completion) = (count("/prompt_tokens")?, count("/completion_tokens")?);
    let cached = count("/prompt_tokens_details/cached_tokens").or(count("/prompt_cache_hit_tokens"));
    let cached = cached.or(count("/cached_tokens")).unwrap_or(0);
    let written = count("/prompt_tokens_details/cache_write_tokens").unwrap_or(0);
    let reasoning = count("/completion_tokens_details/reasoning_tokens").unwrap_or(0);
    // Some hosts do not count reasoning among the completion; their total tells, or that there is more of it.
    let output = match count("/total_tokens") {
        Some(total) => completion.max(total.saturating_sub(prompt)),
        None if reasoning > completion => completion + reasoning,
        None => completion,
    };
    // Some recordings tell of more audio or reasoning than there was output: audio goes first, since it is the dearest.
    let output_audio = count("/completion_tokens_details/audio_tokens").unwrap_or(0).min(output);
    Some(Counts {
        input: prompt.checked_sub(cached + written)?,
        input_audio: count("/prompt_tokens_details/audio_tokens").unwrap_or(0),
        cached,
        written,
        output,
        output_audio,
        reasoning: reasoning.min(output - output_audio),
    })
}

impl Counts {
    fn nano_usd(&self) -> u64 {
        let pico = (self.input - self.input_audio) * 2_503
            + self.input_audio * 40_009
            + self.cached * 311
            + self.written * 3_001
            + (self.output - self.output_audio - self.reasoning) * 8_009
            + self.output_audio * 80_021
            + self.reasoning * 9_011;
        pico.div_ceil(1000)
    }
}

fn check_entry(recording: &Recording, entry: &admin::RequestEntry) -> Result<(), String> {
    let problem = |what: &str| format!("{what}: {entry:?}");
    ensure(entry.outcome == "completed" && entry.model == recording.id, || problem("another request's entry"))?;
    let flag = |name: &str| entry.flags.iter().any(|flag| flag == name);
    ensure(flag("streamed") == (recording.request.body["stream"] == true), || problem("the flag streamed"))?;
    let failed = recording.response.status != 200 || answers(recording).iter().any(is_error);
    ensure(entry.rejection.is_empty() != failed, || problem("the rejection"))?;
    let counts = Counts {
        input: entry.input_tokens,
        input_audio: entry.input_audio_tokens,
        cached: entry.cache_read_tokens,
        written: entry.cache_write_tokens,
        output: entry.output_tokens,
        output_audio: entry.output_audio_tokens,
        reasoning: entry.reasoning_tokens,
    };
    let expected = if recording.response.status == 200 { recorded_counts(recording) } else { None };
    ensure(flag("usage_known") == expected.is_some(), || problem("the flag usage_known"))?;
    if let Some(expected) = expected {
        ensure(counts == expected, || problem(&format!("not {expected:?}")))?;
        return ensure(entry.cost_nano_usd == expected.nano_usd(), || problem(&format!("not {}", expected.nano_usd())));
    }
    ensure(counts == Counts::default(), || problem("tokens that nobody told of"))?;
    // What a client error or a refused key cost is known: nothing. All else is charged at its bound.
    let free = matches!(recording.response.status, 400..=407 | 409..=429);
    let charged = if free { 0 } else { entry.bound_nano_usd };
    ensure(entry.cost_nano_usd == charged, || problem(&format!("not {charged}")))
}

/// The provider got what the client sent, and the wish for usage with it.
fn check_forwarded(recordings: &[Recording], provider: &ScriptedProvider, problems: &mut Problems) {
    let by_name: HashMap<_, _> = recordings.iter().map(|recording| (recording.id.as_str(), recording)).collect();
    for request in provider.requests() {
        let got = request.json();
        let recording = by_name[got["model"].as_str().unwrap()];
        let mut expected = asked(recording, false);
        if expected["stream"] == true {
            expected["stream_options"]["include_usage"] = json!(true);
        }
        let same = ensure(got == expected, || format!("the provider got another request: {got}"));
        note(problems, recording, same);
    }
}
