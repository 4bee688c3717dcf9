//! Every metric of a node, by its one name. Labels come from closed sets only, never from what a client sends.
//!
//! Names follow OpenTelemetry's GenAI conventions where there is one, and begin with `keyforge` where there is none.

use std::sync::Arc;

use keyforge_shared::catalog::Model;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::usage::Usage;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

/// The instruments of a node. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    requests: Counter<u64>,
    tokens: Histogram<u64>,
    duration: Histogram<f64>,
    overhead: Histogram<f64>,
    cost: Counter<u64>,
    bound_exceeded: Counter<u64>,
    fail_closed: Counter<u64>,
    refusals_dropped: Counter<u64>,
    settlements_dropped: Counter<u64>,
    store_up: Gauge<u64>,
    cooldowns: Counter<u64>,
    replays: Counter<u64>,
    dead_credentials: Gauge<u64>,
    certificates: Certificates,
    state_age: Gauge<f64>,
    resources_refused: Gauge<u64>,
}

/// Of the node and of its listener.
#[derive(Clone)]
struct Certificates {
    renewals: Counter<u64>,
    expiry: Gauge<u64>,
    reloads: Counter<u64>,
}

impl Certificates {
    fn new(meter: &Meter) -> Self {
        Self {
            renewals: meter
                .u64_counter("keyforge.node.renewals")
                .with_description("Attempts to renew the node's certificate, by how they ended")
                .build(),
            expiry: meter
                .u64_gauge("keyforge.node.certificate_expiry")
                .with_description("When the node's certificate expires, in seconds since 1970")
                .build(),
            reloads: meter
                .u64_counter("keyforge.listener.certificate_reloads")
                .with_description("Changes of the agents' certificate files, by whether they could be used")
                .build(),
        }
    }
}

const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
const OVERHEAD_SECONDS: [f64; 10] = [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25];
const TOKENS: [f64; 10] = [1.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0];

impl Metrics {
    /// Registers the instruments.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        Self {
            requests: meter
                .u64_counter("keyforge.requests")
                .with_description("Requests answered, by HTTP status and rejection code")
                .build(),
            tokens: meter
                .u64_histogram("gen_ai.client.token.usage")
                .with_description("Tokens of a request as the provider counted them")
                .with_unit("{token}")
                .with_boundaries(TOKENS.to_vec())
                .build(),
            duration: meter
                .f64_histogram("gen_ai.server.request.duration")
                .with_description(
                    "Time from a request's head to the end of its answer, of requests that were dispatched",
                )
                .with_unit("s")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            overhead: meter
                .f64_histogram("keyforge.request.overhead")
                .with_description("Time from a request's head to its dispatch")
                .with_unit("s")
                .with_boundaries(OVERHEAD_SECONDS.to_vec())
                .build(),
            cost: meter
                .u64_counter("keyforge.cost")
                .with_description("Money charged to virtual keys, in nano-dollars")
                .with_unit("{nano_usd}")
                .build(),
            bound_exceeded: meter
                .u64_counter("keyforge.bound_exceeded")
                .with_description(
                    "Requests that cost more than their reservation; each froze its key and needs a human",
                )
                .build(),
            fail_closed: meter
                .u64_counter("keyforge.fail_closed")
                .with_description("Requests refused because limits or records could not be kept, by what was missing")
                .build(),
            refusals_dropped: meter
                .u64_counter("keyforge.audit.refusals_dropped")
                .with_description("Refusals left out of the audit: their key had too many, or the spool was half full")
                .build(),
            settlements_dropped: meter
                .u64_counter("keyforge.settlements_dropped")
                .with_description(
                    "Ends of requests that the counter store was not told: their holds expire by themselves, charged in full there",
                )
                .build(),
            store_up: meter
                .u64_gauge("keyforge.counter_store.up")
                .with_description("Whether the counter store can be reached: 1 or 0")
                .build(),
            cooldowns: meter
                .u64_counter("keyforge.pool.cooldowns")
                .with_description("Refusals by providers after which nobody asks for a while, by what they were")
                .build(),
            replays: meter
                .u64_counter("keyforge.pool.replays")
                .with_description("Attempts made again with another credential, by what the one before met")
                .build(),
            dead_credentials: meter
                .u64_gauge("keyforge.pool.dead_credentials")
                .with_description("Credentials that their provider refuses: each needs a human")
                .build(),
            certificates: Certificates::new(meter),
            state_age: meter
                .f64_gauge("keyforge.state.age")
                .with_description("How old what the node knows of its keys can be; above five seconds it has lost the control plane")
                .with_unit("s")
                .build(),
            resources_refused: meter
                .u64_gauge("keyforge.state.resources_refused")
                .with_description("Records of the state that this node could not read and keeps its last good version of")
                .build(),
        }
    }

    /// An answer began. `code` is a rejection's, or empty.
    pub fn answered(&self, status: u16, code: &'static str) {
        self.requests.add(
            1,
            &[KeyValue::new("http.response.status_code", i64::from(status)), KeyValue::new("keyforge.code", code)],
        );
    }

    /// A request was dispatched this long after its head came.
    pub fn dispatched(&self, seconds: f64) {
        self.overhead.record(seconds, &[]);
    }

    /// An attempt ended this long after its request's head came, and was charged. Model names are the catalogue's, which operators keep, not clients.
    pub fn charged(&self, model: &Model, usage: Option<&Usage>, nanos: u64, seconds: f64) {
        // Shared, because each of four measurements keeps its labels.
        let of_model = [
            KeyValue::new("gen_ai.request.model", Arc::<str>::from(model.name.as_str())),
            KeyValue::new("gen_ai.provider.name", Arc::<str>::from(model.provider.0.as_str())),
        ];
        self.cost.add(nanos, &of_model);
        self.duration.record(seconds, &of_model);
        if let Some(usage) = usage {
            let [name, provider] = of_model;
            let kinds = [("input", usage.input_total()), ("output", usage.output_total())];
            for (kind, tokens) in kinds {
                let labels = [name.clone(), provider.clone(), KeyValue::new("gen_ai.token.type", kind)];
                self.tokens.record(tokens, &labels);
            }
        }
    }

    /// A request cost more than its reservation.
    pub fn bound_exceeded(&self) {
        self.bound_exceeded.add(1, &[]);
    }

    /// A request was refused because `missing` could not be kept.
    pub fn failed_closed(&self, missing: &'static str) {
        self.fail_closed.add(1, &[KeyValue::new("keyforge.missing", missing)]);
    }

    /// The counter store will not be told how a request ended.
    pub fn settlement_dropped(&self) {
        self.settlements_dropped.add(1, &[]);
    }

    /// The counter store can be reached, or cannot.
    pub fn counter_store(&self, up: bool) {
        self.store_up.record(u64::from(up), &[]);
    }

    /// A provider's refusal of this class began a cooldown.
    pub fn cooled(&self, class: &'static str) {
        self.cooldowns.add(1, &[KeyValue::new("keyforge.class", class)]);
    }

    /// A request is tried again after what its attempt met.
    pub fn replayed(&self, class: &'static str) {
        self.replays.add(1, &[KeyValue::new("keyforge.class", class)]);
    }

    /// So many credentials are refused by their provider.
    pub fn dead_credentials(&self, count: u64) {
        self.dead_credentials.record(count, &[]);
    }

    /// An attempt to renew the node's certificate ended.
    pub fn renewed(&self, done: bool) {
        self.certificates.renewals.add(1, &[KeyValue::new("keyforge.outcome", outcome(done))]);
    }

    /// The node's certificate is good until then.
    pub fn certificate_expiry(&self, at: Timestamp) {
        self.certificates.expiry.record(u64::try_from(at.seconds()).unwrap_or(0), &[]);
    }

    /// The files of the agents' certificate have changed.
    pub fn certificate_reloaded(&self, done: bool) {
        self.certificates.reloads.add(1, &[KeyValue::new("keyforge.outcome", outcome(done))]);
    }

    /// What the node knows of its keys can be this old.
    pub fn state_age(&self, age: std::time::Duration) {
        self.state_age.record(age.as_secs_f64(), &[]);
    }

    /// So many records of the state cannot be read here.
    pub fn resources_refused(&self, count: usize) {
        self.resources_refused.record(count as u64, &[]);
    }

    /// A refusal was left out of the audit.
    pub fn refusal_dropped(&self) {
        self.refusals_dropped.add(1, &[]);
    }
}

const fn outcome(done: bool) -> &'static str {
    if done { "done" } else { "failed" }
}
