//! The vault of several control planes on one database: a key seals only when all of them hold it, and a dump of the database tells nothing.

use std::path::Path;

use futures_util::TryStreamExt;
use keyforge_loadtest::postgres::dump;
use keyforge_proto::admin::v1 as admin;
use keyforge_proto::admin::v1::RotationState;
use keyforge_runtime::private_file::private_dir;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::state::State;
use tempfile::TempDir;
use tonic::Code;

use crate::beside::share_database;
use crate::plane::{CANARY, Plane, database, start_in};
use crate::stores;
use crate::stream::Node;
use crate::vault::{NEW, OLD, add, configure, replace_key, rotate, start, status, terms, write_key};

/// Another control plane on the same database, with a configuration of its own that names the first key.
async fn beside(plane: &Plane) -> Plane {
    let directory = tempfile::tempdir().unwrap();
    share_database(plane.directory.path(), directory.path());
    let data = directory.path().join("data");
    private_dir(&data).unwrap();
    for file in ["vault.key", "fleet.token", "operator.token"] {
        std::fs::copy(plane.directory.path().join("data").join(file), data.join(file)).unwrap();
    }
    configure(directory.path(), OLD, &[]);
    Plane::start_again(directory).await
}

async fn refused(plane: &Plane) -> String {
    let refused = plane.vault().rotate_vault(admin::RotateVaultRequest {}).await.err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    refused.message().to_owned()
}

/// Rotates when every other control plane has been silent for two minutes, again whenever one of them spoke in between.
async fn rotate_past_the_silent(here: &Plane) {
    let mut database = database(here.directory.path()).await;
    for _ in 0..10 {
        stores::tamper(&mut database, "UPDATE vault_holders SET seen_at = seen_at - 121000000000").await;
        let Ok(begun) = here.vault().rotate_vault(admin::RotateVaultRequest {}).await else { continue };
        let said: Vec<_> = begun.into_inner().try_collect().await.unwrap();
        assert_eq!(said.last().unwrap().state(), RotationState::Done);
        return;
    }
    panic!("one that is silent is waited for");
}

async fn add_one(plane: &Plane, secret: &str) -> Result<admin::Credential, tonic::Status> {
    let provider = "openai".to_owned();
    let request = admin::AddCredentialRequest { provider, secret: secret.into(), ..Default::default() };
    plane.credentials().add_credential(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_key_that_another_control_plane_does_not_hold_never_seals() {
    let here = start().await;
    let there = beside(&here).await;
    add(&here, 5).await;
    replace_key(&here.directory);
    let message = refused(&here).await;
    let missing = there.directory.path().join("data").display().to_string();
    assert!(message.contains(&missing) && message.contains("vault.previous"), "{message}");
    let entry = here.last_entry().await;
    assert_eq!((entry.method.as_str(), entry.outcome), ("vault/Rotate", AdminOutcome::Failed));
    assert!(entry.detail.contains(&missing), "{entry:?}");
    // Nothing changed: both go on under the first key, also after a start that names the second.
    add_one(&here, "sk-sealed-meanwhile").await.unwrap();
    let here = Plane::start_again(here.stop().await).await;
    add_one(&here, "sk-sealed-after-a-start").await.unwrap();
    assert_eq!(terms(here.directory.path()).await, [(1, 7)]);
    let listed = there.credentials().list_credentials(admin::ListCredentialsRequest::default()).await.unwrap();
    assert!(listed.into_inner().credentials.iter().all(|credential| credential.unreadable.is_empty()));

    // The other one is given the key, takes it up by itself, and then follows.
    there.running.custodian().look_around().await.unwrap();
    assert!(refused(&here).await.contains(&missing));
    replace_key(&there.directory);
    there.running.custodian().look_around().await.unwrap();
    let before = status(&here).await;
    assert_eq!((before.keys[0].current, before.keys[1].current, before.keys[1].wanted), (true, false, true));
    let held: Vec<_> = before.holders.iter().map(|holder| (holder.is_this, holder.key_ids.len())).collect();
    assert!(held.len() == 2 && held.contains(&(true, 2)) && held.contains(&(false, 2)), "{before:?}");
    assert_eq!(rotate(&here).await.pop().unwrap().state(), RotationState::Done);
    add_one(&there, "sk-sealed-there").await.unwrap();
    assert_eq!(terms(here.directory.path()).await, [(2, 8)], "the other one seals under the new key at once");
    for plane in [&here, &there] {
        let after = status(plane).await;
        assert!(after.unreadable.is_empty() && after.keys[1].current && after.keys[1].node_authority, "{after:?}");
        assert_eq!((after.keys[0].secrets, after.keys[0].audit_root, after.keys[0].node_authority), (0, false, false));
    }
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn control_plane_that_stopped_is_not_waited_for_and_one_that_was_silent_seals_nothing_without_the_key() {
    let here = start().await;
    let (stopped, silent) = (beside(&here).await, beside(&here).await);
    add(&here, 3).await;
    replace_key(&here.directory);
    stopped.stop().await;
    let message = refused(&here).await;
    assert!(message.contains(&silent.directory.path().display().to_string()), "{message}");
    assert_eq!(message.matches(":/").count(), 1, "one that has stopped is not named: {message}");
    rotate_past_the_silent(&here).await;

    let error = add_one(&silent, CANARY).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.message().contains("vault.previous"), "{error}");
    let found = status(&silent).await;
    assert_eq!(found.unreadable.len(), 4, "three secrets and the nodes' authority: {found:?}");
    assert!(found.unreadable.iter().all(|found| found.reason.contains("not configured")), "{found:?}");
    assert!(silent.running.custodian().look_around().await.is_err());
    let mut node = Node::connect(&silent, 1, 1, State::default()).await;
    node.begin().await;
    replace_key(&silent.directory);
    silent.running.custodian().look_around().await.unwrap();
    let lacked = found.unreadable.iter().find_map(|found| found.credential_id.parse().ok());
    node.given(lacked.unwrap()).await;
    add_one(&silent, CANARY).await.unwrap();
    assert!(status(&silent).await.unreadable.is_empty());
    assert_eq!(terms(here.directory.path()).await, [(2, 4)]);
    silent.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn a_rotation_that_two_control_planes_run_ends_once_and_one_goes_on_where_another_stopped() {
    let here = start().await;
    let there = beside(&here).await;
    add(&here, 100).await;
    let mut database = database(here.directory.path()).await;
    stores::fill_up_vault_records(&mut database, 40).await;
    replace_key(&here.directory);
    assert!(refused(&here).await.contains(&there.directory.path().display().to_string()));
    replace_key(&there.directory);
    there.running.custodian().look_around().await.unwrap();
    assert_eq!(rotate(&here).await.pop().unwrap().state(), RotationState::Interrupted);
    let seen = status(&there).await.rotation.unwrap();
    assert_eq!((seen.state(), seen.total, seen.rewrapped), (RotationState::Interrupted, 100, 32), "{seen:?}");
    assert!(seen.reason.contains("another control plane"), "{seen:?}");
    let directory = here.stop().await;
    stores::make_room_for_vault_records(&mut database).await;
    // The one that began it starts again while the other one is asked to go on.
    let (here, said) = tokio::join!(Plane::start_again(directory), rotate(&there));
    assert_eq!(said.last().unwrap().state(), RotationState::Done, "{said:?}");
    assert_eq!(rotate(&here).await.pop().unwrap().state(), RotationState::Done);
    assert_eq!(terms(here.directory.path()).await, [(2, 100)]);
    let ends = here.admin_entries().await.into_iter().filter(|entry| entry.method == "vault/RotationEnded");
    assert_eq!(ends.count(), 1);
    there.stop().await;
    here.stop().await;
}

#[tokio::test]
async fn an_earlier_key_that_nobody_held_any_more_is_taken_up_again_without_a_restart() {
    let here = start().await;
    let there = beside(&here).await;
    add(&here, 2).await;
    replace_key(&here.directory);
    refused(&here).await;
    replace_key(&there.directory);
    there.running.custodian().look_around().await.unwrap();
    assert_eq!(rotate(&here).await.pop().unwrap().state(), RotationState::Done);
    let mut directories = Vec::new();
    for plane in [there, here] {
        let directory = plane.stop().await;
        configure(directory.path(), NEW, &[]);
        directories.push(directory);
    }
    let here = Plane::start_again(directories.pop().unwrap()).await;
    let there = Plane::start_again(directories.pop().unwrap()).await;
    there.running.custodian().look_around().await.unwrap();
    configure(here.directory.path(), OLD, &[NEW]);
    assert!(refused(&here).await.contains(&there.directory.path().display().to_string()));
    configure(there.directory.path(), OLD, &[NEW]);
    there.running.custodian().look_around().await.unwrap();
    assert_eq!(rotate(&here).await.pop().unwrap().state(), RotationState::Done);
    assert_eq!(terms(here.directory.path()).await, [(1, 2)]);
    there.stop().await;
    here.stop().await;
}

/// Every secret of a test, as text and as what is in it.
fn secrets(directory: &Path, tokens: [&str; 3]) -> Vec<Vec<u8>> {
    let keys = [OLD, NEW].map(|file| std::fs::read_to_string(directory.join(file)).unwrap().trim().to_owned());
    let raw = keys.each_ref().map(|key| hex::decode(key).unwrap());
    let texts = keys.into_iter().chain([CANARY.to_owned()]).chain(tokens.map(str::to_owned));
    texts.map(String::into_bytes).chain(raw).collect()
}

fn tells(dump: &[u8], secret: &[u8]) -> bool {
    let contains = |needle: &[u8]| dump.windows(needle.len()).any(|window| window == needle);
    let half = secret.len() / 2;
    [secret, &secret[..half], &secret[half..]]
        .into_iter()
        .any(|part| contains(part) || contains(hex::encode(part).as_bytes()))
}

#[tokio::test]
async fn i_21_a_dump_of_the_database_tells_no_secret_before_in_the_middle_of_and_after_a_rotation() {
    let plane = start().await;
    add(&plane, 60).await;
    let (_, token) = plane.make_key("agent").await;
    let url = std::fs::read_to_string(plane.directory.path().join(stores::URL_FILE)).unwrap();
    let mut dumps = vec![dump(&url).unwrap()];
    stores::fill_up_vault_records(&mut database(plane.directory.path()).await, 40).await;
    replace_key(&plane.directory);
    assert_eq!(rotate(&plane).await.pop().unwrap().state(), RotationState::Interrupted);
    dumps.push(dump(&url).unwrap());
    stores::make_room_for_vault_records(&mut database(plane.directory.path()).await).await;
    assert_eq!(rotate(&plane).await.pop().unwrap().state(), RotationState::Done);
    dumps.push(dump(&url).unwrap());
    let (operator, fleet) = (plane.operator_token.clone(), plane.fleet_token.clone());
    let secret = |token: &str| token.rsplit('_').next().unwrap().to_owned();
    let tokens = [&token, &operator, &fleet].map(|token| secret(token));
    let directory: TempDir = plane.stop().await;
    for secret in secrets(directory.path(), tokens.each_ref().map(String::as_str)) {
        for dump in &dumps {
            assert!(dump.len() > 20_000 && tells(dump, b"COPY public.vault_records"), "a dump of something else");
            assert!(!tells(dump, &secret), "a dump tells {}", secret.escape_ascii());
        }
    }
    assert!(tells(&[&dumps[2][..], hex::encode(CANARY).as_bytes()].concat(), CANARY.as_bytes()), "it would be seen");
    // Restored without the key files, the data is of no use to a control plane either.
    let thief = tempfile::tempdir().unwrap();
    share_database(directory.path(), thief.path());
    private_dir(&thief.path().join("data")).unwrap();
    write_key(&thief.path().join(NEW), "d8");
    configure(thief.path(), NEW, &[]);
    let error = start_in(thief.path()).await.err().unwrap().to_string();
    assert!(error.contains("does not belong to this data directory"), "{error}");
}
