//! Events of a stream, cut at any byte.

use proptest::prelude::*;

use super::*;

fn split(stream: &[u8], size: usize, max: usize) -> (Vec<Event>, Option<Event>) {
    let mut splitter = Splitter::new(max);
    let mut events = Vec::new();
    for piece in stream.chunks(size.max(1)) {
        splitter.feed(Bytes::copy_from_slice(piece));
        while let Some(event) = splitter.next_event() {
            events.push(event.unwrap());
        }
    }
    let rest = splitter.finish();
    (events, rest)
}

fn texts(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| String::from_utf8(event.data().into_owned()).unwrap()).collect()
}

#[test]
fn where_the_stream_is_cut_changes_nothing() {
    let stream = b": hello\n\ndata: 1\n\nevent: x\r\ndata:2\r\n\r\ndata: 3\r\rdata: a\ndata:  b\ndata\n\n\n\ndata: 4\n\r\ndata: left";
    let (whole, rest) = split(stream, stream.len(), 1024);
    assert_eq!(texts(&whole), ["", "1", "2", "3", "a\n b\n", "", "", "4"]);
    assert_eq!(whole[2].name(), Some("x"));
    assert!(!whole[0].has_data() && whole[1].has_data() && !whole[5].has_data());
    assert_eq!(rest.as_ref().unwrap().raw, "data: left");
    assert_eq!(rest.as_ref().unwrap().data(), &b"left"[..]);
    for size in 1..=stream.len() {
        assert_eq!(split(stream, size, 1024), (whole.clone(), rest.clone()), "pieces of {size}");
    }
}

#[test]
fn an_event_within_one_piece_is_not_copied() {
    let piece = Bytes::from_static(b"data: 1\n\ndata: 2\n\n");
    let mut splitter = Splitter::new(100);
    splitter.feed(piece.clone());
    assert_eq!(splitter.next_event().unwrap().unwrap().raw.as_ptr(), piece.as_ptr());
    assert_eq!(splitter.next_event().unwrap().unwrap().raw.as_ptr(), piece[9..].as_ptr());
    assert!(splitter.next_event().is_none());
}

#[test]
fn an_event_over_the_limit_ends_the_stream() {
    let mut splitter = Splitter::new(16);
    splitter.feed(Bytes::from_static(b"data: 12345678\n\ndata: 123456789\n\ndata: 1\n\n"));
    assert_eq!(splitter.next_event().unwrap().unwrap().data(), &b"12345678"[..]);
    assert_eq!(splitter.next_event().unwrap(), Err(SseError::TooLong { max: 16 }));
    assert!(splitter.next_event().is_none());
    splitter.feed(Bytes::from_static(b"data: 1\n\n"));
    assert!(splitter.next_event().is_none() && splitter.finish().is_none());

    let mut splitter = Splitter::new(16);
    for _ in 0..17 {
        assert!(splitter.next_event().is_none());
        splitter.feed(Bytes::from_static(b"x"));
    }
    assert!(splitter.next_event().unwrap().is_err());
}

#[test]
fn feeding_before_draining_loses_nothing() {
    let mut splitter = Splitter::new(100);
    for piece in ["da", "ta: 1\n", "\ndata: 2\n\ndat", "a: 3\n\n"] {
        splitter.feed(Bytes::from_static(piece.as_bytes()));
    }
    let events: Vec<_> = std::iter::from_fn(|| splitter.next_event()).map(Result::unwrap).collect();
    assert_eq!(texts(&events), ["1", "2", "3"]);
}

#[test]
fn new_data_keeps_the_other_lines() {
    let event = Event { raw: Bytes::from_static(b": c\r\nevent: e\r\ndata: {\r\ndata: }\r\nid: 1\r\n\r\n") };
    assert_eq!(event.with_data(b"{\n1}"), &b": c\r\nevent: e\r\ndata: {\ndata: 1}\nid: 1\r\n\r\n"[..]);
}

#[test]
fn a_byte_order_mark_is_kept_and_ignored() {
    let (events, _) = split("\u{feff}data: 1\n\n".as_bytes(), 2, 100);
    assert_eq!((texts(&events), events[0].raw.len()), (vec!["1".to_owned()], 12));
}

proptest! {
    #[test]
    fn every_byte_comes_out_once_and_in_order(stream in "[a: \r\n]{0,60}", size in 1usize..8) {
        let (whole, rest) = split(stream.as_bytes(), usize::MAX, 1024);
        let joined: Vec<u8> = whole.iter().chain(&rest).flat_map(|event| event.raw.to_vec()).collect();
        prop_assert_eq!(joined, stream.as_bytes());
        prop_assert_eq!(split(stream.as_bytes(), size, 1024), (whole, rest));
    }

    #[test]
    fn any_bytes_are_survived(stream: Vec<u8>, size in 1usize..8, max in 0usize..40) {
        let mut splitter = Splitter::new(max);
        for piece in stream.chunks(size) {
            splitter.feed(Bytes::copy_from_slice(piece));
            while let Some(event) = splitter.next_event() {
                if let Ok(event) = event {
                    prop_assert!(event.raw.len() <= max);
                    let _ = (event.data(), event.name(), event.with_data(b"x"));
                }
            }
        }
        prop_assert!(splitter.finish().is_none_or(|rest| rest.raw.len() <= max));
    }
}
