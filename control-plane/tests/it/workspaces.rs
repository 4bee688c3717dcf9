//! Workspaces over gRPC: made, listed, given other limits, and every refusal by field.

use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::usage_service_client::UsageServiceClient;
use keyforge_proto::admin::v1::workspace_service_client::WorkspaceServiceClient;
use keyforge_proto::fleet::v1 as fleet;
use keyforge_proto::fleet::v1::grant_service_client::GrantServiceClient;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::clock::{Clock as _, SystemClock};
use keyforge_shared::period::{Calendar, Window, ZoneName};
use keyforge_shared::token::{self, TokenKind};
use prost_types::FieldMask;
use tonic::Code;

use crate::plane::Plane;

fn requests(requests: u64) -> Vec<admin::RequestLimit> {
    vec![admin::RequestLimit { requests, window: admin::Window::Month.into() }]
}

fn spend(nano_usd: u64) -> Vec<admin::SpendLimit> {
    vec![admin::SpendLimit { nano_usd, window: admin::Window::Day.into() }]
}

fn team() -> admin::CreateWorkspaceRequest {
    admin::CreateWorkspaceRequest {
        name: "team".to_owned(),
        request_limits: requests(20_000),
        spend_limits: spend(50_000_000_000),
        ..Default::default()
    }
}

fn update(workspace: &str, paths: &[&str]) -> admin::UpdateWorkspaceRequest {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let update_mask = Some(FieldMask { paths });
    admin::UpdateWorkspaceRequest { workspace: workspace.to_owned(), update_mask, ..Default::default() }
}

fn named_update(workspace: &str, name: &str) -> admin::UpdateWorkspaceRequest {
    admin::UpdateWorkspaceRequest { name: name.to_owned(), ..update(workspace, &["name"]) }
}

async fn all(plane: &Plane, page_size: u32) -> Vec<admin::Workspace> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = admin::ListWorkspacesRequest { page_size, page_token };
        let page = plane.workspaces().list_workspaces(request).await.unwrap().into_inner();
        found.extend(page.workspaces);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

#[tokio::test]
async fn workspace_is_made_shown_changed_and_kept_and_every_act_is_an_entry() {
    let plane = Plane::start().await;
    let made = plane.workspaces().create_workspace(team()).await.unwrap().into_inner();
    assert_eq!((made.name.as_str(), made.revision), ("team", 2));
    assert_eq!((&made.request_limits, &made.spend_limits), (&team().request_limits, &team().spend_limits));
    for workspace in [made.id.clone(), "team".to_owned()] {
        let shown = plane.workspaces().get_workspace(admin::GetWorkspaceRequest { workspace }).await.unwrap();
        assert_eq!(shown.into_inner(), made);
    }
    let request = admin::UpdateWorkspaceRequest {
        request_limits: requests(1),
        spend_limits: spend(7),
        ..update("team", &["spend_limits"])
    };
    let changed = plane.workspaces().update_workspace(request.clone()).await.unwrap().into_inner();
    assert_eq!(changed, admin::Workspace { spend_limits: spend(7), revision: 3, ..made.clone() });
    let entry = plane.last_entry().await;
    assert_eq!(
        (entry.method.as_str(), entry.outcome, &entry.target),
        ("workspaces/Update", AdminOutcome::Done, &made.id)
    );
    assert!(entry.detail.contains("\"before\"") && entry.detail.contains("50000000000"), "{}", entry.detail);
    let again = plane.workspaces().update_workspace(request).await.unwrap().into_inner();
    assert_eq!((again, plane.revision().await), (changed.clone(), 3), "nothing changed");

    let methods: Vec<_> = plane.admin_entries().await.into_iter().map(|entry| entry.method).collect();
    let expected = ["Create", "Get", "Get", "Update", "Update"].map(|method| format!("workspaces/{method}"));
    assert_eq!(methods[1..], expected);
    let plane = Plane::start_again(plane.stop().await).await;
    let kept = all(&plane, 0).await;
    assert_eq!((kept.len(), kept[0].name.as_str(), &kept[1]), (2, "default", &changed));
    plane.stop().await;
}

#[tokio::test]
async fn balance_shows_what_all_keys_of_the_workspace_hold_and_the_periods_of_the_keys_own_zone() {
    let plane = Plane::start().await;
    let in_total = admin::RequestLimit { requests: 20_000, window: admin::Window::Total.into() };
    let team = admin::CreateWorkspaceRequest { request_limits: vec![in_total], ..team() };
    plane.workspaces().create_workspace(team).await.unwrap();
    let zone = ZoneName::new("Pacific/Kiritimati").unwrap();
    let policy =
        admin::Policy { spend_limits: spend(1_000), time_zone: Some(zone.as_str().to_owned()), ..Default::default() };
    let one = key_in_team(&plane, policy).await;
    let other = key_in_team(&plane, admin::Policy::default()).await;

    let calendar = Calendar::of(Some(&zone));
    let before = calendar.day_at(SystemClock.now());
    let balances = balances(&plane, &one).await;
    let days = [before, calendar.day_at(SystemClock.now())];
    let seen: Vec<_> =
        balances.iter().map(|it| (it.scope.as_str(), it.dimension.as_str(), it.window(), it.limit)).collect();
    let (day, total) = (admin::Window::Day, admin::Window::Total);
    let expected = [
        ("key", "spend", day, 1_000),
        ("workspace", "requests", total, 20_000),
        ("workspace", "spend", day, 50_000_000_000),
    ];
    assert_eq!(seen, expected);
    for balance in [&balances[0], &balances[2]] {
        // The test may run over midnight there.
        let first = days.into_iter().find(|day| Some(day.to_string()) == balance.first_day).unwrap();
        assert_eq!(balance.resets_at_ms, Some(calendar.period(Window::Day, first).end.millis()));
    }
    assert_eq!((&balances[1].first_day, balances[1].resets_at_ms, balances[1].granted), (&None, None, 0));

    let counter = fleet::Counter {
        scope: fleet::Scope::Workspace.into(),
        dimension: fleet::Dimension::Requests.into(),
        window: total.into(),
        first_day: 0,
    };
    let want = fleet::Want { counter: Some(counter), amount: 3 };
    let (boot_id, life_id) = (vec![1; 16], vec![2; 16]);
    let request = fleet::AcquireGrantsRequest { boot_id, life_id, key_id: other.clone(), wants: vec![want] };
    let (channel, bearer) = plane.with(Some(&plane.fleet_token));
    let mut grants = GrantServiceClient::with_interceptor(channel, bearer);
    let granted = grants.acquire_grants(request).await.unwrap().into_inner().grants[0].granted;
    assert!(granted >= 3, "{granted}");
    for key in [one, other] {
        let balances = self::balances(&plane, &key).await;
        let shared = balances.iter().find(|it| it.scope == "workspace" && it.window() == total).unwrap();
        assert_eq!((shared.granted, shared.settled), (granted, 0), "{key}");
    }
    plane.stop().await;
}

async fn key_in_team(plane: &Plane, policy: admin::Policy) -> String {
    let request = admin::CreateKeyRequest {
        name: "k".to_owned(),
        policy: Some(policy),
        workspace: "team".to_owned(),
        ..Default::default()
    };
    plane.keys().create_key(request).await.unwrap().into_inner().key.unwrap().id
}

async fn balances(plane: &Plane, key: &str) -> Vec<admin::Balance> {
    let (channel, bearer) = plane.with(Some(&plane.operator_token));
    let mut usage = UsageServiceClient::with_interceptor(channel, bearer);
    let request = admin::GetBalanceRequest { key_id: key.to_owned() };
    usage.get_balance(request).await.unwrap().into_inner().balances
}

async fn shared(plane: &Plane, workspace: &str) -> Result<Vec<admin::Balance>, tonic::Status> {
    let (channel, bearer) = plane.with(Some(&plane.operator_token));
    let mut usage = UsageServiceClient::with_interceptor(channel, bearer);
    let request = admin::GetWorkspaceBalanceRequest { workspace: workspace.to_owned() };
    Ok(usage.get_workspace_balance(request).await?.into_inner().balances)
}

#[tokio::test]
async fn balance_of_a_workspace_has_each_present_period_of_its_keys_once() {
    let plane = Plane::start().await;
    plane.workspaces().create_workspace(team()).await.unwrap();
    let (day, month) = (admin::Window::Day, admin::Window::Month);
    let empty = shared(&plane, "team").await.unwrap();
    let seen: Vec<_> =
        empty.iter().map(|it| (it.scope.as_str(), it.dimension.as_str(), it.window(), it.limit)).collect();
    assert_eq!(seen, [("workspace", "requests", month, 20_000), ("workspace", "spend", day, 50_000_000_000)]);
    assert!(empty.iter().all(|it| (it.settled, it.granted) == (0, 0) && it.first_day.is_some()));

    // Between these two zones it is never the same day.
    let mut keys = Vec::new();
    for zone in ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Pacific/Pago_Pago"] {
        let policy = admin::Policy { time_zone: Some(zone.to_owned()), ..Default::default() };
        keys.push(key_in_team(&plane, policy).await);
    }
    let found = shared(&plane, "team").await.unwrap();
    let days: Vec<_> = found.iter().filter(|it| it.window() == day).map(|it| it.first_day.clone().unwrap()).collect();
    assert!(matches!(&days[..], [first, second] if first < second), "{days:?}");
    // A period is over when it is over for the last of them, which is the one in the west.
    for (key, ends_first) in [(&keys[0], true), (&keys[1], false)] {
        for of_key in balances(&plane, key).await {
            let same = |it: &&admin::Balance| (it.window(), &it.first_day) == (of_key.window(), &of_key.first_day);
            let shared = found.iter().find(same).unwrap();
            let is_month = of_key.window() == month;
            assert_eq!(shared.resets_at_ms > of_key.resets_at_ms, is_month && ends_first, "{shared:?} and {of_key:?}");
        }
    }
    let entry = plane.admin_entries().await.into_iter().rfind(|entry| entry.method == "usage/GetWorkspaceBalance");
    assert!(entry.unwrap().target.starts_with("ws_"));
    assert_eq!(shared(&plane, "sk-topsecret").await.unwrap_err().code(), Code::NotFound);
    plane.stop().await;
}

#[tokio::test]
async fn a_renamed_workspace_is_known_by_its_new_name_to_its_keys_and_after_a_restart() {
    let plane = Plane::start().await;
    let made = plane.workspaces().create_workspace(team()).await.unwrap().into_inner();
    let key = key_in_team(&plane, admin::Policy::default()).await;
    let renamed = plane.workspaces().update_workspace(named_update("team", "Crew")).await.unwrap().into_inner();
    assert_eq!((renamed.id.as_str(), renamed.name.as_str()), (made.id.as_str(), "Crew"));
    assert_eq!(renamed.spend_limits, made.spend_limits);
    let again = plane.workspaces().update_workspace(named_update("Crew", "crew")).await.unwrap().into_inner();
    assert_eq!(again.name, "crew", "a name may look like the one that it replaces");
    let entry = plane.last_entry().await;
    assert!(entry.detail.contains("\"Crew\"") && entry.detail.contains("\"crew\""), "{}", entry.detail);
    let old = plane.workspaces().get_workspace(admin::GetWorkspaceRequest { workspace: "team".to_owned() }).await;
    assert_eq!(old.unwrap_err().code(), Code::NotFound);
    let plane = Plane::start_again(plane.stop().await).await;
    let shown = plane.keys().get_key(admin::GetKeyRequest { id: key }).await.unwrap().into_inner();
    assert_eq!((shown.workspace_name.as_str(), shown.workspace_id), ("crew", made.id));
    plane.stop().await;
}

#[tokio::test]
async fn a_workspace_is_deleted_only_without_keys_and_what_was_done_with_it_stays_in_the_chain() {
    let plane = Plane::start().await;
    let made = plane.workspaces().create_workspace(team()).await.unwrap().into_inner();
    plane
        .workspaces()
        .create_workspace(admin::CreateWorkspaceRequest { name: "kept".to_owned(), ..team() })
        .await
        .unwrap();
    let key = admin::CreateKeyRequest { name: "k".to_owned(), workspace: "kept".to_owned(), ..Default::default() };
    let key = plane.keys().create_key(key).await.unwrap().into_inner().key.unwrap();
    let delete = async |workspace: &str| {
        let request = admin::DeleteWorkspaceRequest { workspace: workspace.to_owned() };
        plane.workspaces().delete_workspace(request).await.map(drop)
    };
    let refused = delete("kept").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("1 virtual keys, 0 of them revoked"), "{refused}");
    plane.keys().revoke_key(admin::RevokeKeyRequest { id: key.id, wait_ms: None }).await.unwrap();
    assert!(delete("kept").await.unwrap_err().message().contains("1 of them revoked"));
    assert!(delete("default").await.unwrap_err().message().contains("default cannot be deleted"));
    assert_eq!(delete("nobody").await.unwrap_err().code(), Code::NotFound);

    let revision = plane.revision().await;
    delete(&made.id).await.unwrap();
    assert_eq!(plane.revision().await, revision + 1);
    let entry = plane.last_entry().await;
    let said = (entry.method.as_str(), entry.outcome, entry.target == made.id, entry.detail.contains("50000000000"));
    assert_eq!(said, ("workspaces/Delete", AdminOutcome::Done, true, true));
    assert_eq!(delete(&made.id).await.unwrap_err().code(), Code::NotFound);
    // Its name is free again, and the state and its seal agree at the next start.
    plane.workspaces().create_workspace(team()).await.unwrap();
    let plane = Plane::start_again(plane.stop().await).await;
    assert_eq!(all(&plane, 0).await.len(), 3);
    plane.stop().await;
}

#[tokio::test]
async fn pages_hold_every_workspace_once_by_name() {
    let plane = Plane::start().await;
    for number in 0..5 {
        let request = admin::CreateWorkspaceRequest { name: format!("team {number}"), ..Default::default() };
        plane.workspaces().create_workspace(request).await.unwrap();
    }
    let names: Vec<_> = all(&plane, 2).await.into_iter().map(|workspace| workspace.name).collect();
    assert_eq!(names, ["default", "team 0", "team 1", "team 2", "team 3", "team 4"]);
    plane.stop().await;
}

#[tokio::test]
async fn every_wrong_field_of_a_workspace_is_named_and_the_refusal_recorded() {
    let plane = Plane::start().await;
    plane.workspaces().create_workspace(team()).await.unwrap();
    let named = |name: &str| admin::CreateWorkspaceRequest { name: name.to_owned(), ..team() };
    let window = admin::SpendLimit { nano_usd: 1, window: 9 };
    let creations = [
        (named(""), Code::InvalidArgument, "name: 1 to 100"),
        (named(&"x".repeat(101)), Code::InvalidArgument, "name: "),
        (named("bell\u{7}"), Code::InvalidArgument, "name: holds U+0007"),
        (named("team "), Code::InvalidArgument, "name: must not begin or end with a space"),
        (named("te\u{200b}am"), Code::InvalidArgument, "name: holds U+200B"),
        (named("\u{202e}maet"), Code::InvalidArgument, "name: holds U+202E"),
        (named("my\u{a0}team"), Code::InvalidArgument, "name: holds U+00A0"),
        (named("Team"), Code::AlreadyExists, "name: looks like `team`"),
        (named("t\u{435}am"), Code::AlreadyExists, "name: looks like `team`"),
        (named("ws_mine"), Code::InvalidArgument, "name: must not begin with ws_"),
        (named("team"), Code::AlreadyExists, "name: there is a workspace of this name already"),
        (named("default"), Code::AlreadyExists, "name: "),
        (
            admin::CreateWorkspaceRequest { spend_limits: vec![window], ..named("n") },
            Code::InvalidArgument,
            "spend_limits[0].window: no window",
        ),
        (
            admin::CreateWorkspaceRequest { spend_limits: spend(1).repeat(2), ..named("n") },
            Code::InvalidArgument,
            "spend_limits: more than one limit per day",
        ),
        (
            admin::CreateWorkspaceRequest { request_limits: requests(u64::MAX), ..named("n") },
            Code::InvalidArgument,
            "request_limits: at most",
        ),
    ];
    for (request, code, expected) in creations {
        let status = plane.workspaces().create_workspace(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{expected} in {}", status.message());
        let entry = plane.last_entry().await;
        assert_eq!((entry.method.as_str(), entry.outcome), ("workspaces/Create", AdminOutcome::Failed));
    }
    let unmasked = admin::UpdateWorkspaceRequest { update_mask: None, ..update("team", &[]) };
    let twice = admin::UpdateWorkspaceRequest { spend_limits: spend(1).repeat(2), ..update("team", &["spend_limits"]) };
    let updates = [
        (unmasked, Code::InvalidArgument, "update_mask: missing"),
        (update("team", &[]), Code::InvalidArgument, "update_mask: empty"),
        (update("team", &["name"]), Code::InvalidArgument, "name: 1 to 100"),
        (named_update("team", " team"), Code::InvalidArgument, "name: must not begin or end with a space"),
        (named_update("team", "ws_team"), Code::InvalidArgument, "name: must not begin with ws_"),
        (named_update("team", "Default"), Code::AlreadyExists, "name: looks like `default`"),
        (named_update("default", "home"), Code::FailedPrecondition, "the workspace default cannot be renamed"),
        (update("team", &["policy"]), Code::InvalidArgument, "update_mask: a workspace has no such field"),
        (twice, Code::InvalidArgument, "spend_limits: more than one"),
        (update("nobody", &["spend_limits"]), Code::NotFound, "there is no workspace of this id or name"),
        (update("", &["spend_limits"]), Code::NotFound, "there is no workspace"),
    ];
    for (request, code, expected) in updates {
        let status = plane.workspaces().update_workspace(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{expected} in {}", status.message());
    }
    let id = format!("ws_{}", "0".repeat(32));
    let status = plane.workspaces().get_workspace(admin::GetWorkspaceRequest { workspace: id }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!((all(&plane, 0).await.len(), plane.revision().await), (2, 2), "nothing of it was carried out");
    plane.stop().await;
}

#[tokio::test]
async fn what_is_given_where_a_workspace_is_meant_is_not_repeated() {
    let plane = Plane::start().await;
    let workspace = "sk-topsecret-in-the-wrong-place".to_owned();
    let request = admin::GetWorkspaceRequest { workspace: workspace.clone() };
    let status = plane.workspaces().get_workspace(request).await.unwrap_err();
    let key = admin::CreateKeyRequest { name: "k".to_owned(), workspace, ..Default::default() };
    let refused = plane.keys().create_key(key).await.unwrap_err();
    let entries = format!("{status} {refused} {:?}", plane.admin_entries().await);
    assert!(!entries.contains("topsecret"), "{entries}");
    plane.stop().await;
}

#[tokio::test]
async fn workspaces_are_for_known_operators_only() {
    let plane = Plane::start().await;
    let unknown = token::generate(TokenKind::Operator).unwrap();
    for token in [None, Some(unknown.as_str()), Some(plane.fleet_token.as_str())] {
        let (channel, bearer) = plane.with(token);
        let mut workspaces = WorkspaceServiceClient::with_interceptor(channel, bearer);
        let codes = [
            workspaces.create_workspace(team()).await.unwrap_err().code(),
            workspaces.list_workspaces(admin::ListWorkspacesRequest::default()).await.unwrap_err().code(),
            workspaces.delete_workspace(admin::DeleteWorkspaceRequest::default()).await.unwrap_err().code(),
        ];
        assert_eq!(codes, [Code::Unauthenticated; 3]);
        let entry = plane.last_entry().await;
        assert_eq!((entry.method.as_str(), entry.outcome), ("workspaces/Delete", AdminOutcome::Denied));
    }
    assert_eq!(all(&plane, 0).await.len(), 1);
    plane.stop().await;
}
