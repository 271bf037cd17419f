//! Packages of Node: `package.json` where one is installed (below `node_modules`), and `package-lock.json` of
//! projects.

use base64::Engine as _;
use serde_json::Value;

use super::Package;
use crate::evidence::purl::purl;

/// `…/node_modules/NAME/package.json` or `…/node_modules/@SCOPE/NAME/package.json`.
pub(super) fn is_installed(path: &str) -> bool {
    let Some(directory) = path.strip_suffix("/package.json") else {
        return false;
    };
    let mut parts = directory.rsplit('/');
    let (_name, above, top) = (parts.next(), parts.next(), parts.next());
    above == Some("node_modules")
        || (above.is_some_and(|above| above.starts_with('@')) && top == Some("node_modules"))
}

pub(super) fn is_lock(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    matches!(name, "package-lock.json" | "npm-shrinkwrap.json") && !path.contains("node_modules/")
}

pub(super) fn installed(bytes: &[u8]) -> Option<Package> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let mut package = package(
        value.get("name")?.as_str()?,
        value.get("version")?.as_str()?,
    );
    package.license = license(&value);
    let author = value.get("author");
    let author = author.and_then(|it| it.as_str().or_else(|| it.get("name")?.as_str()));
    author.unwrap_or_default().clone_into(&mut package.supplier);
    let homepage = value.get("homepage").and_then(Value::as_str);
    homepage
        .unwrap_or_default()
        .clone_into(&mut package.homepage);
    Some(package)
}

/// All packages of a lock file of any version.
pub(super) fn locked(bytes: &[u8]) -> Result<Vec<Package>, serde_json::Error> {
    let value: Value = serde_json::from_slice(bytes)?;
    let mut found = Vec::new();
    if let Some(packages) = value.get("packages").and_then(Value::as_object) {
        for (path, entry) in packages {
            // Aliases carry their real name, links to other directories of the project are no packages.
            let Some((_, of_path)) = path.rsplit_once("node_modules/") else {
                continue;
            };
            let name = entry.get("name").and_then(Value::as_str).unwrap_or(of_path);
            if entry.get("link").is_none() {
                found.extend(entry_of_lock(name, entry));
            }
        }
    } else if let Some(dependencies) = value.get("dependencies") {
        old(dependencies, 0, &mut found);
    }
    Ok(found)
}

/// Version 1: packages within packages.
fn old(dependencies: &Value, depth: u32, found: &mut Vec<Package>) {
    for (name, entry) in dependencies.as_object().into_iter().flatten() {
        found.extend(entry_of_lock(name, entry));
        if let Some(inner) = entry.get("dependencies").filter(|_| depth < 64) {
            old(inner, depth + 1, found);
        }
    }
}

fn entry_of_lock(name: &str, entry: &Value) -> Option<Package> {
    let mut package = package(name, entry.get("version")?.as_str()?);
    package.license = license(entry);
    let integrity = entry.get("integrity").and_then(Value::as_str);
    package.checksum = integrity.and_then(|text| {
        let (algorithm, digest) = text.split(' ').next()?.split_once('-')?;
        let algorithm = match algorithm {
            "sha512" => "SHA512",
            "sha384" => "SHA384",
            "sha256" => "SHA256",
            "sha1" => "SHA1",
            _ => return None,
        };
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(digest)
            .ok()?;
        Some((algorithm, hex::encode(bytes)))
    });
    Some(package)
}

fn package(name: &str, version: &str) -> Package {
    let (scope, short) = name.rsplit_once('/').unwrap_or(("", name));
    Package {
        purl: purl("npm", scope, short, version, &[]),
        name: name.to_owned(),
        version: version.to_owned(),
        ..Package::default()
    }
}

/// A string, or in old packages an object or a list of them.
fn license(value: &Value) -> String {
    let one = |value: &Value| {
        let text = value.as_str().or_else(|| value.get("type")?.as_str());
        text.map(str::to_owned)
    };
    if let Some(license) = value.get("license").and_then(one) {
        return license;
    }
    let several = value.get("licenses").and_then(Value::as_array);
    let several: Vec<String> = several.into_iter().flatten().filter_map(one).collect();
    several.join(" OR ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages() {
        assert!(is_installed("app/node_modules/a/package.json"));
        assert!(is_installed("node_modules/@s/a/package.json"));
        assert!(!is_installed("app/node_modules/a/test/package.json"));
        assert!(!is_installed("app/package.json"));
        let json = br#"{"name":"@types/node","version":"1.0.0","licenses":[{"type":"MIT"},{"type":"ISC"}],"author":{"name":"A"}}"#;
        let found = installed(json).unwrap();
        assert_eq!(found.purl, "pkg:npm/%40types/node@1.0.0");
        assert_eq!((&*found.license, &*found.supplier), ("MIT OR ISC", "A"));
        assert!(installed(br#"{"name":"a"}"#).is_none());
    }

    #[test]
    fn lock_files_of_all_versions() {
        let new = br#"{"lockfileVersion":3,"packages":{"":{"name":"app"},
            "node_modules/a":{"version":"1.0.0","integrity":"sha512-AAAA","license":"MIT"},
            "node_modules/a/node_modules/@s/b":{"version":"2.0.0"},"lib":{"version":"1.0.0"},
            "node_modules/lib":{"link":true,"resolved":"lib"}}}"#;
        let found = locked(new).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].checksum, Some(("SHA512", "000000".to_owned())));
        assert_eq!(found[1].purl, "pkg:npm/%40s/b@2.0.0");
        let old = br#"{"dependencies":{"a":{"version":"1","dependencies":{"b":{"version":"2"}}}}}"#;
        assert_eq!(locked(old).unwrap().len(), 2);
        assert!(locked(b"{").is_err());
    }
}
