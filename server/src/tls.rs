//! The server's certificate, and whom it trusts.
//!
//! # Contract
//! * A certificate, key, authority or revocation list that cannot be used is an error at the start, never a server that
//!   speaks in clear or trusts more than it was told to.
//! * The files are read again within [`LOOK_EVERY`] of a change of any of them; where the new ones cannot be used, the old
//!   ones stay, and the log says so. Connections that are there stay as they are.
//! * Where clients show certificates no session is resumed: that would take the certificate of an earlier connection for
//!   good, though it has expired or was revoked since.
//! * A revocation list that is older than it says it may be still counts, and the log says so.
//! * TLS 1.2 and 1.3, by rustls and ring.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the log says that a revocation list is old.
const WARN_EVERY: Duration = Duration::from_hours(1);

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
    /// When the first of the revocation lists is to be replaced, in seconds since 1970.
    lists_until: Option<i64>,
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
        let Configs { postgres, grpc, http, .. } = &current.0;
        Arc::clone(match protocol {
            Protocol::Postgres => postgres,
            Protocol::Grpc => grpc,
            Protocol::Http => http,
        })
    }

    /// Looks at the files for ever.
    pub async fn watch(&self) {
        let mut warned: Option<Instant> = None;
        loop {
            if self.has_old_lists(crate::access::now())
                && warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY)
            {
                warned = Some(Instant::now());
                let path = self.files.client_crl.as_deref().unwrap_or(Path::new(""));
                tracing::warn!("{}: a revocation list should have been replaced", path.display());
            }
            tokio::time::sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    /// Whether a revocation list says that there must be a newer one.
    fn has_old_lists(&self, now_s: i64) -> bool {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.0.lists_until.is_some_and(|until| until < now_s)
    }

    fn look(&self) {
        let stamp = stamp_of(&self.files);
        if stamp == self.current.read().unwrap_or_else(PoisonError::into_inner).1 {
            return;
        }
        let read = Configs::read(&self.files);
        // What could not be read may be readable the next time, though nothing has changed.
        let is_read = read.is_ok() || self.files.are_readable();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if is_read {
            current.1 = stamp;
        }
        match read {
            Ok(configs) => {
                current.0 = configs;
                tracing::info!("a new certificate is in use: {}", self.files.cert.display());
            }
            Err(error) => tracing::error!("the old certificate stays in use: {error}"),
        }
    }
}

impl TlsFiles {
    /// Whether each of them can be read, whatever is in it.
    fn are_readable(&self) -> bool {
        let Self { cert, key, client_ca, client_crl } = self;
        let all = [Some(cert), Some(key), client_ca.as_ref(), client_crl.as_ref()];
        all.into_iter().flatten().all(|path| std::fs::read(path).is_ok())
    }
}

impl Configs {
    fn read(files: &TlsFiles) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = Arc::new(SingleCertAndKey::from(certified(files)?));
        let lists = lists_of(files)?;
        let lists_until = lists.iter().filter_map(until).min();
        let verifier = verifier_of(files, lists, &provider)?;
        let config = |protocol: &[u8], clients| {
            config_of(&provider, Arc::clone(&key) as Arc<_>, protocol, clients)
        };
        let (postgres, http) = (config(b"postgresql", None)?, config(b"http/1.1", None)?);
        Ok(Self { postgres, grpc: config(b"h2", verifier)?, http, lists_until })
    }
}

/// How a protocol is spoken, and who checks certificates of clients if they are asked for any.
fn config_of(
    provider: &Arc<CryptoProvider>,
    key: Arc<dyn ResolvesServerCert>,
    protocol: &[u8],
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let asks = clients.is_some();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(key);
    config.alpn_protocols = vec![protocol.to_vec()];
    if asks {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        (config.send_tls13_tickets, config.max_tls13_tickets) = (0, 0);
    }
    Ok(Arc::new(config))
}

/// Who checks certificates of clients, if there are authorities.
fn verifier_of(
    files: &TlsFiles,
    lists: Vec<CertificateRevocationListDer<'static>>,
    provider: &Arc<CryptoProvider>,
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
    let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    let verifier = builder.with_crls(lists).build();
    let verifier = verifier.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(verifier))
}

/// The revocation lists, if there is a file of them.
fn lists_of(files: &TlsFiles) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let Some(path) = &files.client_crl else { return Ok(Vec::new()) };
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let lists = CertificateRevocationListDer::pem_file_iter(path);
    let lists = lists.map_err(|error| wrong(&error))?.collect::<Result<Vec<_>, _>>();
    let lists = lists.map_err(|error| wrong(&error))?;
    if lists.is_empty() { Err(wrong(&"there is no revocation list in it")) } else { Ok(lists) }
}

/// When a revocation list is to be replaced, in seconds since 1970.
fn until(list: &CertificateRevocationListDer<'_>) -> Option<i64> {
    let (_, list) = CertificateRevocationList::from_der(list.as_ref()).ok()?;
    list.next_update().map(|time| time.timestamp())
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

#[cfg(test)]
mod tests {
    use rustls::server::ResolvesServerCertUsingSni;

    use super::*;

    /// Some authority's certificate.
    const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdjCCARugAwIBAgIUfWumbyHOjo+yoXWTxwak1c4ig6gwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjkxOTEyMDhaGA8yMTI2MTEwNTE5MTIw
OFowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFiD
Pow48GzSqRsRnJoscSS/hmNjhTpZLaJpY6IFv+tMdVTVrDRgWQJXM5ykNVEnS6L1
8BYAm4Z1HNmTm8pgJUejUzBRMB0GA1UdDgQWBBRgcPTLTNYmD0HqPH3KrGx6KdB4
ijAfBgNVHSMEGDAWgBRgcPTLTNYmD0HqPH3KrGx6KdB4ijAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0kAMEYCIQDwixbjyiPdvib1q0N/Kdmqn5dXrMjnaYta
Y/JnpWaYZwIhAIZzF/2YyQo1doUOoxgpcmBbQuU4bh3FgR5TRB5f2wnz
-----END CERTIFICATE-----
";

    #[test]
    fn no_session_is_resumed_where_clients_show_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let [cert, key, ca] =
            ["server.pem", "server.key", "ca.pem"].map(|name| dir.path().join(name));
        std::fs::write(&ca, AUTHORITY).unwrap();
        let files = TlsFiles { cert, key, client_ca: Some(ca), client_crl: None };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = verifier_of(&files, Vec::new(), &provider).unwrap();
        assert!(verifier.is_some());
        for (clients, resumes) in [(verifier, false), (None, true)] {
            let key = Arc::new(ResolvesServerCertUsingSni::new());
            let config = config_of(&provider, key, b"h2", clients).unwrap();
            assert_eq!(config.session_storage.can_cache(), resumes);
            assert_eq!(config.send_tls13_tickets > 0, resumes);
            assert!(config.max_tls13_tickets == 0 && !config.ticketer.enabled());
        }
    }
}
