//! How a client proves who it is, and knows the server by its certificate.

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::error::{Error, Result};
use crate::options::with_scheme;
use crate::session::with_causes;

/// A token, and whom to trust. Without anything in it a client is nobody, and trusts the authorities that the system
/// trusts.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The token, as `tagmill token create` shows it.
    pub token: Option<String>,
    /// Authorities in PEM that have signed the server's certificate; the system's if there are none.
    pub authorities: Option<Vec<u8>>,
    /// The client's own certificate chain and private key in PEM, for servers that ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// A connection on which every call says who calls.
pub type Secured = InterceptedService<Channel, Bearer>;

/// Adds the token to a call.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("has_token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bearer").field("has_token", &self.0.is_some()).finish()
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Credentials {
    /// A token alone.
    pub fn of_token(token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..Self::default() }
    }

    /// What the environment says: the token in `TAGMILL_TOKEN`, and files named by `TAGMILL_CA`, `TAGMILL_CERT` and
    /// `TAGMILL_KEY`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a file cannot be read.
    pub fn from_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let file = |name: &str| variable(name).map(|path| read(name, Path::new(&path))).transpose();
        let identity = file("TAGMILL_CERT")?.zip(file("TAGMILL_KEY")?);
        let (token, authorities) = (variable("TAGMILL_TOKEN"), file("TAGMILL_CA")?);
        Ok(Self { token, authorities, identity })
    }

    /// Connects to a server, such as `127.0.0.1:7410` or `https://plant:7410`, as the endpoint is tuned.
    ///
    /// # Errors
    /// [`Error::Unreachable`]; [`Error::Invalid`] for an address that is none, a token that is none, or one that would
    /// travel in clear to another machine.
    pub async fn connect(
        &self,
        address: &str,
        tune: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Secured> {
        let uri = with_scheme(address);
        let wrong = |why: &dyn std::fmt::Display| Error::Invalid(format!("{uri}: {why}"));
        let endpoint = Endpoint::from_shared(uri.clone())
            .map_err(|error| Error::Invalid(format!("{uri} is not an address: {error}")))?;
        let is_tls = endpoint.uri().scheme_str() == Some("https");
        let bearer = self.bearer().map_err(|why| wrong(&why))?;
        if bearer.0.is_some() && !is_tls && !is_loopback(endpoint.uri().host().unwrap_or_default())
        {
            return Err(wrong(
                &"the token would travel in clear: write https:// before the address",
            ));
        }
        let mut endpoint = tune(endpoint);
        if is_tls {
            let mut tls = ClientTlsConfig::new();
            tls = match &self.authorities {
                Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
                None => tls.with_native_roots(),
            };
            if let Some((cert, key)) = &self.identity {
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| wrong(&with_causes(&error)))?;
        }
        let connected = endpoint.connect().await;
        let unreachable = |error| Error::Unreachable { uri: uri.clone(), why: with_causes(&error) };
        Ok(InterceptedService::new(connected.map_err(unreachable)?, bearer))
    }

    fn bearer(&self) -> Result<Bearer, &'static str> {
        let Some(token) = &self.token else { return Ok(Bearer(None)) };
        let value = format!("Bearer {}", token.trim());
        let mut value: MetadataValue<Ascii> =
            value.parse().map_err(|_| "the token holds characters that no token has")?;
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>> {
    let wrong = |error| Error::Invalid(format!("{name}: {}: {error}", path.display()));
    std::fs::read(path).map_err(wrong)
}

/// Whether an address is this machine's own, which nobody else hears.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_never_travels_in_clear_to_another_machine() {
        let credentials = Credentials::of_token("tgm_x");
        for address in ["192.0.2.1:7410", "http://plant:7410", "http://[2001:db8::1]:7410"] {
            let error = credentials.connect(address, |endpoint| endpoint).await.unwrap_err();
            assert!(error.to_string().contains("in clear"), "{address}: {error}");
        }
        for host in ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        assert!(Credentials::of_token("a\nb").bearer().is_err());
        let shown = format!("{credentials:?} {:?}", credentials.bearer().unwrap());
        assert!(!shown.contains("tgm_x"), "{shown}");
    }
}
