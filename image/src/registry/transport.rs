//! One request to a registry: which scheme, which redirects, which failures are worth another try.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::Client;
use super::Options;
use super::answer::{passes, retry_after};
use super::arriving::{Arriving, Patience, in_pieces};
use super::auth::Access;
use super::certificates::Certificates;
use super::direct::{Direct, is_loopback};
use crate::error::{Error, Result, shown};
use crate::reference::Reference;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A registry on this machine that does not answer TLS at once speaks plain HTTP.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECT_LIMIT: u32 = 10;
/// Tries of one request, the first counted.
pub(crate) const TRIES: u32 = 5;
const SILENT_WEIGHT: u32 = 2;
const NO_AUTHORITIES: &str = "no CA certificates were found by which it could be trusted: install the package \
    `ca-certificates`, or name a file of them (PEM), `--registry-ca FILE` for registries, `SSL_CERT_FILE=FILE` for all";
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const PAUSE_LIMIT: Duration = Duration::from_secs(30);

/// The HTTP clients, and which hosts speak what.
#[derive(Debug)]
pub(super) struct Transport {
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

impl Transport {
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
            // Nobody shows any.
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

/// What is asked of a registry.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Whose registry, for credentials and messages.
    pub(super) reference: &'a Reference,
    pub(super) access: &'a Access,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    /// At most, the first counted.
    pub(super) tries: u32,
}

impl<'a> Call<'a> {
    /// A call that only reads.
    pub(super) fn read(method: Method, reference: &'a Reference, url: Url) -> Self {
        Self {
            method,
            reference,
            access: &Access::Pull,
            url,
            headers: HeaderMap::new(),
            body: None,
            tries: TRIES,
        }
    }

    pub(super) fn headers(self, headers: HeaderMap) -> Self {
        Self { headers, ..self }
    }
}

/// A request that did not bring what was asked for, and whether another try may.
pub(crate) struct Failure {
    pub(super) error: Error,
    pub(super) passing: bool,
    /// It came of waiting in vain.
    pub(super) silent: bool,
    pub(super) retry_after: Option<Duration>,
    /// Of an answer that refuses.
    pub(super) status: Option<StatusCode>,
    /// The error's name in the answer, as the distribution specification has them; empty where it says none.
    pub(super) code: Box<str>,
}

impl Failure {
    pub(super) fn is(&self, status: StatusCode) -> bool {
        self.status == Some(status)
    }

    /// Whether the server understood, and does not do it.
    pub(super) fn is_refusal(&self) -> bool {
        !self.passing && self.status.is_some_and(|status| status.is_client_error())
    }

    pub(crate) fn lasting(error: Error) -> Self {
        Self {
            error,
            passing: false,
            silent: false,
            retry_after: None,
            status: None,
            code: Box::default(),
        }
    }

    pub(crate) fn passing(error: Error) -> Self {
        Self {
            passing: true,
            ..Self::lasting(error)
        }
    }

    /// Of a server that was waited for in vain.
    pub(super) fn silent(error: Error) -> Self {
        Self {
            silent: true,
            ..Self::passing(error)
        }
    }

    /// As how many tries it counts: who waited a minute has seen more than who was refused at once.
    pub(super) fn weight(&self) -> u32 {
        match self.silent {
            true => SILENT_WEIGHT,
            false => 1,
        }
    }

    /// The pause before try number `tries` + 1.
    pub(super) async fn pause(&self, tries: u32) {
        let usual = FIRST_PAUSE * 2_u32.saturating_pow(tries.min(10));
        let pause = self.retry_after.unwrap_or(usual).min(PAUSE_LIMIT);
        tokio::time::sleep(pause).await;
    }
}

/// Without query: signed addresses are secrets.
pub(super) fn shown_url(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    shown(url.as_str().as_bytes())
}

pub(super) fn failed(url: &Url, reason: impl Into<String>) -> Error {
    Error::Registry {
        url: shown_url(url),
        reason: reason.into(),
        source: None,
    }
}

pub(super) fn unreachable(url: &Url, error: reqwest::Error) -> Error {
    let reason = if error.is_timeout() {
        "it does not answer in time"
    } else if error.is_connect() {
        "cannot connect"
    } else {
        "the request failed"
    };
    Error::Registry {
        url: shown_url(url),
        reason: reason.to_owned(),
        source: Some(Box::new(error.without_url())),
    }
}

impl Client {
    pub(super) fn transport(&self) -> Result<&Transport> {
        if let Some(transport) = self.inner.transport.get() {
            return Ok(transport);
        }
        let transport = Transport::new(&self.inner.options)?;
        Ok(self.inner.transport.get_or_init(|| transport))
    }

    /// The address of something below `/v2/REPOSITORY/`.
    pub(super) async fn address(&self, reference: &Reference, path: &str) -> Result<Url> {
        let base = self.base(reference).await?;
        base.join(&format!("/v2/{}/{path}", reference.repository))
            .map_err(|error| failed(&base, error.to_string()))
    }

    /// Sends a request, again where that may help. Answers other than success are errors.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Response, Failure> {
        let mut tries = 0;
        loop {
            let failure = match self.send_once(call).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            tries += failure.weight();
            if !failure.passing || tries >= call.tries {
                return Err(failure);
            }
            tracing::debug!(error = %failure.error, tries, "trying again");
            failure.pause(tries).await;
        }
    }

    /// One try: follows redirects and answers one challenge. Credentials go to the reference's registry only, also
    /// where the call itself is for an address that the registry named.
    pub(super) async fn send_once(&self, call: &Call<'_>) -> Result<Response, Failure> {
        let reference = call.reference;
        let registry = self.base(reference).await.map_err(Failure::lasting)?;
        let mut url = call.url.clone();
        let (mut redirects, mut challenged) = (0, false);
        loop {
            let own = url.origin() == registry.origin();
            let authorization = match own {
                true => {
                    self.authorization(reference, call.access, &registry)
                        .await?
                }
                false => None,
            };
            let mut headers = call.headers.clone();
            let (body, patience) = match call.body.clone() {
                None => (None, Patience::ForBytes(0)),
                Some(bytes) => {
                    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
                    let (body, patience) = in_pieces(bytes);
                    (Some(body), patience)
                }
            };
            let response = self
                .request(
                    &call.method,
                    &url,
                    &headers,
                    authorization.as_deref(),
                    body,
                    &patience,
                )
                .await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && own && !challenged {
                challenged = true;
                let challenges = challenges(&response);
                drop(response);
                let refused = authorization.as_deref();
                self.answer(reference, call.access, &registry, &challenges, refused)
                    .await?;
                continue;
            }
            if is_redirect(status) {
                redirects += 1;
                let keeps_method = matches!(status.as_u16(), 307 | 308);
                if !keeps_method && call.method != Method::GET && call.method != Method::HEAD {
                    return Err(self.refused(&url, reference, response).await);
                }
                let target = response.headers().get(LOCATION);
                let target = target.and_then(|value| value.to_str().ok());
                url = self
                    .redirected(&url, target, redirects)
                    .map_err(Failure::lasting)?;
                continue;
            }
            if status.is_success() {
                return Ok(response);
            }
            return Err(self.refused(&url, reference, response).await);
        }
    }

    /// A bare request, without redirects and challenges.
    pub(super) async fn request(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&str>,
        body: Option<reqwest::Body>,
        patience: &Patience,
    ) -> Result<Response, Failure> {
        let client = self.http(url).map_err(Failure::lasting)?;
        let mut request = client
            .request(method.clone(), url.clone())
            .headers(headers.clone());
        if let Some(authorization) = authorization {
            request = request.header(reqwest::header::AUTHORIZATION, authorization);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let Some(sent) = patience.wait(self.idle(), request.send()).await else {
            return Err(Failure::silent(failed(url, "it does not answer in time")));
        };
        sent.map_err(|error| {
            let passing = !error.is_builder();
            Failure {
                passing,
                silent: error.is_timeout(),
                ..Failure::lasting(unreachable(url, error))
            }
        })
    }

    /// How long a server may be silent.
    pub(super) fn idle(&self) -> Duration {
        self.inner.options.idle_timeout.unwrap_or(IDLE_TIMEOUT)
    }

    /// The body of an answer, as it comes.
    pub(super) fn arriving(&self, response: Response, url: &Url) -> Arriving {
        Arriving::new(response, url, self.idle())
    }

    /// Asks once for what is at an address that has its own authority. Answers are the caller's to judge.
    pub(crate) async fn plain_once(
        &self,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let patience = Patience::ForBytes(0);
        self.request(&Method::GET, url, headers, None, None, &patience)
            .await
    }

    /// A request to an address that has its own authority, again where that may help. `body` gives it anew for each
    /// try. Answers are the caller's to judge.
    pub(crate) async fn plain(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: &(dyn Fn() -> (Option<reqwest::Body>, Patience) + Sync),
    ) -> Result<Response> {
        let mut tries = 0;
        loop {
            let (bytes, patience) = body();
            let sent = self
                .request(method, url, headers, None, bytes, &patience)
                .await;
            tries += sent.as_ref().err().map_or(1, Failure::weight);
            let failure = match sent {
                Ok(response) if passes(response.status()) && tries < TRIES => Failure {
                    retry_after: retry_after(response.headers()),
                    ..Failure::passing(failed(url, "it has trouble"))
                },
                Ok(response) => return Ok(response),
                Err(failure) if failure.passing && tries < TRIES => failure,
                Err(failure) => return Err(failure.error),
            };
            tracing::debug!(error = %failure.error, tries, "trying again");
            failure.pause(tries).await;
        }
    }

    /// The HTTP client for a host.
    fn http(&self, url: &Url) -> Result<reqwest::Client> {
        let transport = self.transport()?;
        if self.is_lax(url) {
            return Ok(transport.lax(url).clone());
        }
        let Some(host) = host_and_port(url).filter(|_| url.scheme() == "https") else {
            return Ok(transport.usual(url)?.clone());
        };
        let own = || transport.own.lock().unwrap_or_else(PoisonError::into_inner);
        let known = own().get(&host).cloned();
        let client = match known {
            Some(client) => client,
            None => {
                let found = Certificates::find(&self.inner.options, url)?;
                let builder = match transport.without_proxy.has(url) {
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
            None => Ok(transport.usual(url)?.clone()),
        }
    }

    /// Where a redirect leads: http and https only, not from https to http, and not for ever.
    pub(super) fn redirected(
        &self,
        from: &Url,
        target: Option<&str>,
        redirects: u32,
    ) -> Result<Url> {
        if redirects > REDIRECT_LIMIT {
            return Err(failed(
                from,
                format!("it redirects more than {REDIRECT_LIMIT} times"),
            ));
        }
        let target = target.ok_or_else(|| failed(from, "it redirects to nowhere"))?;
        let target = from
            .join(target)
            .map_err(|_| failed(from, "it redirects to what is no address"))?;
        match target.scheme() {
            "https" => Ok(target),
            "http" if from.scheme() == "http" || self.is_lax(&target) => Ok(target),
            "http" => Err(failed(from, "it redirects from https to http")),
            _ => Err(failed(
                from,
                "it redirects to what is neither http nor https",
            )),
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
        let transport = self.transport()?;
        let known = {
            let schemes = transport
                .schemes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            schemes.get(host).copied()
        };
        if let Some(scheme) = known {
            return parse(scheme);
        }
        let probe = https.join("/v2/").unwrap_or_else(|_| https.clone());
        let answer = transport.lax(&probe).get(probe).timeout(PROBE_TIMEOUT);
        let answer = answer.send().await;
        let scheme = if answer.is_ok() { "https" } else { "http" };
        let mut schemes = transport
            .schemes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        schemes.insert(host.to_owned(), scheme);
        parse(scheme)
    }

    /// Whether a host may be spoken to without TLS or without a valid certificate: on this machine, or named so.
    pub(super) fn is_lax(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else {
            return false;
        };
        let insecure = self.inner.options.insecure.iter().any(|known| {
            known == host
                || url
                    .port_or_known_default()
                    .is_some_and(|port| *known == format!("{host}:{port}"))
        });
        // Who gives a registry on this machine certificates wants them looked at.
        insecure || (is_loopback(url) && !Certificates::are_set(&self.inner.options, url))
    }
}

/// Gives an address that a host names on itself the scheme by which it was spoken to: behind a proxy that ends TLS it
/// does not know that.
pub(super) fn as_spoken(from: &Url, target: &mut Url) {
    if (from.scheme(), target.scheme()) == ("https", "http") && target.host() == from.host() {
        let _ = target.set_scheme("https");
        let _ = target.set_port(from.port());
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

pub(super) fn challenges(response: &Response) -> Vec<String> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE);
    headers
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect()
}

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_behind_a_proxy_is_spoken_to_as_before() {
        for (from, target, spoken) in [
            (
                "https://r.example/v2/",
                "http://r.example/token",
                "https://r.example/token",
            ),
            (
                "https://r.example:5000/",
                "http://r.example/t?a=b",
                "https://r.example:5000/t?a=b",
            ),
            (
                "https://r.example/",
                "http://r.example:8080/t",
                "https://r.example/t",
            ),
            (
                "https://r.example/",
                "http://other.example/t",
                "http://other.example/t",
            ),
            (
                "http://r.example/",
                "http://r.example/t",
                "http://r.example/t",
            ),
            (
                "http://r.example/",
                "https://r.example/t",
                "https://r.example/t",
            ),
        ] {
            let mut target = Url::parse(target).unwrap();
            as_spoken(&Url::parse(from).unwrap(), &mut target);
            assert_eq!(target.as_str(), spoken);
        }
    }
}
