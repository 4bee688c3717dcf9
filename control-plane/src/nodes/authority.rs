//! The authority of a deployment: certifies its nodes and its control planes, and nobody else.
//!
//! It is made at the first start. Its private key is sealed in the vault and bound to its certificate; it leaves neither. Of what a node sends
//! only the public key is used: names, dates and rights in a certificate are the control plane's.

use std::sync::Arc;
use std::time::Duration;

use keyforge_runtime::tls::peer::Fingerprint;
use keyforge_runtime::tls::to_pem;
use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::{DeploymentId, NodeId};
use keyforge_shared::identity::{Identity, Role};
use keyforge_shared::secret::SecretBytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::custody::wraps::{CountError, count};
use crate::store::nodes::{self, StoredAuthority};
use crate::store::{Store, StoreError};
use crate::vault::{Place, Sealed, Vault, VaultError};

/// How long the authority itself is good for.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far back a certificate is good, for clocks that are behind, at most; of a short life it is a twelfth.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
const SKEW_SHARE: u32 = 12;
const SERIAL_LEN: usize = 16;
/// Of these, at the end, those that tell which certificate it takes the place of.
const FORMER_LEN: usize = 8;

/// Why nothing was certified.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The vault failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The stored certificate and key do not belong together.
    #[error(
        "the certificate of the nodes' authority in the database is not the one that its key was sealed for: restore a backup"
    )]
    Exchanged,
    /// A certificate cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// What a node sent is no signing request that proves a key.
    #[error("signing_request: not a signed PKCS #10 request for an ECDSA P-256 key")]
    Request,
    /// The operating system gave no randomness.
    #[error("no randomness available for a serial number")]
    Random,
}

impl From<CountError> for AuthorityError {
    fn from(error: CountError) -> Self {
        match error {
            CountError::Store(error) => error.into(),
            CountError::Vault(error) => error.into(),
        }
    }
}

/// A certificate that was made.
#[derive(Clone, Debug)]
pub struct Issued {
    /// X.509, DER.
    pub certificate: CertificateDer<'static>,
    /// Its serial number.
    pub serial: Vec<u8>,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

/// A public key that its holder has proved to hold.
pub struct ProvenKey(rcgen::PublicKey);

impl ProvenKey {
    /// Out of a signing request (PKCS #10, DER). Whatever else it asks for is passed over.
    ///
    /// # Errors
    /// [`AuthorityError::Request`].
    pub fn of_request(der: &[u8]) -> Result<Self, AuthorityError> {
        let request = CertificateSigningRequestParams::from_der(&der.into()).map_err(|_| AuthorityError::Request)?;
        let is_p256 = *PublicKeyData::algorithm(&request.public_key) == PKCS_ECDSA_P256_SHA256;
        if is_p256 { Ok(Self(request.public_key)) } else { Err(AuthorityError::Request) }
    }
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    deployment: DeploymentId,
    clock: Arc<dyn Clock>,
}

impl Authority {
    /// Opens the authority of `deployment` in `store`, or makes one if there is none.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub async fn open(
        store: &Store,
        vault: &Vault,
        deployment: DeploymentId,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuthorityError> {
        let found = nodes::authority(&mut *store.read().await?).await?;
        let stored = match found {
            Some(stored) => stored,
            None => make(store, vault, deployment, clock.now()).await?,
        };
        let key = open_key(vault, &stored)?;
        let certificate = CertificateDer::from(stored.certificate);
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.expose()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { issuer, certificate, deployment, clock })
    }

    /// Its certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        to_pem("CERTIFICATE", &self.certificate)
    }

    /// What nodes and operators pin.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// The installation that it certifies for.
    #[must_use]
    pub const fn deployment(&self) -> DeploymentId {
        self.deployment
    }

    /// Certifies a node's key for `life` from now on, in place of the certificate with the serial number `former`.
    ///
    /// # Errors
    /// [`AuthorityError::Certificate`] or [`AuthorityError::Random`].
    pub fn certify_node(
        &self,
        key: &ProvenKey,
        node: NodeId,
        life: Duration,
        former: Option<&[u8]>,
    ) -> Result<Issued, AuthorityError> {
        self.certify(&key.0, Role::Node(node), life, former)
    }

    /// Certifies a control plane's key for `life` from now on.
    ///
    /// # Errors
    /// As [`Self::certify_node`].
    pub fn certify_control_plane(&self, key: &KeyPair, life: Duration) -> Result<Issued, AuthorityError> {
        self.certify(key, Role::ControlPlane, life, None)
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        role: Role,
        life: Duration,
        former: Option<&[u8]>,
    ) -> Result<Issued, AuthorityError> {
        let now = self.clock.now();
        let name = Identity { deployment: self.deployment, role };
        let skew = CLOCK_SKEW.min(life / SKEW_SHARE);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(name.to_string().as_str().try_into()?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match role {
            Role::ControlPlane => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Node(_) => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        params.not_before = date(Timestamp::from_nanos(now.nanos().saturating_sub(nanos(skew))));
        let not_after = now.saturating_add(life);
        params.not_after = date(not_after);
        let serial = serial(former)?;
        params.serial_number = Some(SerialNumber::from(serial.clone()));
        let certificate = params.signed_by(key, &self.issuer)?.into();
        // X.509 knows whole seconds.
        Ok(Issued { certificate, serial, expires_at: Timestamp::from_millis(not_after.seconds() * 1_000) })
    }
}

/// Opens the authority's private key (PKCS #8).
///
/// # Errors
/// [`AuthorityError::Exchanged`] or [`AuthorityError::Vault`].
pub(crate) fn open_key(vault: &Vault, stored: &StoredAuthority) -> Result<SecretBytes, AuthorityError> {
    let print = print_of(stored);
    vault.open(Place::authority(print.as_bytes()), &stored.key).map_err(|error| match error {
        VaultError::Seal(_) => AuthorityError::Exchanged,
        other => AuthorityError::Vault(other),
    })
}

/// The authority's private key, sealed under the vault key that seals now.
///
/// # Errors
/// As [`open_key`].
pub(crate) fn rewrap_key(vault: &Vault, stored: &StoredAuthority) -> Result<Sealed, VaultError> {
    vault.rewrap(Place::authority(print_of(stored).as_bytes()), &stored.key)
}

fn print_of(stored: &StoredAuthority) -> Fingerprint {
    Fingerprint::of(&CertificateDer::from(stored.certificate.as_slice()))
}

async fn make(
    store: &Store,
    vault: &Vault,
    deployment: DeploymentId,
    now: Timestamp,
) -> Result<StoredAuthority, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("KeyForge {deployment}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.not_before = date(Timestamp::from_nanos(now.nanos().saturating_sub(nanos(CLOCK_SKEW))));
    params.not_after = date(now.saturating_add(AUTHORITY_LIFE));
    params.serial_number = Some(SerialNumber::from(serial(None)?));
    let certificate: CertificateDer<'static> = params.self_signed(&key)?.into();
    let print = Fingerprint::of(&certificate);
    let sealed = vault.seal(Place::authority(print.as_bytes()), &SecretBytes::new(key.serialize_der()))?;
    let new = StoredAuthority { certificate: certificate.to_vec(), key: sealed, created_at: now };
    let mut tx = store.write().await?;
    nodes::insert_authority(&mut tx, &new).await?;
    // Another control plane may have been faster; the first one stands.
    let stands = nodes::authority(&mut tx).await?.ok_or(StoreError::Corrupt("node_authority"))?;
    if stands == new {
        count(&mut tx, new.key.kek_term, 1).await?;
    }
    tx.commit().await.map_err(StoreError::from)?;
    if stands == new {
        tracing::info!(fingerprint = %print, "a certificate authority for the nodes was made");
    }
    Ok(stands)
}

/// A random positive number, of which the end tells in whose place the certificate is, if it is in the place of one.
fn serial(former: Option<&[u8]>) -> Result<Vec<u8>, AuthorityError> {
    let mut bytes = [0; SERIAL_LEN];
    getrandom::fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    // Positive, and as long as it looks.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    if let Some(former) = former {
        bytes[SERIAL_LEN - FORMER_LEN..].copy_from_slice(&mark_of(former));
    }
    Ok(bytes.to_vec())
}

/// Whether the certificate with this serial number was issued to whoever presented the one with `former`.
pub(super) fn takes_place_of(serial: &[u8], former: &[u8]) -> bool {
    serial.len() == SERIAL_LEN && serial.ends_with(&mark_of(former))
}

fn mark_of(serial: &[u8]) -> [u8; FORMER_LEN] {
    let digest = Sha256::digest(serial);
    std::array::from_fn(|at| digest[at])
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn date(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.seconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use keyforge_runtime::tls::peer::NamedCertificate;
    use keyforge_shared::clock::ManualClock;
    use keyforge_shared::secret::Key256;

    use super::*;
    use crate::store::vault_keys::{self, KnownKey};
    use crate::vault::{Kek, KekSource, Keyring};

    const NOW: Timestamp = Timestamp::from_millis(1_795_327_200_000);
    const DEPLOYMENT: DeploymentId = DeploymentId::from_bytes([1; 16]);

    async fn open(directory: &std::path::Path, key: u8) -> Result<Authority, AuthorityError> {
        let clock = Arc::new(ManualClock::at(NOW));
        let store = Store::open(&directory.join("data"), clock.clone()).await.unwrap();
        let kek = Arc::new(Kek::new(Key256::new([key; 32]), KekSource::Env("TEST".to_owned())));
        let keyring = Keyring::of_one(DEPLOYMENT, Arc::clone(&kek));
        let mut tx = store.write().await.unwrap();
        if vault_keys::all(&mut tx).await.unwrap().is_empty() {
            let id = kek.id(DEPLOYMENT);
            let first = KnownKey { term: 1, id, seals: true, wraps: 0, added_at: NOW };
            vault_keys::insert(&mut tx, &first).await.unwrap();
        }
        tx.commit().await.unwrap();
        let vault = Vault::new(keyring, DEPLOYMENT);
        let opened = Authority::open(&store, &vault, DEPLOYMENT, clock).await;
        store.close().await;
        opened
    }

    fn request(params: &CertificateParams) -> Vec<u8> {
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[tokio::test]
    async fn authority_survives_a_restart_and_opens_under_its_vault_key_only() {
        let directory = tempfile::tempdir().unwrap();
        let print = open(directory.path(), 1).await.unwrap().fingerprint();
        assert_eq!(open(directory.path(), 1).await.unwrap().fingerprint(), print);
        assert!(matches!(open(directory.path(), 2).await, Err(AuthorityError::Exchanged)));
    }

    #[tokio::test]
    async fn names_dates_and_rights_come_from_the_control_plane_whatever_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let authority = open(directory.path(), 1).await.unwrap();
        let mut greedy = CertificateParams::new(vec!["control-plane.internal".to_owned()]).unwrap();
        greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = ProvenKey::of_request(&request(&greedy)).unwrap();
        let node = NodeId::from_bytes([7; 16]);
        let issued = authority.certify_node(&key, node, Duration::from_secs(24 * 3600), None).unwrap();
        let named = NamedCertificate::parse(&issued.certificate).unwrap();
        assert_eq!(named.identity, Identity { deployment: DEPLOYMENT, role: Role::Node(node) });
        assert_eq!((named.serial, named.not_after), (issued.serial, issued.expires_at));
        assert_eq!(named.not_after, NOW.saturating_add(Duration::from_secs(24 * 3600)));
        assert_eq!(NOW.since(named.not_before), CLOCK_SKEW);
        let text = format!("{:?}", issued.certificate.as_ref());
        let hidden = format!("{:?}", b"control-plane.internal");
        assert!(!text.contains(hidden.trim_matches(['[', ']'])));
    }

    #[test]
    fn a_request_that_proves_no_key_is_refused() {
        let good = request(&CertificateParams::default());
        assert!(ProvenKey::of_request(&good).is_ok());
        let mut changed = good.clone();
        *changed.last_mut().unwrap() ^= 1;
        for wrong in [&changed[..], &good[..good.len() - 1], b"", b"garbage"] {
            assert!(matches!(ProvenKey::of_request(wrong), Err(AuthorityError::Request)));
        }
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let other = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        assert!(matches!(ProvenKey::of_request(&other), Err(AuthorityError::Request)));
    }
}
