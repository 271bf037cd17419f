//! Answers: their headers, and of those that refuse whether another try may help, when, and what they say.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use url::Url;

use super::Client;
use super::transport::{Failure, failed};
use crate::error::{Error, shown};
use crate::reference::Reference;

/// What a registry may say about a refusal, in bytes.
const REFUSAL_LIMIT_BYTES: u64 = 64 << 10;
/// How long is waited for that: without it, the refusal is as clear.
const WORDS_TIME: Duration = Duration::from_secs(5);

/// As the distribution specification has it; codes that it does not know are as good.
#[derive(Deserialize)]
struct Refusal {
    errors: Vec<Said>,
}

#[derive(Default, Deserialize)]
struct Said {
    #[serde(default)]
    code: String,
    message: Option<String>,
}

/// One header of an answer, where it is text.
pub(super) fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// Whether a registry that answers so to a HEAD may know the same by a GET.
pub(super) fn knows_no_head(status: StatusCode) -> bool {
    status == StatusCode::NOT_IMPLEMENTED
        || (status.is_client_error()
            && !matches!(
                status,
                StatusCode::UNAUTHORIZED
                    | StatusCode::FORBIDDEN
                    | StatusCode::NOT_FOUND
                    | StatusCode::REQUEST_TIMEOUT
                    | StatusCode::TOO_MANY_REQUESTS
            ))
}

/// Whether the same request may be answered otherwise a little later.
pub(crate) fn passes(status: StatusCode) -> bool {
    let never = [
        StatusCode::NOT_IMPLEMENTED,
        StatusCode::HTTP_VERSION_NOT_SUPPORTED,
    ];
    (status.is_server_error() && !never.contains(&status))
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY
        )
}

/// When to try again, if the server says so: in seconds, or at a time (RFC 9110, 10.2.3); a time that is past is no
/// pause.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = super::date::parse(text)?;
    let now = std::time::SystemTime::now();
    Some(time.duration_since(now).unwrap_or_default())
}

impl Client {
    /// What a refusal is, with the registry's own words.
    pub(super) async fn refused(
        &self,
        url: &Url,
        reference: &Reference,
        response: Response,
    ) -> Failure {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let read = self.read_body(response, url, REFUSAL_LIMIT_BYTES);
        let said = match tokio::time::timeout(WORDS_TIME, read).await {
            Ok(Ok(body)) => said(&body),
            Ok(Err(_)) | Err(_) => Said::default(),
        };
        let words = said.message.filter(|text| !text.is_empty());
        let words = words.unwrap_or_else(|| said.code.clone());
        let with_words = |mut reason: String| {
            if !words.is_empty() {
                reason.push_str(": ");
                reason.push_str(&shown(words.as_bytes()));
            }
            failed(url, reason)
        };
        let error = match status {
            StatusCode::NOT_FOUND => Error::NotFound(reference.familiar()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => with_words(format!(
                "access to `{}` is denied: it may not exist, or need a login (`rbuild login {}`)",
                reference.familiar(),
                reference.registry
            )),
            StatusCode::TOO_MANY_REQUESTS => {
                with_words("it asks to wait: too many requests".to_owned())
            }
            other => with_words(format!("it answers {other}")),
        };
        Failure {
            error,
            passing: passes(status),
            silent: false,
            retry_after,
            status: Some(status),
            code: said.code.into(),
        }
    }
}

/// The first error.
fn said(body: &[u8]) -> Said {
    let refusal: Option<Refusal> = serde_json::from_slice(body).ok();
    let first = refusal.and_then(|refusal| refusal.errors.into_iter().next());
    first.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_codes() {
        for (body, code, message) in [
            (
                r#"{"errors":[{"code":"DIGEST_INVALID","message":"no","detail":{}}]}"#,
                "DIGEST_INVALID",
                Some("no"),
            ),
            (
                r#"{"errors":[{"code":"SOME_NEW_ONE"}]}"#,
                "SOME_NEW_ONE",
                None,
            ),
            (r#"{"errors":[]}"#, "", None),
            ("<html>", "", None),
        ] {
            let said = said(body.as_bytes());
            assert_eq!(
                (said.code.as_str(), said.message.as_deref()),
                (code, message)
            );
        }
    }

    #[test]
    fn what_passes() {
        for (status, passing) in [
            (429, true),
            (503, true),
            (501, false),
            (400, false),
            (404, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(passes(status), passing, "{status}");
        }
    }
}
