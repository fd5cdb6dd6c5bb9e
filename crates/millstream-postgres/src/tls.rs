//! TLS as libpq understands it: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`.
//!
//! `disable` never, `prefer` where the server offers it, `require` always; these three do not ask who the server is,
//! unless `sslrootcert` is given with `require`. `verify-ca` demands a certificate of `sslrootcert`, `verify-full`
//! that it also names the host. `sslrootcert=system` takes the system's bundle of authorities.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_core::{Error, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// How much is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// The modes by libpq's names.
pub(crate) const MODES: &[(&str, Mode)] = &[
    ("disable", Mode::Disable),
    ("prefer", Mode::Prefer),
    ("require", Mode::Require),
    ("verify-ca", Mode::VerifyCa),
    ("verify-full", Mode::VerifyFull),
];

/// The options of TLS.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) mode: Mode,
    pub(crate) root: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// Where systems keep their authorities.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

impl Tls {
    /// What the client library is told.
    pub(crate) fn ssl_mode(&self) -> SslMode {
        match self.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        }
    }

    /// What makes the TLS side of a connection.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where a file can't be read or does not hold what it should.
    pub(crate) fn connector(&self) -> Result<MakeRustlsConnect> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let bug = |e: rustls::Error| Error::bug("the TLS client can't be set up").caused_by(e);
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(bug)?;
        let verifier: Arc<dyn ServerCertVerifier> = match (self.mode, &self.root) {
            (Mode::Disable | Mode::Prefer, _) | (Mode::Require, None) => Arc::new(AnyName { vouching: None, provider }),
            (Mode::VerifyFull, Some(root)) => verifier(root, provider)?,
            (Mode::Require | Mode::VerifyCa, Some(root)) => {
                Arc::new(AnyName { vouching: Some(verifier(root, provider.clone())?), provider })
            }
            (Mode::VerifyCa | Mode::VerifyFull, None) => {
                return Err(Error::config(
                    "'sslmode' asks whose server it is, and no authority is trusted: add 'sslrootcert' with a file, or \
                     'sslrootcert' = 'system'",
                ));
            }
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let config = match (&self.certificate, &self.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let parsed = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable("sslkey", key, e))?;
                builder.with_client_auth_cert(chain, parsed).map_err(|e| unreadable("sslkey", key, e))?
            }
            _ => return Err(Error::config("'sslcert' and 'sslkey' belong together: give both, or none")),
        };
        Ok(MakeRustlsConnect::new(config))
    }
}

fn unreadable(option: &str, path: &Path, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::config(format!("the option '{option}': {} is no readable PEM file for it", path.display())).caused_by(cause)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    read.map_err(|e| unreadable("sslcert", path, e))
}

fn verifier(root: &Path, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    let system = root == Path::new("system");
    let path = match system {
        false => root.to_path_buf(),
        true => {
            let given = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
            let found = given.or_else(|| SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists()));
            found.ok_or_else(|| {
                Error::config("'sslrootcert' = 'system': no bundle of authorities was found; set SSL_CERT_FILE")
            })?
        }
    };
    let mut roots = RootCertStore::empty();
    let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    for certificate in read.map_err(|e| unreadable("sslrootcert", &path, e))? {
        match roots.add(certificate) {
            // A system's bundle may hold what rustls can't read; a file of one's own should not.
            Err(e) if !system => return Err(unreadable("sslrootcert", &path, e)),
            _ => {}
        }
    }
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map_err(|e| unreadable("sslrootcert", &path, e))
}

/// Asks less of a server than its name: only whose authority vouches for it, or nothing. That the other side holds the key
/// of the certificate it shows is always checked.
#[derive(Debug)]
struct AnyName {
    /// The authorities one of which must vouch; without them anybody is believed.
    vouching: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(vouching) = &self.vouching else { return Ok(ServerCertVerified::assertion()) };
        // The name is compared last: this error means that everything else is right.
        match vouching.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
