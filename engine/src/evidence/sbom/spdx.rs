//! What was found as a document of SPDX 2.3 (spdx.github.io/spdx-spec/v2.3, and its JSON schema).

use rbuild_cache::Digest;
use serde::Serialize;

use super::licenses::{self, Unlisted};
use super::{Found, Package};

const NO_ASSERTION: &str = "NOASSERTION";
const DOCUMENT_ID: &str = "SPDXRef-DOCUMENT";
const IMAGE_ID: &str = "SPDXRef-Image";
const TOOL: &str = concat!("Tool: rbuild-", env!("CARGO_PKG_VERSION"));

/// How many places of a package are told.
const PLACES_MAX: usize = 10;

/// What a document is about.
pub(in crate::evidence) struct Described<'a> {
    /// A package URL, or `_`.
    pub(in crate::evidence) name: &'a str,
    /// Of an image.
    pub(in crate::evidence) manifest: Option<&'a Digest>,
    /// Tells this document from all others.
    pub(in crate::evidence) identity: &'a Digest,
    /// RFC 3339, whole seconds.
    pub(in crate::evidence) created: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::evidence) struct Document {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: String,
    document_namespace: String,
    creation_info: CreationInfo,
    #[serde(skip_serializing_if = "String::is_empty")]
    comment: String,
    packages: Vec<SpdxPackage>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    has_extracted_licensing_infos: Vec<ExtractedLicense>,
    relationships: Vec<Relationship>,
}

#[derive(Debug, Serialize)]
struct CreationInfo {
    created: String,
    creators: Vec<&'static str>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct SpdxPackage {
    #[serde(rename = "SPDXID")]
    id: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version_info: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    supplier: String,
    download_location: &'static str,
    files_analyzed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checksums: Vec<Checksum>,
    #[serde(skip_serializing_if = "String::is_empty")]
    homepage: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    source_info: String,
    license_concluded: &'static str,
    license_declared: String,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    comment: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<ExternalReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_package_purpose: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Checksum {
    algorithm: &'static str,
    checksum_value: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalReference {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExtractedLicense {
    license_id: String,
    extracted_text: String,
    name: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: String,
    relationship_type: &'static str,
    related_spdx_element: String,
}

pub(in crate::evidence) fn document(described: &Described<'_>, found: &Found) -> Document {
    let mut unlisted: Vec<Unlisted> = Vec::new();
    let is_purl = described.name.starts_with("pkg:");
    let image = SpdxPackage {
        id: IMAGE_ID.to_owned(),
        name: described.name.to_owned(),
        version_info: described
            .manifest
            .map(ToString::to_string)
            .unwrap_or_default(),
        download_location: NO_ASSERTION,
        checksums: described
            .manifest
            .iter()
            .map(|digest| Checksum {
                algorithm: "SHA256",
                checksum_value: digest.hex(),
            })
            .collect(),
        license_concluded: NO_ASSERTION,
        license_declared: NO_ASSERTION.to_owned(),
        copyright_text: NO_ASSERTION,
        external_refs: is_purl.then(|| purl(described.name)).into_iter().collect(),
        primary_package_purpose: described.manifest.map(|_| "CONTAINER"),
        ..SpdxPackage::default()
    };
    let mut packages = vec![image];
    let mut relationships = vec![Relationship {
        spdx_element_id: DOCUMENT_ID.to_owned(),
        relationship_type: "DESCRIBES",
        related_spdx_element: IMAGE_ID.to_owned(),
    }];
    for (one, places) in found.packages.values() {
        let package = package(one, places, &mut unlisted);
        relationships.push(Relationship {
            spdx_element_id: IMAGE_ID.to_owned(),
            relationship_type: "CONTAINS",
            related_spdx_element: package.id.clone(),
        });
        packages.push(package);
    }
    unlisted.sort();
    Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        id: DOCUMENT_ID,
        name: described.name.to_owned(),
        // The form for those who have no place of their own on the web; unique to the image.
        document_namespace: format!(
            "https://spdx.org/spdxdocs/rbuild-{}",
            described.identity.hex()
        ),
        creation_info: CreationInfo {
            created: described.created.to_owned(),
            creators: vec![TOOL],
        },
        comment: found.notes.join("\n"),
        packages,
        has_extracted_licensing_infos: unlisted
            .into_iter()
            .map(|license| ExtractedLicense {
                license_id: license.id,
                extracted_text: license.name.clone(),
                name: license.name,
            })
            .collect(),
        relationships,
    }
}

fn package(package: &Package, places: &[String], unlisted: &mut Vec<Unlisted>) -> SpdxPackage {
    let license = licenses::expression(&package.license, unlisted);
    SpdxPackage {
        id: id(package),
        name: package.name.clone(),
        version_info: package.version.clone(),
        supplier: supplier(&package.supplier),
        download_location: NO_ASSERTION,
        checksums: package
            .checksum
            .iter()
            .map(|(algorithm, digits)| Checksum {
                algorithm,
                checksum_value: digits.clone(),
            })
            .collect(),
        homepage: homepage(&package.homepage),
        source_info: source(places),
        license_concluded: NO_ASSERTION,
        license_declared: license.unwrap_or_else(|| NO_ASSERTION.to_owned()),
        copyright_text: NO_ASSERTION,
        comment: package.comment.clone(),
        external_refs: vec![purl(&package.purl)],
        ..SpdxPackage::default()
    }
}

/// Letters, digits, dots and dashes; one a package URL.
fn id(package: &Package) -> String {
    let kind = package
        .purl
        .strip_prefix("pkg:")
        .and_then(|rest| rest.split('/').next());
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c
        } else {
            '-'
        }
    };
    let name: String = package.name.chars().take(100).map(plain).collect();
    let digest = blake3::hash(package.purl.as_bytes()).to_hex();
    let digest = digest.get(..16).unwrap_or_default();
    format!(
        "SPDXRef-Package-{}-{name}-{digest}",
        kind.unwrap_or_default()
    )
}

/// `Organization: NAME (MAIL)` or `Person: NAME (MAIL)`: nobody says which, so it is the former.
fn supplier(text: &str) -> String {
    let text = text.lines().next().unwrap_or_default().trim();
    if text.is_empty() {
        return String::new();
    }
    match text.split_once('<') {
        Some((name, mail)) if !name.trim().is_empty() => {
            let mail = mail.split('>').next().unwrap_or_default().trim();
            format!("Organization: {} ({mail})", name.trim().trim_matches('"'))
        }
        _ => format!("Organization: {}", text.trim_matches(['<', '>'])),
    }
}

/// What is no address is left out: the schema asks for one.
fn homepage(text: &str) -> String {
    match url::Url::parse(text.trim()) {
        Ok(url) if matches!(url.scheme(), "http" | "https" | "git") && url.has_host() => {
            url.to_string()
        }
        _ => String::new(),
    }
}

fn source(places: &[String]) -> String {
    let told: Vec<String> = places
        .iter()
        .take(PLACES_MAX)
        .map(|place| format!("/{place}"))
        .collect();
    let more = places.len().saturating_sub(PLACES_MAX);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("found in {}{more}", told.join(", "))
}

fn purl(purl: &str) -> ExternalReference {
    ExternalReference {
        reference_category: "PACKAGE-MANAGER",
        reference_type: "purl",
        reference_locator: purl.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suppliers_are_worded_as_spdx_has_them() {
        assert_eq!(supplier("A B <a@b>"), "Organization: A B (a@b)");
        assert_eq!(supplier("<a@b>"), "Organization: a@b");
        assert_eq!(supplier("\n"), "");
    }

    #[test]
    fn a_document_describes_an_image() {
        let manifest = Digest::of(b"x");
        let described = Described {
            name: "pkg:docker/app@1",
            manifest: Some(&manifest),
            identity: &manifest,
            created: "2024-01-01T00:00:00Z",
        };
        let mut found = Found::default();
        for purl in [
            "pkg:deb/debian/a@1?arch=amd64",
            "pkg:deb/debian/a@1?arch=i386",
        ] {
            let package = Package {
                name: "a".to_owned(),
                purl: purl.to_owned(),
                license: "Odd".to_owned(),
                ..Package::default()
            };
            found.add("var/lib/dpkg/status", [package]);
        }
        found.note("var/lib/rpm/Packages", "it is damaged");
        let document = document(&described, &found);
        assert_eq!(document.packages.len(), 3);
        assert_ne!(document.packages[1].id, document.packages[2].id);
        assert_eq!(document.relationships.len(), 3);
        assert_eq!(document.has_extracted_licensing_infos.len(), 1);
        assert!(document.comment.contains("Packages was not read"));
    }
}
