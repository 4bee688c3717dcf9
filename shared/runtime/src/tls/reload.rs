//! A certificate chain and its key out of files, read again when they change.
//!
//! New files take the place of the old ones whole or not at all: while they cannot be read, or do not belong together, connections go on with
//! what was read last. Running connections keep the certificate that they began with.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{TlsError, provider, read, read_certificates};
use crate::shutdown::Shutdown;

/// What is presented at the moment.
pub struct ReloadingCertificate {
    certificates: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
}

impl fmt::Debug for ReloadingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReloadingCertificate({})", self.certificates.display())
    }
}

/// What a file looked like when it was read: when it was changed, its number and its length.
type Look = Option<(i64, i64, u64, u64)>;

impl ReloadingCertificate {
    /// Reads the chain in `certificates` (leaf first) and the key in `key`.
    ///
    /// # Errors
    /// A file cannot be read or parsed, or the key does not belong to the certificate.
    pub fn load(certificates: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let current = RwLock::new(Arc::new(load(certificates, key)?));
        Ok(Arc::new(Self { certificates: certificates.to_owned(), key: key.to_owned(), current }))
    }

    /// Looks at the files every so often, until the process ends, and reads them when they have changed. `told` hears how each change ended.
    pub fn watch(
        self: &Arc<Self>,
        every: Duration,
        told: impl Fn(Result<(), ()>) + Send + Sync + 'static,
        shutdown: &Shutdown,
    ) {
        let watched = Arc::clone(self);
        let mut seen = self.looks();
        drop(shutdown.spawn_background("certificate_files", async move {
            let mut failed = None;
            loop {
                tokio::time::sleep(every).await;
                let now = watched.looks();
                // Files are written in pieces and one after the other, so that a failure is no end: they are read until they fit.
                if now == seen && failed.is_none() {
                    continue;
                }
                seen = now;
                match watched.reload() {
                    Ok(()) => {
                        failed = None;
                        tracing::info!(file = %watched.certificates.display(), "a new certificate is presented from now on");
                        told(Ok(()));
                    }
                    Err(error) => {
                        let text = error.to_string();
                        if failed.as_ref() != Some(&text) {
                            tracing::warn!(error = text, "the new certificate cannot be used: the old one stays");
                            told(Err(()));
                        }
                        failed = Some(text);
                    }
                }
            }
        }));
    }

    fn reload(&self) -> Result<(), TlsError> {
        let new = Arc::new(load(&self.certificates, &self.key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    fn looks(&self) -> [Look; 2] {
        [&self.certificates, &self.key].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.mtime(), metadata.mtime_nsec(), metadata.ino(), metadata.len()))
        })
    }
}

impl ResolvesServerCert for ReloadingCertificate {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn load(certificates: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = read_certificates(certificates)?;
    let pem = zeroize::Zeroizing::new(read(key)?);
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|cause| TlsError::Pem { path: key.to_owned(), cause })?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|cause| TlsError::Unusable { path: certificates.to_owned(), cause })
}
