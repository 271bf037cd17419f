//! One request to a registry: which scheme, which redirects, which failures are worth another try.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::{Client, Options};
use crate::error::{Error, Result, shown};
use crate::reference::Reference;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A registry on this machine that does not answer TLS at once speaks plain HTTP.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECT_LIMIT: u32 = 10;
/// Tries of one request, the first counted.
pub(super) const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const PAUSE_LIMIT: Duration = Duration::from_secs(30);

/// The HTTP clients, made when first needed, and which hosts speak what.
#[derive(Debug)]
pub(super) struct Transport {
    /// With the system's proxy and verified certificates.
    pub(super) usual: reqwest::Client,
    /// For hosts that need no valid certificate; on this machine, so without a proxy.
    pub(super) lax: reqwest::Client,
    schemes: Mutex<HashMap<String, &'static str>>,
}

impl Transport {
    fn new(options: &Options) -> Result<Self> {
        // An embedder may have installed a provider already; either will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let idle = options.idle_timeout.unwrap_or(IDLE_TIMEOUT);
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(idle)
        };
        let failed = |error: reqwest::Error| Error::Registry {
            url: "https".to_owned(),
            reason: "the HTTP client cannot be set up".to_owned(),
            source: Some(Box::new(error)),
        };
        Ok(Self {
            usual: builder().build().map_err(failed)?,
            lax: builder()
                .no_proxy()
                .tls_danger_accept_invalid_certs(true)
                .build()
                .map_err(failed)?,
            schemes: Mutex::default(),
        })
    }
}

/// A request that did not bring what was asked for, and whether another try may.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) passing: bool,
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn lasting(error: Error) -> Self {
        Self {
            error,
            passing: false,
            retry_after: None,
        }
    }

    pub(super) fn passing(error: Error) -> Self {
        Self {
            error,
            passing: true,
            retry_after: None,
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

    /// Sends a request for something below `/v2/REPOSITORY/`, again where that may help. Answers other than success
    /// are errors.
    pub(super) async fn send(
        &self,
        method: Method,
        reference: &Reference,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response> {
        let mut tries = 0;
        loop {
            let failure = match self.send_once(&method, reference, path, headers).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            tries += 1;
            if !failure.passing || tries >= TRIES {
                return Err(failure.error);
            }
            tracing::debug!(error = %failure.error, tries, "trying again");
            failure.pause(tries).await;
        }
    }

    /// One try: follows redirects and answers one challenge.
    pub(super) async fn send_once(
        &self,
        method: &Method,
        reference: &Reference,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let base = self.base(reference).await.map_err(Failure::lasting)?;
        let first = base
            .join(&format!("/v2/{}/{path}", reference.repository))
            .map_err(|error| Failure::lasting(failed(&base, error.to_string())))?;
        let mut url = first.clone();
        let (mut redirects, mut challenged) = (0, false);
        loop {
            let own = url.origin() == first.origin();
            let authorization = own.then(|| self.authorization(reference)).flatten();
            let response = self
                .request(method, &url, headers, authorization.as_deref())
                .await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && own && !challenged {
                challenged = true;
                let challenges = response.headers().get_all(WWW_AUTHENTICATE);
                let challenges: Vec<String> = challenges
                    .iter()
                    .filter_map(|value| value.to_str().ok().map(str::to_owned))
                    .collect();
                drop(response);
                self.answer(reference, &url, &challenges).await?;
                continue;
            }
            if is_redirect(status) {
                redirects += 1;
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
            return Err(refused(&url, reference, &response));
        }
    }

    /// A bare request, without redirects and challenges.
    pub(super) async fn request(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&str>,
    ) -> Result<Response, Failure> {
        let transport = self.transport().map_err(Failure::lasting)?;
        let client = if self.is_lax(url) {
            &transport.lax
        } else {
            &transport.usual
        };
        let mut request = client
            .request(method.clone(), url.clone())
            .headers(headers.clone());
        if let Some(authorization) = authorization {
            request = request.header(reqwest::header::AUTHORIZATION, authorization);
        }
        request.send().await.map_err(|error| {
            let passing = !error.is_builder();
            Failure {
                error: unreachable(url, error),
                passing,
                retry_after: None,
            }
        })
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
        let answer = transport.lax.get(probe).timeout(PROBE_TIMEOUT).send().await;
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
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let loopback = name == "localhost"
            || name
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        loopback
            || self.inner.options.insecure.iter().any(|known| {
                known == host
                    || url
                        .port_or_known_default()
                        .is_some_and(|port| *known == format!("{host}:{port}"))
            })
    }
}

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn refused(url: &Url, reference: &Reference, response: &Response) -> Failure {
    let status = response.status();
    let passing = status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        );
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let error = match status {
        StatusCode::NOT_FOUND => Error::NotFound(reference.familiar()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => failed(
            url,
            format!(
                "access to `{}` is denied: it may not exist, or need a login",
                reference.familiar()
            ),
        ),
        StatusCode::TOO_MANY_REQUESTS => failed(url, "it asks to wait: too many requests"),
        other => failed(url, format!("it answers {other}")),
    };
    Failure {
        error,
        passing,
        retry_after,
    }
}
