//! How long the hot paths take. Ignored; see it with
//! `cargo test --release -p keyforge-providers --test it timing -- --ignored --nocapture`.

use std::hint::black_box;

use bytes::Bytes;
use keyforge_providers::openai::request::scan;
use keyforge_providers::openai::response;
use keyforge_providers::openai::rewrite::{MaxTokensField, Rewrite, rewrite};
use keyforge_providers::openai::stream::StreamMeter;
use keyforge_providers::sse::Splitter;

/// Microseconds per call, the best of several rounds.
#[expect(clippy::disallowed_methods, reason = "a stopwatch of a measurement, not time that the product acts on")]
fn micros<T>(work: impl Fn() -> T) -> f64 {
    const CALLS: u32 = 500;
    let round = || {
        let started = std::time::Instant::now();
        (0..CALLS).for_each(|_| drop(black_box(work())));
        started.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
    };
    (0..9).map(|_| round()).fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "prints times"]
fn timing_of_bodies() {
    let plain = "All work and no play makes Jack a dull boy. ".repeat(2300);
    let code = "    let x = \\\"y\\\";\\n\\tcall(x);\\n".repeat(3300);
    let accents = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ".repeat(1450);
    for (name, content) in [("tiny", "hi"), ("plain", &plain), ("code", &code), ("accents", &accents)] {
        let body = format!(
            r#"{{"model":"gpt-4o","messages":[{{"role":"user","content":"{content}"}}],"stream":true,"max_tokens":100}}"#
        );
        let body = Bytes::from(body);
        let request = scan(&body).unwrap();
        let edit = Rewrite {
            upstream_model: "x",
            max_output_tokens: Some(1),
            max_tokens_field: MaxTokensField::Current,
            usage_option: true,
        };
        println!(
            "{name:8} {:6} bytes: scan {:6.2} µs, rewrite {:5.2} µs, memchr {:5.2} µs, UTF-8 check {:5.2} µs",
            body.len(),
            micros(|| scan(black_box(&body))),
            micros(|| rewrite(&request, body.clone(), edit)),
            micros(|| memchr::memchr(0, black_box(&body))),
            micros(|| std::str::from_utf8(black_box(&body)).is_ok()),
        );
    }
}

#[test]
#[ignore = "prints times"]
fn timing_of_answers() {
    let chunk = "data: {\"id\":\"chatcmpl-AfYFWdVzVZPIDvOXRZ1vZUVBTfbB5\",\"object\":\"chat.completion.chunk\",\"created\":1734516574,\
        \"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_0aa8d3e20b\",\"choices\":[{\"index\":0,\
        \"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null,\"obfuscation\":\"xKd81jP\"}\n\n";
    let stream = Bytes::from(chunk.repeat(100));
    for asked in [true, false] {
        let per_stream = micros(|| {
            let mut splitter = Splitter::new(1 << 20);
            let mut meter = StreamMeter::new(asked);
            splitter.feed(stream.clone());
            while let Some(Ok(event)) = splitter.next_event() {
                black_box(meter.on_event(&event));
            }
        });
        println!("stream of 100 chunks of {} bytes, usage asked for {asked}: {per_stream:.1} µs", chunk.len());
    }
    let content = "All work and no play makes Jack a dull boy. ".repeat(90);
    let answer = format!(
        r#"{{"id":"x","model":"m","choices":[{{"message":{{"content":"{content}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1,"completion_tokens":900,"total_tokens":901}}}}"#
    );
    let per_answer = micros(|| response::read(black_box(answer.as_bytes())));
    println!("answer of {} bytes: {per_answer:.2} µs", answer.len());
}
