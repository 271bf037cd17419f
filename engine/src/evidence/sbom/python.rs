//! Python distributions: `*.dist-info/METADATA`, `*.egg-info/PKG-INFO`, or a file `*.egg-info`.

use super::{Package, Stanza};
use crate::evidence::purl::purl;

pub(super) fn is_metadata(path: &str) -> bool {
    path.ends_with(".dist-info/METADATA")
        || path.ends_with(".egg-info/PKG-INFO")
        || path.ends_with("EGG-INFO/PKG-INFO")
        || path.ends_with(".egg-info")
}

/// The header of the file; what comes after an empty line describes the package to people.
pub(super) fn package(text: &str) -> Option<Package> {
    let mut header = Stanza::default();
    for line in text.lines().take_while(|line| !line.trim().is_empty()) {
        header.add(line);
    }
    let (name, version) = (header.get("Name"), header.get("Version"));
    if name.is_empty() || version.is_empty() {
        return None;
    }
    let expression = header.get("License-Expression");
    // Some put the whole text of their license there.
    let said = header.get("License").lines().next().unwrap_or_default();
    let classified = header
        .all("Classifier")
        .filter_map(|one| one.strip_prefix("License :: "))
        .filter_map(|one| one.rsplit(" :: ").next())
        .find(|one| *one != "OSI Approved")
        .unwrap_or_default();
    let license = [expression, said, classified]
        .into_iter()
        .find(|one| !one.is_empty() && *one != "UNKNOWN" && one.len() < 200)
        .unwrap_or_default();
    let supplier = [
        header.get("Author"),
        header.get("Author-email"),
        header.get("Maintainer"),
    ]
    .into_iter()
    .find(|one| !one.is_empty() && *one != "UNKNOWN")
    .unwrap_or_default();
    Some(Package {
        purl: purl("pypi", "", &normalised(name), version, &[]),
        name: name.to_owned(),
        version: version.to_owned(),
        license: license.to_owned(),
        supplier: supplier.to_owned(),
        homepage: header.get("Home-page").to_owned(),
        ..Package::default()
    })
}

/// Names that pip takes for the same have the same package URL.
fn normalised(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            other => out.extend(other.to_lowercase()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata() {
        let text = "Metadata-Version: 2.1\nName: Zope.Interface\nVersion: 5.4\nLicense: UNKNOWN\n\
            Classifier: Programming Language :: Python\nClassifier: License :: OSI Approved :: MIT License\nAuthor: A\n\nName: not\n";
        let found = package(text).unwrap();
        assert_eq!(found.purl, "pkg:pypi/zope-interface@5.4");
        assert_eq!((&*found.license, &*found.supplier), ("MIT License", "A"));
        assert!(package("hello\n").is_none());
        let modern =
            package("Name: a\nVersion: 1\nLicense-Expression: MIT OR Apache-2.0\n").unwrap();
        assert_eq!(modern.license, "MIT OR Apache-2.0");
    }

    #[test]
    fn where_metadata_lies() {
        for path in [
            "a/b-1.dist-info/METADATA",
            "a/b.egg-info/PKG-INFO",
            "a/b-1.egg-info",
        ] {
            assert!(is_metadata(path), "{path}");
        }
        assert!(!is_metadata("a/METADATA"));
    }
}
