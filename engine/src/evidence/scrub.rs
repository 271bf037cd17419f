//! Keeps out of statements what nobody may read: names and passwords in URLs, secrets, and values of arguments that
//! are called like secrets. Everything that is said goes through here, whatever it was.

use std::sync::Arc;

use serde_json::Value;

use crate::lint::looks_secret;
use crate::lower::remote::without_userinfo;
use crate::lower::scope::PROXIES;
use crate::request::BuildRequest;
use crate::worker::log;

const MASK: &str = "***";

pub(super) struct Scrub {
    /// Longest first.
    values: Arc<[Vec<u8>]>,
}

impl Scrub {
    pub(super) fn new(request: &BuildRequest) -> Self {
        let secrets = request.secrets.iter().map(|secret| &*secret.data);
        let arguments = request
            .build_args
            .iter()
            .filter(|(name, _)| !may_be_told(name))
            .map(|(_, value)| value.as_bytes());
        Self {
            values: log::values(secrets.chain(arguments)),
        }
    }

    pub(super) fn text(&self, text: &str) -> String {
        let mut text = without_credentials(text);
        for value in self.values.iter() {
            // A value that is no UTF-8 cannot be in a text.
            if let Ok(value) = std::str::from_utf8(value)
                && text.contains(value)
            {
                text = text.replace(value, MASK);
            }
        }
        text
    }

    /// Scrubs every text in a document.
    pub(super) fn document(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.document(item)),
            Value::Object(fields) => fields.values_mut().for_each(|item| self.document(item)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Whether the value of a build argument may be told.
pub(super) fn may_be_told(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    !PROXIES.contains(&lower.as_str()) && !looks_secret(name)
}

/// URLs without names, passwords, and values of parameters that are called like secrets.
fn without_credentials(text: &str) -> String {
    let text = without_userinfo(text);
    if !text.contains("://") || !text.contains('?') {
        return text;
    }
    let is_end = |c: char| matches!(c, '&' | '#' | '"' | '\'') || c.is_whitespace();
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(mark) = rest.find(['?', '&']) {
        let (before, after) = rest.split_at(mark + 1);
        out.push_str(before);
        let end = after.find(is_end).unwrap_or(after.len());
        let (pair, tail) = after.split_at(end);
        match pair.split_once('=') {
            Some((key, _)) if looks_secret(&key.replace('-', "_")) || is_signature(key) => {
                out.push_str(key);
                out.push('=');
                out.push_str(MASK);
            }
            _ => out.push_str(pair),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// Presigned addresses are credentials for as long as they hold.
fn is_signature(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key == "sig" || key.ends_with("signature")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_their_credentials() {
        for (text, expected) in [
            ("https://u:p@host/x", "https://host/x"),
            (
                "ADD https://host/x?a=1&access_token=abc#y /z",
                "ADD https://host/x?a=1&access_token=***#y /z",
            ),
            (
                "https://host/x?X-Amz-Signature=abc&X-Amz-Date=1",
                "https://host/x?X-Amz-Signature=***&X-Amz-Date=1",
            ),
            ("a && b ? c", "a && b ? c"),
        ] {
            assert_eq!(without_credentials(text), expected);
        }
    }

    #[test]
    fn secrets_are_masked_everywhere() {
        let scrub = Scrub {
            values: log::values([b"hunter22\n".as_slice(), b"no"]),
        };
        let mut document =
            serde_json::json!({"a": ["echo hunter22 no", 1], "b": {"c": "hunter22"}});
        scrub.document(&mut document);
        assert_eq!(
            document,
            serde_json::json!({"a": ["echo *** no", 1], "b": {"c": "***"}})
        );
    }

    #[test]
    fn names_tell_what_may_be_told() {
        assert!(may_be_told("VERSION") && may_be_told("PUBLIC_KEY"));
        for name in [
            "HTTPS_PROXY",
            "http_proxy",
            "NPM_TOKEN",
            "DB_PASSWORD",
            "API_KEY",
        ] {
            assert!(!may_be_told(name), "{name}");
        }
    }
}
