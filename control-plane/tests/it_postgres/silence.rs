//! PostgreSQL that holds its connections but answers nothing: nobody waits without end, and nothing is told of what nobody knows.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use keyforge_control_plane::store::{StoreError, sql};
use keyforge_loadtest::postgres::Server;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::fleet::v1::watch_response::Message;
use keyforge_runtime::readiness::Readiness;
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::beside::use_database;
use crate::plane::Plane;
use crate::receipts::Watcher;
use crate::rig::Rig;

/// What docs/postgresql.md promises of a call that begins while the database does not answer, and a little for a busy host.
const REFUSED_WITHIN: Duration = Duration::from_secs(6);
/// The same of a call that was under way.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(24);
/// How long anybody waits for a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

fn directory_on(server: &Server) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    use_database(directory.path(), &server.create("keyforge").unwrap());
    directory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_begin_while_the_database_is_silent_are_unavailable_soon_and_work_when_it_speaks_again() {
    let server = Server::start().unwrap();
    let plane = Plane::start_again(directory_on(&server)).await;
    let list = async || plane.keys().list_keys(admin::ListKeysRequest::default()).await;
    // Leaves connections in the pool that were used a moment ago.
    for answer in join_all((0..8).map(|_| list())).await {
        answer.unwrap();
    }
    server.freeze().unwrap();
    for _ in 0..2 {
        let refused = tokio::time::timeout(REFUSED_WITHIN, join_all((0..8).map(|_| list()))).await;
        for answer in refused.expect("a call waits for a server that does not answer") {
            let status = answer.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status}");
        }
    }
    server.thaw().unwrap();
    let mut tries = 0;
    while let Err(status) = list().await {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        tries += 1;
        assert!(tries < 10, "it does not come back");
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_idle_is_asked_no_longer_than_anybody_waits_for_one() {
    let server = Server::start().unwrap();
    let rig = Rig::start_in(directory_on(&server)).await;
    drop(join_all((0..4).map(|_| rig.store.read())).await);
    // From a second on a connection is asked whether it still works before it is used.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    server.freeze().unwrap();
    for _ in 0..3 {
        let began = Instant::now();
        let answers = join_all([rig.store.read(), rig.store.read()]).await;
        assert!(answers.into_iter().all(|answer| answer.err().is_some_and(|error| error.is_passing())));
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    server.thaw().unwrap();
    let began = Instant::now();
    while rig.store.read().await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not come back");
    }
}

/// Waits until `wanted` holds of the readiness.
async fn until(readiness: &Readiness, wanted: impl Fn(&Result<(), String>) -> bool) {
    let mut steps = 0;
    while !wanted(&readiness.report()) {
        steps += 1;
        assert!(steps < 300, "after 15 s: {:?}", readiness.report());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until gRPC's health protocol says so.
async fn until_health(plane: &Plane, wanted: ServingStatus) {
    let mut health = HealthClient::new(plane.with(None).0);
    let mut steps = 0;
    while health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status() != wanted {
        steps += 1;
        assert!(steps < 100, "after 5 s it is not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_is_not_ready_while_the_database_is_away_and_ready_when_it_is_back() {
    let mut server = Server::start().unwrap();
    let plane = Plane::start_again(directory_on(&server)).await;
    let readiness = Readiness::until_drain(&plane.shutdown);
    plane.running.show_database_in(&readiness, &plane.shutdown);
    until(&readiness, Result::is_ok).await;
    let is_away = |report: &Result<(), String>| {
        report.as_ref().is_err_and(|why| why == "database: not reached for 5 s or longer")
    };
    server.freeze().unwrap();
    until(&readiness, is_away).await;
    server.thaw().unwrap();
    until(&readiness, Result::is_ok).await;
    until_health(&plane, ServingStatus::Serving).await;
    server.kill().unwrap();
    until(&readiness, is_away).await;
    until_health(&plane, ServingStatus::NotServing).await;
    server.run().unwrap();
    until(&readiness, Result::is_ok).await;
    until_health(&plane, ServingStatus::Serving).await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_that_the_database_lets_in_no_more_assures_nobody_and_goes_on_when_it_is_let_in_again() {
    let (server, directory) = (Server::start().unwrap(), tempfile::tempdir().unwrap());
    let url = server.create("keyforge").unwrap();
    // A role of its own, so that the one that shuts it out can let it in again.
    server.run_in("postgres", "CREATE ROLE plane LOGIN").unwrap();
    server.run_in("postgres", "ALTER DATABASE keyforge OWNER TO plane").unwrap();
    let as_plane = url.replacen("keyforge@", "plane@", 1);
    assert_ne!(as_plane, url);
    use_database(directory.path(), &as_plane);
    let plane = Plane::start_again(directory).await;
    let readiness = Readiness::until_drain(&plane.shutdown);
    plane.running.show_database_in(&readiness, &plane.shutdown);
    until(&readiness, Result::is_ok).await;
    let mut watcher = Watcher::connect(&plane, 1, 0).await;
    watcher.beat(1).await;
    assert!(matches!(watcher.receive().await, Message::Echo(echo) if echo.number == 1));
    // As after a change of the password or of the server's rules: connections that are there work until they are renewed.
    for (shut, open) in [
        ("ALTER ROLE plane NOLOGIN", "ALTER ROLE plane LOGIN"),
        ("ALTER ROLE plane CONNECTION LIMIT 0", "ALTER ROLE plane CONNECTION LIMIT -1"),
        ("ALTER DATABASE keyforge ALLOW_CONNECTIONS false", "ALTER DATABASE keyforge ALLOW_CONNECTIONS true"),
    ] {
        server.run_in("postgres", shut).unwrap();
        let renew = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'plane'";
        server.run_in("postgres", renew).unwrap();
        watcher.beat(2).await;
        until(&readiness, Result::is_err).await;
        assert!(!plane.shutdown.is_draining(), "{shut} ended it");
        assert!(
            tokio::time::timeout(Duration::ZERO, watcher.receive()).await.is_err(),
            "it cannot know what others did"
        );
        server.run_in("postgres", open).unwrap();
        until(&readiness, Result::is_ok).await;
        assert!(matches!(watcher.receive().await, Message::Echo(echo) if echo.number == 2));
    }
    drop(watcher);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_hang_up_leave_no_transaction_open_and_cost_no_connection() {
    let server = Server::start().unwrap();
    let rig = Rig::start_in(directory_on(&server)).await;
    server.run_in("postgres", "ALTER SYSTEM SET log_connections = on").unwrap();
    server.run_in("postgres", "SELECT pg_reload_conf()").unwrap();
    let mut hung_up = 0;
    for n in 0..1_000 {
        let mut read = Box::pin(rig.store.read());
        let mut has_begun = false;
        for _ in 0..=n % 5 {
            has_begun = has_begun || poll!(&mut read).is_ready();
            tokio::task::yield_now().await;
        }
        hung_up += u32::from(!has_begun);
        drop(read);
        drop(rig.store.read().await.unwrap());
    }
    assert!(hung_up > 100, "{hung_up} of 1000");
    let log = server.log().unwrap();
    assert!(!log.contains("transaction in progress"), "{log}");
    let connected = log.lines().filter(|line| line.contains("connection authorized: user=keyforge database=keyforge"));
    assert!(connected.count() < 40, "connections are thrown away: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_whose_answer_did_not_come_does_nothing_more_and_was_not_done() {
    let server = Server::start().unwrap();
    let rig = Rig::start_in(directory_on(&server)).await;
    let insert = |name: &'static str| sql::query("INSERT INTO models (name, model) VALUES ($1, '{}')").bind(name);
    let mut tx = rig.store.write().await.unwrap();
    insert("first").execute(&mut tx).await.unwrap();
    server.freeze().unwrap();
    let given_up = tokio::time::timeout(GIVEN_UP_WITHIN, insert("second").execute(&mut tx)).await;
    let error = StoreError::from(given_up.expect("it waits without end").unwrap_err());
    assert!(error.is_passing(), "{error}");
    server.thaw().unwrap();
    let error = StoreError::from(insert("third").execute(&mut tx).await.unwrap_err());
    assert!(error.is_passing(), "{error}");
    let error = StoreError::from(tx.commit().await.unwrap_err());
    assert!(matches!(error, StoreError::Database(_)) && error.is_passing(), "it was not asked for: {error}");
    let mut read = rig.store.read().await.unwrap();
    let count = sql::query("SELECT count(*) FROM models WHERE name IN ('first', 'second', 'third')")
        .fetch_value::<i64>(&mut read)
        .await
        .unwrap();
    assert_eq!(count, Some(0), "a part of it was committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_whose_commit_is_not_answered_in_time_is_aborted_and_not_said_to_have_failed() {
    let server = Server::start().unwrap();
    let plane = Plane::start_again(directory_on(&server)).await;
    // It takes a minute to commit a workspace, so that the moment at which the server falls silent is certain.
    server
        .run_in(
            "keyforge",
            "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'; \
             CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON workspaces DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
             EXECUTE FUNCTION linger()",
        )
        .unwrap();
    let began = Instant::now();
    let request = admin::CreateWorkspaceRequest { name: "slow".to_owned(), ..Default::default() };
    let status = plane.workspaces().create_workspace(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
    // That it failed is recorded in a chain whose head the change holds for as long as it is being committed; that is given up too.
    assert!(began.elapsed() < GIVEN_UP_WITHIN + LOCK_TIMEOUT, "{:?}", began.elapsed());
    plane.stop().await;
}
