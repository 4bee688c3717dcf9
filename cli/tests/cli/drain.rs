//! The end of a `keyforge dev` while a request is under way.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use crate::command::{Dev, eventually};

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"late"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}"#;

/// A node whose provider holds a request and does not answer yet.
struct Held {
    dev: Dev,
    provider: TcpStream,
    agent: JoinHandle<(u16, String)>,
}

fn held(directory: &tempfile::TempDir) -> Held {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let env = [("OPENAI_API_KEY", "sk-test-0123456789"), ("OPENAI_BASE_URL", base_url.as_str())];
    let dev = Dev::start(&directory.path().join("data"), &env);
    let (url, token) = (dev.banner["base_url"].as_str().unwrap().to_owned(), dev.token());
    let agent = std::thread::spawn(move || crate::command::chat(&url, &token));
    let (mut provider, _) = listener.accept().unwrap();
    let mut first = [0; 4];
    provider.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"POST");
    Held { dev, provider, agent }
}

#[test]
fn a_request_under_way_ends_before_the_process_does() {
    let directory = tempfile::tempdir().unwrap();
    let Held { mut dev, mut provider, agent } = held(&directory);
    dev.process.terminate();
    eventually("the drain", || dev.process.log().contains("draining").then_some(()));
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", ANSWER.len());
    provider.write_all(head.as_bytes()).unwrap();
    provider.write_all(ANSWER.as_bytes()).unwrap();
    let (status, answer) = agent.join().unwrap();
    assert!(status == 200 && answer.contains("late"), "{answer}");
    assert_eq!(dev.process.wait().code(), Some(0), "{}", dev.process.log());

    let dev = Dev::start(&dev.data, &[]);
    let rows = dev.json(&["usage"])["rows"].clone();
    assert_eq!(rows[0]["requests"], 1, "what happened during the drain was shipped before the end: {rows}");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let Held { mut dev, provider, agent } = held(&directory);
    dev.process.terminate();
    eventually("the drain", || dev.process.log().contains("draining").then_some(()));
    dev.process.terminate();
    // A drain would wait longer for the request than this test waits for the process.
    assert_eq!(dev.process.wait().code(), Some(1), "{}", dev.process.log());
    assert!(dev.process.log().contains("stopped at once"), "{}", dev.process.log());
    drop(provider);
    drop(agent.join());
}
