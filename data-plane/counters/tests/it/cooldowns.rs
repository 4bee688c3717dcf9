//! What every store of cooldowns does, on a clock that the test holds; and what Redis adds: other nodes, and an outage.

use std::sync::Arc;
use std::time::Duration;

use keyforge_counters::{
    Cooldown, CooldownChange, CooldownClass, CooldownStore, Cooldowns, Counters, MemoryCooldowns, MemoryCounters,
    RedisCounters,
};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::{Clock, ManualClock};

use crate::conformance::START;
use crate::redis::{PATIENT, settings};
use crate::redis_server::{RedisCluster, RedisServer};

const SECOND: Duration = Duration::from_secs(1);

fn cool(gate: &str, class: CooldownClass, wait: Duration) -> CooldownChange {
    CooldownChange::Cool { gate: gate.to_owned(), class, wait }
}

async fn standing(store: &impl CooldownStore, gate: &str) -> Option<Cooldown> {
    store.exchange(&[]).await.unwrap().into_iter().find(|cooldown| cooldown.gate == gate)
}

/// Runs every check on an empty store.
async fn suite(store: &impl CooldownStore, clock: &ManualClock) {
    a_cooldown_is_told_with_what_is_left_of_it(store, clock).await;
    the_later_end_stands(store, clock).await;
    only_the_cooldown_that_was_probed_is_lifted(store, clock).await;
    one_of_all_who_ask_probes(store, clock).await;
    what_nobody_lifts_is_forgotten_in_the_end(store, clock).await;
    what_does_not_fit_is_not_kept(store, clock).await;
}

async fn a_cooldown_is_told_with_what_is_left_of_it(store: &impl CooldownStore, clock: &ManualClock) {
    let gate = "openai/a group with spaces and \u{e9}/gpt-4o";
    store.exchange(&[cool(gate, CooldownClass::Throttled, 10 * SECOND)]).await.unwrap();
    clock.advance(3 * SECOND);
    let found = standing(store, gate).await.unwrap();
    assert_eq!((found.class, found.left, found.wait), (CooldownClass::Throttled, 7 * SECOND, 10 * SECOND));
    clock.advance(8 * SECOND);
    let over = standing(store, gate).await.unwrap();
    assert_eq!((over.left, over.stamp), (Duration::ZERO, found.stamp), "it stands until a probe has passed");
}

async fn the_later_end_stands(store: &impl CooldownStore, clock: &ManualClock) {
    let all = [
        cool("later", CooldownClass::Closed, 60 * SECOND),
        cool("later", CooldownClass::Throttled, SECOND),
        cool("later", CooldownClass::Throttled, 59 * SECOND),
    ];
    store.exchange(&all).await.unwrap();
    let found = standing(store, "later").await.unwrap();
    assert_eq!((found.class, found.left), (CooldownClass::Closed, 60 * SECOND));
    clock.advance(10 * SECOND);
    store.exchange(&[cool("later", CooldownClass::Dead, 51 * SECOND)]).await.unwrap();
    let longer = standing(store, "later").await.unwrap();
    assert_eq!((longer.class, longer.left, longer.wait), (CooldownClass::Dead, 51 * SECOND, 51 * SECOND));
    assert!(longer.stamp > found.stamp);
}

async fn only_the_cooldown_that_was_probed_is_lifted(store: &impl CooldownStore, clock: &ManualClock) {
    store.exchange(&[cool("lifted", CooldownClass::Overloaded, SECOND)]).await.unwrap();
    let first = standing(store, "lifted").await.unwrap();
    clock.advance(SECOND);
    store.exchange(&[cool("lifted", CooldownClass::Overloaded, 2 * SECOND)]).await.unwrap();
    let lift = |stamp| CooldownChange::Lift { gate: "lifted".to_owned(), stamp };
    store.exchange(&[lift(first.stamp)]).await.unwrap();
    let second = standing(store, "lifted").await.unwrap();
    assert_eq!(second.left, 2 * SECOND, "an earlier probe says nothing about it");
    store.exchange(&[lift(second.stamp), lift(second.stamp)]).await.unwrap();
    assert_eq!(standing(store, "lifted").await, None);
}

async fn one_of_all_who_ask_probes(store: &impl CooldownStore, clock: &ManualClock) {
    let claims = async |gate, by| store.claim_probe(gate, by, SECOND).await.unwrap();
    assert!(claims("i-27", "one").await);
    assert!(!claims("i-27", "other").await);
    assert!(claims("another", "other").await);
    clock.advance(SECOND - Duration::from_millis(1));
    assert!(!claims("i-27", "other").await);
    assert!(claims("i-27", "one").await, "of its own probe that came to nothing a node makes another");
    clock.advance(SECOND - Duration::from_millis(1));
    assert!(!claims("i-27", "other").await, "which is believed for as long anew");
    clock.advance(Duration::from_millis(1));
    assert!(claims("i-27", "other").await);
}

async fn what_nobody_lifts_is_forgotten_in_the_end(store: &impl CooldownStore, clock: &ManualClock) {
    store.exchange(&[cool("forgotten", CooldownClass::Throttled, SECOND)]).await.unwrap();
    clock.advance(601 * SECOND);
    assert!(standing(store, "forgotten").await.is_some());
    clock.advance(Duration::from_millis(1));
    assert_eq!(standing(store, "forgotten").await, None);
    clock.advance(60 * SECOND);
    assert_eq!(store.exchange(&[]).await.unwrap(), [], "nor is anything else of these checks kept");
}

async fn what_does_not_fit_is_not_kept(store: &impl CooldownStore, clock: &ManualClock) {
    let many: Vec<_> =
        (0..5_000).map(|number| cool(&format!("gate {number}"), CooldownClass::Throttled, SECOND)).collect();
    let kept = store.exchange(&many).await.unwrap();
    assert_eq!(kept.len(), 4_096);
    let longer = store.exchange(&[cool("gate 1", CooldownClass::Throttled, 2 * SECOND)]).await.unwrap();
    assert!(longer.iter().any(|cooldown| cooldown.gate == "gate 1" && cooldown.left == 2 * SECOND));
    clock.advance(603 * SECOND);
    assert_eq!(store.exchange(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn cooldowns_in_this_process_conform() {
    let clock = Arc::new(ManualClock::at(START));
    let counters = Arc::new(Counters::Memory(MemoryCounters::new(Arc::clone(&clock) as Arc<dyn Clock>)));
    let store = Cooldowns::beside(&counters, Arc::clone(&clock) as Arc<dyn Clock>);
    assert!(!store.is_shared());
    suite(&store, &clock).await;
    suite(&MemoryCooldowns::new(Arc::clone(&clock) as Arc<dyn Clock>), &clock).await;
}

#[tokio::test]
async fn cooldowns_on_one_server_conform() {
    let server = RedisServer::start();
    on_redis(vec![server.url()]).await;
}

#[tokio::test]
async fn cooldowns_on_a_cluster_conform() {
    let cluster = RedisCluster::start();
    on_redis(cluster.urls()).await;
}

async fn on_redis(urls: Vec<String>) {
    let clock = Arc::new(ManualClock::at(START));
    let shared = Arc::clone(&clock) as Arc<dyn Clock>;
    let redis = RedisCounters::start_on_clock(settings(urls, PATIENT), &Shutdown::new(), shared).await.unwrap();
    let store = Cooldowns::beside(&Arc::new(Counters::Redis(redis)), Arc::clone(&clock) as Arc<dyn Clock>);
    assert!(store.is_shared());
    suite(&store, &clock).await;
}

#[tokio::test]
async fn what_one_node_tells_another_learns_on_the_servers_own_clock() {
    let server = RedisServer::start();
    let [one, other] = [
        RedisCounters::start(settings(vec![server.url()], PATIENT), &Shutdown::new()).await.unwrap(),
        RedisCounters::start(settings(vec![server.url()], PATIENT), &Shutdown::new()).await.unwrap(),
    ];
    one.exchange(&[cool("shared", CooldownClass::Dead, 60 * SECOND)]).await.unwrap();
    let found = standing(&other, "shared").await.unwrap();
    assert!(found.left <= 60 * SECOND && found.left > 50 * SECOND, "{found:?}");
    assert!(one.claim_probe("shared", "one", 60 * SECOND).await.unwrap());
    assert!(!other.claim_probe("shared", "other", 60 * SECOND).await.unwrap());
}

#[tokio::test]
async fn without_its_server_a_store_says_so_at_once() {
    let mut server = RedisServer::start();
    let store = RedisCounters::start(settings(vec![server.url()], PATIENT), &Shutdown::new()).await.unwrap();
    server.stop();
    assert!(store.exchange(&[]).await.is_err());
    assert!(store.claim_probe("gate", "one", SECOND).await.is_err());
}
