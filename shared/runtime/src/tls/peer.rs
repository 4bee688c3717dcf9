//! What a certificate of this deployment's own authority says: which process it names, from when, until when.
//!
//! Parsing proves nothing: whoever asks has verified the chain before, or does it afterwards.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use keyforge_shared::clock::Timestamp;
use keyforge_shared::identity::Identity;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;

use super::TlsError;

const FINGERPRINT_PREFIX: &str = "SHA256:";
const NANOS: i64 = 1_000_000_000;

/// Why a certificate is none of this deployment's own kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not X.509.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// No name, several, or one of another form.
    #[error("the certificate does not name a KeyForge process")]
    Unnamed,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCertificate {
    /// Which process it names.
    pub identity: Identity,
    /// Its serial number.
    pub serial: Vec<u8>,
    /// From when on it is good.
    pub not_before: Timestamp,
    /// Until when it is good.
    pub not_after: Timestamp,
}

impl NamedCertificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).map_err(|_| CertificateError::Unreadable)?;
        if !rest.is_empty() {
            return Err(CertificateError::Unreadable);
        }
        let names = certificate.subject_alternative_name().map_err(|_| CertificateError::Unreadable)?;
        let names = names.ok_or(CertificateError::Unnamed)?;
        let [GeneralName::URI(name)] = names.value.general_names.as_slice() else {
            return Err(CertificateError::Unnamed);
        };
        let moment = |seconds: i64| Timestamp::from_nanos(seconds.saturating_mul(NANOS));
        Ok(Self {
            identity: name.parse().map_err(|_| CertificateError::Unnamed)?,
            serial: certificate.raw_serial().to_vec(),
            not_before: moment(certificate.validity().not_before.timestamp()),
            not_after: moment(certificate.validity().not_after.timestamp()),
        })
    }
}

/// SHA-256 of a certificate's DER bytes, written `SHA256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// The text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a fingerprint: SHA256: and 64 hexadecimal digits, as `keyforge node ca` shows it")]
pub struct FingerprintError;

impl Fingerprint {
    /// Of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// Of the first certificate in a PEM file.
    ///
    /// # Errors
    /// The file cannot be read or holds no certificate.
    pub fn of_file(path: &Path) -> Result<Self, TlsError> {
        let certificates = super::read_certificates(path)?;
        certificates.first().map(Self::of).ok_or_else(|| TlsError::NoCertificate { path: path.to_owned() })
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FINGERPRINT_PREFIX}{}", hex::encode(self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let mut bytes = [0; 32];
        let digits = text.strip_prefix(FINGERPRINT_PREFIX).ok_or(FingerprintError)?;
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| FingerprintError)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| rcgen::SanType::URI((*name).try_into().unwrap())).collect();
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn a_certificate_names_exactly_one_process_or_none_that_counts() {
        let name = format!("spiffe://keyforge/dep_{}/node/node_{}", "0a".repeat(16), "0b".repeat(16));
        let parsed = NamedCertificate::parse(&certificate(&[&name])).unwrap();
        assert_eq!(parsed.identity.to_string(), name);
        assert!(parsed.not_before < parsed.not_after && !parsed.serial.is_empty());
        for names in [&[][..], &["https://example.com"], &[&name, &name]] {
            assert_eq!(NamedCertificate::parse(&certificate(names)), Err(CertificateError::Unnamed), "{names:?}");
        }
        let garbage = CertificateDer::from(b"garbage".to_vec());
        assert_eq!(NamedCertificate::parse(&garbage), Err(CertificateError::Unreadable));
    }

    #[test]
    fn fingerprints_round_trip_and_name_what_was_expected() {
        let print = Fingerprint::of(&certificate(&[]));
        assert_eq!(print.to_string().parse(), Ok(print));
        for wrong in ["", "SHA256:", "sha1:00", &print.to_string()[..70], &format!("{print}00")] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(FingerprintError), "{wrong}");
        }
    }
}
