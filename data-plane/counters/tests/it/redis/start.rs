//! What no waiting mends is said when the store starts.

use keyforge_counters::RedisCounters;
use keyforge_counters::redis::{RedisSettings, RedisStartError};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::secret::SecretBytes;

use super::{PATIENT, settings, start};
use crate::redis_server::RedisServer;

async fn refusal(settings: RedisSettings) -> RedisStartError {
    RedisCounters::start(settings, &Shutdown::new()).await.unwrap_err()
}

#[tokio::test]
async fn i_6_a_server_that_evicts_is_refused() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let error = start(&server, PATIENT).await.unwrap_err();
    assert!(matches!(&error, RedisStartError::Eviction { policy, .. } if policy == "allkeys-lru"), "{error}");
}

#[tokio::test]
async fn a_replica_is_refused() {
    let primary = RedisServer::start();
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]);
    let error = start(&replica, PATIENT).await.unwrap_err();
    assert!(matches!(error, RedisStartError::Replica { .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_repeated_and_the_right_one_works() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let password = |text: &str| Some(SecretBytes::new(text.as_bytes().to_vec()));
    for given in [None, password("wrong-CANARY")] {
        let error = refusal(RedisSettings { password: given, ..settings(vec![server.url()], PATIENT) }).await;
        assert!(matches!(error, RedisStartError::Credentials { .. }), "{error}");
        assert!(!error.to_string().contains("CANARY"), "{error}");
    }
    let right = RedisSettings { password: password("right"), ..settings(vec![server.url()], PATIENT) };
    let store = RedisCounters::start(right, &Shutdown::new()).await.unwrap();
    assert!(*store.availability().borrow());
}

#[tokio::test]
async fn a_node_of_a_cluster_and_a_server_by_itself_are_told_apart() {
    let node = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let error = start(&node, PATIENT).await.unwrap_err();
    assert!(matches!(error, RedisStartError::Cluster { is_cluster: true, .. }), "{error}");
    let alone = RedisServer::start();
    let error = refusal(RedisSettings { cluster: true, ..settings(vec![alone.url()], PATIENT) }).await;
    assert!(matches!(error, RedisStartError::Cluster { is_cluster: false, .. }), "{error}");
}
