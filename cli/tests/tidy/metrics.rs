//! Metrics: each has one name, and the names stand together.

use std::collections::BTreeSet;

/// Calls that make an instrument.
const MAKERS: [&str; 12] = [
    "u64_counter(",
    "f64_counter(",
    "u64_histogram(",
    "f64_histogram(",
    "u64_gauge(",
    "f64_gauge(",
    "i64_up_down_counter(",
    "u64_observable_counter(",
    "f64_observable_counter(",
    "u64_observable_gauge(",
    "f64_observable_gauge(",
    "i64_observable_up_down_counter(",
];

/// Whether a file is where metrics are declared: a plane's `metrics.rs`, or the runtime's telemetry for those of every process.
pub fn is_home(path: &str) -> bool {
    path.ends_with("/metrics.rs") && path.contains("/src/") || path == "shared/runtime/src/telemetry.rs"
}

/// Instruments that are made elsewhere.
pub fn stray(path: &str, text: &str) -> Vec<String> {
    if is_home(path) {
        return Vec::new();
    }
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    let made = MAKERS.iter().filter(|maker| product.contains(**maker));
    made.map(|maker| format!("{path}: {maker}…) belongs in a metrics.rs")).collect()
}

/// Names that a home of metrics declares.
pub fn declared(text: &str) -> Vec<String> {
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    let is_name = |literal: &&str| literal.starts_with("keyforge.") || literal.starts_with("gen_ai.");
    product.split('"').skip(1).step_by(2).filter(is_name).map(str::to_owned).collect()
}

/// Metrics that a document names in backticks, in OpenTelemetry's or Prometheus's way, and nobody declares.
pub fn unknown(path: &str, text: &str, names: &BTreeSet<String>) -> Vec<String> {
    let known = |word: &str| {
        names.iter().any(|name| {
            let flat = name.replace('.', "_");
            let rest = word.strip_prefix(flat.as_str());
            word == name || rest.is_some_and(|rest| rest.is_empty() || is_suffix(rest))
        })
    };
    let is_metric = |word: &str| {
        let plain = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'.');
        // `keyforge_shared::…` and file names are other things.
        plain && (word.starts_with("keyforge.") || word.starts_with("keyforge_")) && !is_crate_or_file(word)
    };
    let words = text.split('`').skip(1).step_by(2);
    words
        .filter(|word| is_metric(word) && !known(word))
        .map(|word| format!("{path}: no metric is called `{word}`"))
        .collect()
}

/// What the Prometheus text adds to a name: units, `total`, and the parts of a histogram.
fn is_suffix(rest: &str) -> bool {
    let mut words = rest.split('_').skip(1);
    rest.starts_with('_')
        && words.all(|word| ["seconds", "total", "bucket", "sum", "count", "token", "nano", "usd"].contains(&word))
}

fn is_crate_or_file(word: &str) -> bool {
    let crates =
        ["keyforge_shared", "keyforge_proto", "keyforge_runtime", "keyforge_providers", "keyforge_control_plane"];
    let more = ["keyforge_counters", "keyforge_data_plane", "keyforge_cli", "keyforge_loadtest"];
    let files = [".toml", ".proto", ".service", ".bin"];
    crates.iter().chain(&more).any(|name| word == *name)
        || files.iter().any(|end| word.ends_with(end))
        || is_package(word)
}

/// `keyforge.admin.v1` is a package of gRPC services.
fn is_package(word: &str) -> bool {
    word.starts_with("keyforge.admin") || word.starts_with("keyforge.fleet.v")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instrument_outside_of_its_home_is_found_and_one_of_a_test_is_not() {
        let text = "let c = meter.u64_counter(\"keyforge.x\").build();";
        assert_eq!(stray("data-plane/src/app.rs", text).len(), 1);
        assert_eq!(stray("data-plane/src/metrics.rs", text), Vec::<String>::new());
        assert_eq!(
            stray("data-plane/src/app.rs", &format!("#[cfg(test)]\nmod tests {{ {text} }}")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_metric_that_nobody_declares_is_found_in_a_document() {
        let names =
            BTreeSet::from_iter(declared("counter(\"keyforge.cost\") histogram(\"keyforge.request.overhead\")"));
        for good in [
            "keyforge.cost",
            "keyforge_cost_total",
            "keyforge_request_overhead_seconds_bucket",
            "keyforge_shared",
            "keyforge.toml",
        ] {
            assert_eq!(unknown("a.md", &format!("`{good}`"), &names), Vec::<String>::new(), "{good}");
        }
        for bad in ["keyforge.costs", "keyforge_cost_wrong", "keyforge_nothing"] {
            assert_eq!(unknown("a.md", &format!("`{bad}`"), &names).len(), 1, "{bad}");
        }
    }
}
