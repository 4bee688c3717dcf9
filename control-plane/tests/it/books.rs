//! Grants, intake, chains and usage as nodes and operators call them, over a real socket.

use keyforge_control_plane::store::sql;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::audit_service_client::AuditServiceClient;
use keyforge_proto::admin::v1::chain_selector::Chain;
use keyforge_proto::admin::v1::entry::Record;
use keyforge_proto::admin::v1::usage_service_client::UsageServiceClient;
use keyforge_proto::fleet::v1 as fleet;
use keyforge_proto::fleet::v1::audit_intake_service_client::AuditIntakeServiceClient;
use keyforge_proto::fleet::v1::grant_service_client::GrantServiceClient;
use keyforge_shared::audit::request::{Flags, Outcome, PrivateTag, PrivateValue, RequestRecord};
use keyforge_shared::clock::{Clock as _, SystemClock};
use keyforge_shared::id::{BootId, ChainId, CredentialId, DeploymentId, NodeId, RequestId};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::Calendar;
use prost_types::FieldMask;
use tonic::Code;

use crate::plane::{Authorized, Plane, database};
use crate::stores;

const BOOT: [u8; 16] = [7; 16];
const NODE: [u8; 16] = [8; 16];
const LIFE: [u8; 16] = [9; 16];

pub struct Clients {
    pub grants: GrantServiceClient<Authorized>,
    pub intake: AuditIntakeServiceClient<Authorized>,
    pub audit: AuditServiceClient<Authorized>,
    pub usage: UsageServiceClient<Authorized>,
}

pub fn clients(plane: &Plane, fleet: Option<&str>, operator: Option<&str>) -> Clients {
    let (channel, bearer) = plane.with(fleet);
    let (admin_channel, admin_bearer) = plane.with(operator);
    Clients {
        grants: GrantServiceClient::with_interceptor(channel.clone(), bearer.clone()),
        intake: AuditIntakeServiceClient::with_interceptor(channel, bearer),
        audit: AuditServiceClient::with_interceptor(admin_channel.clone(), admin_bearer.clone()),
        usage: UsageServiceClient::with_interceptor(admin_channel, admin_bearer),
    }
}

/// A key that may spend a dollar in its whole life.
pub async fn capped_key(plane: &Plane) -> String {
    let limit = admin::SpendLimit { nano_usd: 1_000_000_000, window: admin::Window::Total.into() };
    let policy = admin::Policy { spend_limits: vec![limit], ..Default::default() };
    let request = admin::CreateKeyRequest { name: "capped".to_owned(), policy: Some(policy), ..Default::default() };
    plane.keys().create_key(request).await.unwrap().into_inner().key.unwrap().id
}

pub async fn records(plane: &Plane, key: &str, epoch: u32, count: u64) -> Vec<Vec<u8>> {
    let mut database = database(plane.directory.path()).await;
    let select = "SELECT deployment_id, chain_id FROM deployment, virtual_keys WHERE key_id = $1";
    let found = sql::query(select).bind(key.trim_start_matches("vk_")).fetch_one(&mut database).await.unwrap();
    let (deployment, chain): (Vec<u8>, Vec<u8>) = (found.try_get(0).unwrap(), found.try_get(1).unwrap());
    let now = SystemClock.now();
    let record = |node_seq| RequestRecord {
        deployment: DeploymentId::from_slice(&deployment).unwrap(),
        chain: ChainId::from_slice(&chain).unwrap(),
        outcome: Outcome::Completed,
        node: NodeId::from_bytes(NODE),
        boot: BootId::from_bytes(BOOT),
        node_seq,
        request: RequestId::from_bytes([5; 16]),
        attempt: 1,
        period: Calendar::utc().day_at(now).number(),
        quota_epoch: epoch,
        t_node: now,
        t_mono_ns: 1,
        model: "gpt-5-mini".to_owned(),
        credential: CredentialId::from_bytes([0; 16]),
        status: 200,
        input_tokens: 100,
        output_tokens: 50,
        cache_read_tokens: 0,
        cache_write_tokens: 0,
        cost: NanoUsd::new(1_000),
        bound: NanoUsd::new(2_000),
        flags: Flags::STREAMED.with(Flags::USAGE_KNOWN),
        request_digest: [0; 32],
        response_digest: [0; 32],
        private: vec![PrivateValue {
            tag: PrivateTag::REASONING_TOKENS,
            salt: [1; 16],
            value: 30u64.to_be_bytes().to_vec(),
        }],
    };
    (1..=count).map(|seq| record(seq).encode()).collect()
}

pub fn ask(key: &str, amount: u64) -> fleet::AcquireGrantsRequest {
    let counter = fleet::Counter {
        scope: fleet::Scope::Key.into(),
        dimension: fleet::Dimension::Spend.into(),
        window: admin::Window::Total.into(),
        first_day: 0,
    };
    fleet::AcquireGrantsRequest {
        boot_id: BOOT.to_vec(),
        life_id: LIFE.to_vec(),
        key_id: key.to_owned(),
        wants: vec![fleet::Want { counter: Some(counter), amount }],
    }
}

pub fn ship(records: Vec<Vec<u8>>) -> fleet::ShipRecordsRequest {
    fleet::ShipRecordsRequest {
        node_id: NODE.to_vec(),
        boot_id: BOOT.to_vec(),
        first_seq: 1,
        records,
        earlier_gone: false,
    }
}

pub async fn verdicts(audit: &mut AuditServiceClient<Authorized>) -> Vec<admin::ChainVerdict> {
    let mut stream = audit.verify_chains(admin::VerifyChainsRequest { chain: None }).await.unwrap().into_inner();
    let mut verdicts = Vec::new();
    while let Some(verdict) = stream.message().await.unwrap() {
        verdicts.push(verdict);
    }
    verdicts
}

/// A chain of three, `oldest_first`, in pages of two from its end back. `list` goes on from the second entry in the order from the oldest on.
async fn assert_newest_first(
    audit: &mut AuditServiceClient<Authorized>,
    list: admin::ListEntriesRequest,
    oldest_first: &[admin::Entry],
) {
    let back = admin::ListEntriesRequest { newest_first: true, page_token: String::new(), ..list.clone() };
    let last = audit.list_entries(back.clone()).await.unwrap().into_inner();
    assert_eq!(last.entries, [oldest_first[2].clone(), oldest_first[1].clone()]);
    let page_token = last.next_page_token;
    let first = audit.list_entries(admin::ListEntriesRequest { page_token: page_token.clone(), ..back }).await;
    let first = first.unwrap().into_inner();
    assert_eq!((first.entries, first.next_page_token.as_str()), (oldest_first[..1].to_vec(), ""));
    let other_order = [
        admin::ListEntriesRequest { newest_first: true, ..list.clone() },
        admin::ListEntriesRequest { page_token, ..list },
    ];
    for request in other_order {
        let status = audit.list_entries(request).await.unwrap_err();
        let expected = (Code::InvalidArgument, "page_token: not one that this list gave");
        assert_eq!((status.code(), status.message()), expected);
    }
}

#[tokio::test]
async fn a_request_is_granted_shipped_chained_listed_summed_and_verified() {
    let plane = Plane::start().await;
    let mut clients = clients(&plane, Some(&plane.fleet_token), Some(&plane.operator_token));
    let key = capped_key(&plane).await;

    let granted = clients.grants.acquire_grants(ask(&key, 1_000_000)).await.unwrap().into_inner();
    assert_eq!((granted.epoch, granted.serial, granted.grants[0].granted), (1, 1, 125_000_000));
    assert_eq!((granted.grants[0].period_start_ms, granted.holders), (0, Vec::new()));
    let shipped = records(&plane, &key, 1, 3).await;
    for _ in 0..2 {
        let answer = clients.intake.ship_records(ship(shipped.clone())).await.unwrap().into_inner();
        assert_eq!(answer.watermark, 3);
    }

    let balance = admin::GetBalanceRequest { key_id: key.clone() };
    let balances = clients.usage.get_balance(balance.clone()).await.unwrap().into_inner().balances;
    assert_eq!((balances[0].settled, balances[0].granted, balances[0].resets_at_ms), (3_000, 124_997_000, None));
    let give_back = fleet::ReturnGrantsRequest {
        boot_id: BOOT.to_vec(),
        life_id: LIFE.to_vec(),
        key_id: key.clone(),
        epoch: 1,
        serial: 1,
        holdings: vec![fleet::Holding { counter: granted.grants[0].counter, granted: 4_000 }],
    };
    clients.grants.return_grants(give_back).await.unwrap();
    let balances = clients.usage.get_balance(balance.clone()).await.unwrap().into_inner().balances;
    assert_eq!((balances[0].settled, balances[0].granted), (3_000, 1_000));

    let membership = fleet::Membership { key_id: key.clone(), epoch: 1, serial: 1 };
    let leave = fleet::LeaveEpochsRequest { boot_id: BOOT.to_vec(), last_seq: 4, memberships: vec![membership] };
    let early = clients.grants.leave_epochs(leave.clone()).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition);
    for closed in [1, 0] {
        let left = clients.grants.leave_epochs(fleet::LeaveEpochsRequest { last_seq: 3, ..leave.clone() }).await;
        assert_eq!(left.unwrap().into_inner().epochs_closed, closed);
    }
    let over = clients.grants.acquire_grants(ask(&key, 1)).await.unwrap_err();
    assert_eq!(over.code(), Code::Aborted, "{over}");
    let join = fleet::AcquireGrantsRequest { life_id: vec![10; 16], wants: Vec::new(), ..ask(&key, 1) };
    let joined = clients.grants.acquire_grants(join).await.unwrap().into_inner();
    assert_eq!((joined.epoch, joined.grants), (2, Vec::new()));
    let close = fleet::CloseBootRequest { boot_id: BOOT.to_vec(), last_seq: 3 };
    assert_eq!(clients.grants.close_boot(close).await.unwrap().into_inner().epochs_closed, 1);
    let late = clients.grants.acquire_grants(ask(&key, 1)).await.unwrap_err();
    assert_eq!(late.code(), Code::PermissionDenied, "{late}");
    let balances = clients.usage.get_balance(balance).await.unwrap().into_inner().balances;
    assert_eq!((balances[0].settled, balances[0].granted), (3_000, 0));

    let chain = Some(admin::ChainSelector { chain: Some(Chain::KeyId(key.clone())) });
    let list = admin::ListEntriesRequest { chain, page_size: 2, page_token: String::new(), ..Default::default() };
    let first = clients.audit.list_entries(list.clone()).await.unwrap().into_inner();
    assert_eq!(first.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2]);
    let Some(Record::Request(entry)) = &first.entries[0].record else { panic!("{first:?}") };
    assert_eq!((entry.outcome.as_str(), entry.reasoning_tokens, entry.cost_nano_usd), ("completed", 30, 1_000));
    assert_eq!((entry.flags.join(" ").as_str(), entry.credential_id.as_str()), ("streamed usage_known", ""));
    let list = admin::ListEntriesRequest { page_token: first.next_page_token, ..list };
    let second = clients.audit.list_entries(list.clone()).await.unwrap().into_inner();
    assert_eq!((second.entries.len(), second.next_page_token.as_str()), (1, ""));
    assert_newest_first(&mut clients.audit, list, &[first.entries, second.entries].concat()).await;

    let query = admin::QueryUsageRequest { group_by: admin::UsageGrouping::Day.into(), ..Default::default() };
    let rows = clients.usage.query_usage(query).await.unwrap().into_inner().rows;
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].requests, rows[0].cost_nano_usd, rows[0].reasoning_tokens), (3, 3_000, 90));
    assert_eq!(rows[0].group, Calendar::utc().day_at(SystemClock.now()).to_string());

    let verdicts = verdicts(&mut clients.audit).await;
    assert_eq!(verdicts.len(), 2);
    assert!(verdicts.iter().all(|verdict| verdict.first_bad_seq.is_none() && verdict.fault.is_empty()), "{verdicts:?}");
    assert_eq!(verdicts.iter().find(|verdict| verdict.key_id == key).unwrap().entries, 3);
    let methods: Vec<_> = plane.admin_entries().await.into_iter().map(|record| record.method).collect();
    for method in ["usage/GetBalance", "audit/ListEntries", "usage/Query", "audit/VerifyChains"] {
        assert!(methods.iter().any(|found| found == method), "{method} in {methods:?}");
    }
    drop(clients);
    plane.stop().await;
}

#[tokio::test]
async fn a_chain_that_was_tampered_with_under_a_running_control_plane_is_named() {
    let plane = Plane::start().await;
    let mut clients = clients(&plane, Some(&plane.fleet_token), Some(&plane.operator_token));
    let key = capped_key(&plane).await;
    clients.grants.acquire_grants(ask(&key, 1)).await.unwrap();
    clients.intake.ship_records(ship(records(&plane, &key, 1, 3).await)).await.unwrap();
    let mut database = database(plane.directory.path()).await;
    let forge = "UPDATE entries SET t_cp = t_cp + 1 WHERE seq = 2 AND boot_id IS NOT NULL";
    sql::query(forge).execute(&mut database).await.unwrap();
    let verdicts = verdicts(&mut clients.audit).await;
    let bad: Vec<_> = verdicts.iter().filter(|verdict| !verdict.fault.is_empty()).collect();
    assert_eq!(bad.len(), 1, "{verdicts:?}");
    assert_eq!((bad[0].key_id.as_str(), bad[0].first_bad_seq, bad[0].entries), (key.as_str(), Some(2), 1));
}

#[tokio::test]
async fn nodes_and_operators_are_kept_apart_and_strangers_out() {
    let plane = Plane::start().await;
    let (operator, fleet) = (plane.operator_token.clone(), plane.fleet_token.clone());
    for (as_fleet, as_operator) in [(Some(operator.as_str()), Some(fleet.as_str())), (None, None)] {
        let mut clients = clients(&plane, as_fleet, as_operator);
        let refused = [
            clients.grants.acquire_grants(ask("vk_abcdefghijkl", 1)).await.err().unwrap(),
            clients.intake.ship_records(ship(Vec::new())).await.err().unwrap(),
            clients.audit.verify_chains(admin::VerifyChainsRequest::default()).await.err().unwrap(),
            clients.audit.list_entries(admin::ListEntriesRequest::default()).await.err().unwrap(),
            clients.usage.query_usage(admin::QueryUsageRequest::default()).await.err().unwrap(),
            clients.usage.get_balance(admin::GetBalanceRequest::default()).await.err().unwrap(),
        ];
        assert!(refused.iter().all(|status| status.code() == Code::Unauthenticated), "{refused:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_named_by_its_field() {
    let plane = Plane::start().await;
    let mut clients = clients(&plane, Some(&plane.fleet_token), Some(&plane.operator_token));
    let mut wrong = ask("vk_abcdefghijkl", 1);
    wrong.wants[0].counter.as_mut().unwrap().dimension = 9;
    let mut astray = ask("vk_abcdefghijkl", 1);
    astray.wants[0].counter.as_mut().unwrap().first_day = 1;
    let mut many = ask("vk_abcdefghijkl", 1);
    many.wants = vec![many.wants[0]; 49];
    let short = fleet::AcquireGrantsRequest { boot_id: vec![1], ..ask("vk_abcdefghijkl", 1) };
    for (request, field) in [
        (wrong, "wants[0].counter.dimension"),
        (astray, "wants[0].counter.first_day"),
        (many, "wants"),
        (short, "boot_id"),
    ] {
        let status = clients.grants.acquire_grants(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status}");
    }
    let nameless = fleet::LeaveEpochsRequest {
        boot_id: BOOT.to_vec(),
        last_seq: 0,
        memberships: vec![fleet::Membership { key_id: "nobody".to_owned(), epoch: 1, serial: 1 }],
    };
    let status = clients.grants.leave_epochs(nameless).await.unwrap_err();
    assert!(status.message().starts_with("memberships[0].key_id"), "{status}");
    let unknown = clients.grants.acquire_grants(ask("vk_abcdefghijkl", 1)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::FailedPrecondition);
    let foreign = clients.intake.ship_records(ship(vec![b"KFN1".to_vec()])).await.unwrap_err();
    assert_eq!(foreign.code(), Code::InvalidArgument);
    assert!(foreign.message().contains("record 1"), "{foreign}");
    let day = admin::QueryUsageRequest { from_day: Some("yesterday".to_owned()), ..Default::default() };
    let status = clients.usage.query_usage(day).await.unwrap_err();
    assert!(status.message().starts_with("from_day"), "{status}");
    let token = admin::QueryUsageRequest { page_token: "x".to_owned(), ..Default::default() };
    let status = clients.usage.query_usage(token).await.unwrap_err();
    assert!(status.message().starts_with("page_token"), "{status}");
    let nobody = admin::GetBalanceRequest { key_id: "vk_abcdefghijkl".to_owned() };
    assert_eq!(clients.usage.get_balance(nobody).await.unwrap_err().code(), Code::NotFound);
    let status = clients.audit.list_entries(admin::ListEntriesRequest::default()).await.unwrap_err();
    assert!(status.message().starts_with("chain"), "{status}");
}

#[tokio::test]
async fn a_key_that_overspent_is_paused_although_the_first_try_failed_and_stays_resumed_afterwards() {
    let plane = Plane::start().await;
    let mut clients = clients(&plane, Some(&plane.fleet_token), Some(&plane.operator_token));
    let key = capped_key(&plane).await;
    let mut over = RequestRecord::decode(&records(&plane, &key, 1, 1).await[0]).unwrap();
    over.flags = over.flags.with(Flags::BOUND_EXCEEDED);
    let shipped = ship(vec![over.encode()]);
    let status = async || {
        let get = admin::GetKeyRequest { id: key.clone() };
        plane.keys().get_key(get).await.unwrap().into_inner().status()
    };
    let mut database = database(plane.directory.path()).await;
    // As a crash, or a caller who hangs up, between the commit of the records and the pause.
    stores::prevent_updates_of_keys(&mut database).await;
    assert_eq!(clients.intake.ship_records(shipped.clone()).await.unwrap().into_inner().watermark, 1);
    assert_eq!(status().await, admin::KeyStatus::Active);
    stores::allow_updates_of_keys(&mut database).await;
    assert_eq!(clients.intake.ship_records(shipped.clone()).await.unwrap().into_inner().watermark, 1);
    assert_eq!(status().await, admin::KeyStatus::Paused);
    let resume = admin::UpdateKeyRequest {
        id: key.clone(),
        paused: false,
        update_mask: Some(FieldMask { paths: vec!["paused".to_owned()] }),
        ..Default::default()
    };
    plane.keys().update_key(resume).await.unwrap();
    clients.intake.ship_records(shipped).await.unwrap();
    assert_eq!(status().await, admin::KeyStatus::Active);
}
