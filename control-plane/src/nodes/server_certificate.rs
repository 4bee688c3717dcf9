//! The certificate that this control plane presents: short-lived, its key never leaves the memory, exchanged before it expires.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use keyforge_runtime::shutdown::Shutdown;
use keyforge_runtime::tls;
use keyforge_shared::clock::{Clock, Timestamp};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::authority::{Authority, AuthorityError};

/// How often it is looked whether it is time for a new one, at most.
const LOOK: Duration = Duration::from_secs(60);

/// What is presented at the moment.
pub struct ServerCertificate {
    authority: Arc<Authority>,
    life: Duration,
    current: RwLock<Arc<CertifiedKey>>,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate")
    }
}

impl ServerCertificate {
    /// Makes the first one, good for `life`.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn new(authority: Arc<Authority>, life: Duration) -> Result<Arc<Self>, AuthorityError> {
        let first = make(&authority, life)?;
        Ok(Arc::new(Self { authority, life, current: RwLock::new(Arc::new(first)) }))
    }

    /// Exchanges it at two thirds of its life, until the process ends.
    pub fn rotate(self: &Arc<Self>, clock: Arc<dyn Clock>, shutdown: &Shutdown) {
        let this = Arc::clone(self);
        drop(shutdown.spawn_background("server_certificate", async move {
            let mut due = this.due(clock.now());
            loop {
                tokio::time::sleep(LOOK.min(this.life / 12).max(Duration::from_millis(100))).await;
                if clock.now() < due {
                    continue;
                }
                match make(&this.authority, this.life) {
                    Ok(new) => {
                        *this.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                        due = this.due(clock.now());
                    }
                    Err(error) => tracing::error!(%error, "the control plane's certificate cannot be renewed yet"),
                }
            }
        }));
    }

    fn due(&self, made: Timestamp) -> Timestamp {
        made.saturating_add(self.life * 2 / 3)
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// A certificate for a new key; the authority's own follows it, so that a client who knows only its fingerprint sees it.
fn make(authority: &Authority, life: Duration) -> Result<CertifiedKey, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let issued = authority.certify_control_plane(&key, life)?;
    let chain = vec![issued.certificate, authority.certificate().clone()];
    CertifiedKey::from_der(chain, PrivateKeyDer::from(key), &tls::provider()).map_err(|_| AuthorityError::Exchanged)
}
