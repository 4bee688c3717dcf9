//! Random valid domain values for the round-trip tests.

use std::net::IpAddr;
use std::sync::Arc;

use keyforge_shared::catalog::{LongContext, Model, Operation, Prices, ProviderName, Rates};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::endpoint::{Endpoint, Endpoints};
use keyforge_shared::id::{ChainId, CredentialId, KeyId, WorkspaceId};
use keyforge_shared::limit::Dimension;
use keyforge_shared::money::{NanoUsd, PicoUsdPerToken};
use keyforge_shared::network::{Network, Networks};
use keyforge_shared::period::{Window, ZoneName};
use keyforge_shared::plan::Plan;
use keyforge_shared::policy::{ModelPattern, Policy, Raise, RequestLimit, SpendLimit};
use keyforge_shared::state::{
    Change, CredentialRecord, FormerToken, KeyRecord, KeyStatus, MAX_WEIGHT, Resource, WorkspaceRecord,
};
use keyforge_shared::token::TokenDigest;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

pub(super) fn moment() -> impl Strategy<Value = Timestamp> {
    (0i64..7_000_000_000_000).prop_map(Timestamp::from_millis)
}

fn word() -> impl Strategy<Value = String> {
    vec(select(b"abcXYZ019-./*".to_vec()), 1..20).prop_map(|bytes| String::from_utf8(bytes).unwrap())
}

pub(super) fn key_id() -> impl Strategy<Value = KeyId> {
    vec(select(b"abcXYZ019".to_vec()), 12).prop_map(|text| KeyId::from_ascii(&text).unwrap())
}

fn windows() -> impl Strategy<Value = Vec<Window>> {
    subsequence(Window::ALL.to_vec(), 0..=4)
}

fn request_limits() -> impl Strategy<Value = Vec<RequestLimit>> {
    (windows(), 0u64..1_000_000)
        .prop_map(|(windows, requests)| windows.into_iter().map(|window| RequestLimit { requests, window }).collect())
}

fn spend_limits() -> impl Strategy<Value = Vec<SpendLimit>> {
    (windows(), 0..=NanoUsd::MAX_LIMIT.nanos()).prop_map(|(windows, nanos)| {
        windows.into_iter().map(|window| SpendLimit { amount: NanoUsd::new(nanos), window }).collect()
    })
}

/// Raises of some of the limits of a policy, which are far below what a limit can be.
fn raised(policy: Policy) -> impl Strategy<Value = Policy> {
    let requests = policy.request_limits.iter().map(|limit| (Dimension::Requests, limit.window));
    let low = policy.spend_limits.iter().filter(|limit| limit.amount.nanos() < NanoUsd::MAX_LIMIT.nanos() / 2);
    let limits: Vec<_> = requests.chain(low.map(|limit| (Dimension::Spend, limit.window))).collect();
    let count = 0..=limits.len();
    (subsequence(limits, count), 1u64..1_000_000, moment()).prop_map(move |(limits, amount, until)| {
        let raise = |(dimension, window)| Raise { dimension, window, amount, until };
        Policy { raises: limits.into_iter().map(raise).collect(), ..policy.clone() }
    })
}

pub(super) fn policy() -> impl Strategy<Value = Policy> {
    plain_policy().prop_flat_map(raised)
}

fn plain_policy() -> impl Strategy<Value = Policy> {
    let models = vec(word().prop_map(ModelPattern), 0..4);
    let rates = (option::of(1u32..=100_000), option::of(1u64..1_000_000_000), option::of(1u32..=1_000));
    let zone = select(vec![None, Some("UTC"), Some("Europe/Berlin"), Some("America/St_Johns")]);
    let zone = zone.prop_map(|name| name.map(|name| ZoneName::new(name).unwrap()));
    let staleness = option::of(1u32..=86_400);
    let others = (option::of(1u64..), option::of(moment()), zone, staleness, places());
    (models, request_limits(), spend_limits(), rates, others).prop_map(
        |(
            models,
            request_limits,
            spend_limits,
            rates,
            (max_output_tokens, expires_at, time_zone, max_staleness_seconds, places),
        )| Policy {
            models,
            request_limits,
            spend_limits,
            requests_per_minute: rates.0,
            tokens_per_minute: rates.1,
            concurrent_requests: rates.2,
            max_output_tokens,
            expires_at,
            time_zone,
            max_staleness_seconds,
            networks: places.0,
            endpoints: places.1,
            raises: Box::default(),
        },
    )
}

fn places() -> impl Strategy<Value = (Networks, Endpoints)> {
    let network = (any::<IpAddr>(), 0u8..=32).prop_map(|(address, prefix)| Network::new(address, prefix).unwrap());
    let endpoints = subsequence(Endpoint::ALL.to_vec(), 0..=Endpoint::ALL.len());
    (vec(network, 0..4).prop_map(Networks::new), endpoints.prop_map(Endpoints::from_iter))
}

pub(super) fn workspace() -> impl Strategy<Value = WorkspaceRecord> {
    (any::<[u8; 16]>(), ".{1,20}", request_limits(), spend_limits(), select(Plan::ALL.to_vec())).prop_map(
        |(id, name, request_limits, spend_limits, plan)| WorkspaceRecord {
            id: WorkspaceId::from_bytes(id),
            name,
            request_limits,
            spend_limits,
            plan,
        },
    )
}

pub(super) fn key() -> impl Strategy<Value = KeyRecord> {
    let status = select(vec![KeyStatus::Active, KeyStatus::Paused, KeyStatus::Revoked]);
    let homes = (any::<[u8; 16]>(), any::<[u8; 16]>());
    let former = option::of((any::<[u8; 32]>(), option::of(moment())));
    (key_id(), any::<[u8; 32]>(), ".{1,20}", (status, any::<u64>()), policy(), homes, former).prop_map(
        |(id, digest, name, (status, status_revision), policy, (chain, workspace), former)| {
            let (chain, workspace) = (ChainId::from_bytes(chain), WorkspaceId::from_bytes(workspace));
            let (digest, policy) = (TokenDigest(digest), Arc::new(policy));
            let former = former.map(|(digest, until)| Box::new(FormerToken { digest: TokenDigest(digest), until }));
            KeyRecord { id, digest, name, status, status_revision, policy, chain, workspace, former }
        },
    )
}

fn rates() -> impl Strategy<Value = Rates> {
    let price = || any::<u64>().prop_map(PicoUsdPerToken);
    (price(), price(), vec(option::of(price()), 6)).prop_map(|(input, output, rest)| Rates {
        input,
        output,
        cache_read: rest[0],
        cache_write_5m: rest[1],
        cache_write_1h: rest[2],
        input_audio: rest[3],
        output_audio: rest[4],
        reasoning: rest[5],
    })
}

fn prices() -> impl Strategy<Value = Prices> {
    let long = vec((0u64..1_000_000, rates()), 0..3).prop_map(|mut steps| {
        steps.sort_by_key(|(above, _)| *above);
        steps.into_iter().map(|(above_input_tokens, rates)| LongContext { above_input_tokens, rates }).collect()
    });
    (rates(), option::of(rates()), option::of(rates()), long)
        .prop_map(|(standard, priority, flex, long_context)| Prices { standard, priority, flex, long_context })
}

pub(super) fn model() -> impl Strategy<Value = Model> {
    let operation = select(vec![Operation::Chat, Operation::Responses, Operation::Embedding]);
    (word(), word(), word(), operation, option::of(1u64..), option::of(1u64..), option::of(prices())).prop_map(
        |(name, provider, upstream_name, operation, context_tokens, max_output_tokens, prices)| Model {
            name,
            provider: ProviderName(provider),
            upstream_name,
            operation,
            context_tokens,
            max_output_tokens,
            prices,
            source: "a price list".to_owned(),
            as_of: "2026-11-22".to_owned(),
        },
    )
}

pub(super) fn credential() -> impl Strategy<Value = CredentialRecord> {
    (any::<[u8; 16]>(), word(), word(), word(), word(), 1u32.., any::<bool>(), 1..=MAX_WEIGHT).prop_map(
        |(id, provider, pool, base_url, limit_group, secret_version, enabled, weight)| CredentialRecord {
            id: CredentialId::from_bytes(id),
            provider: ProviderName(provider),
            pool,
            base_url,
            limit_group,
            secret_version,
            enabled,
            weight,
        },
    )
}

pub(super) fn change() -> impl Strategy<Value = Change> {
    let resource = prop_oneof![
        key().prop_map(|key| Resource::Key(Arc::new(key))),
        model().prop_map(|model| Resource::Model(Arc::new(model))),
        credential().prop_map(|credential| Resource::Credential(Arc::new(credential))),
        workspace().prop_map(|workspace| Resource::Workspace(Arc::new(workspace))),
    ];
    (resource, any::<bool>())
        .prop_map(|(resource, remove)| if remove { Change::Remove(resource.id()) } else { Change::Upsert(resource) })
}
