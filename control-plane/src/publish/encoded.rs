//! A snapshot as it goes out: encoded once for all nodes that need it, piece by piece, so that nobody waits for the whole of it.

use std::sync::{Mutex, PoisonError};

use keyforge_proto::fleet::v1 as proto;
use keyforge_shared::state::{Contents, Resource, SetHash};
use prost::Message as _;
use prost::bytes::Bytes;

/// Most records of one piece.
const MOST_RECORDS: usize = 500;
/// Bytes after which a piece is full; gRPC clients take at most 4 MiB unless told otherwise, and one record is far smaller.
pub(super) const FULL: usize = 1024 * 1024;

/// One snapshot, as far as it has been encoded. It lives as long as somebody sends it.
pub struct Encoded {
    contents: Contents,
    pieces: Mutex<Pieces>,
}

#[derive(Default)]
struct Pieces {
    done: Vec<Bytes>,
    /// The part of the contents that comes next.
    next: usize,
}

impl Encoded {
    /// A snapshot of `contents`, nothing of which is encoded yet.
    #[must_use]
    pub fn new(contents: Contents) -> Self {
        Self { contents, pieces: Mutex::default() }
    }

    /// The revision.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.contents.revision()
    }

    /// Hash of the set.
    #[must_use]
    pub const fn set_hash(&self) -> SetHash {
        self.contents.set_hash()
    }

    /// How many records there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.contents.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// What it holds.
    #[must_use]
    pub const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// A piece, from 0: an encoded `SnapshotChunk`. `None` after the last.
    #[must_use]
    pub fn piece(&self, number: usize) -> Option<Bytes> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        while pieces.done.len() <= number {
            let part = self.contents.part(pieces.next)?;
            pieces.next += 1;
            encode(part, &mut pieces.done);
        }
        pieces.done.get(number).cloned()
    }
}

fn encode(part: Vec<Resource>, done: &mut Vec<Bytes>) {
    let (mut chunk, mut bytes) = (proto::SnapshotChunk::default(), 0);
    for resource in &part {
        let resource = proto::Resource::from(resource);
        bytes += resource.encoded_len();
        chunk.resources.push(resource);
        if chunk.resources.len() == MOST_RECORDS || bytes >= FULL {
            done.push(std::mem::take(&mut chunk).encode_to_vec().into());
            bytes = 0;
        }
    }
    if !chunk.resources.is_empty() {
        done.push(chunk.encode_to_vec().into());
    }
}
