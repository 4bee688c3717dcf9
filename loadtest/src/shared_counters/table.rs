//! The measurement as Markdown: medians of the rounds, what Redis adds to a request, the aims, and the machine.

use std::time::Duration;

use super::CountersArgs;
use super::node::redis_core;
use super::round::{Figures, RedisFigures};
use crate::compare::process::{BENCH_CORE, GATEWAY_CORE, installed};
use crate::compare::table::{machine, middle, ms};

/// Limited requests per second that one core of Redis has to bear at least.
const LEAST_PER_CORE: f64 = 15_000.0;

/// A request is reserved and settled. Fewer scripts per request than this are not noise.
const LEAST_SCRIPTS: f64 = 1.95;

/// CPU time of Redis that one script may take at most.
const MOST_PER_SCRIPT: Duration = Duration::from_micros(30);

const HEAD: &str = "\
| counters in | requests/s, 64 connections | refused, % | node CPU µs per request | p50 at 200/s, ms | p99, ms | Redis CPU µs per request \
| scripts per request | Redis CPU µs per script | µs inside a script, by the clock | requests/s per Redis core |
|---|---|---|---|---|---|---|---|---|---|---|";

/// The whole report.
#[must_use]
pub fn markdown(memory: &[Figures], redis: &[Figures], args: &CountersArgs) -> String {
    let (memory, redis) = (median(memory), median(redis));
    let mut out = format!("{HEAD}\n{}{}\n", memory_row(&memory), redis_row(&redis));
    let added = |pick: fn(&Figures) -> Duration| ms(pick(&redis)) - ms(pick(&memory));
    out.push_str(&format!(
        "Redis adds {:.2} ms to the p50, {:.2} ms to the p99 and {:.1} µs of the node's CPU to a request.\n\n",
        added(|figures| figures.p50),
        added(|figures| figures.p99),
        added(|figures| figures.node_cpu) * 1e3,
    ));
    out.push_str(&aims(&redis.redis));
    if redis.redis.scripts < LEAST_SCRIPTS {
        out.push_str(&format!(
            "\nOnly {:.2} scripts per request: the node had more settlements waiting than it keeps and dropped some, so a request \
             that is reserved and settled costs Redis more than this table says.\n",
            redis.redis.scripts
        ));
    }
    out.push_str(&format!(
        "\nMedians of {} interleaved rounds of {} s per measurement; {}; loopback, no TLS; answers of 100 tokens; one key with a \
         request quota, a spend cap and a limit per minute, none reached.\n\n{}",
        args.rounds,
        args.seconds,
        cores(),
        machine("redis-server", "--version")
    ));
    out
}

fn cores() -> String {
    if !installed("taskset") {
        return "not pinned".to_owned();
    }
    let redis = match redis_core() {
        BENCH_CORE => format!("Redis, generator and provider on core {BENCH_CORE}"),
        own => format!("Redis on core {own}, generator and provider on core {BENCH_CORE}"),
    };
    format!("node and control plane on core {GATEWAY_CORE}, {redis}")
}

fn memory_row(own: &Figures) -> String {
    format!("| memory | {} | – | – | – | – | – |\n", of_node(own))
}

fn redis_row(own: &Figures) -> String {
    let RedisFigures { cpu, scripts, cpu_per_script, inside_script } = own.redis;
    let (cpu, cpu_per_script, inside_script) = (micros(cpu), micros(cpu_per_script), micros(inside_script));
    let per_core = per_core(&own.redis);
    format!(
        "| Redis | {} | {cpu:.1} | {scripts:.2} | {cpu_per_script:.1} | {inside_script:.1} | {per_core:.0} |\n",
        of_node(own)
    )
}

fn of_node(own: &Figures) -> String {
    let (p50, p99, refused) = (ms(own.p50), ms(own.p99), own.refused * 100.0);
    format!("{:.0} | {refused:.2} | {:.1} | {p50:.2} | {p99:.2}", own.requests_per_second, micros(own.node_cpu))
}

fn aims(redis: &RedisFigures) -> String {
    let verdict = |is_met: bool| if is_met { "met" } else { "missed" };
    let (per_core, per_script) = (per_core(redis), redis.cpu_per_script);
    format!(
        "| | aim | here | |\n|---|---|---|---|\n\
         | limited requests/s per Redis core | at least {LEAST_PER_CORE:.0} | {per_core:.0} | {} |\n\
         | Redis CPU per script | at most {:.0} µs | {:.1} µs | {} |\n",
        verdict(per_core >= LEAST_PER_CORE),
        micros(MOST_PER_SCRIPT),
        micros(per_script),
        verdict(per_script <= MOST_PER_SCRIPT)
    )
}

/// Requests that a core of Redis could bear in a second if it did nothing else; zero if none was measured.
fn per_core(redis: &RedisFigures) -> f64 {
    if redis.cpu.is_zero() { 0.0 } else { redis.cpu.as_secs_f64().recip() }
}

fn micros(duration: Duration) -> f64 {
    ms(duration) * 1e3
}

/// The median of every figure by itself; of refusals, the largest.
fn median(rounds: &[Figures]) -> Figures {
    let time = |pick: fn(&Figures) -> Duration| middle(rounds.iter().map(pick).collect(), Duration::cmp);
    let number = |pick: fn(&Figures) -> f64| middle(rounds.iter().map(pick).collect(), f64::total_cmp);
    Figures {
        requests_per_second: number(|round| round.requests_per_second),
        refused: rounds.iter().map(|round| round.refused).fold(0.0, f64::max),
        node_cpu: time(|round| round.node_cpu),
        p50: time(|round| round.p50),
        p99: time(|round| round.p99),
        redis: RedisFigures {
            cpu: time(|round| round.redis.cpu),
            scripts: number(|round| round.redis.scripts),
            cpu_per_script: time(|round| round.redis.cpu_per_script),
            inside_script: time(|round| round.redis.inside_script),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn figures(p50_micros: u64, redis_cpu_micros: u64) -> Figures {
        let cpu = Duration::from_micros(redis_cpu_micros);
        Figures {
            requests_per_second: 9000.4,
            refused: 0.0012,
            node_cpu: Duration::from_micros(80),
            p50: Duration::from_micros(p50_micros),
            p99: Duration::from_micros(2 * p50_micros),
            redis: RedisFigures { cpu, scripts: 2.0, cpu_per_script: cpu / 2, inside_script: cpu / 4 },
        }
    }

    #[test]
    fn requests_that_were_not_all_settled_are_told() {
        let args = CountersArgs { keyforge: PathBuf::new(), rounds: 1, seconds: 4, model: String::new() };
        let mut few = figures(400, 40);
        few.redis.scripts = 1.5;
        let text = markdown(&[figures(400, 0)], &[few], &args);
        assert!(text.contains("Only 1.50 scripts per request"), "{text}");
    }

    fn report(redis_cpu_micros: [u64; 3]) -> String {
        let args = CountersArgs { keyforge: PathBuf::new(), rounds: 3, seconds: 4, model: String::new() };
        markdown(&[figures(400, 0)], &redis_cpu_micros.map(|cpu| figures(650, cpu)), &args)
    }

    #[test]
    fn a_core_of_redis_bears_as_many_requests_as_its_median_time_allows() {
        let text = report([90, 40, 10]);
        assert!(
            text.contains("| Redis | 9000 | 0.12 | 80.0 | 0.65 | 1.30 | 40.0 | 2.00 | 20.0 | 10.0 | 25000 |"),
            "{text}"
        );
        assert!(text.contains("| memory | 9000 | 0.12 | 80.0 | 0.40 | 0.80 | – |"), "{text}");
        assert!(text.contains("adds 0.25 ms to the p50, 0.50 ms to the p99 and 0.0 µs"), "{text}");
        assert!(!text.contains("dropped"), "{text}");
        assert!(text.contains("| 25000 | met |") && text.contains("| 20.0 µs | met |"), "{text}");
    }

    #[test]
    fn an_aim_that_is_missed_is_called_missed() {
        let text = report([70, 70, 10]);
        assert!(text.contains("| 14286 | missed |") && text.contains("| 35.0 µs | missed |"), "{text}");
    }
}
