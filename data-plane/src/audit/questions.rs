//! The questions to a counter store outside of the process that are open, where a later life finds them: a hold that nothing was dispatched on is
//! in no other file.
//!
//! `questions`, beside the segments of its life: a header of 64 bytes (`KFQ1`, 36 bytes that name this run of the machine, CRC-32), then slots of 64
//! bytes: `KFQ1`, request (16), attempt (2), key (12), number of the segment that was written then (4), CRC-32 of these (4), zeros. A slot is written
//! once for each question, without a lock, and stands until another question uses it. So a later life finds the names of questions that are long over, and
//! believes that nothing was dispatched on one only if every segment since then is there and knows nothing of it; and, as an intent may be
//! lost with the machine's memory and the question not, only if the machine still runs.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hashbrown::HashMap;
use keyforge_shared::audit::canonical::{DecodeError, Reader, Writer};
use keyforge_shared::id::{KeyId, RequestId};
use parking_lot::Mutex;

use crate::audit::intent::AttemptKey;
use crate::audit::spool::SpoolError;

const MAGIC: [u8; 4] = *b"KFQ1";
const SLOT: usize = 64;
/// Of a slot, what is not the checksum and not zeros.
const FIELDS: usize = 38;
/// Slots at most: 4 MiB. Questions beyond them are not written down, and what they leave ends by time.
const MOST: u32 = 1 << 16;
/// Names this run of the machine; the same text is read as long as its memory lives.
const MACHINE: &str = "/proc/sys/kernel/random/boot_id";

/// A question that an earlier life left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Whose counters it asked about.
    pub key: KeyId,
    /// What it asked for.
    pub attempt: AttemptKey,
    /// An intent for it is in this segment or a later one.
    pub segment: u32,
}

#[derive(Default)]
struct Slots {
    free: Vec<u32>,
    used: u32,
}

/// The open questions of one life.
pub(super) struct Questions {
    file: File,
    slots: Mutex<Slots>,
    segment: Arc<AtomicU32>,
}

/// A question that is open. Held until its answer cannot matter to a later life any more: the intent is written, or the store was told that nothing
/// came of it.
pub struct Asked {
    questions: Arc<Questions>,
    slot: u32,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.questions.slots.lock().free.push(self.slot);
    }
}

impl Questions {
    /// Makes the file of a new life. `segment` is kept at the number of the segment that is written.
    pub fn create(folder: &Path, segment: Arc<AtomicU32>) -> Result<Self, SpoolError> {
        let path = path(folder);
        let failed = |source| SpoolError::disk("create", &path, source);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let mut header = Writer::with_magic(&MAGIC);
        header.raw(&machine());
        file.write_all_at(&sealed(header), 0).map_err(failed)?;
        Ok(Self { file, slots: Mutex::default(), segment })
    }

    /// Writes down that the store is about to be asked. `None` when that is not possible; then a hold without an intent ends by time.
    pub fn ask(self: &Arc<Self>, key: KeyId, (request, attempt): AttemptKey) -> Option<Asked> {
        let slot = self.slots.lock().take()?;
        // From here on it is given back.
        let asked = Asked { questions: Arc::clone(self), slot };
        let mut bytes = Writer::with_magic(&MAGIC);
        bytes.raw(request.as_bytes()).u16(attempt).raw(key.as_str().as_bytes());
        bytes.u32(self.segment.load(Ordering::Relaxed));
        let at = (u64::from(slot) + 1) * SLOT as u64;
        match self.file.write_all_at(&sealed(bytes), at) {
            Ok(()) => Some(asked),
            Err(error) => {
                tracing::debug!(%error, "an open question cannot be written down");
                None
            }
        }
    }
}

impl Slots {
    fn take(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let next = self.used;
        (next < MOST).then(|| self.used += 1).map(|()| next)
    }
}

/// The questions in the folder of an earlier life, as far as they can be believed. Blocks.
///
/// # Errors
/// The disk does not let them be read.
pub(super) fn read(folder: &Path) -> Result<HashMap<AttemptKey, Found>, SpoolError> {
    let path = path(folder);
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take((u64::from(MOST) + 1) * SLOT as u64).read_to_end(&mut bytes)) {
        Ok(_) => {}
        // A life of an earlier version, or one that ended when it began.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(source) => return Err(SpoolError::disk("read", &path, source)),
    }
    let mut slots = bytes.chunks_exact(SLOT);
    let machine = machine();
    let written_on =
        slots.next().and_then(|header| unsealed(header, MAGIC.len() + machine.len())?.strip_prefix(&MAGIC));
    if machine == NO_MACHINE || written_on != Some(&machine) {
        return Ok(HashMap::new());
    }
    let found = slots.filter_map(|slot| found(unsealed(slot, FIELDS)?).ok());
    Ok(found.map(|found| (found.attempt, found)).collect())
}

fn found(bytes: &[u8]) -> Result<Found, DecodeError> {
    let mut reader = Reader::after_magic(bytes, &MAGIC)?;
    let attempt = (RequestId::from_bytes(reader.array()?), reader.u16()?);
    let key = KeyId::from_ascii(&reader.array::<12>()?).map_err(|_| DecodeError::Value("key"))?;
    let segment = reader.u32()?;
    reader.finish()?;
    Ok(Found { key, attempt, segment })
}

fn sealed(writer: Writer) -> [u8; SLOT] {
    let bytes = writer.finish();
    let mut slot = [0; SLOT];
    let crc = crc32fast::hash(&bytes).to_be_bytes();
    for (to, from) in slot.iter_mut().zip(bytes.iter().chain(&crc)) {
        *to = *from;
    }
    slot
}

fn unsealed(slot: &[u8], length: usize) -> Option<&[u8]> {
    let (body, rest) = slot.split_at_checked(length)?;
    let crc = rest.first_chunk::<4>()?;
    (crc32fast::hash(body).to_be_bytes() == *crc).then_some(body)
}

const NO_MACHINE: [u8; 36] = [0; 36];

fn machine() -> [u8; 36] {
    let text = std::fs::read(MACHINE).unwrap_or_default();
    text.first_chunk().copied().unwrap_or(NO_MACHINE)
}

fn path(folder: &Path) -> PathBuf {
    folder.join("questions")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::fixture;

    fn questions(folder: &Path) -> Arc<Questions> {
        Arc::new(Questions::create(folder, Arc::new(AtomicU32::new(3))).unwrap())
    }

    fn attempt(number: u32) -> AttemptKey {
        (fixture::request(number), 1)
    }

    fn key() -> KeyId {
        fixture::intent(1).key
    }

    #[test]
    fn open_questions_are_found_again_and_a_slot_has_the_latest() {
        let dir = tempfile::tempdir().unwrap();
        let questions = questions(dir.path());
        let first = questions.ask(key(), attempt(1)).unwrap();
        let _second = questions.ask(key(), attempt(2)).unwrap();
        let expected = Found { key: key(), attempt: attempt(1), segment: 3 };
        assert_eq!(read(dir.path()).unwrap()[&attempt(1)], expected);
        drop(first);
        let _third = questions.ask(key(), attempt(3)).unwrap();
        let found = read(dir.path()).unwrap();
        assert_eq!((found.len(), found.contains_key(&attempt(1))), (2, false));
        assert_eq!(std::fs::metadata(path(dir.path())).unwrap().len(), 3 * SLOT as u64);
    }

    #[test]
    fn questions_of_a_machine_that_was_started_again_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let _asked = questions(dir.path()).ask(key(), attempt(1)).unwrap();
        let mut header = Writer::with_magic(&MAGIC);
        header.raw(&[b'0'; 36]);
        let file = File::options().write(true).open(path(dir.path())).unwrap();
        file.write_all_at(&sealed(header), 0).unwrap();
        assert!(read(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn any_damage_to_a_slot_makes_it_unreadable_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let questions = questions(dir.path());
        let _asked = [questions.ask(key(), attempt(1)), questions.ask(key(), attempt(2))];
        let whole = std::fs::read(path(dir.path())).unwrap();
        for at in SLOT..SLOT + FIELDS + 4 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(path(dir.path()), &bytes).unwrap();
            let found = read(dir.path()).unwrap();
            assert!(found.len() == 1 && found.contains_key(&attempt(2)), "{at}");
        }
        for length in 0..whole.len() {
            std::fs::write(path(dir.path()), &whole[..length]).unwrap();
            assert!(read(dir.path()).unwrap().len() < 2, "{length}");
        }
    }

    #[test]
    fn no_more_questions_are_written_down_than_there_are_slots() {
        let dir = tempfile::tempdir().unwrap();
        let questions = questions(dir.path());
        questions.slots.lock().used = MOST - 1;
        let last = questions.ask(key(), attempt(1));
        assert!(last.is_some() && questions.ask(key(), attempt(2)).is_none());
        drop(last);
        assert!(questions.ask(key(), attempt(3)).is_some());
    }
}
