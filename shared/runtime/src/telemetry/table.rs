//! The table `[telemetry]`, which every process's configuration file may have: as written, and what comes of it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{LogFormat, TelemetryConfig};
use crate::config::{Problems, SecretRef};

/// The table as written. Unknown keys are refused; whatever is absent is what [`TelemetryConfig::new`] says.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTelemetry {
    log_format: Option<LogFormat>,
    log_filter: Option<String>,
    otlp_endpoint: Option<String>,
    #[serde(default)]
    otlp_headers: BTreeMap<String, SecretRef>,
    sample_ratio: Option<f64>,
}

impl RawTelemetry {
    /// The telemetry of the service `name`. Headers that cannot be resolved are problems at `telemetry.otlp_headers`.
    pub fn checked(self, name: &str, problems: &mut Problems) -> TelemetryConfig {
        let mut telemetry = TelemetryConfig::new(name);
        telemetry.log_format = self.log_format.unwrap_or(telemetry.log_format);
        telemetry.log_filter = self.log_filter.unwrap_or(telemetry.log_filter);
        telemetry.otlp_endpoint = self.otlp_endpoint;
        telemetry.sample_ratio = self.sample_ratio.unwrap_or(telemetry.sample_ratio);
        for (name, reference) in self.otlp_headers {
            let value = problems.check(format!("telemetry.otlp_headers.{name}"), reference.resolve());
            telemetry.otlp_headers.extend(value.map(|value| (name, value)));
        }
        telemetry
    }
}
