//! The identity of a node that has joined: its key, its certificate and the authority that made it, in one file that only its owner may read.
//!
//! One file, so that a renewal exchanges key and certificate together or not at all. [`join`] gets the first one, [`renewal`] those that
//! follow, and [`admission`] is what a start makes of it.

pub mod admission;
pub mod join;
pub mod renewal;

use std::path::{Path, PathBuf};

use keyforge_runtime::private_file::{self, PrivateFileError};
use keyforge_runtime::tls::mutual::{self, ClientIdentity};
use keyforge_runtime::tls::peer::{Fingerprint, NamedCertificate};
use keyforge_runtime::tls::{TlsError, to_pem};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{DeploymentId, NodeId};
use keyforge_shared::identity::Role;
use keyforge_shared::secret::SecretBytes;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// Name of the file in the directory that a node joined with.
pub const IDENTITY_FILE: &str = "identity.pem";

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be used.
    #[error("the node's identity cannot be used: {0}; `keyforge node join` makes one")]
    File(#[from] PrivateFileError),
    /// The file holds something else.
    #[error("{0} does not hold a node's key, its certificate and its authority: move it away and join again")]
    Content(PathBuf),
    /// Key and certificate do not belong together.
    #[error("the node's identity cannot be used: {0}; move it away and join again")]
    Tls(#[from] TlsError),
    /// No key can be made.
    #[error("a key cannot be made: {0}")]
    Key(#[from] rcgen::Error),
}

/// Who a node is, and the proof of it.
pub struct Identity {
    key: SecretBytes,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    named: NamedCertificate,
    node: NodeId,
}

impl Identity {
    /// Puts together what a join or a renewal gave; `None` unless the certificate names a node.
    #[must_use]
    pub fn new(
        key: SecretBytes,
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
    ) -> Option<Self> {
        let named = NamedCertificate::parse(&certificate).ok()?;
        let Role::Node(node) = named.identity.role else { return None };
        Some(Self { key, certificate, authority, named, node })
    }

    /// Reads the identity in `directory`.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(IDENTITY_FILE);
        let text = private_file::read(&path)?;
        let parsed = || {
            let key = PrivatePkcs8KeyDer::from_pem_slice(text.expose()).ok()?;
            let certificates: Vec<_> = CertificateDer::pem_slice_iter(text.expose()).collect::<Result<_, _>>().ok()?;
            let [certificate, authority] = <[_; 2]>::try_from(certificates).ok()?;
            Self::new(SecretBytes::new(key.secret_pkcs8_der().to_vec()), certificate, authority)
        };
        parsed().ok_or(IdentityError::Content(path))
    }

    /// Writes it into `directory`, in place of the one that is there.
    ///
    /// # Errors
    /// [`PrivateFileError`]; the old one is then untouched.
    pub fn save(&self, directory: &Path) -> Result<(), PrivateFileError> {
        let key = to_pem("PRIVATE KEY", self.key.expose());
        let certificates = to_pem("CERTIFICATE", &self.certificate) + &to_pem("CERTIFICATE", &self.authority);
        let mut text = Zeroizing::new(String::with_capacity(key.len() + certificates.len()));
        text.push_str(&key);
        text.push_str(&certificates);
        private_file::replace(&directory.join(IDENTITY_FILE), text.as_bytes())
    }

    /// Which node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Of which deployment.
    #[must_use]
    pub const fn deployment(&self) -> DeploymentId {
        self.named.identity.deployment
    }

    /// From when on its certificate is good.
    #[must_use]
    pub const fn not_before(&self) -> Timestamp {
        self.named.not_before
    }

    /// Until when its certificate is good.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.named.not_after
    }

    /// The authority that it is under.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.authority)
    }

    /// TLS to the control plane of that authority, as this node.
    ///
    /// # Errors
    /// Key and certificate do not belong together.
    pub fn client(&self) -> Result<ClientConfig, TlsError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.expose().to_vec()));
        let identity = ClientIdentity { certificate: self.certificate.clone(), key };
        mutual::client(self.fingerprint(), Some(self.deployment()), Some(identity))
    }
}

/// A new key and the request to certify it.
pub struct NewKey {
    /// The private key, PKCS #8 in DER.
    pub key: SecretBytes,
    /// The request, PKCS #10 in DER. It names nobody: the control plane does.
    pub request: Vec<u8>,
}

impl NewKey {
    /// Draws one.
    ///
    /// # Errors
    /// [`IdentityError::Key`].
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&pair)?.der().to_vec();
        Ok(Self { key: SecretBytes::new(pair.serialize_der()), request })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{ExtendedKeyUsagePurpose, Issuer, SanType};

    /// An identity as an authority that lives for a test gives it.
    pub(crate) fn issued(node: NodeId, not_before: i32, not_after: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::default();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let name = keyforge_shared::identity::Identity {
            deployment: DeploymentId::from_bytes([1; 16]),
            role: Role::Node(node),
        };
        params.subject_alt_names = vec![SanType::URI(name.to_string().as_str().try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(not_before, 1, 1);
        params.not_after = rcgen::date_time_ymd(not_after, 1, 1);
        let certificate = params.signed_by(&own, &issuer).unwrap();
        Identity::new(SecretBytes::new(own.serialize_der()), certificate.into(), authority.into()).unwrap()
    }

    #[test]
    fn an_identity_is_read_as_it_was_written_and_nothing_else_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let written = issued(NodeId::from_bytes([7; 16]), 2020, 2100);
        written.save(directory.path()).unwrap();
        let read = Identity::load(directory.path()).unwrap();
        assert_eq!((read.node(), read.fingerprint()), (written.node(), written.fingerprint()));
        assert_eq!((read.not_before(), read.not_after()), (written.not_before(), written.not_after()));
        assert!(read.client().is_ok() && read.key.expose() == written.key.expose());

        let path = directory.path().join(IDENTITY_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let without_authority = text.rsplit_once("-----BEGIN").unwrap().0;
        for wrong in ["", "garbage", without_authority] {
            private_file::replace(&path, wrong.as_bytes()).unwrap();
            let error = Identity::load(directory.path()).err().unwrap().to_string();
            assert!(error.contains("join again"), "{error}");
        }
        let other = issued(NodeId::from_bytes([7; 16]), 2020, 2100);
        let mixed = Identity { key: SecretBytes::new(other.key.expose().to_vec()), ..written };
        assert!(mixed.client().is_err(), "a key of another certificate");
    }
}
