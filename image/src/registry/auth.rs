//! Challenges and tokens (distribution's token specification): what is sent as `Authorization`, to whom.
//!
//! An authorization is kept for one registry and repository. Passwords go to the registry itself (Basic) or to the
//! realm that it names (Bearer), which must be https where the registry is.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use reqwest::Method;
use reqwest::header::HeaderMap;
use url::Url;

use super::Client;
use super::pull::read_body;
use super::transport::{Failure, failed};
use crate::reference::Reference;

const TOKEN_LIMIT_BYTES: u64 = 1 << 20;
/// What a token lives where its issuer does not say.
const TOKEN_SECONDS: u64 = 60;
/// A token this close to its end is not used for something new.
const TOKEN_MARGIN: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Authorizations {
    /// By registry and repository.
    known: Mutex<HashMap<(String, String), Authorization>>,
}

struct Authorization {
    header: String,
    until: Option<Instant>,
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(secret)")
    }
}

/// A `WWW-Authenticate` that can be answered.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

impl Client {
    /// What to send with a request for a repository, if something is known.
    pub(super) fn authorization(&self, reference: &Reference) -> Option<String> {
        let known = self.inner.authorizations.known.lock();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        let authorization = known.get(&key(reference))?;
        if authorization
            .until
            .is_some_and(|until| until <= Instant::now() + TOKEN_MARGIN)
        {
            return None;
        }
        Some(authorization.header.clone())
    }

    /// Gets an authorization that answers one of the challenges.
    pub(super) async fn answer(
        &self,
        reference: &Reference,
        url: &Url,
        challenges: &[String],
    ) -> Result<(), Failure> {
        let parsed: Vec<Challenge> = challenges.iter().filter_map(|text| parse(text)).collect();
        let bearer = parsed.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service } => Some((realm, service)),
            Challenge::Basic => None,
        });
        let login = self.login(reference);
        let authorization = match bearer {
            Some((realm, service)) => {
                self.token(reference, url, realm, service.as_deref(), login.as_deref())
                    .await?
            }
            None => {
                let login = login.filter(|_| parsed.contains(&Challenge::Basic));
                let header = login.ok_or_else(|| {
                    let reason = format!("`{}` needs a login", reference.familiar());
                    Failure::lasting(failed(url, reason))
                })?;
                Authorization {
                    header,
                    until: None,
                }
            }
        };
        let known = self.inner.authorizations.known.lock();
        known
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key(reference), authorization);
        Ok(())
    }

    /// `Basic …` for a registry, if its password is known.
    fn login(&self, reference: &Reference) -> Option<String> {
        let credentials = self.credentials();
        let (user, password) = credentials.find(&reference.registry, &reference.repository)?;
        let joined = format!("{user}:{password}");
        let encoded = base64::engine::general_purpose::STANDARD.encode(joined);
        Some(format!("Basic {encoded}"))
    }

    async fn token(
        &self,
        reference: &Reference,
        registry: &Url,
        realm: &str,
        service: Option<&str>,
        login: Option<&str>,
    ) -> Result<Authorization, Failure> {
        #[derive(serde::Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let lasting = |url: &Url, reason: &str| Failure::lasting(failed(url, reason));
        let mut url = Url::parse(realm)
            .map_err(|_| lasting(registry, "it names no address to get a token from"))?;
        let allowed = url.scheme() == "https"
            || (url.scheme() == "http" && (registry.scheme() == "http" || self.is_lax(&url)));
        if !allowed {
            return Err(lasting(registry, "it wants a token fetched without TLS"));
        }
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            // What is needed and no more, whatever the registry suggests.
            query.append_pair(
                "scope",
                &format!("repository:{}:pull", reference.repository),
            );
        }
        let response = self
            .request(&Method::GET, &url, &HeaderMap::new(), login)
            .await?;
        let status = response.status();
        if !status.is_success() {
            let passing = status.is_server_error() || status.as_u16() == 429;
            let error = failed(
                &url,
                format!("no token for `{}`: {status}", reference.familiar()),
            );
            return Err(Failure {
                error,
                passing,
                retry_after: None,
            });
        }
        let body = read_body(response, &url, TOKEN_LIMIT_BYTES).await?;
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| lasting(&url, "its token cannot be read"))?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
        let token = token.ok_or_else(|| lasting(&url, "it gives no token"))?;
        // At least as long as the specification promises.
        let seconds = answer
            .expires_in
            .unwrap_or(TOKEN_SECONDS)
            .clamp(TOKEN_SECONDS, 86_400);
        Ok(Authorization {
            header: format!("Bearer {token}"),
            until: Some(Instant::now() + Duration::from_secs(seconds)),
        })
    }
}

fn key(reference: &Reference) -> (String, String) {
    (reference.registry.clone(), reference.repository.clone())
}

/// `Scheme key="value", key=value` (RFC 9110, 11.6.1); one challenge a header.
fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parameters(rest);
    Some(Challenge::Bearer {
        realm: parameters.remove("realm")?,
        service: parameters.remove("service"),
    })
}

fn parameters(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let mut value = String::new();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut characters = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, character)) = characters.next() {
                match character {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                    other => value.push(other),
                }
            }
            rest = quoted.get(end..).unwrap_or_default();
        } else {
            let (plain, after) = after.split_once(',').unwrap_or((after, ""));
            plain.trim().clone_into(&mut value);
            rest = after;
        }
        found.insert(name, value);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
            })
        };
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
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("Bearer", None),
            ("Negotiate abc", None),
            (r#"Bearer realm="open"#, bearer("open", None)),
            ("", None),
        ];
        for (header, expected) in table {
            assert_eq!(parse(header), expected, "{header}");
        }
    }
}
