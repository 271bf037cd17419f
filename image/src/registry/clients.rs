//! The HTTP client and the scheme for a host: with a proxy or without, whose certificates are looked at, and by whom.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use url::{Host, Url};

use super::certificates::Certificates;
use super::direct::{Direct, is_loopback};
use super::transport::shown_url;
use super::{Client, Options};
use crate::error::{Error, Result, shown};
use crate::reference::Reference;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A registry on this machine that does not answer TLS at once speaks plain HTTP.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);
const NO_AUTHORITIES: &str = "no CA certificates were found by which it could be trusted: install the package \
    `ca-certificates`, or name a file of them (PEM), `--registry-ca FILE` for registries, `SSL_CERT_FILE=FILE` for all";

/// The HTTP clients, and which hosts speak what.
#[derive(Debug)]
pub(super) struct Clients {
    /// With the system's proxy and verified certificates. This and the next two are made when they are first needed, for
    /// they read the system's authorities, and there may be none.
    usual: OnceLock<reqwest::Client>,
    /// The same without a proxy.
    direct: OnceLock<reqwest::Client>,
    /// With the system's proxy, and trusting nobody: for plain HTTP where there are no authorities.
    plain: OnceLock<reqwest::Client>,
    /// For hosts that need no valid certificate.
    lax: reqwest::Client,
    /// The same without a proxy: on this machine, above all.
    local: reqwest::Client,
    without_proxy: Direct,
    /// For hosts that certificates were found for, by host and port; `None` where there are none.
    own: Mutex<HashMap<String, Option<reqwest::Client>>>,
    schemes: Mutex<HashMap<String, &'static str>>,
}

impl Clients {
    fn new(options: &Options) -> Result<Self> {
        // An embedder may have installed a provider already; either will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let lax = builder().tls_danger_accept_invalid_certs(true).build();
        let local = builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .build();
        Ok(Self {
            usual: OnceLock::new(),
            direct: OnceLock::new(),
            plain: OnceLock::new(),
            lax: lax.map_err(|error| unusable("https", error))?,
            local: local.map_err(|error| unusable("https", error))?,
            without_proxy: Direct::read(&options.no_proxy),
            own: Mutex::default(),
            schemes: Mutex::default(),
        })
    }

    /// For a host that needs no valid certificate.
    pub(super) fn lax(&self, url: &Url) -> &reqwest::Client {
        match self.without_proxy.has(url) {
            true => &self.local,
            false => &self.lax,
        }
    }

    /// For a host that must show a valid certificate.
    pub(super) fn usual(&self, url: &Url) -> Result<&reqwest::Client> {
        let is_plain = url.scheme() == "http";
        match self.without_proxy.has(url) {
            // Over plain HTTP there are no certificates.
            true if is_plain => Ok(&self.local),
            true => kept(&self.direct, url, || builder().no_proxy()),
            false => match kept(&self.usual, url, builder) {
                Err(_) if is_plain => kept(&self.plain, url, || builder().tls_certs_only([])),
                usual => usual,
            },
        }
    }
}

/// The client that is kept in a place, or the one that is made now.
fn kept<'a>(
    place: &'a OnceLock<reqwest::Client>,
    url: &Url,
    builder: impl FnOnce() -> reqwest::ClientBuilder,
) -> Result<&'a reqwest::Client> {
    if let Some(client) = place.get() {
        return Ok(client);
    }
    let made = builder()
        .build()
        .map_err(|error| unusable(&shown_url(url), error))?;
    Ok(place.get_or_init(|| made))
}

/// How long is waited, `arriving` knows: a client's own limit on reading would end uploads that take longer.
fn builder() -> reqwest::ClientBuilder {
    crate::names::look_up_alone();
    // What is encoded on the way has another digest.
    let encodings = (ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    reqwest::Client::builder()
        .default_headers(HeaderMap::from_iter([encodings]))
        .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
}

fn unusable(url: &str, error: reqwest::Error) -> Error {
    let (reason, source): (_, Option<Box<dyn std::error::Error + Send + Sync>>) =
        match lacks_authorities(&error) {
            true => (NO_AUTHORITIES, None),
            false => (
                "the HTTP client cannot be set up",
                Some(Box::new(error.without_url())),
            ),
        };
    Error::Registry {
        url: url.to_owned(),
        reason: reason.to_owned(),
        source,
    }
}

/// Whether a client cannot be made because this machine trusts nobody. What is said by the verifier of certificates has
/// no kind of its own.
fn lacks_authorities(error: &reqwest::Error) -> bool {
    let first: &dyn std::error::Error = error;
    std::iter::successors(Some(first), |error| error.source())
        .any(|error| error.to_string().contains("No CA certificates"))
}

impl Client {
    pub(super) fn clients(&self) -> Result<&Clients> {
        if let Some(clients) = self.inner.clients.get() {
            return Ok(clients);
        }
        let clients = Clients::new(&self.inner.options)?;
        Ok(self.inner.clients.get_or_init(|| clients))
    }

    /// The HTTP client for a host.
    pub(super) fn http(&self, url: &Url) -> Result<reqwest::Client> {
        let clients = self.clients()?;
        if self.is_lax(url) {
            return Ok(clients.lax(url).clone());
        }
        let Some(host) = host_and_port(url).filter(|_| url.scheme() == "https") else {
            return Ok(clients.usual(url)?.clone());
        };
        let own = || clients.own.lock().unwrap_or_else(PoisonError::into_inner);
        let known = own().get(&host).cloned();
        let client = match known {
            Some(client) => client,
            None => {
                let found = Certificates::find(&self.inner.options, url)?;
                let builder = match clients.without_proxy.has(url) {
                    true => builder().no_proxy(),
                    false => builder(),
                };
                let client = found
                    .map(|found| found.apply(builder).build())
                    .transpose()
                    .map_err(|error| unusable(&shown_url(url), error))?;
                own().insert(host, client.clone());
                client
            }
        };
        match client {
            Some(client) => Ok(client),
            None => Ok(clients.usual(url)?.clone()),
        }
    }

    /// Scheme, host and port of a reference's registry.
    pub(super) async fn base(&self, reference: &Reference) -> Result<Url> {
        let host = match reference.registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/")).map_err(|error| Error::Registry {
                url: shown(host.as_bytes()),
                reason: error.to_string(),
                source: None,
            })
        };
        let https = parse("https")?;
        if !self.is_lax(&https) {
            return Ok(https);
        }
        let clients = self.clients()?;
        let known = {
            let schemes = clients
                .schemes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            schemes.get(host).copied()
        };
        if let Some(scheme) = known {
            return parse(scheme);
        }
        let probe = https.join("/v2/").unwrap_or_else(|_| https.clone());
        let answer = clients.lax(&probe).get(probe).timeout(PROBE_TIMEOUT);
        let answer = answer.send().await;
        let scheme = if answer.is_ok() { "https" } else { "http" };
        let mut schemes = clients
            .schemes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        schemes.insert(host.to_owned(), scheme);
        parse(scheme)
    }

    /// Whether a host may be spoken to without TLS or without a valid certificate: on this machine, or named so.
    pub(super) fn is_lax(&self, url: &Url) -> bool {
        let insecure = self.inner.options.insecure.iter();
        let insecure = insecure.map(String::as_str).any(|known| means(known, url));
        // Who gives a registry on this machine certificates wants them looked at.
        insecure || (is_loopback(url) && !Certificates::are_set(&self.inner.options, url))
    }
}

/// Whether `HOST`, `HOST:PORT` or a network such as `10.0.0.0/8` means an address.
fn means(known: &str, url: &Url) -> bool {
    if let Some((network, bits)) = known.split_once('/') {
        return bits.parse().is_ok_and(|bits| is_in(network, bits, url));
    }
    let Some(host) = url.host_str() else {
        return false;
    };
    let port = url.port_or_known_default().unwrap_or_default();
    known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(&format!("{host}:{port}"))
}

fn is_in(network: &str, bits: u32, url: &Url) -> bool {
    match (network.parse(), url.host()) {
        (Ok(IpAddr::V4(network)), Some(Host::Ipv4(host))) => {
            let differing = network.to_bits() ^ host.to_bits();
            bits <= u32::BITS && differing.checked_shr(u32::BITS - bits).unwrap_or_default() == 0
        }
        (Ok(IpAddr::V6(network)), Some(Host::Ipv6(host))) => {
            let differing = network.to_bits() ^ host.to_bits();
            bits <= u128::BITS && differing.checked_shr(u128::BITS - bits).unwrap_or_default() == 0
        }
        _ => false,
    }
}

/// As directories of certificates are called: the port only where it is not the scheme's.
pub(super) fn host_and_port(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_networks() {
        for (known, url, expected) in [
            ("r.example", "https://r.example:5000/", true),
            ("R.example:443", "https://r.Example/", true),
            ("r.example:80", "https://r.example/", false),
            ("10.0.0.0/8", "https://10.9.8.7:5000/", true),
            ("10.0.0.0/8", "https://11.0.0.1/", false),
            ("10.0.0.0/8", "https://r.example/", false),
            ("0.0.0.0/0", "https://8.8.8.8/", true),
            ("10.1.2.3/32", "https://10.1.2.3/", true),
            ("10.1.2.3/32", "https://10.1.2.2/", false),
            ("10.1.2.3/33", "https://10.1.2.3/", false),
            ("fd00::/8", "https://[fd12::1]:5000/", true),
            ("fd00::/8", "https://[fe12::1]/", false),
            ("::/0", "https://[fe12::1]/", true),
            ("[fd12::1]:5000", "https://[fd12::1]:5000/", true),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(means(known, &url), expected, "{known} {url}");
        }
    }
}
