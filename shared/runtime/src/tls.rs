//! TLS configurations: one cryptography provider (ring), chosen here and passed explicitly, so that no dependency's
//! feature flags can change it behind our back.
//!
//! Certificates and keys are PEM files. Errors name the file and never quote its contents. [`reload`] reads them again when they change;
//! [`mutual`] is TLS between the processes of a deployment, and [`peer`] what their certificates say.

pub mod mutual;
pub mod peer;
pub mod reload;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, pem};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;

use reload::ReloadingCertificate;

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
    /// A file is not PEM.
    #[error("{} is not a PEM file: {cause}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        cause: pem::Error,
    },
    /// A PEM file without a certificate.
    #[error("{} holds no certificate (a BEGIN CERTIFICATE block)", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The certificate and the key cannot be used, alone or together.
    #[error("cannot use {}: {cause}", path.display())]
    Unusable {
        /// The certificate file.
        path: PathBuf,
        /// What rustls found.
        cause: rustls::Error,
    },
    /// The provider does not support the protocol versions.
    #[error("TLS cannot be set up: {0}")]
    Provider(rustls::Error),
}

/// The one cryptography provider of the process.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// A server that presents what `certificate` holds at the moment and speaks HTTP/2 and HTTP/1.1 by ALPN.
///
/// # Errors
/// The provider does not support the protocol versions.
pub fn server_config(certificate: Arc<ReloadingCertificate>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Provider)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A client that trusts the public web roots and, if given, the certificates of one more file.
///
/// ALPN is left to the connector, which knows the HTTP versions that it speaks.
///
/// # Errors
/// The extra file cannot be read or holds no usable certificate.
pub fn client_config(extra_ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = extra_ca {
        for certificate in read_certificates(path)? {
            roots.add(certificate).map_err(|cause| TlsError::Unusable { path: path.to_owned(), cause })?;
        }
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Provider)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// DER bytes as a PEM block of this kind, such as `CERTIFICATE`.
#[must_use]
pub fn to_pem(label: &str, der: &[u8]) -> String {
    let text = zeroize::Zeroizing::new(BASE64.encode(der));
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 2 * label.len() + 40);
    pem.push_str("-----BEGIN ");
    pem.push_str(label);
    pem.push_str("-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| TlsError::Pem { path: path.to_owned(), cause })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|cause| TlsError::Read { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_is_chosen_once() {
        assert!(Arc::ptr_eq(&provider(), &provider()));
    }

    #[test]
    fn missing_and_empty_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty.pem");
        fs::write(&empty, "not a certificate\n").unwrap();
        let error = client_config(Some(&empty)).unwrap_err().to_string();
        assert!(error.contains("empty.pem holds no certificate"), "{error}");
        let error = ReloadingCertificate::load(Path::new("/no/such.pem"), &empty).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /no/such.pem: "), "{error}");
    }

    #[test]
    fn client_leaves_alpn_to_the_connector() {
        assert!(client_config(None).unwrap().alpn_protocols.is_empty());
    }
}
