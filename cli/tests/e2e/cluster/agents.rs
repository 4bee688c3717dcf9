//! Agents: many at once, each sends one request after another, to one node after another, and takes what comes as it is documented.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::deployment::Deployment;

/// gpt-4o's prices in nano-dollars a token; whole numbers, so that sums are exact.
pub const INPUT_NANO: u64 = 2_500;
pub const OUTPUT_NANO: u64 = 10_000;
/// Longest pause that an agent takes because it was told to.
const IMPATIENCE: Duration = Duration::from_millis(500);

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub request_id: Option<String>,
    /// Nothing when the connection broke before an answer came.
    pub status: Option<u16>,
    pub code: String,
    /// Whether the answer came to its end.
    pub whole: bool,
    /// From sending it to the head of the answer.
    pub took: Duration,
    /// What it was told to wait.
    pub retry_after: Option<Duration>,
    /// The error of a refusal.
    pub error: Value,
}

impl Outcome {
    /// The status and the code, for counting.
    pub fn kind(&self) -> String {
        match self.status {
            None => "broken connection".to_owned(),
            Some(200) if self.whole => "200".to_owned(),
            Some(200) => "200 cut".to_owned(),
            Some(status) => format!("{status} {}", self.code),
        }
    }
}

/// A chat request for so many tokens, at the ordinary price.
pub fn ask(tokens: u64, stream: bool) -> Value {
    json!({ "model": "gpt-4o", "max_tokens": tokens, "stream": stream, "service_tier": "default",
        "messages": [{ "role": "user", "content": "Hello there" }] })
}

/// Sends one request and reads the answer.
pub async fn attempt(deployment: &Deployment, node: usize, token: &str, body: &Value) -> Outcome {
    let sent = Instant::now();
    let answer = deployment.open(node, token, body).await;
    let took = sent.elapsed();
    let blank = Outcome {
        request_id: None,
        status: None,
        code: String::new(),
        whole: false,
        took,
        retry_after: None,
        error: Value::Null,
    };
    let Ok(answer) = answer else { return blank };
    let text = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let request_id = text("x-request-id");
    let retry_after = text("retry-after-ms").map(|millis| Duration::from_millis(millis.parse().unwrap()));
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map(|body| body.to_bytes());
    let error =
        body.as_ref().ok().filter(|_| status != 200).and_then(|body| serde_json::from_slice::<Value>(body).ok());
    let error = error.map(|mut error| error["error"].take()).unwrap_or_default();
    let code = error["code"].as_str().unwrap_or_default().to_owned();
    // A stream that fails after it has begun ends with an error in place of its end.
    let whole = body.as_ref().is_ok_and(|body| !body.is_empty() && !body.windows(8).any(|part| part == b"{\"error\""));
    Outcome { request_id, status: Some(status), code, whole, retry_after, error, ..blank }
}

/// Many agents.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    pub agents: usize,
    /// What each request asks for.
    pub tokens: u64,
    /// How long an agent thinks about an answer.
    pub rest: Duration,
    /// When they stop to ask.
    pub end: Instant,
}

/// Lets a crowd ask until its end, with so many keys in turn. Every other request is streamed.
pub async fn crowd(deployment: &Arc<Deployment>, keys: &[String], crowd: Crowd) -> Vec<Outcome> {
    let Crowd { agents, tokens, rest, end } = crowd;
    let mut running = JoinSet::new();
    for agent in 0..agents {
        let (deployment, token) = (Arc::clone(deployment), keys[agent % keys.len()].clone());
        running.spawn(async move {
            let mut outcomes = Vec::new();
            // Not all in the same moment.
            sleep(Duration::from_millis(5 * agent as u64)).await;
            for number in agent.. {
                if Instant::now() >= end {
                    break;
                }
                let node = number % deployment.nodes.len();
                let outcome = attempt(&deployment, node, &token, &ask(tokens, number / 3 % 2 == 0)).await;
                let pause = match outcome.status {
                    Some(200) => rest,
                    _ => outcome.retry_after.unwrap_or(IMPATIENCE / 2).min(IMPATIENCE),
                };
                sleep(pause.min(end.saturating_duration_since(Instant::now()))).await;
                outcomes.push(outcome);
            }
            outcomes
        });
    }
    running.join_all().await.into_iter().flatten().collect()
}

/// How often each kind of outcome came.
pub fn kinds(outcomes: &[Outcome]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for outcome in outcomes {
        *counts.entry(outcome.kind()).or_default() += 1;
    }
    counts
}

/// Every outcome is of one of these kinds.
pub fn assert_only(outcomes: &[Outcome], allowed: &[&str]) {
    let strange: Vec<&Outcome> =
        outcomes.iter().filter(|outcome| !allowed.contains(&outcome.kind().as_str())).collect();
    assert!(
        strange.is_empty(),
        "{} of {} are not documented: {:#?}",
        strange.len(),
        outcomes.len(),
        &strange[..strange.len().min(5)]
    );
}
