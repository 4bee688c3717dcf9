//! What a database file holds of a provider key: the vault's ciphertext, and nothing else.

use std::fs;

use keyforge_loadtest::provider::Script;

use crate::canary::{Canary, Search};
use crate::harness::{Gateway, PROVIDER_KEY, hello, provider};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_21_the_database_holds_a_provider_key_only_as_the_vaults_ciphertext() {
    let provider = provider(Script::default());
    let mut gateway = Gateway::start_on_a_file(&provider).await;
    assert_eq!(gateway.chat(&hello()).await.status, 200);
    assert_eq!(provider.requests()[0].credential, PROVIDER_KEY, "the key is there and in use");
    assert_eq!(gateway.stop().await.code(), Some(0));
    let database = fs::read(gateway.database()).unwrap();
    let mut search =
        Search::new(vec![Canary::new("provider key", PROVIDER_KEY), Canary::token("first key", &gateway.key)]);
    search.look("the database", &database);
    search.assert_nothing_found();
    // And the search would have seen it: the same file with the key in a free page.
    search.look("the database with a key in it", &[&database[..], PROVIDER_KEY.as_bytes()].concat());
    assert_eq!(search.found.len(), 2, "both halves");
}
