//! Virtual key tokens: `vk_` + 12 characters of public id + `_` + 43 characters of secret + 6 characters of checksum.
//!
//! All characters are base62. The secret carries 256 bits from the operating system's random source and is related to nothing else. The
//! checksum (CRC-32 over everything before it) lets scanners and the gateway reject look-alikes without a look-up. Only the SHA-256 digest
//! of a token is ever stored: a 256-bit random secret cannot be guessed, so a slow hash would only slow down ourselves.
//!
//! Operators, the fleet and machines that are to join it hold tokens of the same shape with other prefixes ([`TokenKind`]), so that none can be taken for another.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::id::KeyId;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PREFIX: &str = TokenKind::VirtualKey.prefix();
const ID_LEN: usize = 12;
const SECRET_LEN: usize = 43;
const CHECKSUM_LEN: usize = 6;

/// Length of every token in bytes.
pub const TOKEN_LEN: usize = PREFIX.len() + ID_LEN + 1 + SECRET_LEN + CHECKSUM_LEN;

/// The regular expression that every token matches, for secret scanners.
pub const TOKEN_PATTERN: &str = "vk_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}";

/// Who holds a token; its prefix says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// An agent: `vk_`.
    VirtualKey,
    /// An operator: `kfo_`.
    Operator,
    /// The nodes of a deployment together: `kff_`.
    Fleet,
    /// A machine that is to become a node, once: `kfj_`.
    Join,
}

impl TokenKind {
    /// What its tokens start with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::VirtualKey => "vk_",
            Self::Operator => "kfo_",
            Self::Fleet => "kff_",
            Self::Join => "kfj_",
        }
    }
}

/// The SHA-256 digest of a token: what is stored and looked up in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenDigest(pub [u8; 32]);

/// A freshly made token. It is shown once and kept nowhere.
pub struct NewToken {
    text: Zeroizing<String>,
    id: KeyId,
}

impl NewToken {
    /// Draws a new token.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let text = generate(TokenKind::VirtualKey)?;
        Self::of(text)
    }

    /// Draws another token for the key with this id.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_for(key: KeyId) -> Result<Self, getrandom::Error> {
        Self::of(generate_with(TokenKind::VirtualKey, |text| {
            text.push_str(key.as_str());
            Ok(())
        })?)
    }

    fn of(text: Zeroizing<String>) -> Result<Self, getrandom::Error> {
        let id = KeyId::from_ascii(&text.as_bytes()[PREFIX.len()..PREFIX.len() + ID_LEN])
            .map_err(|_| getrandom::Error::UNEXPECTED)?;
        Ok(Self { text, id })
    }

    /// The token itself: to be given to its owner, once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Its public id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The digest to store.
    #[must_use]
    pub fn digest(&self) -> TokenDigest {
        digest(self.text.as_bytes())
    }
}

/// Draws a new token of any kind. It is to be given to its owner, once; only its [`digest`] is for keeping.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn generate(kind: TokenKind) -> Result<Zeroizing<String>, getrandom::Error> {
    generate_with(kind, |text| push_random(text, ID_LEN))
}

fn generate_with(
    kind: TokenKind,
    push_id: impl FnOnce(&mut String) -> Result<(), getrandom::Error>,
) -> Result<Zeroizing<String>, getrandom::Error> {
    // Room for the longest prefix, so that growing leaves no copy of the secret behind.
    let mut text = Zeroizing::new(String::with_capacity(TOKEN_LEN + 1));
    text.push_str(kind.prefix());
    push_id(&mut text)?;
    text.push('_');
    push_random(&mut text, SECRET_LEN)?;
    let checksum = checksum(text.as_bytes());
    for character in checksum {
        text.push(char::from(character));
    }
    Ok(text)
}

/// The digest of a well-formed token of `kind`, or `None` when the text cannot be one. Says nothing about whether it was ever given out.
#[must_use]
pub fn digest_of(kind: TokenKind, text: &[u8]) -> Option<TokenDigest> {
    let unprefixed = text.strip_prefix(kind.prefix().as_bytes())?;
    let sum = unprefixed.get(ID_LEN + 1 + SECRET_LEN..)?;
    let body = &text[..text.len() - sum.len()];
    (checksum(body) == sum).then(|| digest(text))
}

/// Why a text cannot be a virtual key. Carries nothing of the text.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Does not start with `vk_`: often a provider's own key.
    #[error("not a virtual key: it does not start with vk_")]
    Prefix,
    /// Wrong length, characters or checksum.
    #[error("not a virtual key: it was cut short or mistyped")]
    Garbled,
}

/// The public id and digest of a well-formed token. Says nothing about whether such a key exists.
///
/// # Errors
/// [`TokenError`] when the text cannot be a token; found without any look-up.
pub fn parse(text: &[u8]) -> Result<(KeyId, TokenDigest), TokenError> {
    if !text.starts_with(PREFIX.as_bytes()) {
        return Err(TokenError::Prefix);
    }
    let (body, sum) = text.split_at_checked(TOKEN_LEN - CHECKSUM_LEN).ok_or(TokenError::Garbled)?;
    let (id, secret) = body[PREFIX.len()..].split_at(ID_LEN);
    let well_formed = secret.first() == Some(&b'_') && secret[1..].iter().all(u8::is_ascii_alphanumeric);
    if !well_formed || checksum(body) != sum {
        return Err(TokenError::Garbled);
    }
    let id = KeyId::from_ascii(id).map_err(|_| TokenError::Garbled)?;
    Ok((id, digest(text)))
}

/// SHA-256 of a token or another random secret of at least 128 bits.
#[must_use]
pub fn digest(text: &[u8]) -> TokenDigest {
    TokenDigest(Sha256::digest(text).into())
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut rest = crc32fast::hash(body);
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// Appends `count` uniform base62 characters, by rejection: 248 is the largest multiple of 62 that a byte can hold.
fn push_random(text: &mut String, count: usize) -> Result<(), getrandom::Error> {
    let mut pool = Zeroizing::new([0; 64]);
    let mut wanted = count;
    while wanted > 0 {
        getrandom::fill(&mut *pool)?;
        for byte in pool.iter().filter(|byte| **byte < 248).take(wanted) {
            text.push(char::from(ALPHABET[usize::from(byte % 62)]));
            wanted -= 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_token_parses_and_every_single_change_is_noticed() {
        let token = NewToken::generate().unwrap();
        assert_eq!(token.expose().len(), TOKEN_LEN);
        let (id, found) = parse(token.expose().as_bytes()).unwrap();
        assert!(id == token.id() && found == token.digest());
        for index in 0..TOKEN_LEN {
            let mut bytes = token.expose().as_bytes().to_vec();
            bytes[index] = if bytes[index] == b'x' { b'y' } else { b'x' };
            assert!(parse(&bytes).is_err(), "byte {index}");
        }
        for length in 0..TOKEN_LEN {
            assert!(parse(&token.expose().as_bytes()[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn another_token_of_a_key_has_its_id_and_nothing_else_of_the_first() {
        let first = NewToken::generate().unwrap();
        let second = NewToken::generate_for(first.id()).unwrap();
        assert_eq!(parse(second.expose().as_bytes()), Ok((first.id(), second.digest())));
        assert_eq!(second.expose().len(), TOKEN_LEN);
        let secret = PREFIX.len() + ID_LEN + 1..PREFIX.len() + ID_LEN + 1 + SECRET_LEN;
        assert_ne!(first.expose()[secret.clone()], second.expose()[secret]);
    }

    #[test]
    fn a_provider_key_is_told_apart_from_a_garbled_virtual_key() {
        assert_eq!(parse(b"sk-proj-abc"), Err(TokenError::Prefix));
        assert_eq!(parse(b"vk_"), Err(TokenError::Garbled));
    }

    #[test]
    fn tokens_of_different_kinds_are_never_taken_for_each_other() {
        let kinds = [TokenKind::VirtualKey, TokenKind::Operator, TokenKind::Fleet, TokenKind::Join];
        for kind in kinds {
            let token = generate(kind).unwrap();
            for other in kinds {
                let found = digest_of(other, token.as_bytes());
                assert_eq!(found, (kind == other).then(|| digest(token.as_bytes())), "{kind:?} as {other:?}");
            }
            assert_eq!(digest_of(kind, &token.as_bytes()[..token.len() - 1]), None);
            assert_eq!(digest_of(kind, b""), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(parse(&bytes).is_err());
        }
    }
}
