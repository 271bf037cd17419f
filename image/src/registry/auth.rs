//! Challenges and tokens (distribution's token specification): what is sent as `Authorization`, to whom.
//!
//! An authorization is kept for one registry, repository and kind of access. Passwords go to the registry itself
//! (Basic) or to the realm that it names (Bearer), which must be https where the registry is.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Response};
use url::Url;

use super::Client;
use super::answer::header;
use super::arriving::Patience;
use super::credentials::Login;
use super::transport::{Failure, as_spoken, failed, is_redirect};
use crate::reference::Reference;

const TOKEN_LIMIT_BYTES: u64 = 1 << 20;
/// What a token lives where its issuer does not say.
const TOKEN_SECONDS: u64 = 60;
/// A token this close to its end is not used for something new; of one that lives shortly, less.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);

/// What a call wants to do, as far as it matters to who issues tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) enum Access {
    /// See whether credentials are good: no repository.
    Login,
    #[default]
    Pull,
    /// Push, and read from these repositories of the same registry (to mount their blobs).
    Push { from: Vec<String> },
}

impl Access {
    fn is_more_than_needed(&self) -> bool {
        matches!(self, Self::Push { from } if !from.is_empty())
    }

    /// What is needed and no more, whatever the registry suggests.
    fn scopes(&self, repository: &str) -> Vec<String> {
        match self {
            Self::Login => Vec::new(),
            Self::Pull => vec![format!("repository:{repository}:pull")],
            Self::Push { from } => {
                let mut scopes = vec![format!("repository:{repository}:pull,push")];
                scopes.extend(from.iter().map(|from| format!("repository:{from}:pull")));
                scopes
            }
        }
    }
}

/// By registry, repository and what may be done there.
type Key = (String, String, Access);

#[derive(Debug, Default)]
pub(super) struct Authorizations {
    known: Mutex<HashMap<Key, Authorization>>,
    /// What registries asked for, by name: of another repository they ask the same.
    challenges: Mutex<HashMap<String, Challenge>>,
    /// Held by who gets a new one: the others of many that meet a challenge at once then find it.
    renewing: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Authorization {
    header: String,
    /// Until when, and how to get the next one.
    renewal: Option<(Instant, Challenge)>,
}

impl Authorization {
    fn is_fresh(&self) -> bool {
        let until = self.renewal.as_ref().map(|(until, _)| *until);
        until.is_none_or(|until| until > Instant::now())
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(secret)")
    }
}

/// A `WWW-Authenticate` that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

impl Client {
    /// What to send with a call, if something is known. A token that is near its end is renewed first, so that a
    /// long push does not send its bytes in vain.
    pub(super) async fn authorization(
        &self,
        reference: &Reference,
        access: &Access,
        registry: &Url,
    ) -> Result<Option<String>, Failure> {
        let known = self.known(reference, access);
        let challenge = match &known {
            Some(known) if known.is_fresh() => return Ok(Some(known.header.clone())),
            Some(known) => known
                .renewal
                .as_ref()
                .map(|(_, challenge)| challenge.clone()),
            None => self.challenge_of(reference),
        };
        let Some(challenge) = challenge else {
            return Ok(None);
        };
        let _renewing = self.inner.authorizations.renewing.lock().await;
        if let Some(other) = self
            .known(reference, access)
            .filter(Authorization::is_fresh)
        {
            return Ok(Some(other.header));
        }
        // Where this fails, the registry's own challenge says more.
        match self.accept(reference, access, registry, &challenge).await {
            Ok(header) => Ok(Some(header)),
            Err(failure) => {
                tracing::debug!(error = %failure.error, "no token without being asked for one");
                Ok(None)
            }
        }
    }

    fn challenge_of(&self, reference: &Reference) -> Option<Challenge> {
        let challenges = self.inner.authorizations.challenges.lock();
        let challenges = challenges.unwrap_or_else(PoisonError::into_inner);
        challenges.get(&reference.registry).cloned()
    }

    fn known(&self, reference: &Reference, access: &Access) -> Option<Authorization> {
        let known = self.inner.authorizations.known.lock();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        known.get(&key(reference, access)).cloned()
    }

    /// Gets an authorization that answers one of the challenges. `refused` is what the registry did not accept.
    pub(super) async fn answer(
        &self,
        reference: &Reference,
        access: &Access,
        registry: &Url,
        challenges: &[String],
        refused: Option<&str>,
    ) -> Result<(), Failure> {
        let parsed: Vec<Challenge> = challenges.iter().flat_map(|text| parse(text)).collect();
        let is_bearer = |challenge: &&Challenge| matches!(challenge, Challenge::Bearer { .. });
        let challenge = parsed.iter().find(is_bearer).or(parsed.first());
        let _renewing = self.inner.authorizations.renewing.lock().await;
        if let Some(other) = self.known(reference, access)
            && other.is_fresh()
            && Some(other.header.as_str()) != refused
        {
            return Ok(());
        }
        let Some(challenge) = challenge else {
            let reason = "it refuses, and does not say how to log in";
            return Err(Failure::lasting(failed(registry, reason)));
        };
        self.accept(reference, access, registry, challenge).await?;
        let challenges = self.inner.authorizations.challenges.lock();
        challenges
            .unwrap_or_else(PoisonError::into_inner)
            .insert(reference.registry.clone(), challenge.clone());
        Ok(())
    }

    async fn accept(
        &self,
        reference: &Reference,
        access: &Access,
        registry: &Url,
        challenge: &Challenge,
    ) -> Result<String, Failure> {
        let login = self.login_for(reference).await.map_err(Failure::lasting)?;
        let authorization = match challenge {
            Challenge::Bearer { realm, service } => {
                let asked = Asked {
                    reference,
                    access,
                    registry,
                    realm,
                    service: service.as_deref(),
                };
                let token = match self.token(&asked, login.as_ref()).await {
                    // Leave to read elsewhere only spares sending; some issuers refuse all where they refuse a part.
                    Err(failure) if access.is_more_than_needed() && failure.is_refusal() => {
                        let access = &Access::Push { from: Vec::new() };
                        let asked = Asked { access, ..asked };
                        self.token(&asked, login.as_ref()).await
                    }
                    token => token,
                };
                let (header, until) = token?;
                Authorization {
                    header,
                    renewal: Some((until, challenge.clone())),
                }
            }
            Challenge::Basic => {
                let header = login.as_ref().and_then(basic).ok_or_else(|| {
                    let registry_name = &reference.registry;
                    let reason = format!(
                        "`{}` needs a login (`rbuild login {registry_name}`)",
                        reference.familiar()
                    );
                    Failure::lasting(failed(registry, reason))
                })?;
                Authorization {
                    header,
                    renewal: None,
                }
            }
        };
        let header = authorization.header.clone();
        let known = self.inner.authorizations.known.lock();
        known
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key(reference, access), authorization);
        Ok(header)
    }

    /// Fetches a token: with an identity token by OAuth2, else by the older GET with a password or without.
    async fn token(
        &self,
        asked: &Asked<'_>,
        login: Option<&Login>,
    ) -> Result<(String, Instant), Failure> {
        #[derive(serde::Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let registry = asked.registry;
        let lasting = |url: &Url, reason: &str| Failure::lasting(failed(url, reason));
        let mut url = Url::parse(asked.realm)
            .map_err(|_| lasting(registry, "it names no address to get a token from"))?;
        as_spoken(registry, &mut url);
        let allowed = url.scheme() == "https"
            || (url.scheme() == "http" && (registry.scheme() == "http" || self.is_lax(&url)));
        if !allowed {
            return Err(lasting(registry, "it wants a token fetched without TLS"));
        }
        let scopes = asked.access.scopes(&asked.reference.repository);
        let response = match login {
            Some(Login::IdentityToken(token)) => {
                let body = refresh_form(asked.service, &scopes, token);
                let mut headers = HeaderMap::new();
                let form = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(CONTENT_TYPE, form);
                let patience = Patience::ForBytes(body.len() as u64);
                let body = Some(body.into());
                self.request(&Method::POST, &url, &headers, None, body, &patience)
                    .await?
            }
            other => {
                {
                    let mut query = url.query_pairs_mut();
                    if let Some(service) = asked.service {
                        query.append_pair("service", service);
                    }
                    for scope in &scopes {
                        query.append_pair("scope", scope);
                    }
                }
                self.token_by_get(&mut url, other.and_then(basic)).await?
            }
        };
        let status = response.status();
        if !status.is_success() {
            let refused = self.refused(&url, asked.reference, response).await;
            if !refused.is(status) || refused.passing {
                return Err(refused);
            }
            let who = match asked.access {
                Access::Login => asked.reference.registry.clone(),
                Access::Pull | Access::Push { .. } => asked.reference.familiar(),
            };
            let error = failed(&url, format!("no token for `{who}`: {status}"));
            return Err(Failure { error, ..refused });
        }
        let body = self.read_body(response, &url, TOKEN_LIMIT_BYTES).await?;
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| lasting(&url, "its token cannot be read"))?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
        let token = token.ok_or_else(|| lasting(&url, "it gives no token"))?;
        let seconds = answer.expires_in.unwrap_or(TOKEN_SECONDS).clamp(1, 86_400);
        let lives = Duration::from_secs(seconds);
        let until = Instant::now() + lives.saturating_sub(TOKEN_MARGIN.min(lives / 4));
        Ok((format!("Bearer {token}"), until))
    }
}

impl Client {
    /// Asks for a token, and goes where that is answered with a redirect. The password stays with the host that the
    /// registry named.
    async fn token_by_get(
        &self,
        url: &mut Url,
        basic: Option<String>,
    ) -> Result<Response, Failure> {
        let named = url.origin();
        let mut redirects = 0;
        loop {
            let basic = basic.as_deref().filter(|_| url.origin() == named);
            let headers = HeaderMap::new();
            let patience = Patience::ForBytes(0);
            let asked = self.request(&Method::GET, url, &headers, basic, None, &patience);
            let response = asked.await?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            redirects += 1;
            let target = header(&response, LOCATION.as_str());
            *url = self
                .redirected(url, target.as_deref(), redirects)
                .map_err(Failure::lasting)?;
        }
    }
}

/// Whom a token is for, and who issues it.
struct Asked<'a> {
    reference: &'a Reference,
    access: &'a Access,
    registry: &'a Url,
    realm: &'a str,
    service: Option<&'a str>,
}

fn key(reference: &Reference, access: &Access) -> Key {
    let (registry, repository) = (reference.registry.clone(), reference.repository.clone());
    (registry, repository, access.clone())
}

fn basic(login: &Login) -> Option<String> {
    let Login::Password { user, password } = login else {
        return None;
    };
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    Some(format!("Basic {encoded}"))
}

/// The form of an OAuth2 request with a refresh token (RFC 6749, 6).
fn refresh_form(service: Option<&str>, scopes: &[String], token: &str) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "rbuild")
        .append_pair("service", service.unwrap_or_default());
    if !scopes.is_empty() {
        form.append_pair("scope", &scopes.join(" "));
    }
    form.append_pair("refresh_token", token).finish()
}

/// `Scheme key="value", key=value, Scheme …` (RFC 9110, 11.6.1): those that can be answered.
fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, HashMap<String, String>)> = Vec::new();
    for part in parts(header) {
        let (before, value) = match part.split_once('=') {
            Some((before, value)) => (before.trim(), Some(value.trim())),
            None => (part.trim(), None),
        };
        // A scheme stands before its first parameter, or alone, or before a word of its own.
        let (scheme, name) = match (before.rsplit_once(char::is_whitespace), value) {
            (Some((scheme, name)), Some(_)) => (Some(scheme.trim()), name),
            (Some((scheme, _)), None) => (Some(scheme.trim()), ""),
            (None, Some(_)) => (None, before),
            (None, None) => (Some(before), ""),
        };
        if let Some(scheme) = scheme {
            found.push((scheme.to_ascii_lowercase(), HashMap::new()));
        }
        if let (Some((_, parameters)), Some(value)) = (found.last_mut(), value) {
            parameters.insert(name.to_ascii_lowercase(), unquoted(value));
        }
    }
    let challenges = found.into_iter().filter_map(|(scheme, mut parameters)| {
        Some(match scheme.as_str() {
            "basic" => Challenge::Basic,
            "bearer" => Challenge::Bearer {
                realm: parameters.remove("realm")?,
                service: parameters.remove("service"),
            },
            _ => return None,
        })
    });
    challenges.collect()
}

/// What stands between commas that are not in quotes.
fn parts(header: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, character) in header.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => {
                parts.push(header.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(header.get(start..).unwrap_or_default());
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn unquoted(value: &str) -> String {
    let Some(quoted) = value.strip_prefix('"') else {
        return value.to_owned();
    };
    let mut text = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => text.extend(characters.next()),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let one = |realm: &str, service: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        };
        let bearer = |realm: &str, service: Option<&str>| vec![one(realm, service)];
        let table = [
            (
                r#"Bearer realm="https://a/token",service="b",scope="repository:x:pull,push""#,
                bearer("https://a/token", Some("b")),
            ),
            (
                r#"bearer Realm="https://a/\"t", error=x"#,
                bearer("https://a/\"t", None),
            ),
            (
                "Bearer realm=https://a/t, service=b",
                bearer("https://a/t", Some("b")),
            ),
            (r#"Basic realm="x""#, vec![Challenge::Basic]),
            ("Bearer", vec![]),
            ("Negotiate abc", vec![]),
            (r#"Bearer realm="open"#, bearer("open", None)),
            ("", vec![]),
            (
                r#"Negotiate, NTLM abc==, Basic realm="a, Bearer b", Bearer realm="https://a/t" , service=s"#,
                vec![Challenge::Basic, one("https://a/t", Some("s"))],
            ),
            (
                r#"Bearer realm="https://a/t",Basic realm=x"#,
                vec![one("https://a/t", None), Challenge::Basic],
            ),
            (
                "Bearer realm = \"r\" ,, Basic",
                vec![one("r", None), Challenge::Basic],
            ),
            ("=,==\"\\", vec![]),
        ];
        for (header, expected) in table {
            assert_eq!(parse(header), expected, "{header}");
        }
    }
}
