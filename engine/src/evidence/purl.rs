//! Package URLs: `pkg:type/namespace/name@version?qualifier=value`.

use rbuild_image::{Platform, Reference};

/// Builds one part by part. Parts that are empty are left out.
pub(super) fn purl(
    kind: &str,
    namespace: &str,
    name: &str,
    version: &str,
    qualifiers: &[(&str, &str)],
) -> String {
    let mut text = format!("pkg:{kind}/");
    for part in namespace.split('/').filter(|part| !part.is_empty()) {
        text.push_str(&encoded(part));
        text.push('/');
    }
    text.push_str(&encoded(name));
    if !version.is_empty() {
        text.push('@');
        text.push_str(&encoded(version));
    }
    // Qualifiers are sorted by their keys, so that equal packages have equal names.
    let mut qualifiers: Vec<_> = qualifiers.iter().filter(|(_, it)| !it.is_empty()).collect();
    qualifiers.sort_unstable();
    for (place, (key, value)) in qualifiers.into_iter().enumerate() {
        text.push(if place == 0 { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        text.push_str(&encoded(value));
    }
    text
}

/// `pkg:docker/alpine@3.20?platform=linux%2Famd64`, as BuildKit writes images.
pub(super) fn image(reference: &Reference, platform: Option<&Platform>) -> String {
    let named = Reference {
        tag: None,
        digest: None,
        ..reference.clone()
    };
    let familiar = named.familiar();
    let familiar = familiar.strip_suffix(":latest").unwrap_or(&familiar);
    let (namespace, name) = familiar.rsplit_once('/').unwrap_or(("", familiar));
    let digest = reference.digest.map(|digest| digest.to_string());
    let platform = platform.map(ToString::to_string);
    let qualifiers = [
        ("digest", digest.as_deref().unwrap_or_default()),
        ("platform", platform.as_deref().unwrap_or_default()),
    ];
    let version = reference.tag_or_default().unwrap_or_default();
    purl("docker", namespace, name, version, &qualifiers)
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_as_buildkit_names_them() {
        let platform = Platform::parse("linux/arm64/v8").unwrap();
        for (name, expected) in [
            (
                "alpine:3.20",
                "pkg:docker/alpine@3.20?platform=linux%2Farm64",
            ),
            ("alpine", "pkg:docker/alpine@latest?platform=linux%2Farm64"),
            (
                "ghcr.io/a/b/c:1",
                "pkg:docker/ghcr.io/a/b/c@1?platform=linux%2Farm64",
            ),
            (
                "localhost:5000/x:2",
                "pkg:docker/localhost:5000/x@2?platform=linux%2Farm64",
            ),
        ] {
            assert_eq!(image(&name.parse().unwrap(), Some(&platform)), expected);
        }
        let digest = format!("sha256:{}", "a1".repeat(32));
        let reference = format!("busybox@{digest}").parse().unwrap();
        assert_eq!(
            image(&reference, None),
            format!("pkg:docker/busybox?digest={digest}")
        );
    }

    #[test]
    fn parts_are_encoded() {
        assert_eq!(
            purl(
                "npm",
                "@types",
                "node",
                "1.0+x",
                &[("b", ""), ("c", "d e"), ("a", "1")]
            ),
            "pkg:npm/%40types/node@1.0%2Bx?a=1&c=d%20e"
        );
    }
}
