//! Authenticated encryption of secrets: AES-256-GCM, always with associated data that says what the ciphertext is and where it belongs.
//!
//! Format: `version:u8 = 1 || nonce[12] || ciphertext || tag[16]`. Nonces are random, so one key must seal fewer than 2^32 messages; the vault
//! uses a fresh data key per record version, which then seals exactly one.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};

use crate::secret::{Key256, SecretBytes};

const VERSION: u8 = 1;
const NONCE_LEN: usize = 12;

/// Why something could not be sealed or opened. Says nothing about the plaintext.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// Wrong key, wrong associated data, or changed bytes: indistinguishable on purpose.
    #[error("the ciphertext does not belong here: it was changed, moved, or sealed under another key")]
    Rejected,
    /// Not in the format that this version writes.
    #[error("the ciphertext has an unknown format version or is cut short")]
    Format,
    /// The operating system gave no randomness.
    #[error("no randomness available for a nonce")]
    Random,
}

/// Encrypts `plaintext` under `key`, bound to `associated` data.
///
/// # Errors
/// [`SealError::Random`] without randomness; [`SealError::Rejected`] for plaintexts beyond 64 GiB.
pub fn seal(key: &Key256, associated: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|_| SealError::Random)?;
    let ciphertext = cipher(key)
        .encrypt(&Nonce::from(nonce), Payload { msg: plaintext, aad: associated })
        .map_err(|_| SealError::Rejected)?;
    let mut sealed = Vec::with_capacity(1 + NONCE_LEN + ciphertext.len());
    sealed.push(VERSION);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&ciphertext);
    Ok(sealed)
}

/// Decrypts what [`seal`] made with the same key and the same associated data.
///
/// # Errors
/// [`SealError::Format`] for other formats, [`SealError::Rejected`] for everything that does not belong.
pub fn open(key: &Key256, associated: &[u8], sealed: &[u8]) -> Result<SecretBytes, SealError> {
    let (version, rest) = sealed.split_first().ok_or(SealError::Format)?;
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Format)?;
    if *version != VERSION {
        return Err(SealError::Format);
    }
    cipher(key)
        .decrypt(&Nonce::from(*nonce), Payload { msg: ciphertext, aad: associated })
        .map(SecretBytes::new)
        .map_err(|_| SealError::Rejected)
}

fn cipher(key: &Key256) -> Aes256Gcm {
    Aes256Gcm::new(key.expose().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i_25_only_the_same_key_and_place_open_it_and_any_changed_byte_is_refused() {
        let key = Key256::new([7; 32]);
        let sealed = seal(&key, b"credential 1 version 1", b"sk-secret").unwrap();
        assert!(open(&key, b"credential 1 version 1", &sealed).unwrap().expose() == b"sk-secret");
        assert_eq!(open(&key, b"credential 2 version 1", &sealed).err(), Some(SealError::Rejected));
        assert_eq!(open(&Key256::new([8; 32]), b"credential 1 version 1", &sealed).err(), Some(SealError::Rejected));
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(open(&key, b"credential 1 version 1", &changed).is_err(), "byte {index}");
        }
        for length in 0..sealed.len() {
            assert!(open(&key, b"credential 1 version 1", &sealed[..length]).is_err(), "length {length}");
        }
    }
}
