//! A user with the rights that docs/redis.md names, and no others, is enough.

use std::path::Path;
use std::sync::Arc;

use keyforge_counters::redis::RedisSettings;

use keyforge_counters::{CooldownChange, CooldownClass, CooldownStore, CounterError, CounterStore, RedisCounters};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::{Clock, ManualClock};
use keyforge_shared::secret::SecretBytes;

use super::conformance::OnRedis;
use super::{Account, PATIENT, settings};
use crate::conformance::{START, suite};
use crate::redis_server::{RedisCluster, RedisServer};

const PASSWORD: &str = "of-the-manual";

/// The user of the manual, with a password of ours, as words of one command.
fn user_of_the_manual() -> Vec<String> {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/redis.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let mut lines = manual.lines().skip_while(|line| !line.starts_with("ACL SETUSER keyforge "));
    let command = lines.by_ref().take_while(|line| !line.starts_with("```")).collect::<Vec<_>>().join(" ");
    let words: Vec<_> = command.split_whitespace().filter(|word| *word != "\\").map(str::to_owned).collect();
    assert!(words.contains(&">PASSWORD".to_owned()), "{words:?}");
    words.into_iter().map(|word| word.replace(">PASSWORD", &format!(">{PASSWORD}"))).collect()
}

fn add_user(server: &RedisServer) {
    server.ask::<()>(&user_of_the_manual().iter().map(String::as_str).collect::<Vec<_>>());
}

fn as_user(urls: Vec<String>) -> RedisSettings {
    let password = Some(SecretBytes::new(PASSWORD.as_bytes().to_vec()));
    RedisSettings { username: Some("keyforge".to_owned()), password, ..settings(urls, PATIENT) }
}

#[tokio::test]
async fn the_rights_of_the_manual_are_enough_for_one_server_and_its_clock() {
    let server = RedisServer::start();
    add_user(&server);
    // The clock of this test, and not the server's, has scripts read back when an id was over.
    server.ask::<()>(&["ACL", "SETUSER", "keyforge", "+get"]);
    let clock = Arc::new(ManualClock::at(START));
    let shared = Arc::clone(&clock) as Arc<dyn Clock>;
    let settings = as_user(vec![server.url()]);
    suite(&OnRedis::of(RedisCounters::start_on_clock(settings, &Shutdown::new(), shared).await.unwrap(), clock)).await;
    server.ask::<()>(&["ACL", "SETUSER", "keyforge", "-get"]);
    let store = RedisCounters::start(as_user(vec![server.url()]), &Shutdown::new()).await.unwrap();
    assert!(Account::open(&store, "rights000000", 5).await.is_admitted(1).await);
    let change = CooldownChange::Cool { gate: "gate".to_owned(), class: CooldownClass::Throttled, wait: PATIENT };
    assert_eq!(store.exchange(&[change]).await.unwrap().len(), 1);
    assert!(store.claim_probe("gate", "one", PATIENT).await.unwrap());
}

#[tokio::test]
async fn the_rights_of_the_manual_are_enough_for_a_cluster() {
    let cluster = RedisCluster::start();
    cluster.nodes().iter().for_each(add_user);
    let store = RedisCounters::start(as_user(cluster.urls()), &Shutdown::new()).await.unwrap();
    assert!(*store.availability().borrow());
    assert!(Account::open(&store, "rights000000", 5).await.is_admitted(1).await);
}

#[tokio::test]
async fn i_6_who_may_not_ask_for_the_run_decides_nothing() {
    let server = RedisServer::start();
    add_user(&server);
    let store = RedisCounters::start(as_user(vec![server.url()]), &Shutdown::new()).await.unwrap();
    let account = Account::open(&store, "rights000000", 5).await;
    server.ask::<()>(&["ACL", "SETUSER", "keyforge", "-info"]);
    let error = store.reserve(account.ask(1, 1)).await.unwrap_err();
    assert!(matches!(error, CounterError::Unavailable(_)), "{error}");
    assert!(store.books(account.key).await.is_err());
}
