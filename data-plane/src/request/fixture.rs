//! A ledger, and requests of a key without a socket, for the tests of this module.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use keyforge_counters::{CounterState, CounterStore};
use keyforge_providers::dialect::Dialect;
use keyforge_shared::catalog::ProviderName;
use keyforge_shared::clock::ManualClock;
use keyforge_shared::id::{CredentialId, RequestId};
use keyforge_shared::limit::{Dimension, Scope};
use keyforge_shared::period::Window;
use keyforge_shared::policy::Policy;
use keyforge_shared::secret::SecretBytes;
use keyforge_shared::state::{CredentialRecord, Resource};
use serde_json::{Value, json};

use super::authorize::{Permit, permit};
use super::bound::bound;
use super::receive::Head;
use super::reservation::Reservation;
use super::reserve::reserve;
use super::settle::Commitment;
use super::wanted::{Endpoint, Wanted};
use crate::fixture::{FakeLedger, Node, START, key, key_id, model, workspace};
use crate::memberships::leaving::Leaving;
use crate::pool::Candidate;
use crate::rejection::Rejection;

/// The key's own limit of requests a day.
pub(super) const OWN_QUOTA: (Scope, Dimension, Window) = (Scope::Key, Dimension::Requests, Window::Day);
/// The key's own limit of what it spends in a day.
pub(super) const OWN_CAP: (Scope, Dimension, Window) = (Scope::Key, Dimension::Spend, Window::Day);

/// A ledger with these limits, served, that grants slices of `slice`.
pub(super) async fn ledger(limits: &[((Scope, Dimension, Window), u64)], slice: u64) -> (Arc<FakeLedger>, String) {
    let ledger = Arc::new(FakeLedger::default());
    {
        let mut state = ledger.0.lock();
        state.limits = BTreeMap::from_iter(limits.iter().copied());
        state.slice = slice;
    }
    let url = ledger.serve().await;
    (ledger, url)
}

pub(super) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(START))
}

/// A workspace without limits, its one key, and a model.
pub(super) fn one_key(policy: Policy) -> Vec<Resource> {
    vec![workspace(Vec::new(), Vec::new()), key(1, policy), model()]
}

/// A request whose output is at most `output` tokens.
pub(super) fn body(output: u64) -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": output, "service_tier": "default" })
}

/// What a body asks for.
pub(super) fn wanted(body: &Value) -> Wanted {
    Wanted::read(Endpoint::ChatCompletions, body.to_string().as_bytes()).unwrap()
}

pub(super) fn permit_for(node: &Node, key: u8, model: &str) -> Result<Permit, Rejection> {
    let replica = &node.plane.replica;
    let (key, model) = (replica.key(key_id(key)).unwrap(), replica.model(model).unwrap());
    let digest = key.digest;
    permit(&node.plane, key, digest, model, node.plane.clock.now())
}

pub(super) fn head(node: &Node) -> Head {
    let (parts, ()) = http::Request::new(()).into_parts();
    let peer = "127.0.0.1:1".parse().unwrap();
    let id = RequestId::generate_at(node.plane.clock.now()).unwrap();
    Head { parts, peer, id, started: 0, dialect: Dialect::ChatCompletions }
}

/// Admits a request of the key, or says why not.
pub(super) async fn admit(node: &Node, key: u8, body: &Value) -> Result<Reservation, Rejection> {
    let model = body["model"].as_str().unwrap();
    let permit = permit_for(node, key, model)?;
    let bound = bound(&permit, &wanted(body))?;
    reserve(&node.plane, &permit, &head(node), bound).await
}

/// The same, which must be admitted, and commits it.
pub(super) async fn commit(node: &Node, key: u8, body: &Value) -> Commitment {
    admitted(node, key, body).await.commit_to(&candidate(node), false, None).unwrap()
}

pub(super) async fn admitted(node: &Node, key: u8, body: &Value) -> Reservation {
    match admit(node, key, body).await {
        Ok(reservation) => reservation,
        Err(rejection) => panic!("refused: {rejection:?}"),
    }
}

/// Why a request is refused.
pub(super) async fn refused(node: &Node, key: u8, body: &Value) -> Rejection {
    match admit(node, key, body).await {
        Ok(_) => panic!("admitted"),
        Err(rejection) => rejection,
    }
}

fn candidate(node: &Node) -> Candidate {
    let id = CredentialId::from_bytes([9; 16]);
    let secrets = &node.plane.replica.secrets;
    secrets.put(id, 1, &SecretBytes::new(b"sk-test".to_vec())).unwrap();
    let credential = Arc::new(CredentialRecord {
        id,
        provider: ProviderName("openai".to_owned()),
        pool: "default".to_owned(),
        base_url: "http://127.0.0.1:1/v1".to_owned(),
        limit_group: "default".to_owned(),
        secret_version: 1,
        enabled: true,
        weight: 1,
    });
    Candidate { credential, authorization: secrets.get(id, 1).unwrap() }
}

/// The key's own counter of this dimension.
pub(super) async fn books(node: &Node, key: u8, dimension: Dimension) -> CounterState {
    let books = node.plane.counters.books(key_id(key)).await.unwrap();
    let own = |books: &&CounterState| books.counter.dimension == dimension && books.counter.scope == Scope::Key;
    *books.iter().find(own).unwrap()
}

/// What gives up the lives that nobody uses.
pub(super) fn leaving(node: &Node) -> Leaving {
    Leaving {
        memberships: node.plane.memberships.clone(),
        grants: node.plane.grants.clone(),
        counters: Arc::clone(&node.plane.counters),
        ledger: node.ledger.clone(),
        spool: node.plane.spool.clone(),
    }
}

/// What a refusal says in headers.
pub(super) fn headers(rejection: &Rejection) -> HeaderMap {
    let mut headers = HeaderMap::new();
    rejection.write_headers(&mut headers);
    headers
}
