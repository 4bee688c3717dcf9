//! The bytes of a segment file: a header that says whose it is, then frames.
//!
//! Header, 60 bytes: `KFS1`, deployment, node and boot (16 bytes each), the segment's number (4), CRC-32 of all before
//! (4). Frame: kind (1), length of the payload (4), CRC-32 of kind and payload (4), payload. Numbers are big-endian.
//! Reading is total: any bytes whatever are frames, an end, a torn tail, or damage. Kinds 5 and 6 came later than the others; a version
//! that does not know them takes them for damage.

use std::io::{self, Read};

use bytes::Bytes;
use keyforge_shared::audit::canonical::{Reader, Writer};
use keyforge_shared::id::{BootId, DeploymentId, KeyId, NodeId};

use crate::audit::Identity;
use crate::audit::intent::Intent;

const FILE_MAGIC: [u8; 4] = *b"KFS1";
const FRAME_HEADER: usize = 9;
/// Bytes of a segment's header.
pub(super) const FILE_HEADER: usize = 60;
/// The longest payload, in bytes. Longer lengths are taken for damage.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// An attempt is about to be dispatched.
    Intent(Intent),
    /// A record.
    Record(Recorded),
    /// Every record up to this one is chained at the control plane.
    Acked(u64),
    /// As [`Frame::Acked`]; and whatever earlier segments hold is void, because they were damaged and what could be saved
    /// of them follows here.
    Rebased(u64),
    /// The counter store knows how every attempt ended whose record has this number or a lower one.
    Told(u64),
}

/// A record as it stands in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    /// Its number in the node's life.
    pub seq: u64,
    /// Whose counters in a store outside of the process must hear of it; `None` when nothing was held there.
    pub owner: Option<KeyId>,
    /// The canonical bytes.
    pub bytes: Bytes,
}

const INTENT: u8 = 1;
const RECORD: u8 = 2;
const ACKED: u8 = 3;
const REBASED: u8 = 4;
const OWNED_RECORD: u8 = 5;
const TOLD: u8 = 6;

/// Bytes of a key's id.
const OWNER: usize = 12;

impl Frame {
    /// The whole frame of an intent.
    pub(super) fn intent(intent: &Intent) -> Vec<u8> {
        seal(INTENT, &[&intent.encode()])
    }

    /// The whole frame of a record, from its canonical bytes, which are its end.
    pub(super) fn record(seq: u64, owner: Option<KeyId>, canonical: &[u8]) -> Vec<u8> {
        match owner {
            Some(owner) => seal(OWNED_RECORD, &[&seq.to_be_bytes(), owner.as_str().as_bytes(), canonical]),
            None => seal(RECORD, &[&seq.to_be_bytes(), canonical]),
        }
    }

    pub(super) fn told(seq: u64) -> Vec<u8> {
        seal(TOLD, &[&seq.to_be_bytes()])
    }

    pub(super) fn acked(seq: u64) -> Vec<u8> {
        seal(ACKED, &[&seq.to_be_bytes()])
    }

    pub(super) fn rebased(seq: u64) -> Vec<u8> {
        seal(REBASED, &[&seq.to_be_bytes()])
    }

    fn decode(kind: u8, payload: &Bytes) -> Option<Self> {
        let seq = || payload.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
        match kind {
            INTENT => Intent::decode(payload).ok().map(Self::Intent),
            RECORD => Some(Self::Record(Recorded { seq: seq()?, owner: None, bytes: payload.slice(8..) })),
            OWNED_RECORD => {
                let owner = Some(KeyId::from_ascii(payload.get(8..8 + OWNER)?).ok()?);
                Some(Self::Record(Recorded { seq: seq()?, owner, bytes: payload.slice(8 + OWNER..) }))
            }
            ACKED if payload.len() == 8 => seq().map(Self::Acked),
            REBASED if payload.len() == 8 => seq().map(Self::Rebased),
            TOLD if payload.len() == 8 => seq().map(Self::Told),
            _ => None,
        }
    }
}

/// The whole frame of an intent that is encoded already, perhaps by an earlier version.
#[cfg(test)]
pub(super) fn sealed_intent(encoded: &[u8]) -> Vec<u8> {
    seal(INTENT, &[encoded])
}

fn seal(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(FRAME_HEADER + length);
    frame.push(kind);
    // Longer payloads are refused before they are written.
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    parts.iter().for_each(|part| crc.update(part));
    frame.extend_from_slice(&crc.finalize().to_be_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}

/// The header of segment `number`.
pub(super) fn file_header(identity: &Identity, number: u32) -> Vec<u8> {
    let mut writer = Writer::with_magic(&FILE_MAGIC);
    writer.raw(identity.deployment.as_bytes()).raw(identity.node.as_bytes()).raw(identity.boot.as_bytes()).u32(number);
    let mut bytes = writer.finish();
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

/// Whose segment it is, if these are the bytes of a header of segment `number`.
pub(super) fn read_file_header(bytes: &[u8; FILE_HEADER], number: u32) -> Option<Identity> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
        return None;
    }
    let mut reader = Reader::after_magic(body, &FILE_MAGIC).ok()?;
    let identity = Identity {
        deployment: DeploymentId::from_bytes(reader.array().ok()?),
        node: NodeId::from_bytes(reader.array().ok()?),
        boot: BootId::from_bytes(reader.array().ok()?),
    };
    (reader.u32().ok()? == number).then_some(identity)
}

/// What comes next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A whole frame.
    Frame(Frame),
    /// Nothing: the file ends after a whole frame.
    End,
    /// Part of a frame, and nothing after it: the process or the machine died while it was written.
    Torn,
    /// Bytes that are no frame, and whole frames after them.
    Damaged,
}

/// Takes frames off a file.
pub(super) struct FrameReader<R> {
    inner: R,
    offset: u64,
}

impl<R: Read> FrameReader<R> {
    /// Reads from `inner`, which stands at byte `offset` of the file, after the header.
    pub(super) const fn new(inner: R, offset: u64) -> Self {
        Self { inner, offset }
    }

    /// Where the last whole frame ended, in bytes from the start of the file.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame. After anything but a frame the reading is over.
    pub(super) fn next(&mut self) -> io::Result<Next> {
        let mut seen = Vec::new();
        self.take(FRAME_HEADER, &mut seen)?;
        if seen.is_empty() {
            return Ok(Next::End);
        }
        if let Some((kind, length, crc)) = parse_header(&seen) {
            self.take(length, &mut seen)?;
            if seen.len() == FRAME_HEADER + length && checksum(kind, &seen[FRAME_HEADER..]) == crc {
                let payload = Bytes::from(seen).slice(FRAME_HEADER..);
                let Some(frame) = Frame::decode(kind, &payload) else { return Ok(Next::Damaged) };
                self.offset += (FRAME_HEADER + length) as u64;
                return Ok(Next::Frame(frame));
            }
        }
        self.inner.read_to_end(&mut seen)?;
        Ok(if holds_a_frame(&seen) { Next::Damaged } else { Next::Torn })
    }

    fn take(&mut self, count: usize, into: &mut Vec<u8>) -> io::Result<()> {
        self.inner.by_ref().take(count as u64).read_to_end(into).map(drop)
    }
}

fn parse_header(bytes: &[u8]) -> Option<(u8, usize, u32)> {
    let [kind, a, b, c, d, crc @ ..] = bytes.first_chunk::<FRAME_HEADER>()?;
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    ((INTENT..=TOLD).contains(kind) && length <= MAX_PAYLOAD).then_some((*kind, length, u32::from_be_bytes(*crc)))
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[kind]);
    crc.update(payload);
    crc.finalize()
}

/// Whether a whole frame begins anywhere after the first byte: the mark of damage, as opposed to a torn tail.
fn holds_a_frame(bytes: &[u8]) -> bool {
    (1..bytes.len()).any(|start| {
        let rest = &bytes[start..];
        parse_header(rest).is_some_and(|(kind, length, crc)| {
            rest.get(FRAME_HEADER..FRAME_HEADER + length).is_some_and(|payload| checksum(kind, payload) == crc)
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audit::fixture;

    fn all(bytes: &[u8]) -> (Vec<Frame>, Next) {
        let mut reader = FrameReader::new(bytes, 0);
        let mut frames = Vec::new();
        loop {
            match reader.next().unwrap() {
                Next::Frame(frame) => frames.push(frame),
                end => return (frames, end),
            }
        }
    }

    fn samples() -> Vec<(Vec<u8>, Frame)> {
        let record = Bytes::from(fixture::record(1).encode());
        let owner = fixture::intent(1).owner();
        vec![
            (Frame::intent(&fixture::intent(1)), Frame::Intent(fixture::intent(1))),
            (Frame::record(7, None, &record), Frame::Record(Recorded { seq: 7, owner: None, bytes: record.clone() })),
            (Frame::record(8, owner, &record), Frame::Record(Recorded { seq: 8, owner, bytes: record })),
            (Frame::told(8), Frame::Told(8)),
            (Frame::acked(3), Frame::Acked(3)),
            (Frame::rebased(u64::MAX), Frame::Rebased(u64::MAX)),
        ]
    }

    #[test]
    fn frames_round_trip() {
        let bytes: Vec<u8> = samples().into_iter().flat_map(|(bytes, _)| bytes).collect();
        let frames: Vec<Frame> = samples().into_iter().map(|(_, frame)| frame).collect();
        assert_eq!(all(&bytes), (frames, Next::End));
    }

    #[test]
    fn a_flipped_bit_before_the_last_frame_is_damage_wherever_it_is() {
        let parts = samples();
        let last = parts.last().unwrap().0.len();
        let whole: Vec<u8> = parts.into_iter().flat_map(|(bytes, _)| bytes).collect();
        for bit in 0..(whole.len() - last) * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (frames, end) = all(&bytes);
            assert_eq!(end, Next::Damaged, "bit {bit}");
            assert!(frames.len() < 6);
        }
    }

    #[test]
    fn zeros_after_the_last_frame_are_a_torn_tail() {
        let mut bytes = Frame::acked(3);
        bytes.extend_from_slice(&[0; 4096]);
        assert_eq!(all(&bytes), (vec![Frame::Acked(3)], Next::Torn));
    }

    #[test]
    fn header_is_read_back_only_for_its_own_segment() {
        let bytes: [u8; FILE_HEADER] = file_header(&fixture::identity(1), 4).try_into().unwrap();
        assert_eq!(read_file_header(&bytes, 4), Some(fixture::identity(1)));
        assert_eq!(read_file_header(&bytes, 5), None);
        for bit in 0..FILE_HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_file_header(&flipped, 4), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let (_, end) = all(&bytes);
            prop_assert!(!matches!(end, Next::Frame(_)));
        }
    }
}
