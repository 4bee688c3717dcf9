//! Workspaces, keys, credentials and models, by their commands.

use serde_json::json;

use crate::command::{Dev, eventually};

fn dev(directory: &tempfile::TempDir) -> Dev {
    Dev::start(&directory.path().join("data"), &[])
}

#[test]
fn a_key_lives_from_create_to_revoke() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let made = dev.json(&[
        "key",
        "create",
        "ci",
        "--models",
        "gpt-4o*,gpt-5*",
        "--requests",
        "20000/month",
        "--requests",
        "500/day",
        "--spend",
        "$12.50/month",
        "--rpm",
        "120",
        "--tpm",
        "90000",
        "--concurrency",
        "8",
        "--time-zone",
        "Europe/Berlin",
        "--max-output-tokens",
        "256",
        "--expires",
        "2030-01-02",
    ]);
    let (id, token) = (made["key"]["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let policy = json!({
        "models": ["gpt-4o*", "gpt-5*"],
        "request_limits": [{ "requests": 20000, "window": "month" }, { "requests": 500, "window": "day" }],
        "spend_limits": [{ "usd": "12.50", "nano_usd": 12_500_000_000_u64, "window": "month" }],
        "requests_per_minute": 120, "tokens_per_minute": 90000, "concurrent_requests": 8, "max_output_tokens": 256,
        "expires_at": "2030-01-02T00:00:00Z", "time_zone": "Europe/Berlin", "max_staleness_seconds": null,
        "networks": [], "endpoints": [], "raises": [],
    });
    assert_eq!((&made["key"]["policy"], &made["key"]["status"]), (&policy, &"active".into()));
    assert_eq!(made["key"]["workspace"], "default");
    eventually("the key on the node", || (dev.chat(token).0 == 200).then_some(()));

    let updated = dev.json(&[
        "key",
        "update",
        id,
        "--no-rpm",
        "--tpm",
        "1000000",
        "--no-concurrency",
        "--spend",
        "80",
        "--models",
        "",
    ]);
    let rates = ["tokens_per_minute", "concurrent_requests"].map(|rate| updated["policy"][rate].clone());
    assert_eq!((rates, &updated["policy"]["time_zone"]), ([json!(1_000_000), json!(null)], &policy["time_zone"]));
    assert_eq!((updated["policy"]["requests_per_minute"].is_null(), &updated["policy"]["models"]), (true, &json!([])));
    assert_eq!(updated["policy"]["spend_limits"][0]["usd"], "80.00");
    assert_eq!(updated["policy"]["request_limits"], policy["request_limits"]);

    assert_eq!(dev.json(&["key", "pause", id])["status"], "paused");
    eventually("the paused key to be refused", || (dev.chat(token).0 != 200).then_some(()));
    assert_eq!(dev.json(&["key", "resume", id])["status"], "active");
    eventually("the key to work again", || (dev.chat(token).0 == 200).then_some(()));
    assert_eq!(dev.json(&["key", "revoke", id])["status"], "revoked");
    eventually("the revoked key to be refused", || (dev.chat(token).0 == 401).then_some(()));
    assert_eq!(dev.json(&["key", "show", id])["status"], "revoked");
    let listed = dev.run(&["key", "list"]);
    assert!(
        listed.stdout.contains(id) && listed.stdout.contains("first key") && !listed.stdout.contains(token),
        "{}",
        listed.stdout
    );
    assert_eq!(dev.json(&["key", "list", "--limit", "1"])[0]["id"], id);
}

#[test]
fn what_is_explained_is_what_the_agent_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let words = ["key", "create", "ci", "--models", "gpt-4o*", "--requests", "1/total", "--network", "127.0.0.0/8"];
    let made = dev.json(&[&words[..], &["--spend", "5/month"]].concat());
    let (id, token) = (made["key"]["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let explain = |words: &[&str]| dev.json(&[&["key", "explain", id, "--model"], words].concat());
    let ours = ["gpt-4o-mini", "--from", "127.0.0.1"];
    let good = explain(&ours);
    assert!(good["refusal"].is_null() && good["balances"].as_array().unwrap().len() == 2, "{good}");
    let names: Vec<_> = good["checks"].as_array().unwrap().iter().map(|check| check["check"].clone()).collect();
    let order = ["key", "address", "endpoint", "model", "credential", "price", "output", "key requests per total"];
    assert_eq!(names[..8], order.map(|name| json!(name)));
    for (words, status, code) in [
        (&["gpt-4o-mini", "--from", "10.0.0.1"][..], 403, "address_not_allowed"),
        (&["claude-haiku-4-5"], 403, "model_not_allowed"),
        (&["gpt-4o-nothing"], 404, "model_not_found"),
        (&["gpt-4o-mini", "--endpoint", "embeddings"], 400, "invalid_request"),
    ] {
        let refusal = &explain(words)["refusal"];
        assert_eq!((&refusal["status"], &refusal["code"]), (&json!(status), &json!(code)), "{words:?}");
    }
    eventually("the key on the node", || (dev.chat(token).0 == 200).then_some(()));
    for (words, status, told) in [
        (&["key", "update", id, "--no-network"][..], 402, "budget_exceeded"),
        (&["key", "update", id, "--endpoints", "models"], 403, "endpoint_not_allowed"),
        (&["key", "update", id, "--endpoints", "chat", "--network", "10.0.0.0/8"], 403, "address_not_allowed"),
        (&["key", "pause", id], 401, "invalid_api_key"),
        (&["key", "revoke", id], 401, "invalid_api_key"),
    ] {
        dev.json(words);
        let refusal = eventually(told, || {
            let refusal = explain(&ours)["refusal"].clone();
            (refusal["status"] == status && refusal["code"] == told).then_some(refusal)
        });
        let message = refusal["message"].as_str().unwrap().split(", 0 held").next().unwrap().to_owned();
        eventually(&message, || {
            let (answered, text) = dev.chat(token);
            (answered == status && text.contains(told)).then_some(())
        });
        if status != 402 {
            eventually(&message, || dev.chat(token).1.contains(&message).then_some(()));
        }
    }
    let shown = dev.run(&["key", "explain", id]);
    assert!(shown.code == 0 && shown.stdout.contains("Refused: 401 invalid_api_key. This virtual key was revoked."));
}

#[test]
fn a_key_is_made_by_a_template() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let templates = dev.json(&["key", "template", "list"]);
    assert!(templates.as_array().unwrap().iter().any(|template| template["name"] == "research-agent"));
    let made = dev.json(&["key", "create", "ci", "--template", "ci-bot", "--max-output-tokens", "100"]);
    let policy = &made["key"]["policy"];
    assert_eq!((&policy["max_output_tokens"], &policy["endpoints"]), (&json!(100), &json!(["chat", "models"])));
    assert_eq!(made["key"]["labels"], json!({ "kind": "ci-bot" }));
}

#[test]
fn a_raised_limit_lets_more_through_until_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let made = dev.json(&["key", "create", "ci", "--requests", "1/total"]);
    let (id, token) = (made["key"]["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    eventually("the key on the node", || (dev.chat(token).0 == 200).then_some(()));
    eventually("the quota to be used up", || (dev.chat(token).0 == 402).then_some(()));
    let refused = dev.run(&["key", "raise", id, "--spend", "+1/total", "--until", "1h"]);
    assert!(refused.code == 1 && refused.stderr.contains("no limit of spend per total"), "{}", refused.stderr);
    let until = "2100-01-01T00:00:00Z";
    let raised = dev.json(&["key", "raise", id, "--requests", "+1/total", "--until", until]);
    assert_eq!(raised["policy"]["raises"][0]["until"], until);
    assert!(dev.run(&["key", "show", id]).stdout.contains(&format!("1/total, +1/total until {until}")));
    eventually("the raised limit", || (dev.chat(token).0 == 200).then_some(()));
    let over = dev.json(&["key", "raise", id, "--requests", "+5/total", "--until", "1h"]);
    assert_eq!(over["policy"]["raises"].as_array().unwrap().len(), 2, "raises add up");
    eventually("the limit with both raises", || (dev.chat(token).0 == 200).then_some(()));
    dev.json(&["key", "update", id, "--no-raises"]);
    eventually("the limit as it was", || {
        let (status, answer) = dev.chat(token);
        (status == 402 && answer.contains("request quota of 1 in total")).then_some(())
    });
    assert_eq!(dev.run(&["audit", "verify", "--all"]).code, 0);
}

#[test]
fn a_rotated_key_works_with_both_tokens_until_the_grace_ends_and_stays_the_same_key() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let (id, old) = (dev.key(), dev.token());
    let rotated = dev.json(&["key", "rotate", &id, "--grace", "24h"]);
    let new = rotated["token"].as_str().unwrap().to_owned();
    assert!(new.starts_with(&format!("{id}_")) && new != old && rotated["key"]["id"] == id.as_str());
    let until = rotated["key"]["former_token_until"].as_str().unwrap();
    eventually("the new token to work", || (dev.chat(&new).0 == 200).then_some(()));
    let (status, answer) = dev.chat(&old);
    assert!(status == 200 && answer.contains(&format!("x-keyforge-token-valid-until: {until}")), "{answer}");
    assert!(!dev.chat(&new).1.contains("x-keyforge-token-valid-until"));
    assert!(dev.run(&["key", "show", &id]).stdout.contains("active (old token until "));

    let newest = dev.json(&["key", "rotate", &id])["token"].as_str().unwrap().to_owned();
    let (_, answer) =
        eventually("the replaced token to end", || Some(dev.chat(&new)).filter(|(status, _)| *status == 401));
    assert!(answer.contains("invalid_api_key") && answer.contains("was rotated"), "{answer}");
    assert_eq!((dev.chat(&newest).0, dev.chat(&old).0), (200, 401), "there are never more than two");
    eventually("the use of a replaced token in the chain", || {
        dev.run(&["audit", "list", &id, "--output", "json"]).stdout.contains("token_replaced").then_some(())
    });
    assert_eq!(dev.run(&["key", "rotate", &id, "--grace", "31d"]).code, 1);
    let listed = dev.run(&["audit", "list", "--admin", "--output", "json"]).stdout;
    assert!(listed.contains("keys/Rotate") && ![&old, &new, &newest].iter().any(|token| listed.contains(*token)));
    dev.json(&["key", "revoke", &id]);
    let refused = dev.run(&["key", "rotate", &id]);
    assert!(refused.code == 1 && refused.stderr.contains("revoked for ever"), "{}", refused.stderr);
    assert_eq!(dev.run(&["audit", "verify", "--all"]).code, 0);
}

#[test]
fn keys_are_listed_by_label_and_by_their_end() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let words = ["key", "create", "ci", "--label", "team=research", "--label", "env=ci", "--expires", "3d"];
    let id = dev.json(&words)["key"]["id"].as_str().unwrap().to_owned();
    let ids = |words: &[&str]| -> Vec<String> {
        let listed = dev.json(&[&["key", "list"], words].concat());
        listed.as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["--label", "team=research", "--label", "env=ci"]), [id.as_str()]);
    assert_eq!((ids(&["--expiring", "7d"]), ids(&["--expiring", "2d"])), (vec![id.clone()], Vec::new()));
    let changed = dev.json(&["key", "update", &id, "--label", "env=prod", "--no-label", "team"]);
    assert_eq!(changed["labels"], json!({ "env": "prod" }));
    assert!(ids(&["--label", "env=ci"]).is_empty());
    let refused = dev.run(&["key", "update", &id, "--label", "Team=x"]);
    assert!(refused.code == 1 && refused.stderr.contains("has no"), "{}", refused.stderr);
    assert!(dev.run(&["key", "list"]).stdout.contains("env=prod"));
}

#[test]
fn a_key_works_from_its_networks_and_for_its_endpoints_alone() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let made = dev.json(&["key", "create", "ci", "--network", "10.0.0.0/8,192.0.2.1", "--endpoints", "models"]);
    let (id, token) = (made["key"]["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert_eq!(made["key"]["policy"]["networks"], json!(["10.0.0.0/8", "192.0.2.1/32"]));
    let refused = |code: &str| {
        eventually(code, || Some(dev.chat(token)).filter(|(status, text)| *status == 403 && text.contains(code)))
    };
    let (_, answer) = refused("address_not_allowed");
    assert!(!answer.contains("10.0.0.0") && !answer.contains("192.0.2"), "{answer}");
    dev.json(&["key", "update", id, "--network", "127.0.0.0/8"]);
    let (_, answer) = refused("endpoint_not_allowed");
    assert!(answer.contains("`chat`"), "{answer}");
    dev.json(&["key", "update", id, "--no-endpoints"]);
    eventually("the key to work from here", || (dev.chat(token).0 == 200).then_some(()));
    eventually("the refusals in the chain", || {
        let entries = dev.run(&["audit", "list", id, "--output", "json"]).stdout;
        ["address_not_allowed", "endpoint_not_allowed"].iter().all(|code| entries.contains(code)).then_some(())
    });
}

#[test]
fn a_workspace_is_made_changed_and_shown_and_its_keys_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let made = dev.json(&["workspace", "create", "my team", "--requests", "20000/month", "--spend", "$50/month"]);
    let id = made["id"].as_str().unwrap();
    assert!(id.starts_with("ws_") && id.len() == 35, "{id}");
    let requests = json!([{ "requests": 20000, "window": "month" }]);
    assert_eq!((&made["name"], &made["request_limits"]), (&json!("my team"), &requests));
    let updated = dev.json(&["workspace", "update", "my team", "--spend", "80/month", "--spend", "5/day"]);
    assert_eq!((&updated["request_limits"], updated["spend_limits"].as_array().unwrap().len()), (&requests, 2));
    let updated = dev.json(&["workspace", "update", id, "--no-requests"]);
    assert_eq!((&updated["request_limits"], &updated["spend_limits"][1]["usd"]), (&json!([]), &json!("5.00")));
    for named in [id, "my team"] {
        let mut shown = dev.json(&["workspace", "show", named]);
        let limits = shown.as_object_mut().unwrap().remove("limits").unwrap();
        assert_eq!((shown, limits.as_array().unwrap().len()), (updated.clone(), 2));
    }
    let names: Vec<_> =
        dev.json(&["workspace", "list"]).as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["default", "my team"]);
    assert!(dev.run(&["workspace", "list"]).stdout.contains("$80.00/month, $5.00/day"));

    for named in [id, "my team"] {
        let key = dev.json(&["key", "create", "ci", "--workspace", named, "--time-zone", "asia/tokyo"])["key"].clone();
        assert_eq!((&key["workspace"], &key["workspace_id"]), (&json!("my team"), &json!(id)));
        assert_eq!(key["policy"]["time_zone"], "Asia/Tokyo");
        let shown = dev.run(&["key", "show", key["id"].as_str().unwrap()]).stdout;
        assert!(shown.contains("my team") && shown.contains("Asia/Tokyo"), "{shown}");
        let usage = dev.json(&["usage", "--key", key["id"].as_str().unwrap()]);
        let limits: Vec<_> = usage["limits"]
            .as_array()
            .unwrap()
            .iter()
            .map(|limit| (limit["scope"].as_str().unwrap(), limit["window"].as_str().unwrap(), &limit["limit_usd"]))
            .collect();
        assert_eq!(limits, [("workspace", "day", &json!("5.00")), ("workspace", "month", &json!("80.00"))]);
    }
}

#[test]
fn a_workspace_shows_what_its_keys_used_and_is_renamed_and_deleted_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    dev.json(&["workspace", "create", "team", "--requests", "100/total"]);
    let made = dev.json(&["key", "create", "ci", "--workspace", "team"]);
    let token = made["token"].as_str().unwrap();
    eventually("the key on the node", || (dev.chat(token).0 == 200).then_some(()));
    let settled = || {
        let limit = dev.json(&["workspace", "show", "team"])["limits"][0].clone();
        (limit["settled"] == 1).then_some(limit)
    };
    let limit = eventually("the request to be settled", settled);
    assert_eq!(
        (&limit["scope"], &limit["limit"], &limit["resets_at"]),
        (&json!("workspace"), &json!(100), &json!(null))
    );
    let shown = dev.run(&["workspace", "show", "team"]).stdout;
    assert!(shown.contains("Limits in their current periods") && shown.contains("WITH NODES"), "{shown}");

    assert_eq!(dev.json(&["workspace", "update", "team", "--name", "crew"])["name"], "crew");
    assert_eq!(dev.json(&["key", "list"])[0]["workspace"], "crew");
    let refused = dev.run(&["workspace", "delete", "crew"]);
    assert!(refused.code == 1 && refused.stderr.contains("1 virtual keys"), "{}", refused.stderr);
    dev.json(&["workspace", "create", "spare"]);
    assert_eq!(dev.json(&["workspace", "delete", "spare"])["deleted"], "spare");
    let gone = dev.run(&["workspace", "show", "spare"]);
    assert!(gone.code == 1 && gone.stderr.contains("there is no workspace"), "{}", gone.stderr);
    assert_eq!(dev.run(&["audit", "verify", "--all"]).code, 0);
}

#[test]
fn a_key_keeps_its_workspace_and_its_time_zone_and_is_told_why() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    dev.json(&["workspace", "create", "team"]);
    let key = dev.key();
    for (option, value, field) in
        [("--workspace", "team", "workspace: "), ("--time-zone", "Asia/Tokyo", "policy.time_zone: ")]
    {
        let refused = dev.run(&["key", "update", &key, option, value]);
        assert_eq!(refused.code, 1, "{}", refused.stdout);
        assert!(refused.stderr.contains(field) && refused.stderr.contains("would overlap"), "{}", refused.stderr);
    }
    let kept = dev.json(&["key", "update", &key, "--workspace", "default", "--time-zone", "UTC"]);
    assert_eq!((&kept["workspace"], &kept["policy"]["time_zone"]), (&json!("default"), &json!(null)));
}

#[test]
fn the_token_of_a_new_key_is_shown_once_and_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let made = dev.run(&["key", "create", "ci"]);
    assert!(made.code == 0 && made.stdout.contains("shown this once"), "{}{}", made.stdout, made.stderr);
    let token = made.stdout.split_whitespace().find(|word| word.starts_with("vk_") && word.len() > 40).unwrap();
    assert_eq!(made.stdout.matches(token).count(), 1);
    for words in [&["key", "list"][..], &["audit", "list", "--admin"]] {
        assert!(!dev.run(words).stdout.contains(token) && !dev.json(words).to_string().contains(token));
    }
}

#[test]
fn lists_go_through_every_page() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let models = dev.json(&["model", "list"]);
    let names: std::collections::BTreeSet<_> =
        models.as_array().unwrap().iter().map(|model| model["name"].to_string()).collect();
    assert!(names.len() > 150 && names.len() == models.as_array().unwrap().len(), "{}", names.len());
    assert!(names.contains("\"gpt-4o-mini\""));
    let google = dev.json(&["model", "list", "--provider", "google"]);
    assert!(google.as_array().unwrap().iter().all(|model| model["provider"] == "google"));
}

#[test]
fn a_credential_is_added_by_reference_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let env = [("REAL", "sk-real-0123456789")];
    let words = ["credential", "add", "--provider", "openai", "--pool", "default", "--limit-group", "org-1"];
    let words =
        [&words[..], &["--base-url", "https://llm.internal/v1", "--secret", "env:REAL", "--output", "json"]].concat();
    let added = dev.run_with(&words, &env).json();
    let id = added["id"].as_str().unwrap();
    assert_eq!((&added["limit_group"], &added["base_url"]), (&"org-1".into(), &"https://llm.internal/v1".into()));
    assert_eq!(dev.json(&["credential", "disable", id])["enabled"], false);
    assert_eq!(dev.json(&["credential", "enable", id])["enabled"], true);
    std::fs::write(directory.path().join("secret"), "sk-next-0123456789\n").unwrap();
    let updated = dev.json(&["credential", "update", id, "--weight", "3", "--limit-group", "org-2"]);
    let kept = ["enabled", "pool", "base_url", "weight", "limit_group"].map(|field| updated[field].clone());
    assert_eq!(kept, [json!(true), json!("default"), json!("https://llm.internal/v1"), json!(3), json!("org-2")]);
    assert_eq!(dev.run(&["credential", "update", id]).code, 2, "nothing to change is named as wrong");
    let rotated = dev.json(&["credential", "rotate", id, "--secret", "file:secret"]);
    assert_eq!(rotated["secret_version"], 2);
    let shown =
        dev.run(&["credential", "list"]).stdout + &dev.run(&["audit", "list", "--admin", "--output", "json"]).stdout;
    assert!(shown.contains(id) && !shown.contains("sk-real") && !shown.contains("sk-next"), "{shown}");
    assert_eq!(dev.json(&["credential", "remove", id])["removed"], id);
    assert!(!dev.run(&["credential", "list"]).stdout.contains(id));
}

#[test]
fn a_model_is_set_by_options_or_by_a_file_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let dev = dev(&directory);
    let words = ["model", "set", "mine", "--provider", "openai", "--upstream-name", "gpt-4o", "--context", "128000"];
    let prices =
        ["--max-output", "16384", "--input-price", "2.50", "--output-price", "10", "--cached-input-price", "0.0125"];
    let set = dev.json(&[&words[..], &prices, &["--source", "a contract", "--as-of", "2026-11-01"]].concat());
    let standard = json!({ "input": 2_500_000, "output": 10_000_000, "cache_read": 12_500 });
    assert_eq!((&set["prices"]["standard"], &set["as_of"]), (&standard, &"2026-11-01".into()));
    let shown = dev.run(&["model", "show", "mine"]);
    assert!(shown.stdout.contains("2.50") && shown.stdout.contains("0.0125"), "{}", shown.stdout);

    let mut entry = dev.json(&["model", "show", "mine"]);
    entry["name"] = "mine-too".into();
    std::fs::write(directory.path().join("models.json"), json!([entry]).to_string()).unwrap();
    assert_eq!(dev.json(&["model", "set", "--file", "models.json"]), entry);
    for name in ["mine", "mine-too"] {
        assert_eq!(dev.json(&["model", "remove", name])["removed"], name);
        let gone = dev.run(&["model", "show", name]);
        assert!(gone.code == 1 && gone.stderr.contains("there is no model"), "{}", gone.stderr);
    }
}
