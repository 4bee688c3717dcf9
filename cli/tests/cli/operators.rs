//! Operators and plans, by their commands.

use serde_json::Value;

use crate::command::{Dev, Finished};

/// Runs a command with the token of an operator.
fn run_as(dev: &Dev, token: &str, words: &[&str]) -> Finished {
    dev.run_with(&[words, &["--admin-token", "env:THEIR_TOKEN"]].concat(), &[("THEIR_TOKEN", token)])
}

fn create(dev: &Dev, words: &[&str]) -> (String, String) {
    let made = dev.json(&[&["operator", "create"][..], words].concat());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&made["operator"]["id"]), text(&made["token"]))
}

#[test]
fn an_operator_does_what_their_role_allows_until_they_are_rotated_and_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(&directory.path().join("data"), &[]);
    let (id, token) = create(&dev, &["ada", "--role", "viewer", "--expires", "90d"]);
    assert_eq!(run_as(&dev, &token, &["key", "list"]).code, 0);
    let refused = run_as(&dev, &token, &["key", "create", "mine"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("asks for the role admin or more: you are viewer"), "{}", refused.stderr);
    let audit = run_as(&dev, &token, &["audit", "list", "--admin"]);
    assert!(audit.stderr.contains("asks for the role auditor"), "{}", audit.stderr);

    assert_eq!(dev.json(&["operator", "update", "ada", "--role", "admin"])["role"], "admin");
    assert_eq!(run_as(&dev, &token, &["key", "create", "mine"]).code, 0);
    let rotated = dev.json(&["operator", "rotate", "ada"]);
    assert!(rotated["operator"]["expires_at"].is_string(), "{rotated}");
    assert!(run_as(&dev, &token, &["key", "list"]).stderr.contains("not known here"));
    let token = rotated["token"].as_str().unwrap();
    assert_eq!(run_as(&dev, token, &["key", "list"]).code, 0);
    assert_eq!(dev.json(&["operator", "revoke", &id])["status"], "revoked");
    assert!(run_as(&dev, token, &["key", "list"]).stderr.contains("this operator was revoked"));
    let last = dev.run(&["operator", "revoke", "owner"]);
    assert!(last.code == 1 && last.stderr.contains("the last owner"), "{}", last.stderr);

    let listed = dev.run(&["operator", "list"]).stdout;
    assert!(listed.contains("ada") && listed.contains("owner") && !listed.contains("kfo_"), "{listed}");
    let entries = dev.run(&["audit", "list", "--admin"]).stdout;
    for line in [format!("keys/Create by {id}"), format!("operators/SetRole {id}"), "; role: viewer → admin".to_owned()]
    {
        assert!(entries.contains(&line), "{line} in {entries}");
    }
    assert!(entries.lines().any(|line| line.contains("denied") && line.contains("keys/Create")), "{entries}");
}

#[test]
fn an_operator_of_a_workspace_sees_nothing_else_and_its_plan_bounds_it() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(&directory.path().join("data"), &[]);
    assert_eq!(dev.json(&["workspace", "create", "team", "--plan", "free"])["plan"], "free");
    let (_, token) = create(&dev, &["lead", "--role", "admin", "--workspace", "team"]);
    for name in ["one", "two", "three"] {
        assert_eq!(run_as(&dev, &token, &["key", "create", name]).code, 0);
    }
    let fourth = run_as(&dev, &token, &["key", "create", "four"]);
    assert!(fourth.code == 1 && fourth.stderr.contains("the plan free"), "{}", fourth.stderr);
    let listed = run_as(&dev, &token, &["key", "list"]).stdout;
    assert!(listed.contains("three") && !listed.contains("first key"), "{listed}");

    let said = |words: &[&str]| run_as(&dev, &token, words).stderr;
    let (theirs, unknown) = (dev.key(), "vk_000000000000");
    let hidden = said(&["key", "show", &theirs]);
    assert_eq!(hidden.replace(&theirs, unknown), said(&["key", "show", unknown]));
    assert!(hidden.contains("there is no virtual key"), "{hidden}");
    assert_eq!(said(&["workspace", "show", "default"]), said(&["workspace", "show", "nobody"]));
    assert!(said(&["workspace", "update", "team", "--plan", "unlimited"]).contains("the whole deployment"));
    assert!(said(&["credential", "list"]).contains("bound to a workspace"));
    let shown = run_as(&dev, &token, &["workspace", "show", "team"]).stdout;
    assert!(shown.contains("plan") && shown.contains("1000"), "{shown}");
    assert_eq!(dev.json(&["workspace", "update", "team", "--plan", "unlimited"])["plan"], "unlimited");
    assert_eq!(run_as(&dev, &token, &["key", "create", "four"]).code, 0);
}
