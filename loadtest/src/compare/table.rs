//! The comparison as Markdown: medians of the rounds, added latency against direct, ratios to nginx, and the machine.

use std::cmp::Ordering;
use std::process::Command;
use std::time::Duration;

use super::CompareArgs;
use super::contestant::Contestant;
use super::process::installed;
use super::round::Figures;

const HEAD: &str = "\
| | CPU µs per request, 64 connections | × nginx | requests/s | × direct | added p50 at 200/s, ms | added p99, ms \
| CPU ms per 100-token stream | × nginx | added first byte, ms | 100 KB prompt, CPU µs | × nginx | RSS idle / after, MiB |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// The whole report. The first contestant is direct.
#[must_use]
pub fn markdown(contestants: &[(&Contestant, &[Figures])], args: &CompareArgs) -> String {
    let medians: Vec<(&Contestant, Figures)> = contestants.iter().map(|(who, rounds)| (*who, median(rounds))).collect();
    let direct = medians.first().map(|(_, figures)| *figures).unwrap_or_default();
    let nginx = medians.iter().find(|(who, _)| who.name == "nginx").map(|(_, figures)| *figures);
    let mut out = format!("{HEAD}\n");
    for (who, own) in &medians {
        out.push_str(&row(who, own, &direct, nginx.as_ref()));
    }
    let pinned =
        if installed("taskset") { "gateway alone on core 1, generator and provider on core 0" } else { "not pinned" };
    let absent = if nginx.is_none() { " nginx is not installed: no floor." } else { "" };
    let (rounds, seconds) = (args.rounds, args.seconds);
    let lines = format!(
        "\nMedians of {rounds} interleaved rounds of {seconds} s per measurement; {pinned}; loopback, no TLS; answers of \
         100 tokens; streams paced at 10 ms per token, 20 at a time.{absent}\n\n{}",
        machine("nginx", "-v")
    );
    out + &lines
}

fn row(who: &Contestant, own: &Figures, direct: &Figures, nginx: Option<&Figures>) -> String {
    let through = who.processes.is_some();
    let spent = |value: f64| if through { format!("{value:.1}") } else { "–".to_owned() };
    let times = |pick: fn(&Figures) -> Duration| match nginx {
        Some(floor) if through && !pick(floor).is_zero() => {
            format!("{:.2}", pick(own).as_secs_f64() / pick(floor).as_secs_f64())
        }
        _ => "–".to_owned(),
    };
    let added = |pick: fn(&Figures) -> Duration| match (ms(pick(own)), ms(pick(direct))) {
        (own, base) if through => format!("{:.2}", own - base),
        (own, _) => format!("({own:.2} itself)"),
    };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let cells = [
        spent(ms(own.cpu_per_request) * 1e3),
        times(|figures| figures.cpu_per_request),
        format!("{:.0}", own.requests_per_second),
        format!("{:.2}", own.requests_per_second / direct.requests_per_second.max(f64::EPSILON)),
        added(|figures| figures.p50),
        added(|figures| figures.p99),
        spent(ms(own.cpu_per_stream)),
        times(|figures| figures.cpu_per_stream),
        added(|figures| figures.first_byte),
        spent(ms(own.cpu_per_large) * 1e3),
        times(|figures| figures.cpu_per_large),
        if through { format!("{:.0} / {:.0}", mib(who.idle_bytes), mib(own.resident_bytes)) } else { "–".to_owned() },
    ];
    format!("| {} | {} |\n", who.name, cells.join(" | "))
}

/// In milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The median of every figure by itself; memory is the largest.
fn median(rounds: &[Figures]) -> Figures {
    let time = |pick: fn(&Figures) -> Duration| middle(rounds.iter().map(pick).collect(), Duration::cmp);
    Figures {
        cpu_per_request: time(|round| round.cpu_per_request),
        requests_per_second: middle(rounds.iter().map(|round| round.requests_per_second).collect(), f64::total_cmp),
        p50: time(|round| round.p50),
        p99: time(|round| round.p99),
        cpu_per_stream: time(|round| round.cpu_per_stream),
        first_byte: time(|round| round.first_byte),
        cpu_per_large: time(|round| round.cpu_per_large),
        resident_bytes: rounds.iter().map(|round| round.resident_bytes).max().unwrap_or_default(),
    }
}

/// The middle one of some values, the upper of two; the default of none.
pub(crate) fn middle<T: Copy + Default>(mut values: Vec<T>, order: impl FnMut(&T, &T) -> Ordering) -> T {
    values.sort_by(order);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// What the figures were measured on, with the version of one program that took part.
pub(crate) fn machine(program: &str, option: &str) -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let rustc = version("rustc", "--version");
    let program = version(program, option);
    format!(
        "- kernel {}\n- CPU {}, {cores} cores\n- {rustc}\n- {program}\n",
        kernel.trim(),
        model.trim_start_matches([' ', '\t', ':'])
    )
}

fn version(program: &str, option: &str) -> String {
    let Ok(output) = Command::new(program).arg(option).output() else { return format!("{program}: not installed") };
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&said).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_taken_figure_by_figure() {
        let round =
            |p50, rps| Figures { p50: Duration::from_millis(p50), requests_per_second: rps, ..Figures::default() };
        let middle = median(&[round(3, 10.0), round(1, 30.0), round(2, 20.0)]);
        assert_eq!((middle.p50, middle.requests_per_second), (Duration::from_millis(2), 20.0));
    }
}
