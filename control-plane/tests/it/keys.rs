//! Virtual keys over gRPC: made, listed, changed, revoked, and every refusal by field.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use keyforge_control_plane::admin::authenticate::Proof;
use keyforge_control_plane::admin::keys::NewKey;
use keyforge_control_plane::store::key_labels::Labels;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::audit_service_client::AuditServiceClient;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::clock::{Clock as _, SystemClock};
use keyforge_shared::endpoint::Endpoints;
use keyforge_shared::network::Networks;
use keyforge_shared::period::ZoneName;
use keyforge_shared::policy::Policy;
use keyforge_shared::state::policy_digest;
use prost::Message as _;
use prost_types::FieldMask;
use tonic::Code;

use crate::plane::Plane;

fn policy() -> admin::Policy {
    admin::Policy {
        models: vec!["gpt-5*".to_owned()],
        request_limits: vec![admin::RequestLimit { requests: 100, window: admin::Window::Month.into() }],
        spend_limits: vec![admin::SpendLimit { nano_usd: 10_000_000, window: admin::Window::Day.into() }],
        requests_per_minute: Some(60),
        max_output_tokens: Some(1_000),
        expires_at_ms: Some(4_000_000_000_000),
        tokens_per_minute: Some(90_000),
        concurrent_requests: Some(8),
        time_zone: Some("Europe/Berlin".to_owned()),
        max_staleness_seconds: Some(60),
        networks: vec!["10.0.0.0/8".to_owned()],
        endpoints: vec![admin::Endpoint::Chat.into()],
        raises: Vec::new(),
    }
}

fn update(id: &str, paths: &[&str]) -> admin::UpdateKeyRequest {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    admin::UpdateKeyRequest { id: id.to_owned(), update_mask: Some(FieldMask { paths }), ..Default::default() }
}

#[tokio::test]
async fn key_lives_from_creation_over_changes_to_revocation() {
    let plane = Plane::start().await;
    let mut keys = plane.keys();
    let request = admin::CreateKeyRequest { name: "agent".to_owned(), policy: Some(policy()), ..Default::default() };
    let created = keys.create_key(request).await.unwrap().into_inner();
    let key = created.key.unwrap();
    assert!(created.token.starts_with(&format!("{}_", key.id)));
    assert_eq!((key.policy.as_ref(), key.status()), (Some(&policy()), admin::KeyStatus::Active));
    assert_eq!(key.workspace_name, "default");
    assert_eq!(keys.get_key(admin::GetKeyRequest { id: key.id.clone() }).await.unwrap().into_inner(), key);

    let renamed =
        admin::UpdateKeyRequest { name: "new".to_owned(), paused: true, ..update(&key.id, &["name", "paused"]) };
    let renamed = keys.update_key(renamed).await.unwrap().into_inner();
    assert_eq!((renamed.name.as_str(), renamed.status()), ("new", admin::KeyStatus::Paused));
    assert_eq!((renamed.policy.as_ref(), renamed.revision), (Some(&policy()), key.revision + 1));

    let revoke = admin::RevokeKeyRequest { id: key.id.clone(), wait_ms: None };
    let revoked = keys.revoke_key(revoke.clone()).await.unwrap().into_inner().key.unwrap();
    assert_eq!((revoked.status(), revoked.revoked_at_ms.is_some()), (admin::KeyStatus::Revoked, true));
    let revision = plane.revision().await;
    assert_eq!(
        keys.revoke_key(revoke).await.unwrap().into_inner().key,
        Some(revoked),
        "revoking again changes nothing"
    );
    assert_eq!(plane.revision().await, revision);
    let status = keys.update_key(update(&key.id, &["paused"])).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    plane.stop().await;
}

#[tokio::test]
async fn mask_changes_what_it_names_and_nothing_else() {
    let plane = Plane::start().await;
    let mut keys = plane.keys();
    let request = admin::CreateKeyRequest { name: "agent".to_owned(), policy: Some(policy()), ..Default::default() };
    let id = keys.create_key(request).await.unwrap().into_inner().key.unwrap().id;
    let zone = policy().time_zone;
    let new = admin::Policy { models: vec!["claude-*".to_owned()], time_zone: zone, ..Default::default() };
    let request = admin::UpdateKeyRequest {
        name: "ignored".to_owned(),
        policy: Some(new.clone()),
        ..update(&id, &["policy.models", "policy.expires_at_ms", "policy.concurrent_requests"])
    };
    let key = keys.update_key(request).await.unwrap().into_inner();
    let expected =
        admin::Policy { models: new.models.clone(), expires_at_ms: None, concurrent_requests: None, ..policy() };
    assert_eq!((key.name.as_str(), key.policy), ("agent", Some(expected)));
    let request = admin::UpdateKeyRequest { policy: Some(new.clone()), ..update(&id, &["policy"]) };
    assert_eq!(keys.update_key(request).await.unwrap().into_inner().policy, Some(new));
    plane.stop().await;
}

#[tokio::test]
async fn key_keeps_its_time_zone_and_its_workspace() {
    let plane = Plane::start().await;
    let team = admin::CreateWorkspaceRequest { name: "team".to_owned(), ..Default::default() };
    let team = plane.workspaces().create_workspace(team).await.unwrap().into_inner();
    let request = admin::CreateKeyRequest {
        name: "agent".to_owned(),
        policy: Some(policy()),
        workspace: team.id.clone(),
        ..Default::default()
    };
    let key = plane.keys().create_key(request).await.unwrap().into_inner().key.unwrap();
    assert_eq!((key.workspace_id.as_str(), key.workspace_name.as_str()), (team.id.as_str(), "team"));

    let in_zone = |zone: Option<&str>, paths: &[&str]| {
        let policy = admin::Policy { time_zone: zone.map(str::to_owned), ..policy() };
        admin::UpdateKeyRequest { policy: Some(policy), ..update(&key.id, paths) }
    };
    let in_workspace = |workspace: &str| {
        let workspace = workspace.to_owned();
        admin::UpdateKeyRequest { workspace, ..update(&key.id, &["workspace"]) }
    };
    let refused = [
        (in_zone(Some("Asia/Tokyo"), &["policy.time_zone"]), "policy.time_zone: "),
        (in_zone(None, &["policy.time_zone"]), "policy.time_zone: "),
        (in_zone(None, &["policy"]), "policy.time_zone: "),
        (in_workspace("default"), "workspace: "),
        (in_workspace(""), "workspace: "),
        (in_workspace("nobody"), "workspace: "),
    ];
    for (request, field) in refused {
        let status = plane.keys().update_key(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let text = status.message();
        assert!(text.starts_with(field) && text.contains("already counted would overlap"), "{text}");
    }
    for request in [in_zone(Some("europe/berlin"), &["policy"]), in_workspace("team"), in_workspace(&team.id)] {
        assert_eq!(plane.keys().update_key(request).await.unwrap().into_inner(), key, "naming its own changes nothing");
    }
    let mut rates = in_zone(Some("Asia/Tokyo"), &["policy.tokens_per_minute"]);
    rates.policy.as_mut().unwrap().tokens_per_minute = Some(1);
    let changed = plane.keys().update_key(rates).await.unwrap().into_inner().policy.unwrap();
    assert_eq!(changed, admin::Policy { tokens_per_minute: Some(1), ..policy() }, "what the mask does not name stays");

    let (plain, _) = plane.make_key("plain").await;
    let utc = admin::Policy { time_zone: Some("UTC".to_owned()), ..Default::default() };
    let same = admin::UpdateKeyRequest { policy: Some(utc), ..update(&plain.id, &["policy"]) };
    assert_eq!(plane.keys().update_key(same).await.unwrap().into_inner(), plain, "no zone and UTC are the same");
    plane.stop().await;
}

#[test]
fn digest_that_a_chain_begins_with_names_every_field_of_the_policy() {
    let policy = Policy::try_from(policy()).unwrap();
    let others = [
        Policy { models: Vec::new(), ..policy.clone() },
        Policy { request_limits: Vec::new(), ..policy.clone() },
        Policy { spend_limits: Vec::new(), ..policy.clone() },
        Policy { requests_per_minute: None, ..policy.clone() },
        Policy { max_output_tokens: None, ..policy.clone() },
        Policy { expires_at: None, ..policy.clone() },
        Policy { networks: Networks::default(), ..policy.clone() },
        Policy { endpoints: Endpoints::default(), ..policy.clone() },
        Policy { tokens_per_minute: None, ..policy.clone() },
        Policy { tokens_per_minute: Some(1), ..policy.clone() },
        Policy { concurrent_requests: None, ..policy.clone() },
        Policy { concurrent_requests: Some(1), ..policy.clone() },
        Policy { time_zone: None, ..policy.clone() },
        Policy { time_zone: ZoneName::new("Asia/Tokyo").ok(), ..policy.clone() },
        Policy { max_staleness_seconds: None, ..policy.clone() },
        Policy { max_staleness_seconds: Some(1), ..policy.clone() },
        policy,
    ];
    let digests: HashSet<_> = others.iter().map(policy_digest).collect();
    assert_eq!(digests.len(), others.len());
}

#[tokio::test]
async fn every_wrong_field_is_named_and_the_refusal_recorded() {
    let plane = Plane::start().await;
    let (key, _) = plane.make_key("agent").await;
    let create = |name: &str, policy| admin::CreateKeyRequest {
        name: name.to_owned(),
        policy: Some(policy),
        ..Default::default()
    };
    let zone = |name: &str| admin::Policy { time_zone: Some(name.to_owned()), ..policy() };
    let elsewhere =
        |workspace: &str| admin::CreateKeyRequest { workspace: workspace.to_owned(), ..create("k", policy()) };
    let no_such_workspace = format!("ws_{}", "0".repeat(32));
    let window = |window| admin::SpendLimit { nano_usd: 1, window };
    let creations = [
        (create("", policy()), "name: "),
        (create(&"x".repeat(101), policy()), "name: "),
        (create("bell\u{7}", policy()), "name: holds U+0007"),
        (create(" agent", policy()), "name: must not begin or end with a space"),
        (create("ag\u{200b}ent", policy()), "name: holds U+200B"),
        (create("\u{202e}tnega", policy()), "name: holds U+202E"),
        (create("my\u{a0}agent", policy()), "name: holds U+00A0"),
        (create("k", admin::Policy { models: vec!["a b".to_owned()], ..policy() }), "policy.models: "),
        (create("k", admin::Policy { models: vec!["a".to_owned(); 257], ..policy() }), "policy.models: at most 256"),
        (
            create("k", admin::Policy { spend_limits: vec![window(0)], ..policy() }),
            "policy.spend_limits[0].window: unspecified",
        ),
        (
            create("k", admin::Policy { spend_limits: vec![window(1); 2], ..policy() }),
            "policy.spend_limits: more than one",
        ),
        (create("k", admin::Policy { networks: vec!["10.0.0.0/40".to_owned()], ..policy() }), "policy.networks[0]: "),
        (create("k", admin::Policy { endpoints: vec![0], ..policy() }), "policy.endpoints[0]: unspecified"),
        (admin::CreateKeyRequest { labels: labels(&[("A", "x")]), ..create("k", policy()) }, "labels: a name has"),
        (admin::CreateKeyRequest { labels: labels(&[("a", "")]), ..create("k", policy()) }, "labels.a: 1 to 100"),
        (create("k", admin::Policy { requests_per_minute: Some(0), ..policy() }), "policy.requests_per_minute: "),
        (create("k", admin::Policy { tokens_per_minute: Some(0), ..policy() }), "policy.tokens_per_minute: "),
        (create("k", admin::Policy { tokens_per_minute: Some(u64::MAX), ..policy() }), "policy.tokens_per_minute: "),
        (create("k", admin::Policy { concurrent_requests: Some(0), ..policy() }), "policy.concurrent_requests: "),
        (
            create("k", admin::Policy { concurrent_requests: Some(1_000_001), ..policy() }),
            "policy.concurrent_requests: ",
        ),
        (create("k", zone("Mars/Olympus")), "policy.time_zone: `Mars/Olympus` is not a time zone"),
        (create("k", zone("")), "policy.time_zone: "),
        (elsewhere("nobody"), "workspace: there is none"),
        (elsewhere(&no_such_workspace), "workspace: there is none"),
        (create("k", admin::Policy { max_output_tokens: Some(0), ..policy() }), "policy.max_output_tokens: "),
        (create("k", admin::Policy { expires_at_ms: Some(1), ..policy() }), "policy.expires_at_ms: lies in the past"),
        (create("k", admin::Policy { expires_at_ms: Some(-1), ..policy() }), "policy.expires_at_ms: "),
    ];
    for (request, expected) in creations {
        let status = plane.keys().create_key(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{expected} in {}", status.message());
        let entry = plane.last_entry().await;
        assert_eq!((entry.method.as_str(), entry.outcome), ("keys/Create", AdminOutcome::Failed));
    }
    let both = create("", admin::Policy { requests_per_minute: Some(0), ..policy() });
    let both = plane.keys().create_key(both).await.unwrap_err();
    assert!(both.message().contains("policy.requests_per_minute"), "{both}");
    let unmasked = admin::UpdateKeyRequest { update_mask: None, ..update(&key.id, &[]) };
    let updates = [
        (update(&key.id, &["policy.budget"]), Code::InvalidArgument, "update_mask: a key has no `policy.budget`"),
        (update(&key.id, &[]), Code::InvalidArgument, "update_mask: empty"),
        (unmasked, Code::InvalidArgument, "update_mask: missing"),
        (update(&key.id, &["policy"]), Code::InvalidArgument, "policy: missing"),
        (update(&key.id, &["name"]), Code::InvalidArgument, "name: "),
        (update("vk_short", &["name"]), Code::InvalidArgument, "id: "),
        (update("vk_000000000000", &["paused"]), Code::NotFound, "vk_000000000000"),
    ];
    for (request, code, expected) in updates {
        let status = plane.keys().update_key(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{expected} in {}", status.message());
    }
    assert_eq!(plane.keys().get_key(admin::GetKeyRequest { id: key.id.clone() }).await.unwrap().into_inner(), key);
    plane.stop().await;
}

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn keys_are_found_by_all_of_their_labels_and_by_their_end() {
    let plane = Plane::start().await;
    let make = async |name: &str, labels, days: Option<i64>| {
        let expires_at_ms = days.map(|days| SystemClock.now().millis() + days * 86_400_000);
        let policy = Some(admin::Policy { expires_at_ms, ..Default::default() });
        let request = admin::CreateKeyRequest { name: name.to_owned(), policy, labels, ..Default::default() };
        plane.keys().create_key(request).await.unwrap().into_inner().key.unwrap()
    };
    let one = make("one", labels(&[("team", "research"), ("env", "ci")]), Some(3)).await;
    make("two", labels(&[("team", "research"), ("env", "prod")]), Some(30)).await;
    make("three", HashMap::new(), None).await;
    let listed = async |page_size, wanted, days: Option<i64>| {
        let expires_before_ms = days.map(|days| SystemClock.now().millis() + days * 86_400_000);
        let request = admin::ListKeysRequest { page_size, labels: wanted, expires_before_ms, ..Default::default() };
        let page = plane.keys().list_keys(request).await.unwrap().into_inner();
        (page.keys.into_iter().map(|key| key.name).collect::<Vec<_>>(), page.next_page_token.is_empty())
    };
    let research = || labels(&[("team", "research")]);
    assert_eq!(listed(0, research(), None).await.0, ["two", "one"]);
    assert_eq!(listed(1, research(), None).await, (vec!["two".to_owned()], false), "a page is cut after filtering");
    assert_eq!(listed(0, labels(&[("team", "research"), ("env", "ci")]), None).await.0, ["one"]);
    assert_eq!(listed(0, labels(&[("team", "Research")]), None).await.0, Vec::<String>::new());
    assert_eq!(listed(0, HashMap::new(), Some(7)).await.0, ["one"]);
    assert_eq!(listed(0, research(), Some(31)).await.0, ["two", "one"]);

    let change = admin::UpdateKeyRequest { labels: labels(&[("env", "nightly")]), ..update(&one.id, &["labels.env"]) };
    let changed = plane.keys().update_key(change).await.unwrap().into_inner();
    assert_eq!(changed.labels, labels(&[("team", "research"), ("env", "nightly")]));
    assert_eq!(changed.revision, one.revision + 3, "a label is a change like any other");
    assert_eq!(plane.keys().get_key(admin::GetKeyRequest { id: one.id.clone() }).await.unwrap().into_inner(), changed);
    plane.keys().revoke_key(admin::RevokeKeyRequest { id: one.id.clone(), wait_ms: Some(0) }).await.unwrap();
    assert_eq!(listed(0, HashMap::new(), Some(7)).await.0, Vec::<String>::new(), "a revoked key needs no notice");
    let details: Vec<_> = plane.admin_entries().await.into_iter().map(|entry| entry.detail).collect();
    assert!(
        details.iter().any(|detail| detail.contains("nightly") && detail.contains("\"env\":\"ci\"")),
        "{details:?}"
    );
    plane.stop().await;
}

#[tokio::test]
async fn a_rotated_key_is_the_same_key_with_another_token_also_after_a_restart() {
    let plane = Plane::start().await;
    let request = admin::CreateKeyRequest { name: "agent".to_owned(), policy: Some(policy()), ..Default::default() };
    let made = plane.keys().create_key(request).await.unwrap().into_inner();
    let before = made.key.unwrap();
    let rotate = |grace_ms| admin::RotateKeyRequest { id: before.id.clone(), grace_ms };
    let rotated = plane.keys().rotate_key(rotate(60_000)).await.unwrap().into_inner();
    let key = rotated.key.unwrap();
    assert!(rotated.token.starts_with(&format!("{}_", before.id)) && rotated.token != made.token);
    assert!(key.former_token_until_ms.is_some_and(|until| until > SystemClock.now().millis()));
    let besides = admin::Key { former_token_until_ms: None, revision: before.revision, ..key.clone() };
    assert_eq!(besides, before, "nothing else changes");
    // It starts with what is stored alone, and refuses to if that is not what was sealed.
    let plane = Plane::start_again(plane.stop().await).await;
    let shown = plane.keys().get_key(admin::GetKeyRequest { id: before.id.clone() }).await.unwrap().into_inner();
    assert_eq!(shown, key);
    let at_once = plane.keys().rotate_key(rotate(0)).await.unwrap().into_inner();
    assert_eq!(at_once.key.unwrap().former_token_until_ms, None);
    let long = plane.keys().rotate_key(rotate(31 * 86_400_000)).await.unwrap_err();
    assert!(long.code() == Code::InvalidArgument && long.message().contains("grace_ms"), "{long:?}");
    plane.keys().revoke_key(admin::RevokeKeyRequest { id: before.id.clone(), wait_ms: Some(0) }).await.unwrap();
    assert_eq!(plane.keys().rotate_key(rotate(0)).await.unwrap_err().code(), Code::FailedPrecondition);
    let entries = plane.admin_entries().await;
    assert_eq!(entries.iter().filter(|entry| entry.method == "keys/Rotate").count(), 4, "refusals are entries, too");
    assert!(entries.iter().all(|entry| !entry.detail.contains(&rotated.token)));
    plane.stop().await;
}

#[tokio::test]
async fn a_raise_adds_up_outlives_a_restart_and_is_refused_without_a_limit_or_with_an_end_in_the_past() {
    let plane = Plane::start().await;
    let request = admin::CreateKeyRequest { name: "agent".to_owned(), policy: Some(policy()), ..Default::default() };
    let id = plane.keys().create_key(request).await.unwrap().into_inner().key.unwrap().id;
    let in_an_hour = SystemClock.now().millis() + 3_600_000;
    let raise = |window: admin::Window, amount, until_ms| admin::Raise {
        amount: Some(amount),
        window: window.into(),
        until_ms,
    };
    let asked = |raises| admin::RaiseKeyRequest { id: id.clone(), raises };
    let (requests, window) = (admin::raise::Amount::Requests, policy().request_limits[0].window());
    for (raises, problem) in [
        (vec![], "raises: none"),
        (vec![raise(window, requests(5), 1_000)], "lies in the past"),
        (vec![raise(window, requests(0), in_an_hour)], "at least 1"),
        (vec![raise(admin::Window::Total, requests(5), in_an_hour)], "no limit of requests per total"),
        (vec![raise(admin::Window::Unspecified, requests(5), in_an_hour)], "raises[0].window"),
        (vec![admin::Raise { amount: None, ..raise(window, requests(5), in_an_hour) }], "raises[0].amount"),
    ] {
        let status = plane.keys().raise_key(asked(raises)).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(problem), "{status:?}");
    }
    for count in 1..=2 {
        let raised = plane.keys().raise_key(asked(vec![raise(window, requests(5), in_an_hour)])).await.unwrap();
        assert_eq!(raised.into_inner().policy.unwrap().raises.len(), count);
    }
    let plane = Plane::start_again(plane.stop().await).await;
    let shown = async || plane.keys().get_key(admin::GetKeyRequest { id: id.clone() }).await.unwrap().into_inner();
    assert_eq!(shown().await.policy.unwrap().raises, vec![raise(window, requests(5), in_an_hour); 2]);
    let none = admin::UpdateKeyRequest { policy: Some(Default::default()), ..update(&id, &["policy.raises"]) };
    plane.keys().update_key(none).await.unwrap();
    assert!(shown().await.policy.unwrap().raises.is_empty());
    plane.stop().await;
}

#[tokio::test]
async fn pages_hold_every_key_once_newest_first() {
    let plane = Plane::start().await;
    let mut made = Vec::new();
    for number in 0..7 {
        made.push(plane.make_key(&format!("key {number}")).await.0.id);
    }
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = admin::ListKeysRequest { page_size: 3, page_token, ..Default::default() };
        let page = plane.keys().list_keys(request).await.unwrap().into_inner();
        assert!(page.keys.len() <= 3);
        listed.extend(page.keys.into_iter().map(|key| key.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    made.reverse();
    assert_eq!(listed, made);
    for (request, field) in [
        (admin::ListKeysRequest { page_size: 501, ..Default::default() }, "page_size: "),
        (
            admin::ListKeysRequest { page_size: 1, page_token: "made up".to_owned(), ..Default::default() },
            "page_token: ",
        ),
    ] {
        let status = plane.keys().list_keys(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status}");
    }
    plane.stop().await;
}

#[tokio::test]
async fn lists_of_large_entries_come_in_pages_that_a_client_takes_and_hold_all() {
    const MANY: usize = 120;
    const MOST_BYTES: usize = 2 * 1024 * 1024;
    let plane = Plane::start().await;
    // As large as labels can be: 12 kB a key, and as much in its entry.
    let labels =
        (0..32).map(|number| (format!("label-{number:02}"), "\u{4e16}".repeat(100))).collect::<HashMap<_, _>>();
    for number in 0..MANY {
        let request =
            admin::CreateKeyRequest { name: format!("key {number}"), labels: labels.clone(), ..Default::default() };
        plane.keys().create_key(request).await.unwrap();
    }
    let (mut names, mut page_token) = (HashSet::new(), String::new());
    loop {
        let request = admin::ListKeysRequest { page_size: 500, page_token, ..Default::default() };
        let page = plane.keys().list_keys(request).await.unwrap().into_inner();
        assert!(page.encoded_len() < MOST_BYTES, "{}", page.encoded_len());
        names.extend(page.keys.into_iter().map(|key| key.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names.len(), MANY);
    let chain = Some(admin::ChainSelector { chain: Some(admin::chain_selector::Chain::Admin(true)) });
    let (channel, bearer) = plane.with(Some(&plane.operator_token));
    let mut audit = AuditServiceClient::with_interceptor(channel, bearer);
    let (mut numbers, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            admin::ListEntriesRequest { chain: chain.clone(), page_size: 500, page_token, ..Default::default() };
        let page = audit.list_entries(request).await.unwrap().into_inner();
        assert!(page.encoded_len() < MOST_BYTES, "{}", page.encoded_len());
        numbers.extend(page.entries.iter().map(|entry| entry.seq));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert!(numbers.len() > MANY && numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
    plane.stop().await;
}

#[tokio::test]
async fn mutations_at_the_same_time_get_dense_revisions() {
    let plane = Plane::start().await;
    let before = plane.revision().await;
    let creations = (0..20).map(|number| {
        let mut keys = plane.keys();
        let request = admin::CreateKeyRequest { name: format!("key {number}"), ..Default::default() };
        async move { keys.create_key(request).await.unwrap().into_inner().key.unwrap().revision }
    });
    let mut revisions = futures_util::future::join_all(creations).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (before + 1..=before + 20).collect::<Vec<_>>());
    plane.stop().await;
}

#[tokio::test]
async fn caller_who_hangs_up_at_any_point_leaves_store_and_published_state_in_step() {
    let plane = Plane::start().await;
    let administration = plane.running.admin();
    let token = plane.operator_token.clone();
    let known = administration.authenticate(Proof::Token(token.as_bytes()), "test", "keys/Create").await.unwrap();
    let caller = known.caller;
    let (mut hung_up, mut answered) = (0, 0);
    // From hanging up at once to hanging up after the whole call, in small steps.
    let mut patience = Duration::from_micros(20);
    for attempt in 0..150 {
        let (name, policy) = (format!("key {attempt}"), Policy::default());
        let new = NewKey { name, policy, workspace: String::new(), labels: Labels::new() };
        match tokio::time::timeout(patience, administration.create_key(&caller, new)).await {
            Ok(created) => answered += u32::from(created.is_ok()),
            Err(_) => hung_up += 1,
        }
        if answered == 10 {
            break;
        }
        patience += patience / 12;
    }
    assert!(hung_up > 0 && answered > 0, "{hung_up} hung up, {answered} answered");
    // The next mutation is refused unless the database and the published state are at the same revision.
    let (last, _) = plane.make_key("last").await;
    assert_eq!(last.revision, plane.revision().await);
    let listed = plane.keys().list_keys(admin::ListKeysRequest { page_size: 500, ..Default::default() }).await.unwrap();
    let made = u64::try_from(listed.into_inner().keys.len()).unwrap();
    assert_eq!(last.revision, 1 + made, "one revision per key that is there");
    plane.stop().await;
}
