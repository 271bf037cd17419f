//! One request to a registry: which redirects, which failures are worth another try.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::Client;
use super::answer::{passes, retry_after};
use super::arriving::{Arriving, Patience, in_pieces};
use super::auth::Access;
use crate::error::{Error, Result, shown};
use crate::reference::Reference;

const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECT_LIMIT: u32 = 10;
/// Tries of one request, the first counted.
pub(crate) const TRIES: u32 = 5;
const SILENT_WEIGHT: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const PAUSE_LIMIT: Duration = Duration::from_secs(30);

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

fn unreachable(url: &Url, error: reqwest::Error) -> Error {
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
        source: Some(innermost(&error.without_url()).into()),
    }
}

/// What it comes to: between that and the request only layers of the client tell that something is wrong.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

impl Client {
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
        self.sent(request, url, patience).await
    }

    /// The answer to a request, waited for as long as there is patience.
    pub(super) async fn sent(
        &self,
        request: reqwest::RequestBuilder,
        url: &Url,
        patience: &Patience,
    ) -> Result<Response, Failure> {
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
}

/// Gives an address that a host names on itself the scheme by which it was spoken to: behind a proxy that ends TLS it
/// does not know that.
pub(super) fn as_spoken(from: &Url, target: &mut Url) {
    if (from.scheme(), target.scheme()) == ("https", "http") && target.host() == from.host() {
        // Both fail only for addresses without a host, and this one has the other's.
        let _ = target.set_scheme("https");
        let _ = target.set_port(from.port());
    }
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
