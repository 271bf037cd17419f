//! Crates: section `.dep-v0` that cargo-auditable leaves in programs, and `Cargo.lock` of projects.

use std::io::Read;

use serde::Deserialize;

use super::Package;
use crate::evidence::purl::purl;

pub(super) const SECTION: &[u8] = b".dep-v0";

/// Of the list, unpacked.
const LIST_BYTES_MAX: u64 = 16 << 20;

pub(super) const LOCK: &str = "Cargo.lock";

#[derive(Deserialize)]
struct Auditable {
    #[serde(default)]
    packages: Vec<Compiled>,
}

#[derive(Deserialize)]
struct Compiled {
    name: String,
    version: String,
    /// `build` for what only ran while it was built.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// zlib-compressed JSON.
pub(super) fn compiled(section: &[u8]) -> Result<Vec<Package>, String> {
    let mut json = Vec::new();
    let decoder = flate2::read::ZlibDecoder::new(section);
    let mut limited = decoder.take(LIST_BYTES_MAX + 1);
    limited
        .read_to_end(&mut json)
        .map_err(|error| error.to_string())?;
    if json.len() as u64 > LIST_BYTES_MAX {
        return Err("its list of crates is too long".to_owned());
    }
    let list: Auditable = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
    let in_it = list
        .packages
        .into_iter()
        .filter(|one| one.kind.as_deref() != Some("build"));
    Ok(in_it.map(|it| package(&it.name, &it.version)).collect())
}

pub(super) fn locked(text: &str) -> Result<Vec<Package>, String> {
    let lock: Lock = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let packages = lock.package.into_iter().map(|it| Package {
        checksum: it
            .checksum
            .filter(|digits| digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .map(|digits| ("SHA256", digits.to_ascii_lowercase())),
        ..package(&it.name, &it.version)
    });
    Ok(packages.collect())
}

fn package(name: &str, version: &str) -> Package {
    Package {
        purl: purl("cargo", "", name, version, &[]),
        name: name.to_owned(),
        version: version.to_owned(),
        ..Package::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn crates_of_a_program() {
        let json =
            br#"{"packages":[{"name":"a","version":"1.0.0","source":"crates.io","root":true},
            {"name":"b","version":"2.0.0","source":"crates.io","kind":"build"}]}"#;
        let mut encoder =
            flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(json).unwrap();
        let section = encoder.finish().unwrap();
        let found = compiled(&section).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].purl, "pkg:cargo/a@1.0.0");
        assert!(compiled(b"nonsense").is_err());
    }

    #[test]
    fn crates_of_a_lock_file() {
        let digits = "ab".repeat(32);
        let text = format!(
            "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"{digits}\"\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\n"
        );
        let found = locked(&text).unwrap();
        assert_eq!(found[0].checksum, Some(("SHA256", digits)));
        assert_eq!(found.len(), 2);
        assert!(locked("[[package").is_err());
    }
}
