//! What is refused, with which exit code and in which words: 2 when the command line is wrong, 1 when the server or the system says no.

use std::net::TcpListener;
use std::thread;

use crate::command::{Dev, run_in};

#[test]
fn a_wrong_command_line_is_exit_code_2_and_names_the_option() {
    let directory = tempfile::tempdir().unwrap();
    for (words, part) in [
        (&[][..], "Usage"),
        (&["keys"], "keys"),
        (&["key", "create"], "<NAME>"),
        (&["key", "create", "n", "--requests", "20k/month"], "--requests"),
        (&["key", "create", "n", "--spend", "5/year"], "50/month"),
        (&["key", "create", "n", "--expires", "2020-01-01"], "lies in the past"),
        (&["key", "create", "n", "--tpm", "1k"], "--tpm"),
        (&["key", "create", "n", "--concurrency", "-1"], "--concurrency"),
        (&["key", "create", "n", "--time-zone", "Mars/Olympus"], "--time-zone"),
        (&["key", "create", "n", "--workspace", "ws_1"], "ws_ and 32"),
        (&["key", "create", "n", "--daily", "5"], "--daily"),
        (&["workspace", "create"], "<NAME>"),
        (&["workspace", "create", "n", "--requests", "20k/month"], "20000/month"),
        (&["workspace", "create", "n", "--spend", "5/year"], "50/month"),
        (&["workspace", "create", "n", "--rpm", "5"], "--rpm"),
        (&["workspace", "update", "n"], "nothing to change"),
        (&["workspace", "update", "n", "--name"], "--name"),
        (&["workspace", "show", "ws_1"], "ws_ and 32"),
        (&["workspace", "delete"], "<ID|NAME>"),
        (&["key", "create", "n", "--expires", "9999-01-01"], "at most 2262-04-11"),
        (&["key", "create", "n", "--output", "yaml"], "--output"),
        (&["key", "update", "vk_0123456789ab"], "nothing to change"),
        (&["key", "show", "nonsense"], "vk_ and 12"),
        (&["key", "renew", "vk_0123456789ab"], "renew"),
        (&["key", "rotate", "vk_0123456789ab", "--grace", "soon"], "24h"),
        (&["credential", "add", "--secret", "env:X"], "--provider"),
        (&["model", "set", "m", "--provider", "p", "--source", "s", "--input-price", "2"], "--output-price"),
        (&["usage", "--by", "hour"], "--by"),
        (&["usage", "--from", "2026-02-30"], "--from"),
        (&["usage", "--from", "2026-02-02", "--until", "2026-02-01"], "--until"),
        (&["audit", "verify"], "--all"),
        (&["audit", "verify", "--all", "--admin"], "--admin"),
        (&["key", "list", "--admin-url", "https://example.com"], "--admin-url"),
        (&["dev", "--listen", "8080"], "--listen"),
        (&["dev", "--admin-listen", "0.0.0.0:7070"], "--admin-listen"),
        (&["env", "--for", "emacs"], "--for"),
    ] {
        let token = [("KEYFORGE_ADMIN_TOKEN", "kfo_test")];
        let finished = run_in(directory.path(), words, &token);
        assert_eq!((finished.code, finished.stdout.as_str()), (2, ""), "{words:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(part), "{words:?}: {part} in {}", finished.stderr);
    }
}

#[test]
fn a_connection_that_is_closed_at_once_is_told_as_such_with_where_to_look() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // As a control plane does that has too many connections of this address. It ends with the process.
    thread::spawn(move || listener.incoming().for_each(drop));
    let (clear, tls) = (format!("http://{addr}"), format!("https://{addr}"));
    let authority = format!("SHA256:{}", "ab".repeat(32));
    for url in [&["--admin-url", &clear][..], &["--admin-url", &tls, "--admin-ca", &authority]] {
        let words = [&["key", "list"], url].concat();
        let finished = run_in(directory.path(), &words, &[("KEYFORGE_ADMIN_TOKEN", "kfo_test")]);
        assert_eq!((finished.code, finished.stdout.as_str()), (1, ""), "{url:?}: {}", finished.stderr);
        for part in ["the control plane", "closes connections", "keyforge.listener.connections_refused"] {
            assert!(finished.stderr.contains(part), "{url:?}: {part} in {}", finished.stderr);
        }
    }
}

#[test]
fn secrets_on_a_command_line_are_refused_and_not_repeated() {
    let directory = tempfile::tempdir().unwrap();
    for words in [
        &["credential", "add", "--provider", "openai", "--secret", "sk-topsecret"][..],
        &["credential", "rotate", "cred_1", "--secret", "sk-topsecret"],
        &["key", "list", "--admin-url", "http://127.0.0.1:1", "--admin-token", "kfo_topsecret"],
        &["key", "show", "vk_0123456789ab_topsecret"],
        &["env", "--for", "curl", "--key", "vk_topsecret"],
    ] {
        let finished = run_in(directory.path(), words, &[]);
        assert_eq!(finished.code, 2, "{words:?}");
        assert!(
            !finished.stderr.contains("topsecret") && finished.stderr.starts_with("error: "),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn without_a_server_the_next_step_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("empty")).unwrap();
    let token = [("KEYFORGE_ADMIN_TOKEN", "kfo_test")];
    for (words, env, code) in [
        (&["key", "list"][..], &[][..], 2),
        (&["key", "list", "--data", "empty"], &[], 1),
        (&["key", "list", "--admin-url", "http://127.0.0.1:1"], &token, 1),
        (&["key", "list", "--admin-url", "http://127.0.0.1:1"], &[], 2),
    ] {
        let finished = run_in(directory.path(), words, env);
        assert_eq!(finished.code, code, "{words:?}: {}", finished.stderr);
        assert!(finished.stderr.contains("hint: "), "{words:?}: {}", finished.stderr);
    }
    let refused = run_in(directory.path(), &["key", "list", "--admin-url", "http://127.0.0.1:1"], &token);
    assert!(
        refused.stderr.contains("refused") && refused.stderr.contains("is `keyforge dev` running?"),
        "{}",
        refused.stderr
    );
}

#[test]
fn what_the_server_refuses_is_exit_code_1_in_the_servers_words() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(&directory.path().join("data"), &[]);
    let cred = format!("cred_{}", "0".repeat(32));
    for (words, part) in [
        (&["key", "show", "vk_0123456789ab"][..], "there is no virtual key"),
        (&["key", "create", ""], "name"),
        (&["key", "create", "n", "--rpm", "0"], "requests_per_minute"),
        (&["key", "create", "n", "--tpm", "0"], "tokens_per_minute"),
        (&["key", "create", "n", "--concurrency", "0"], "concurrent_requests"),
        (&["key", "create", "n", "--workspace", "nobody"], "workspace: there is none"),
        (&["workspace", "create", "default"], "name: there is a workspace of this name already"),
        (&["workspace", "create", ""], "name"),
        (&["workspace", "create", "ws_mine"], "name: must not begin with ws_"),
        (&["workspace", "create", "n", "--spend", "1/day", "--spend", "2/day"], "spend_limits"),
        (&["workspace", "show", "nobody"], "there is no workspace"),
        (&["workspace", "update", "nobody", "--spend", "1/day"], "there is no workspace"),
        (&["key", "create", "n", "--spend", "1/day", "--spend", "2/day"], "spend_limits"),
        (&["key", "update", "vk_0123456789ab", "--rpm", "5"], "there is no virtual key"),
        (&["credential", "disable", "nonsense"], "id"),
        (&["credential", "remove", &cred], "there is no credential"),
        (&["credential", "add", "--provider", "nobody", "--secret", "env:REAL"], "provider"),
        (&["credential", "add", "--provider", "openai", "--secret", "env:NONE"], "NONE"),
        (&["model", "remove", "nothing"], "there is no model"),
        (&["usage", "--key", "vk_0123456789ab"], "vk_0123456789ab"),
        (&["audit", "verify", "vk_0123456789ab"], "vk_0123456789ab"),
    ] {
        let finished = dev.run_with(words, &[("REAL", "sk-real-0123456789")]);
        assert_eq!(finished.code, 1, "{words:?}: {}{}", finished.stdout, finished.stderr);
        assert!(
            finished.stderr.starts_with("error: ") && finished.stderr.contains(part),
            "{words:?}: {}",
            finished.stderr
        );
    }
    let url = dev.banner["admin_url"].as_str().unwrap();
    let wrong = dev.run_with(&["key", "list", "--admin-url", url], &[("KEYFORGE_ADMIN_TOKEN", "kfo_wrong")]);
    assert!(wrong.code == 1 && wrong.stderr.contains("operator.token"), "{}", wrong.stderr);
    let token = format!("file:{}", dev.data.join("operator.token").display());
    assert_eq!(dev.run(&["key", "list", "--admin-url", url, "--admin-token", &token]).code, 0);
}

#[test]
fn env_prints_what_a_client_reads_and_refuses_clients_that_are_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let env = |client: &str| run_in(directory.path(), &["env", "--for", client], &[]);
    for client in ["openai-python", "openai-node", "curl", "langchain", "openai-agents"] {
        let finished = env(client);
        assert_eq!(finished.code, 0, "{client}: {}", finished.stderr);
        assert!(finished.stdout.contains("export OPENAI_BASE_URL=http://127.0.0.1:8080/v1\n"), "{}", finished.stdout);
    }
    for (client, api) in [("claude-code", "/v1/messages"), ("codex", "/v1/responses")] {
        let finished = env(client);
        assert!(finished.code == 1 && finished.stderr.contains(api), "{client}: {}", finished.stderr);
    }
    let dev = Dev::start(&directory.path().join("data"), &[]);
    let found = dev.run(&["env", "--for", "curl"]);
    assert!(found.stdout.contains(dev.banner["base_url"].as_str().unwrap()), "{}", found.stdout);
}

#[test]
fn help_and_version_are_exit_code_0() {
    let directory = tempfile::tempdir().unwrap();
    let version = run_in(directory.path(), &["--version"], &[]);
    assert_eq!((version.code, version.stdout), (0, format!("keyforge {}\n", env!("CARGO_PKG_VERSION"))));
    let help = run_in(directory.path(), &["key", "create", "--help"], &[]);
    assert!(
        help.code == 0
            && help.stdout.contains("keyforge key create ci")
            && help.stdout.contains("--tpm")
            && !help.stdout.contains("--daily"),
        "{}",
        help.stdout
    );
}
