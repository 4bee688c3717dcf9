//! The last good state on disk, so that a node that starts without the control plane knows its keys, and goes on by deltas once it is back.
//!
//! ```text
//! file  = "KFS1" || salt[16] || frame...
//! frame = u32 length, little-endian || sealed ControlMessage: SnapshotBegin, SnapshotChunk..., SnapshotEnd
//! key   = HKDF-SHA256(ikm = fleet token, or state.key of a node that has joined, salt = salt, info = "keyforge/node/state/v1" || node_id)
//! AAD   = "keyforge/node/state/frame/v1" || node_id || u64 number of the frame
//! ```
//!
//! It holds no provider's secret, so that nothing can be served from it: until the control plane has answered, a node that began with it tells dead
//! keys from others and refuses both. A file that is cut short, changed, another node's or another fleet's is left aside.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::control_message::Message;
use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::fleet_seal::{self, StateSalt};
use keyforge_shared::id::{DeploymentId, NodeId};
use keyforge_shared::seal;
use keyforge_shared::secret::{Key256, SecretBytes};
use keyforge_shared::state::{Contents, Resource, SetHash, State};
use prost::Message as _;

use super::Replica;

const FILE: &str = "state.kfs";
const MAGIC: [u8; 4] = *b"KFS1";
/// How often the file is written, if anything changed.
const EVERY: Duration = Duration::from_secs(60);
/// Longest frame that is read, in bytes: those that are written are far shorter, but for catalogues of megabytes.
const LONGEST_FRAME: usize = 64 * 1024 * 1024;

/// Where the state is kept, and for whom.
#[derive(Clone)]
pub struct LastGood {
    path: PathBuf,
    secret: Arc<SecretBytes>,
    node: NodeId,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is not a state of this version")]
    Format,
    #[error("it was changed, or belongs to another node or fleet")]
    Sealed(#[from] seal::SealError),
    #[error("its records cannot be read: {0}")]
    Records(String),
}

impl LastGood {
    /// The file of `node` in its data directory.
    #[must_use]
    pub fn new(data_dir: &Path, secret: Arc<SecretBytes>, node: NodeId) -> Self {
        Self { path: data_dir.join(FILE), secret, node }
    }

    /// The state as it was last written, if there is a whole one. Blocks.
    #[must_use]
    pub fn load(&self) -> Option<(DeploymentId, State)> {
        match self.read() {
            Ok(found) => Some(found),
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "the last good state cannot be used; the control plane sends another one");
                None
            }
        }
    }

    fn read(&self) -> Result<(DeploymentId, State), Unusable> {
        let mut file = BufReader::new(File::open(&self.path)?);
        let (mut magic, mut salt) = ([0; 4], StateSalt::default());
        file.read_exact(&mut magic)?;
        file.read_exact(&mut salt)?;
        if magic != MAGIC {
            return Err(Unusable::Format);
        }
        let mut frames = Frames { key: self.key(&salt), node: self.node, number: 0, file };
        let Message::SnapshotBegin(begin) = frames.next()? else { return Err(Unusable::Format) };
        let deployment = DeploymentId::from_slice(&begin.deployment_id).ok_or(Unusable::Format)?;
        let mut state = State::with_room(begin.revision, usize::try_from(begin.count.min(4_000_000)).unwrap_or(0));
        loop {
            match frames.next()? {
                Message::SnapshotChunk(chunk) => {
                    let chunk =
                        proto::SnapshotChunk::decode(chunk).map_err(|error| Unusable::Records(error.to_string()))?;
                    for resource in chunk.resources {
                        let resource = Resource::try_from(resource);
                        state.add(resource.map_err(|error| Unusable::Records(error.to_string()))?);
                    }
                }
                Message::SnapshotEnd(end) => {
                    let is_whole = SetHash::from_slice(&end.set_hash) == Some(state.set_hash());
                    return if is_whole { Ok((deployment, state)) } else { Err(Unusable::Format) };
                }
                _ => return Err(Unusable::Format),
            }
        }
    }

    /// Writes what the replica holds every minute, and once more when the process stops.
    pub async fn keep(self, replica: Arc<Replica>, shutdown: Shutdown) {
        let mut written = 0;
        loop {
            let is_last = tokio::select! {
                () = shutdown.drain_started() => true,
                () = tokio::time::sleep(EVERY) => false,
            };
            let (deployment, contents) = (*replica.deployment().borrow(), replica.contents());
            let revision = contents.revision();
            // A set that was taken over in part would not pass for a whole one when it is read.
            if let Some(deployment) = deployment.filter(|_| revision > written) {
                let this = self.clone();
                let writing = tokio::task::spawn_blocking(move || this.write(deployment, &contents));
                match writing.await {
                    Ok(Ok(())) => written = revision,
                    Ok(Err(error)) => tracing::warn!(%error, "the last good state cannot be written"),
                    Err(error) => tracing::warn!(%error, "the last good state cannot be written"),
                }
            }
            if is_last {
                return;
            }
        }
    }

    /// Writes a state in place of the one before. Blocks.
    ///
    /// # Errors
    /// The operating system refused; the old file is then untouched.
    pub fn write(&self, deployment: DeploymentId, contents: &Contents) -> Result<(), PrivateFileError> {
        private_file::replace_by(&self.path, |file| self.write_to(file, deployment, contents))
    }

    fn write_to(&self, file: &mut dyn Write, deployment: DeploymentId, contents: &Contents) -> io::Result<()> {
        let salt = fleet_seal::state_salt().map_err(io::Error::other)?;
        file.write_all(&MAGIC)?;
        file.write_all(&salt)?;
        let key = self.key(&salt);
        let mut number = 0;
        let mut put = |message: Message| {
            let plain = proto::ControlMessage { message: Some(message) }.encode_to_vec();
            let sealed =
                seal::seal(&key, &fleet_seal::state_frame(self.node, number), &plain).map_err(io::Error::other)?;
            number += 1;
            let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
            file.write_all(&length.to_le_bytes())?;
            file.write_all(&sealed)
        };
        put(Message::SnapshotBegin(proto::SnapshotBegin {
            revision: contents.revision(),
            count: contents.len() as u64,
            deployment_id: deployment.as_bytes().to_vec(),
        }))?;
        for part in (0..).map_while(|number| contents.part(number)) {
            let resources = part.iter().map(Into::into).collect();
            put(Message::SnapshotChunk(proto::SnapshotChunk { resources }.encode_to_vec().into()))?;
        }
        let set_hash = contents.set_hash().as_bytes().to_vec();
        put(Message::SnapshotEnd(proto::SnapshotEnd { revision: contents.revision(), set_hash }))
    }

    fn key(&self, salt: &StateSalt) -> Key256 {
        fleet_seal::state_key(&self.secret, salt, self.node)
    }
}

/// The frames of a file, in their order.
struct Frames<R> {
    key: Key256,
    node: NodeId,
    number: u64,
    file: R,
}

impl<R: Read> Frames<R> {
    fn next(&mut self) -> Result<Message, Unusable> {
        let mut length = [0; 4];
        self.file.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > LONGEST_FRAME {
            return Err(Unusable::Format);
        }
        let mut sealed = vec![0; length];
        self.file.read_exact(&mut sealed)?;
        let plain = seal::open(&self.key, &fleet_seal::state_frame(self.node, self.number), &sealed)?;
        self.number += 1;
        let message = proto::ControlMessage::decode(plain.expose());
        message.map_err(|error| Unusable::Records(error.to_string()))?.message.ok_or(Unusable::Format)
    }
}

#[cfg(test)]
mod tests {
    use keyforge_shared::clock::Timestamp;
    use keyforge_shared::state::{FormerToken, KeyRecord};
    use keyforge_shared::token::TokenDigest;

    use super::*;
    use crate::fixture::{key, key_id, model, quota, workspace};

    const FORMER: FormerToken =
        FormerToken { digest: TokenDigest([99; 32]), until: Some(Timestamp::from_millis(7_000)) };

    const DEPLOYMENT: DeploymentId = DeploymentId::from_bytes([1; 16]);

    fn file(directory: &Path, node: u8, token: &[u8]) -> LastGood {
        LastGood::new(directory, Arc::new(SecretBytes::new(token.to_vec())), NodeId::from_bytes([node; 16]))
    }

    fn state() -> State {
        let mut state = State::with_room(7, 3);
        state.add(workspace(Vec::new(), Vec::new()));
        (1..=3).for_each(|number| state.add(key(number, quota(number.into()))));
        let Resource::Key(rotated) = key(4, quota(4)) else { panic!("not a key") };
        state.add(Resource::Key(Arc::new(KeyRecord { former: Some(Box::new(FORMER)), ..(*rotated).clone() })));
        state.add(model());
        state
    }

    #[test]
    fn what_was_written_is_read_again_by_its_node_and_by_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let own = file(directory.path(), 1, b"kff_token");
        assert!(own.load().is_none(), "there is none yet");
        let state = state();
        own.write(DEPLOYMENT, &state.contents()).unwrap();
        let (deployment, read) = own.load().unwrap();
        assert_eq!((deployment, read.revision(), read.set_hash()), (DEPLOYMENT, 7, state.set_hash()));
        assert_eq!(read.key(key_id(2)), state.key(key_id(2)));
        let rotated = read.key_by_digest(&FORMER.digest).unwrap();
        assert_eq!((rotated.id, rotated.former.as_deref()), (key_id(4), Some(&FORMER)));
        assert!(file(directory.path(), 2, b"kff_token").load().is_none());
        assert!(file(directory.path(), 1, b"kff_other").load().is_none());
    }

    #[test]
    fn a_file_that_was_changed_or_cut_short_anywhere_is_left_aside_and_tells_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let own = file(directory.path(), 1, b"kff_token");
        own.write(DEPLOYMENT, &state().contents()).unwrap();
        let bytes = std::fs::read(&own.path).unwrap();
        assert!(!bytes.windows(7).any(|some| some == b"default"), "it is sealed");
        for at in (0..bytes.len()).step_by(7) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            std::fs::write(&own.path, changed).unwrap();
            assert!(own.load().is_none(), "byte {at}");
            std::fs::write(&own.path, &bytes[..at]).unwrap();
            assert!(own.load().is_none(), "length {at}");
        }
        std::fs::write(&own.path, &bytes).unwrap();
        assert!(own.load().is_some());
    }
}
