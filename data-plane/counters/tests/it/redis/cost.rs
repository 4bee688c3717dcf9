//! What a decision costs the server, by its own account. Not a promise but a look: run with `--run-ignored all --no-capture`.

use keyforge_counters::{RedisCounters, Verdict};

use super::{Account, PATIENT, start};
use crate::conformance::reservation;
use crate::redis_server::RedisServer;

/// Microseconds that scripts took since the statistics were reset, for each of `calls`.
fn micros_per_call(server: &RedisServer, calls: u32) -> f64 {
    let stats: String = server.ask(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:")).unwrap();
    let micros = line.split(',').find_map(|fact| fact.strip_prefix("usec=")).unwrap();
    micros.parse::<f64>().unwrap() / f64::from(calls)
}

#[expect(clippy::print_stdout, reason = "figures are what this is for")]
async fn measure(server: &RedisServer, store: &RedisCounters, open: u32) {
    const BLOCK: u32 = 20;
    let account = Account::open(store, &format!("cost{open:08}"), 30_000).await;
    let mut next = 0;
    let (mut reserved, mut settled) = (Vec::new(), Vec::new());
    for round in 0..100 {
        server.ask::<()>(&["CONFIG", "RESETSTAT"]);
        let more = if round == 0 { open } else { BLOCK };
        for _ in 0..more {
            assert!(matches!(account.reserve(next).await, Verdict::Admitted(_)));
            next += 1;
        }
        reserved.push(micros_per_call(server, more));
        server.ask::<()>(&["CONFIG", "RESETSTAT"]);
        for number in (next - open)..(next - open + BLOCK) {
            account.settle(1, reservation(number)).await;
        }
        settled.push(micros_per_call(server, BLOCK));
    }
    let at = |figures: &mut Vec<f64>, share: usize| {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() * share / 100]
    };
    println!(
        "{open:>4} open: reserve {:.1} us (10 %: {:.1}), settle {:.1} us (10 %: {:.1})",
        at(&mut reserved, 50),
        at(&mut reserved, 10),
        at(&mut settled, 50),
        at(&mut settled, 10),
    );
}

#[tokio::test]
#[ignore = "measures"]
async fn what_a_reserve_and_a_settle_cost() {
    let server = RedisServer::start();
    let store = start(&server, PATIENT).await.unwrap();
    for open in [20, 100, 1_000] {
        measure(&server, &store, open).await;
    }
}
