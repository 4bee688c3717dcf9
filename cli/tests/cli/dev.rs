//! The first minute, and every later start.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use crate::command::{Dev, Process, eventually, get, run_in};

#[test]
fn first_start_needs_nothing_and_serves_a_request_through_the_sandbox() {
    let directory = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(&directory.path().join("data"), &[]);
    assert_eq!(dev.banner["sandbox"], true);
    let (status, answer) = dev.chat(&dev.token());
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("chat.completion") && answer.to_lowercase().contains("sandbox"), "{answer}");
    assert_eq!(dev.chat("vk_0123456789ab_wrong").0, 401);
    let ops = dev.banner["ops_url"].as_str().unwrap().to_owned();
    assert_eq!(get(&format!("{ops}/readyz")).0, 200);
    assert!(get(&format!("{ops}/metrics")).1.contains("keyforge_"));

    let mode = |name: &str| std::fs::metadata(dev.data.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("operator.token"), mode("vault.key"), mode("admin.addr")), (0o700, 0o600, 0o600, 0o600));
    assert_eq!(dev.process.stop().code(), Some(0), "{}", dev.process.log());
    assert!(!dev.data.join("admin.addr").exists() && !dev.data.join("agents.addr").exists());
    let log = dev.process.log();
    assert!(!log.contains(&dev.token()) && !log.contains("ERROR"), "{log}");
}

#[test]
fn later_starts_keep_keys_and_print_no_token() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut first = Dev::start(&data, &[]);
    let token = first.token();
    assert_eq!(first.process.stop().code(), Some(0), "{}", first.process.log());
    let second = Dev::start(&data, &[]);
    assert!(second.banner["first_key"].is_null() && second.banner["sandbox"] == true);
    assert_eq!(second.chat(&token).0, 200, "{}", second.process.log());
    assert_eq!(second.json(&["key", "list"]).as_array().unwrap().len(), 1);
    let vault = second.json(&["credential", "list"]);
    let providers: std::collections::BTreeSet<_> =
        vault.as_array().unwrap().iter().map(|it| it["provider"].as_str().unwrap()).collect();
    assert_eq!(
        (vault.as_array().unwrap().len(), providers.len()),
        (3, 3),
        "one for each provider that the sandbox stands for"
    );
}

#[test]
fn a_provider_key_that_appears_later_replaces_the_sandbox_and_is_imported_once() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut dev = Dev::start(&data, &[]);
    assert_eq!(dev.process.stop().code(), Some(0));
    let env = [("OPENAI_API_KEY", "sk-test-0123456789"), ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")];
    for start in 0..2 {
        let mut dev = Dev::start(&data, &env);
        assert_eq!((&dev.banner["sandbox"], &dev.banner["providers"][0]), (&false.into(), &"openai".into()));
        assert_eq!(dev.banner["notes"].to_string().contains("sandbox is switched off"), start == 0, "{}", dev.banner);
        let credentials = dev.json(&["credential", "list"]);
        let enabled: Vec<_> = credentials
            .as_array()
            .unwrap()
            .iter()
            .map(|it| (it["enabled"] == true, it["base_url"] == env[1].1))
            .collect();
        // The sandbox stood for three providers.
        assert_eq!(enabled, [(true, true), (false, false), (false, false), (false, false)]);
        assert!(!credentials.to_string().contains(env[0].1));
        assert_eq!(dev.process.stop().code(), Some(0));
        assert!(!dev.process.log().contains(env[0].1));
    }
}

#[test]
fn a_key_of_any_provider_is_imported_and_ends_the_sandbox() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(&directory.path().join("data"), &[("ANTHROPIC_API_KEY", "sk-ant-0123456789")]);
    assert_eq!((&dev.banner["sandbox"], &dev.banner["providers"][0]), (&false.into(), &"anthropic".into()));
    assert!(dev.banner["notes"].to_string().contains("ANTHROPIC_API_KEY was imported"), "{}", dev.banner);
}

#[test]
fn the_banner_for_people_shows_the_token_once_and_requests_to_copy() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let words = ["dev", "--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let words = [&words[..], &["--ops-listen", "127.0.0.1:0"]].concat();
    let mut process = Process::start(&words, &[], directory.path().join("log"));
    let mut text = String::new();
    for line in BufReader::new(process.stdout()).lines() {
        let line = line.unwrap();
        text.push_str(&line);
        text.push('\n');
        if line.contains("console.log") {
            break;
        }
    }
    assert_eq!(text.matches("export OPENAI_API_KEY=vk_").count(), 1, "{text}");
    assert_eq!(text.split_whitespace().filter(|word| word.contains("vk_") && word.len() > 40).count(), 1, "{text}");
    assert!(text.contains("SANDBOX") && text.contains("/chat/completions") && !text.contains(":0/"), "{text}");
    assert_eq!(process.stop().code(), Some(0));
}

#[test]
fn a_port_that_is_in_use_is_named_and_ends_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for option in ["--listen", "--admin-listen", "--ops-listen"] {
        let mut words = vec!["dev", "--data", "data"];
        for other in ["--listen", "--admin-listen", "--ops-listen"] {
            words.extend([other, if other == option { taken.as_str() } else { "127.0.0.1:0" }]);
        }
        let finished = run_in(directory.path(), &words, &[]);
        assert_eq!((finished.code, finished.stdout.as_str()), (1, ""), "{option}: {}", finished.stderr);
        assert!(finished.stderr.contains(&format!("{taken} is in use")), "{option}: {}", finished.stderr);
    }
    // A start that failed has made no key that nobody saw.
    let dev = Dev::start(&directory.path().join("data"), &[]);
    assert_eq!(dev.chat(&dev.token()).0, 200);
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    let finished = run_in(directory.path(), &["dev", "--data", "file/data"], &[]);
    assert!(finished.code == 1 && finished.stderr.contains("file/data"), "{}", finished.stderr);
    let open = directory.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let finished = run_in(directory.path(), &["dev", "--data", "open"], &[]);
    assert!(finished.code == 1 && finished.stderr.contains("chmod 700"), "{}", finished.stderr);
}

#[test]
fn a_missing_vault_key_is_an_error_that_says_how_to_get_it_back() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut dev = Dev::start(&data, &[]);
    assert_eq!(dev.process.stop().code(), Some(0));
    std::fs::rename(data.join("vault.key"), directory.path().join("kept")).unwrap();
    let words = [
        "dev",
        "--data",
        "data",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--ops-listen",
        "127.0.0.1:0",
    ];
    let finished = run_in(directory.path(), &words, &[]);
    assert!(finished.code == 1 && finished.stderr.contains("restore the file"), "{}", finished.stderr);
    std::fs::rename(directory.path().join("kept"), data.join("vault.key")).unwrap();
    drop(Dev::start(&data, &[]));
}

#[test]
fn what_happened_is_in_usage_and_in_chains_that_hold() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(&directory.path().join("data"), &[]);
    assert_eq!(dev.chat(&dev.token()).0, 200);
    let key = dev.key();
    let usage = eventually("the request in the report", || {
        let usage = dev.json(&["usage", "--key", &key]);
        usage["rows"].as_array().is_some_and(|rows| !rows.is_empty()).then_some(usage)
    });
    assert_eq!((&usage["rows"][0]["group"], &usage["rows"][0]["requests"]), (&key.as_str().into(), &1.into()));
    assert!(usage["rows"][0]["cost_nano_usd"].as_u64().unwrap() > 0, "{usage}");
    let dimensions: Vec<_> =
        usage["limits"].as_array().unwrap().iter().map(|limit| limit["dimension"].clone()).collect();
    assert_eq!(dimensions, ["requests", "spend"]);
    assert_eq!(dev.json(&["usage", "--by", "model"])["rows"][0]["group"], "gpt-4o-mini");
    assert!(dev.run(&["usage", "--by", "day"]).stdout.contains("REQUESTS"));

    let entries = dev.json(&["audit", "list", &key]);
    let completed = entries.as_array().unwrap().iter().find(|entry| entry["outcome"] == "completed").unwrap();
    assert_eq!((&completed["kind"], &completed["status"]), (&"request".into(), &200.into()));
    let admin = dev.run(&["audit", "list", "--admin"]);
    assert!(admin.stdout.contains("keys/Create") && admin.stdout.contains("credentials/Add"), "{}", admin.stdout);
    let places = |words: &[&str]| -> Vec<u64> {
        let listed = dev.json(&[&["audit", "list", "--admin"], words].concat());
        listed.as_array().unwrap().iter().map(|entry| entry["seq"].as_u64().unwrap()).collect()
    };
    let (oldest, newest) = (places(&["--limit", "2"]), places(&["--newest", "--limit", "2"]));
    let (all, backwards) = (places(&[]), places(&["--newest"]));
    assert_eq!((oldest.as_slice(), newest[0]), (&[1, 2][..], newest[1] + 1));
    assert!(all.iter().copied().eq(1..=all.len() as u64), "{all:?}");
    // Each list is an entry of its own.
    assert!(backwards.len() > all.len() && all.len() as u64 > newest[0], "{backwards:?}");
    assert!(backwards.iter().rev().copied().eq(1..=backwards.len() as u64), "{backwards:?}");
    for which in ["--all", "--admin", &key] {
        let verified = dev.run(&["audit", "verify", which]);
        assert_eq!(verified.code, 0, "{which}: {}{}", verified.stdout, verified.stderr);
        assert!(verified.stdout.contains("hold"), "{}", verified.stdout);
    }
    assert_eq!(dev.json(&["audit", "verify", &key])[0]["holds"], true);
}

#[test]
fn a_chain_that_was_changed_behind_our_back_is_named_with_its_first_bad_entry() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut dev = Dev::start(&data, &[]);
    assert_eq!(dev.run(&["audit", "verify", "--all"]).code, 0);
    assert_eq!(dev.process.stop().code(), Some(0));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        use sqlx::Connection as _;
        let url = format!("sqlite://{}", data.join("control-plane.db").display());
        let mut database = sqlx::SqliteConnection::connect(&url).await.unwrap();
        // Only the administrators' chain has that many entries.
        let changed =
            sqlx::query("UPDATE entries SET t_cp = t_cp + 1 WHERE seq = 3").execute(&mut database).await.unwrap();
        assert_eq!(changed.rows_affected(), 1);
        database.close().await.unwrap();
    });
    let dev = Dev::start(&data, &[]);
    let verified = dev.run(&["audit", "verify", "--all"]);
    assert_eq!((verified.code, verified.stderr.as_str()), (1, ""), "{}", verified.stdout);
    assert!(verified.stdout.contains("(administrators): first bad entry 3: "), "{}", verified.stdout);
    let json = dev.run(&["audit", "verify", "--admin", "--output", "json"]);
    let verdicts: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, &verdicts[0]["holds"], &verdicts[0]["first_bad_seq"]), (1, &false.into(), &3.into()));
}

#[test]
fn a_local_cluster_leaves_the_directory_of_a_running_server_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let dev = Dev::start(&data, &[]);
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    let refused = run_in(directory.path(), &["local-cluster", "--data", data.to_str().unwrap()], &[]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("a control plane runs in") && refused.stderr.contains("--data"),
        "{}",
        refused.stderr
    );
    assert_eq!(names(), before);
    assert_eq!(dev.run(&["key", "list"]).code, 0);
}
