//! Where the vault key comes from, as a service manager or a key store gives it, and what `keyforge vault` says.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::command::{Process, eventually, run_in};

/// The vault key of these tests.
const DIGITS: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// Starts a control plane whose vault key is named so, and runs a command against it.
fn with_key(directory: &Path, vault: &str, env: &[(&str, &str)], words: &[&str]) -> Value {
    let config = directory.join("control-plane.toml");
    let data = directory.join("data");
    let text = format!("data_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\n[vault]\n{vault}\n", data.display());
    fs::write(&config, text).unwrap();
    let words_of_start = ["control-plane", "--config", config.to_str().unwrap()];
    let mut control = Process::start(&words_of_start, env, directory.join("control.log"));
    eventually("the control plane", || data.join("admin.addr").exists().then_some(()));
    let env = [("KEYFORGE_DATA", data.to_str().unwrap()), ("SECRET", "sk-0123456789")];
    let finished = run_in(directory, &[words, &["--output", "json"]].concat(), &env);
    assert_eq!(control.stop().code(), Some(0), "{}", control.log());
    for said in [&control.log(), &finished.stdout, &finished.stderr] {
        assert!(!said.contains(&DIGITS[..16]) && !said.contains(&DIGITS[32..48]), "the key was said: {said}");
    }
    finished.json()
}

#[test]
fn the_vault_key_comes_from_systemd_the_environment_a_program_or_a_file_and_is_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let credentials = directory.join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("vault.key"), DIGITS).unwrap();
    // systemd gives some services files that their group seems to be able to read.
    fs::set_permissions(credentials.join("vault.key"), Permissions::from_mode(0o440)).unwrap();
    let program = directory.join("open-vault-key");
    fs::write(&program, format!("#!/bin/sh\necho {DIGITS}\n")).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
    let file = directory.join("key");
    fs::write(&file, DIGITS).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();

    let systemd = [("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap())];
    let added = ["credential", "add", "--provider", "openai", "--secret", "env:SECRET"];
    with_key(directory, "key = \"credential:vault.key\"", &systemd, &added);
    let mut ids = Vec::new();
    for (source, env) in [
        ("credential:vault.key".to_owned(), systemd),
        ("env:VAULT_KEY".to_owned(), [("VAULT_KEY", DIGITS)]),
        (format!("command:{}", program.display()), [("PATH", "/usr/bin:/bin")]),
        (format!("file:{}", file.display()), [("PATH", "/usr/bin:/bin")]),
    ] {
        let status = with_key(directory, &format!("key = \"{source}\""), &env, &["vault", "status"]);
        let keys = status["keys"].as_array().unwrap();
        assert_eq!((keys.len(), keys[0]["source"].as_str()), (1, Some(source.as_str())), "{status}");
        assert_eq!(
            (&status["secrets"], &keys[0]["secrets"], &keys[0]["current"]),
            (&1.into(), &1.into(), &true.into())
        );
        ids.push(keys[0]["id"].as_str().unwrap().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[test]
fn a_rotation_without_a_new_key_says_how_one_is_configured() {
    let directory = tempfile::tempdir().unwrap();
    let said = with_key(directory.path(), "", &[], &["vault", "rotate"]);
    assert_eq!((said["state"].as_str(), &said["total"]), (Some("done"), &0.into()), "{said}");
}
