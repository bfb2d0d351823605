//! The server's certificate, and whom it trusts.
//!
//! # Contract
//! * A certificate or key that cannot be used is an error at the start, never a server that speaks in clear.
//! * The files are read again within [`LOOK_EVERY`] of a change; where the new ones cannot be used, the old ones stay, and
//!   the log says so.
//! * TLS 1.2 and 1.3, by rustls and ring.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where certificate, key and authorities are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain in PEM, the server's own first.
    pub cert: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
    /// Authorities in PEM: with them every gateway must show a certificate that one of them has signed.
    pub client_ca: Option<PathBuf>,
}

/// A certificate in use.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    certificate: Arc<Certificate>,
    postgres: Arc<ServerConfig>,
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Certificate(RwLock<(Arc<CertifiedKey>, Stamp)>);

type Stamp = [Option<SystemTime>; 2];

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).0))
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub fn new(files: TlsFiles) -> Result<Self, String> {
        let stamp = stamp_of(&files);
        let key = certified(&files)?;
        let certificate = Arc::new(Certificate(RwLock::new((key, stamp))));
        let authorities = files.client_ca.as_deref().map(authorities).transpose()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = |protocol: &[u8], asks: bool| -> Result<Arc<ServerConfig>, String> {
            let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?;
            let builder = match authorities.as_ref().filter(|_| asks) {
                None => builder.with_no_client_auth(),
                Some(roots) => {
                    let roots = Arc::clone(roots);
                    let verifier =
                        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
                    builder.with_client_cert_verifier(
                        verifier.build().map_err(|error| error.to_string())?,
                    )
                }
            };
            let resolver = Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>;
            let mut config = builder.with_cert_resolver(resolver);
            config.alpn_protocols = vec![protocol.to_vec()];
            Ok(Arc::new(config))
        };
        let (postgres, grpc) = (config(b"postgresql", false)?, config(b"h2", true)?);
        let http = config(b"http/1.1", false)?;
        Ok(Self { files, certificate, postgres, grpc, http })
    }

    /// For PostgreSQL's clients.
    pub fn for_postgres(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.postgres)
    }

    /// For gRPC.
    pub fn for_grpc(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.grpc)
    }

    /// For HTTP.
    pub fn for_http(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.http)
    }

    /// Looks at the files for ever.
    pub async fn watch(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    fn look(&self) {
        let stamp = stamp_of(&self.files);
        let known = self.certificate.0.read().unwrap_or_else(PoisonError::into_inner).1;
        if stamp == known {
            return;
        }
        let mut certificate = self.certificate.0.write().unwrap_or_else(PoisonError::into_inner);
        certificate.1 = stamp;
        match certified(&self.files) {
            Ok(key) => {
                certificate.0 = key;
                tracing::info!("a new certificate is in use: {}", self.files.cert.display());
            }
            Err(error) => tracing::error!("the old certificate stays in use: {error}"),
        }
    }
}

fn stamp_of(files: &TlsFiles) -> Stamp {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    [changed(&files.cert), changed(&files.key)]
}

fn certified(files: &TlsFiles) -> Result<Arc<CertifiedKey>, String> {
    let chain = certificates(&files.cert)?;
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", files.key.display());
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&error))?;
    let key =
        rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| wrong(&error))?;
    let certified = CertifiedKey::new(chain, key);
    certified
        .keys_match()
        .map_err(|_| wrong(&format!("the key is not that of {}", files.cert.display())))?;
    Ok(Arc::new(certified))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let all = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
    if all.is_empty() { Err(wrong(&"there is no certificate in it")) } else { Ok(all) }
}

fn authorities(path: &Path) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(Arc::new(roots))
}
