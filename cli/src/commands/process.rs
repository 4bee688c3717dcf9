//! What every long-running command shares: telemetry, signals, the operators' port, address files, and the end.
//!
//! The first SIGTERM or Ctrl-C drains, the second ends at once. A process has a [`Shutdown`] of its own that hears the signals; each plane has
//! another one, so that they can be taken down one after the other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use keyforge_data_plane::app::DataPlane;
use keyforge_runtime::accept;
use keyforge_runtime::ops::Ops;
use keyforge_runtime::private_file;
use keyforge_runtime::readiness::Readiness;
use keyforge_runtime::shutdown::{Drained, Shutdown};
use keyforge_runtime::telemetry::{LogFormat, Telemetry, TelemetryConfig};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::errors::Failure;

/// How long telemetry may take to leave.
const FLUSH: Duration = Duration::from_secs(2);

/// What is logged, and how.
#[derive(Args, Clone, Debug)]
pub(super) struct LogArgs {
    /// What is logged to the standard error: a level, or target=level pairs, such as info,keyforge_data_plane=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
    /// The shape of a log line [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormatArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormatArg {
    /// One line of text, for people
    Text,
    /// One JSON object per line, for collectors
    Json,
}

impl LogArgs {
    /// What is logged, as the option takes it.
    pub(super) fn filter(&self) -> &str {
        self.log_level.as_deref().unwrap_or("info")
    }

    /// The shape of a line, as the option takes it.
    pub(super) const fn format(&self) -> &'static str {
        match self.log_format {
            None | Some(LogFormatArg::Text) => "text",
            Some(LogFormatArg::Json) => "json",
        }
    }

    /// Telemetry of the service `name`. OTLP export is switched on by `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(super) fn telemetry(&self, name: &str) -> TelemetryConfig {
        self.over(TelemetryConfig::new(name))
    }

    /// What a file says, but for what these options say.
    pub(super) fn over(&self, mut config: TelemetryConfig) -> TelemetryConfig {
        if let Some(filter) = &self.log_level {
            config.log_filter.clone_from(filter);
        }
        match self.log_format {
            Some(LogFormatArg::Text) => config.log_format = LogFormat::Text,
            Some(LogFormatArg::Json) => config.log_format = LogFormat::Json,
            None => {}
        }
        config
    }
}

/// Starts telemetry and signals, runs `serve` until its end or the second signal, and lets telemetry finish.
pub(super) async fn run_to_end<F>(
    config: TelemetryConfig,
    serve: impl FnOnce(Shutdown, Telemetry) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let telemetry = Telemetry::start(config).map_err(Failure::refused)?;
    keep_memory_private();
    let process = Shutdown::new();
    process.on_signals().map_err(|error| Failure::refused(format!("cannot handle signals: {error}")))?;
    telemetry.observe(&process);
    let served = serve(process.clone(), telemetry.clone());
    let outcome = tokio::select! {
        biased;
        () = process.force_started() => Err(Failure::refused("stopped at once, while requests were running")),
        outcome = served => outcome,
    };
    telemetry.shutdown(FLUSH).await;
    outcome
}

/// Secrets in memory are not to end up in a core file, nor be read by other processes of the same user.
fn keep_memory_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps cannot be switched off: one would hold secrets");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "other processes of this user cannot be kept from reading this one's memory");
    }
}

/// Listens on the operators' port. Nothing is answered before [`OpsPort::start`], so that a taken port is found before anything else starts.
pub(super) struct OpsPort {
    listener: tokio::net::TcpListener,
    addr: SocketAddr,
}

impl OpsPort {
    pub(super) fn bind(address: SocketAddr) -> Result<Self, Failure> {
        let listener = accept::bind(address).map_err(|error| Failure::refused(format!("--ops-listen: {error}")))?;
        let addr = listener.local_addr().unwrap_or(address);
        Ok(Self { listener, addr })
    }

    pub(super) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn start(self, telemetry: &Telemetry, readiness: Readiness, process: &Shutdown) {
        let text = telemetry.clone();
        Ops::new(move || text.prometheus_text(), readiness).start(self.listener, process);
    }
}

/// An address in a file of a data directory; it goes away with the value.
pub(super) struct AddressFile(PathBuf);

impl AddressFile {
    pub(super) fn write(data: &Path, file: &str, addr: SocketAddr) -> Result<Self, Failure> {
        let path = data.join(file);
        private_file::replace(&path, format!("{addr}\n").as_bytes()).map_err(Failure::refused)?;
        Ok(Self(path))
    }
}

impl Drop for AddressFile {
    fn drop(&mut self) {
        // A leftover names an address where nobody answers, which is what a reader is told then.
        drop(std::fs::remove_file(&self.0));
    }
}

/// Drains a node and says what became of it.
pub(super) async fn drain(node: DataPlane, shutdown: &Shutdown) {
    shutdown.trigger();
    if let Drained::TimedOut { tasks } = node.drained().await {
        tracing::warn!(tasks, "the node stopped while requests were running");
    }
}
