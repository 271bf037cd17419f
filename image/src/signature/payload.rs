//! What is signed: "simple signing" (containers-signature(5)), with cosign's type.

use std::collections::BTreeMap;

use rbuild_cache::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result};

const TYPE: &str = "cosign container image signature";

/// What is signed, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    critical: Critical,
    /// What the signer says besides.
    pub optional: Option<Map<String, Value>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Image {
    /// Written small by cosign, large in its specification.
    #[serde(rename = "docker-manifest-digest", alias = "Docker-manifest-digest")]
    digest: Digest,
}

impl Payload {
    pub(super) fn new(
        identity: &str,
        signed: Digest,
        annotations: &BTreeMap<String, String>,
    ) -> Self {
        let optional = annotations.iter();
        let optional: Map<String, Value> = optional
            .map(|(key, value)| (key.clone(), value.clone().into()))
            .collect();
        Self {
            critical: Critical {
                identity: Identity {
                    reference: identity.to_owned(),
                },
                image: Image { digest: signed },
                kind: TYPE.to_owned(),
            },
            optional: (!optional.is_empty()).then_some(optional),
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::BadDocument {
            document: "the payload of a signature".to_owned(),
            reason: error.to_string(),
        })
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Why this does not speak of `digest` with `annotations`; `None` where it does.
    pub(super) fn refuses(
        &self,
        digest: &Digest,
        annotations: &BTreeMap<String, String>,
    ) -> Option<String> {
        if self.critical.kind != TYPE {
            return Some("it is of another kind than a container image's".to_owned());
        }
        if self.critical.image.digest != *digest {
            let other = self.critical.image.digest;
            return Some(format!("it is of another image: {other}"));
        }
        let told = |key: &String| self.optional.as_ref()?.get(key);
        let missing = annotations
            .iter()
            .find(|(key, value)| told(key).and_then(Value::as_str) != Some(value.as_str()));
        missing.map(|(key, value)| format!("it does not say `{key}={value}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_cosigns() {
        let digest = Digest::of(b"x");
        let payload = Payload::new("localhost:5000/a", digest, &BTreeMap::new());
        let expected = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"localhost:5000/a"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#
        );
        assert_eq!(payload.encode().unwrap(), expected.as_bytes());
        let wanted = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        assert!(payload.refuses(&digest, &BTreeMap::new()).is_none());
        assert!(payload.refuses(&digest, &wanted).is_some());
        assert!(
            payload
                .refuses(&Digest::of(b"y"), &BTreeMap::new())
                .is_some()
        );
        let said = Payload::new("", digest, &wanted);
        assert!(said.refuses(&digest, &wanted).is_none());
        assert!(Payload::parse(b"{}").is_none());
    }
}
