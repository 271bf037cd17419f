//! Image names: `[registry/]repository[:tag][@digest]`, with Docker's defaults (`docker.io`, `library/`, `latest`).

use std::fmt;
use std::str::FromStr;

use rbuild_cache::Digest;

use crate::{Error, Result};

/// An image's name, with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`.
    pub registry: String,
    /// `library/busybox`.
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const NAME_LIMIT_BYTES: usize = 255;
const TAG_LIMIT_BYTES: usize = 128;

impl Reference {
    /// As people write it: `busybox:latest`, `localhost:5000/x:1`.
    pub fn familiar(&self) -> String {
        let repository = &self.repository;
        let name = if self.registry == DEFAULT_REGISTRY {
            let short = repository.strip_prefix("library/");
            // `library/a/b` was written in full: without its first part it would mean something else.
            short
                .filter(|short| !short.contains('/'))
                .unwrap_or(repository)
                .to_owned()
        } else {
            format!("{}/{repository}", self.registry)
        };
        self.with_tag_and_digest(name)
    }

    /// With registry and, where there is no digest, tag: `docker.io/library/busybox:latest`.
    pub fn canonical(&self) -> String {
        self.with_tag_and_digest(format!("{}/{}", self.registry, self.repository))
    }

    /// The tag, `latest` where there is neither tag nor digest.
    pub fn tag_or_default(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG),
        }
    }

    fn with_tag_and_digest(&self, mut name: String) -> String {
        if let Some(tag) = self.tag_or_default() {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// Parses by the distribution project's grammar. Names in capitals, empty parts and names of 64 hex digits are
    /// errors that say so.
    fn from_str(text: &str) -> Result<Self> {
        parse(text)
            .map_err(|reason| Error::BadReference(crate::error::shown(text.as_bytes()), reason))
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.contains("://") {
        return Err("an image name has no scheme: leave out what is before `//`".to_owned());
    }
    if is_64_hex_digits(text) {
        return Err("64 hex digits are an image's ID, not a name".to_owned());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest.parse().map_err(|error| format!("{error}"))?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest.get(after_slash..).and_then(|last| last.find(':')) {
        Some(colon) => {
            let (name, tag) = rest.split_at(after_slash + colon);
            (name, tag.get(1..))
        }
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = split_registry(name);
    // As it is written in full, so that what is read once can be read again.
    if registry.len().max(repository.len()) > NAME_LIMIT_BYTES {
        return Err(format!(
            "the name is longer than {NAME_LIMIT_BYTES} characters"
        ));
    }
    check_registry(&registry)?;
    check_repository(&repository)?;
    Ok(Reference {
        registry,
        repository,
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// The first part is a registry if it looks like a host: with a dot, a port, a capital, or `localhost`.
fn split_registry(name: &str) -> (String, String) {
    let host = name.split_once('/').filter(|(first, _)| {
        first.contains(['.', ':']) || *first == "localhost" || first.chars().any(char::is_uppercase)
    });
    let (registry, repository) = host.unwrap_or((DEFAULT_REGISTRY, name));
    let registry = match registry {
        "index.docker.io" => DEFAULT_REGISTRY,
        other => other,
    };
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        return (registry.to_owned(), format!("library/{repository}"));
    }
    (registry.to_owned(), repository.to_owned())
}

fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("the address lacks its `]`")?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| format!("`{address}` is not an IPv6 address"))?;
            (
                "",
                port.strip_prefix(':')
                    .or((!port.is_empty()).then_some(port)),
            )
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    if let Some(port) = port
        && (port.parse::<u16>().is_err() || !port.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err(format!(
            "`{}` is not a port",
            crate::error::shown(port.as_bytes())
        ));
    }
    if registry.starts_with('[') {
        return Ok(());
    }
    let good = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if host.split('.').all(good) {
        return Ok(());
    }
    let host = crate::error::shown(host.as_bytes());
    Err(format!("`{host}` is not the name of a host"))
}

fn check_repository(repository: &str) -> Result<(), String> {
    for part in repository.split('/') {
        if part.is_empty() {
            return Err("a part between slashes is empty".to_owned());
        }
        if part.chars().any(|character| character.is_ascii_uppercase()) {
            return Err("the repository's name must be in lower case".to_owned());
        }
        if !is_component(part.as_bytes()) {
            let part = crate::error::shown(part.as_bytes());
            return Err(format!(
                "`{part}` may hold letters and digits, and between them one `.`, one or two `_`, or `-`"
            ));
        }
    }
    if is_64_hex_digits(repository) {
        return Err("64 hex digits are an image's ID, not a name".to_owned());
    }
    Ok(())
}

/// Letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_component(part: &[u8]) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !part.first().is_some_and(alphanumeric) || !part.last().is_some_and(alphanumeric) {
        return false;
    }
    part.split(alphanumeric).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let good = tag.bytes().next().is_some_and(word)
        && tag
            .bytes()
            .all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
        && tag.len() <= TAG_LIMIT_BYTES;
    if good {
        return Ok(());
    }
    if tag.is_empty() {
        return Err("after its `:` there is no tag".to_owned());
    }
    let shown = crate::error::shown(tag.as_bytes());
    Err(format!(
        "the tag `{shown}` may hold up to {TAG_LIMIT_BYTES} letters, digits, `_`, `.` and `-`, and begins with none \
         of the last two"
    ))
}

fn is_64_hex_digits(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        let table = [
            (
                "busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "busybox:1.36",
                "docker.io/library/busybox:1.36",
                "busybox:1.36",
            ),
            ("a/b", "docker.io/a/b:latest", "a/b:latest"),
            (
                "index.docker.io/x",
                "docker.io/library/x:latest",
                "x:latest",
            ),
            (
                "docker.io/library/x",
                "docker.io/library/x:latest",
                "x:latest",
            ),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            (
                "localhost:5000/x:1",
                "localhost:5000/x:1",
                "localhost:5000/x:1",
            ),
            (
                "127.0.0.1:5000/a/b__c-d",
                "127.0.0.1:5000/a/b__c-d:latest",
                "127.0.0.1:5000/a/b__c-d:latest",
            ),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            ("Host/x", "Host/x:latest", "Host/x:latest"),
            (
                "example.org/a.b_c/d---e",
                "example.org/a.b_c/d---e:latest",
                "example.org/a.b_c/d---e:latest",
            ),
        ];
        for (text, canonical, familiar) in table {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.canonical(), canonical, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(
                reference
                    .canonical()
                    .parse::<Reference>()
                    .unwrap()
                    .canonical(),
                canonical
            );
            assert_eq!(
                reference
                    .familiar()
                    .parse::<Reference>()
                    .unwrap()
                    .canonical(),
                canonical
            );
        }
        let pinned: Reference = format!("busybox@{digest}").parse().unwrap();
        assert_eq!(
            pinned.canonical(),
            format!("docker.io/library/busybox@{digest}")
        );
        let both: Reference = format!("x.y/busybox:1@{digest}").parse().unwrap();
        assert_eq!(both.canonical(), format!("x.y/busybox:1@{digest}"));
    }

    #[test]
    fn what_is_no_name() {
        let table = [
            "",
            "-x",
            "Bad//Name",
            "UPPER",
            "a/UPPER",
            "127.0.0.1:1/../x",
            "127.0.0.1:1/a/../../b",
            "a@sha256:../../etc/passwd",
            "http://127.0.0.1:1/x",
            "127.0.0.1:99999/x",
            "a:b:c",
            "a:",
            "a@",
            "127.0.0.1:1/\u{430}",
            "a b",
            "a/",
            "/a",
            "a__",
            "a___b",
            "a..b",
            "a:-x",
            "[::1/x",
            "[zz]/x",
            "x.y:+1/z",
            ".x/y",
            "a\n",
        ];
        for text in table {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        assert!("a".repeat(5000).parse::<Reference>().is_err());
        // `library/` counts: the name is read again in full.
        assert!("a".repeat(248).parse::<Reference>().is_err());
        let long: Reference = "a".repeat(247).parse().unwrap();
        assert_eq!(
            long.canonical().parse::<Reference>().unwrap().canonical(),
            long.canonical()
        );
        assert!("a1".repeat(32).parse::<Reference>().is_err());
        assert!(
            format!("a:{}", "t".repeat(129))
                .parse::<Reference>()
                .is_err()
        );
        let capitals = "Bad".parse::<Reference>().unwrap_err().to_string();
        assert!(capitals.contains("lower case"), "{capitals}");
    }
}
