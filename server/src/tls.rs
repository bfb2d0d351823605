//! The server's certificate, and whom it trusts.
//!
//! # Contract
//! * A certificate, key, authority or revocation list that cannot be used is an error at the start, never a server that
//!   speaks in clear or trusts more than it was told to.
//! * The files are read again within [`LOOK_EVERY`] of a change of any of them; where the new ones cannot be used, the old
//!   ones stay, and the log says so. Connections that are there stay as they are.
//! * TLS 1.2 and 1.3, by rustls and ring.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
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
    /// Revocation lists in PEM, of each of those authorities: what they list is refused.
    pub client_crl: Option<PathBuf>,
}

/// What is spoken beneath TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// PostgreSQL's.
    Postgres,
    /// gRPC: it alone asks for certificates of clients.
    Grpc,
    /// HTTP 1.1.
    Http,
}

/// A certificate in use.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: RwLock<(Configs, Stamp)>,
}

/// One for each protocol.
#[derive(Clone, Debug)]
struct Configs {
    postgres: Arc<ServerConfig>,
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
}

type Stamp = [Option<SystemTime>; 4];

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub fn new(files: TlsFiles) -> Result<Self, String> {
        let stamp = stamp_of(&files);
        let current = RwLock::new((Configs::read(&files)?, stamp));
        Ok(Self { files, current })
    }

    /// For a connection that begins now.
    pub fn config(&self, protocol: Protocol) -> Arc<ServerConfig> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let Configs { postgres, grpc, http } = &current.0;
        Arc::clone(match protocol {
            Protocol::Postgres => postgres,
            Protocol::Grpc => grpc,
            Protocol::Http => http,
        })
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
        if stamp == self.current.read().unwrap_or_else(PoisonError::into_inner).1 {
            return;
        }
        let read = Configs::read(&self.files);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.1 = stamp;
        match read {
            Ok(configs) => {
                current.0 = configs;
                tracing::info!("a new certificate is in use: {}", self.files.cert.display());
            }
            Err(error) => tracing::error!("the old certificate stays in use: {error}"),
        }
    }
}

impl Configs {
    fn read(files: &TlsFiles) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = Arc::new(SingleCertAndKey::from(certified(files)?));
        let verifier = verifier_of(files, &provider)?;
        let config = |protocol: &[u8], clients: Option<Arc<dyn ClientCertVerifier>>| {
            let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| error.to_string())?;
            let builder = match clients {
                None => builder.with_no_client_auth(),
                Some(verifier) => builder.with_client_cert_verifier(verifier),
            };
            let mut config = builder.with_cert_resolver(Arc::clone(&key) as Arc<_>);
            config.alpn_protocols = vec![protocol.to_vec()];
            Ok::<_, String>(Arc::new(config))
        };
        let (postgres, http) = (config(b"postgresql", None)?, config(b"http/1.1", None)?);
        Ok(Self { postgres, grpc: config(b"h2", verifier)?, http })
    }
}

/// Who checks certificates of clients, if there are authorities.
fn verifier_of(
    files: &TlsFiles,
    provider: &Arc<rustls::crypto::CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let Some(path) = &files.client_ca else {
        return match &files.client_crl {
            None => Ok(None),
            Some(path) => Err(format!(
                "{}: a list of revoked client certificates needs the authorities of clients, too",
                path.display()
            )),
        };
    };
    let roots = authorities(path)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    if let Some(path) = &files.client_crl {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let lists = CertificateRevocationListDer::pem_file_iter(path);
        let lists = lists.map_err(|error| wrong(&error))?.collect::<Result<Vec<_>, _>>();
        let lists = lists.map_err(|error| wrong(&error))?;
        if lists.is_empty() {
            return Err(wrong(&"there is no revocation list in it"));
        }
        builder = builder.with_crls(lists);
    }
    let verifier = builder.build().map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(verifier))
}

fn stamp_of(files: &TlsFiles) -> Stamp {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let optional = |path: &Option<PathBuf>| path.as_deref().and_then(changed);
    [
        changed(&files.cert),
        changed(&files.key),
        optional(&files.client_ca),
        optional(&files.client_crl),
    ]
}

fn certified(files: &TlsFiles) -> Result<CertifiedKey, String> {
    let chain = certificates(&files.cert)?;
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", files.key.display());
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&error))?;
    let key =
        rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| wrong(&error))?;
    let certified = CertifiedKey::new(chain, key);
    certified
        .keys_match()
        .map_err(|_| wrong(&format!("the key is not that of {}", files.cert.display())))?;
    Ok(certified)
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
