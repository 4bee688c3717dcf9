//! Logs, traces and metrics of the process, set up once from one configuration.
//!
//! Logs go to the standard error. Metrics have one instrumentation API (the OpenTelemetry [`Meter`]) and two ways out:
//! Prometheus text on request, and OTLP when a collector is configured. Traces leave by OTLP only; without a collector
//! their layer does not exist and costs nothing. Exporting happens on threads of its own, never on a request's path.
//! Nothing here records header values or bodies.

mod logs;
mod otlp;
mod table;

use std::sync::Arc;
use std::time::Duration;

use keyforge_shared::secret::SecretBytes;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use thiserror::Error;
use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{ParseError, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::env_var;
use crate::propagation;
use crate::shutdown::Shutdown;
use crate::tls::TlsError;

pub use logs::LogFormat;
pub use table::RawTelemetry;

/// Names of our crates begin with this; only their spans are exported, so that exporting cannot trace itself.
const OWN_TARGETS: &str = "keyforge";

/// Read when no endpoint is configured; its name is part of the OpenTelemetry specification.
const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The HTTP/2 library. It warns of what any stranger can do to it, once per connection.
const HTTP2_TARGET: &str = "h2";

/// What to record, and where to send it.
pub struct TelemetryConfig {
    /// `service.name` of everything exported.
    pub service_name: String,
    /// `service.instance.id`: which of several processes this is.
    pub instance_id: Option<String>,
    /// The shape of a log line.
    pub log_format: LogFormat,
    /// What is logged: a level, or `target=level` pairs, such as `info,keyforge=debug`. Of `h2` only errors are, unless it is named or the level is `debug` or more.
    pub log_filter: String,
    /// The base URL of a collector that takes OTLP over HTTP, such as `http://localhost:4318`. When absent,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` is read; when that is absent, too, nothing is exported.
    pub otlp_endpoint: Option<String>,
    /// Headers for the collector, such as an authorization. Values are secrets.
    pub otlp_headers: Vec<(String, SecretBytes)>,
    /// The share of traces begun here that is recorded, in `0.0 ..= 1.0`; a caller's decision is followed.
    pub sample_ratio: f64,
}

impl TelemetryConfig {
    /// Text logs at `info`, no exporting unless the environment names a collector, all traces sampled.
    #[must_use]
    pub fn new(service_name: impl Into<String>) -> Self {
        Self {
            service_name: service_name.into(),
            instance_id: None,
            log_format: LogFormat::Text,
            log_filter: String::from("info"),
            otlp_endpoint: None,
            otlp_headers: Vec::new(),
            sample_ratio: 1.0,
        }
    }
}

/// Why telemetry cannot start.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The log filter cannot be read.
    #[error("the log filter {text:?} is not a list such as info,keyforge=debug: {cause}")]
    Filter {
        /// The filter as written.
        text: String,
        /// What the parser found.
        cause: ParseError,
    },
    /// The sample ratio is not a share.
    #[error("the trace sample ratio {0} is not between 0 and 1")]
    SampleRatio(f64),
    /// The endpoint is not a URL.
    #[error("the OTLP endpoint {0:?} is not a URL such as http://localhost:4318")]
    Endpoint(String),
    /// A header cannot be sent. Its value is not repeated.
    #[error("the OTLP header {0:?} is not a header name with a value of visible text")]
    Header(String),
    /// The client's TLS configuration failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// OTLP needs the runtime of the process.
    #[error("telemetry with an OTLP endpoint must be started inside the Tokio runtime")]
    NoRuntime,
    /// An exporter could not be built.
    #[error("the {0} exporter cannot be built: {1}")]
    Exporter(&'static str, String),
    /// [`Telemetry::start`] was called twice.
    #[error("telemetry was started already in this process")]
    AlreadyStarted,
}

/// The running telemetry. Clones share it.
#[derive(Clone)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

struct Inner {
    registry: prometheus::Registry,
    meters: SdkMeterProvider,
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts telemetry and makes it the process's: events and spans of every thread go to it.
    ///
    /// # Errors
    /// The configuration cannot be used, or telemetry was started already.
    pub fn start(config: TelemetryConfig) -> Result<Self, TelemetryError> {
        let (telemetry, dispatch) = Self::prepare(config)?;
        tracing::dispatcher::set_global_default(dispatch).map_err(|_| TelemetryError::AlreadyStarted)?;
        Ok(telemetry)
    }

    /// Starts telemetry and leaves it to the caller which code is recorded: for tests and for several in one process.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn prepare(config: TelemetryConfig) -> Result<(Self, Dispatch), TelemetryError> {
        let filter = log_filter(&config.log_filter)
            .map_err(|cause| TelemetryError::Filter { text: config.log_filter.clone(), cause })?;
        if !(0.0..=1.0).contains(&config.sample_ratio) {
            return Err(TelemetryError::SampleRatio(config.sample_ratio));
        }
        let endpoint = config.otlp_endpoint.clone().or_else(|| env_var(ENDPOINT_VARIABLE));
        let exporters = endpoint.map(|endpoint| otlp::exporters(&endpoint, &config.otlp_headers)).transpose()?;
        let resource = resource(&config);

        let registry = prometheus::Registry::new();
        let prometheus_reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|error| TelemetryError::Exporter("Prometheus", error.to_string()))?;
        let mut meters = SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(prometheus_reader);

        let mut layers = vec![logs::layer(config.log_format).with_filter(filter).boxed()];
        let mut traces = None;
        if let Some((span_exporter, metric_exporter)) = exporters {
            meters = meters.with_reader(PeriodicReader::builder(metric_exporter).build());
            let provider = SdkTracerProvider::builder()
                .with_resource(resource)
                .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio))))
                .with_batch_exporter(span_exporter)
                .build();
            layers.push(trace_layer(&provider));
            traces = Some(provider);
            propagation::switch_on();
        }
        let inner = Inner { registry, meters: meters.build(), traces };
        Ok((Self { inner: Arc::new(inner) }, Dispatch::new(Registry::default().with(layers))))
    }

    /// Where instruments are made; names are dotted, units are UCUM (`s`, `By`).
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.inner.meters.meter(OWN_TARGETS)
    }

    /// Keeps metrics of the process's tasks: how many run, and how many panicked.
    pub fn observe(&self, shutdown: &Shutdown) {
        let (running, panicked) = (shutdown.clone(), shutdown.clone());
        let tasks = move || u64::try_from(running.running_tasks()).unwrap_or(u64::MAX);
        // The meter keeps the callbacks; the handles have no other use.
        let _gauge = self
            .meter()
            .u64_observable_gauge("keyforge.tasks")
            .with_description("Tasks that a drain would wait for.")
            .with_callback(move |gauge| gauge.observe(tasks(), &[]))
            .build();
        let _counter = self
            .meter()
            .u64_observable_counter("keyforge.task.panics")
            .with_description("Panics that were caught.")
            .with_callback(move |counter| counter.observe(panicked.panics(), &[]))
            .build();
    }

    /// Every metric in the Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn prometheus_text(&self) -> String {
        let families = self.inner.registry.gather();
        prometheus::TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot encode the metrics");
            String::new()
        })
    }

    /// Sends what is still buffered and stops exporting, within `deadline`. What did not make it is logged and lost.
    pub async fn shutdown(&self, deadline: Duration) {
        let inner = Arc::clone(&self.inner);
        // The exporters wait for this runtime's network, so that the flush must not hold one of its workers.
        let flush = tokio::task::spawn_blocking(move || {
            let flushed = inner.traces.as_ref().map_or(Ok(()), |traces| traces.shutdown_with_timeout(deadline));
            (flushed, inner.meters.shutdown_with_timeout(deadline))
        });
        match tokio::time::timeout(deadline, flush).await {
            Ok(Ok((Ok(()), Ok(())))) => {}
            Ok(Ok((traces, metrics))) => tracing::warn!(?traces, ?metrics, "telemetry was not flushed entirely"),
            Ok(Err(error)) => tracing::warn!(%error, "telemetry was not flushed"),
            Err(_) => tracing::warn!("telemetry was not flushed before the deadline"),
        }
    }
}

/// What is logged. Strangers must not be able to fill the log, so that warnings of the HTTP/2 library are logged only when the text names it, or asks for
/// `debug` or more of all.
fn log_filter(text: &str) -> Result<Targets, ParseError> {
    let named: Targets = text.parse()?;
    let is_http2 = |target: &str| target == HTTP2_TARGET || target.starts_with("h2::");
    if named.iter().any(|(target, _)| is_http2(target)) {
        return Ok(named);
    }
    let others = named.default_level().unwrap_or(LevelFilter::OFF);
    // Whoever asks for everything gets it.
    if others > LevelFilter::INFO {
        return Ok(named);
    }
    Ok(named.with_target(HTTP2_TARGET, others.min(LevelFilter::ERROR)))
}

fn trace_layer(provider: &SdkTracerProvider) -> Box<dyn Layer<Registry> + Send + Sync> {
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(OWN_TARGETS))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(
            filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with(OWN_TARGETS))
                .with_max_level_hint(LevelFilter::DEBUG),
        )
        .boxed()
}

fn resource(config: &TelemetryConfig) -> Resource {
    Resource::builder()
        .with_service_name(config.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(config.instance_id.clone().map(|id| KeyValue::new("service.instance.id", id)))
        .build()
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn refused(change: impl FnOnce(&mut TelemetryConfig)) -> String {
        let mut config = TelemetryConfig::new("test");
        change(&mut config);
        Telemetry::prepare(config).err().unwrap().to_string()
    }

    #[test]
    fn unusable_settings_are_named() {
        assert!(refused(|config| config.log_filter = "info,keyforge=loud".to_owned()).contains("info,keyforge=loud"));
        assert!(refused(|config| config.sample_ratio = 1.5).contains("1.5"));
        assert!(refused(|config| config.sample_ratio = f64::NAN).contains("NaN"));
        assert!(refused(|config| config.otlp_endpoint = Some("not a url".to_owned())).contains("not a url"));
    }

    #[test]
    fn warnings_of_the_http2_library_are_logged_only_when_the_filter_names_it() {
        let levels = |text: &str| {
            let filter = log_filter(text).unwrap();
            let logged = |target: &str| {
                [Level::ERROR, Level::WARN, Level::DEBUG].map(|level| filter.would_enable(target, &level))
            };
            (logged("h2::proto::connection"), logged("keyforge_runtime::accept"))
        };
        let (errors, warnings) = ([true, false, false], [true, true, false]);
        assert_eq!(levels("info"), (errors, warnings));
        assert_eq!(levels("debug,hyper=info"), ([true; 3], [true; 3]));
        assert_eq!(levels("warn,keyforge=debug"), (errors, [true; 3]));
        assert_eq!(levels("info,h2=warn"), (warnings, warnings));
        assert_eq!(levels("info,h2::proto=debug"), ([true; 3], warnings));
        assert_eq!(levels("off"), ([false; 3], [false; 3]));
        assert_eq!(levels("keyforge=debug"), ([false; 3], [true; 3]));
    }

    #[tokio::test]
    async fn header_value_is_never_repeated() {
        let error = refused(|config| {
            config.otlp_endpoint = Some("http://localhost:4318".to_owned());
            config.otlp_headers = vec![("x-key".to_owned(), SecretBytes::new(b"sk\nsecret".to_vec()))];
        });
        assert!(error.contains("x-key") && !error.contains("secret"), "{error}");
    }

    /// Splits a sample line into its series and its value.
    fn samples(text: &str) -> Vec<(&str, f64)> {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(series, value)| (series, value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn metrics_are_prometheus_text_with_units_totals_buckets_and_escaped_labels() {
        let (telemetry, _dispatch) = Telemetry::prepare(TelemetryConfig::new("test")).unwrap();
        let meter = telemetry.meter();
        let label = [KeyValue::new("model", "a\"b\\c\nd")];
        meter.u64_counter("keyforge.requests").with_description("Requests.").build().add(3, &label);
        let seconds =
            meter.f64_histogram("keyforge.request.duration").with_unit("s").with_boundaries(vec![0.1, 1.0]).build();
        seconds.record(0.05, &[]);
        seconds.record(0.5, &[]);
        seconds.record(7.0, &[]);
        let _gauge = meter.u64_observable_gauge("keyforge.nodes").with_callback(|node| node.observe(2, &[])).build();

        let text = telemetry.prometheus_text();
        assert!(text.contains("# HELP keyforge_requests_total Requests."), "{text}");
        assert!(text.contains("# TYPE keyforge_requests_total counter"), "{text}");
        assert!(text.contains("# TYPE keyforge_request_duration_seconds histogram"), "{text}");
        let found = samples(&text);
        for expected in [
            ("keyforge_requests_total{model=\"a\\\"b\\\\c\\nd\"}", 3.0),
            ("keyforge_request_duration_seconds_bucket{le=\"0.1\"}", 1.0),
            ("keyforge_request_duration_seconds_bucket{le=\"1\"}", 2.0),
            ("keyforge_request_duration_seconds_bucket{le=\"+Inf\"}", 3.0),
            ("keyforge_request_duration_seconds_sum", 7.55),
            ("keyforge_request_duration_seconds_count", 3.0),
            ("keyforge_nodes", 2.0),
        ] {
            assert!(found.contains(&expected), "{expected:?} in\n{text}");
        }
    }

    #[tokio::test]
    async fn tasks_and_panics_of_the_process_are_metrics() {
        let (telemetry, _dispatch) = Telemetry::prepare(TelemetryConfig::new("test")).unwrap();
        let shutdown = Shutdown::new();
        telemetry.observe(&shutdown);
        drop(shutdown.spawn("runs", std::future::pending::<()>()));
        assert!(shutdown.spawn("breaks", async { panic!("broken") }).await.is_err());
        let text = telemetry.prometheus_text();
        let found = samples(&text);
        assert!(found.contains(&("keyforge_tasks", 1.0)), "{text}");
        assert!(found.contains(&("keyforge_task_panics_total", 1.0)), "{text}");
    }
}
