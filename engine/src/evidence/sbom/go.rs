//! What the Go linker leaves in programs: section `.go.buildinfo`, with the modules that were compiled in.

use super::Package;
use super::bytes::part;
use crate::evidence::purl::purl;

pub(super) const SECTION: &[u8] = b".go.buildinfo";

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Texts follow after so many bytes.
const HEADER_BYTES: usize = 32;
/// Go 1.18 and later write texts, not addresses of them.
const INLINE: u8 = 2;
/// Around the list of modules.
const SENTINEL_BYTES: usize = 16;

/// The modules. The error says why a program that has build information cannot be read.
pub(super) fn packages(section: &[u8]) -> Result<Vec<Package>, &'static str> {
    if !section.starts_with(MAGIC) {
        return Err("its build information of Go is of an unknown kind");
    }
    if section.get(15).is_none_or(|flags| flags & INLINE == 0) {
        return Err("a Go before 1.18 built it");
    }
    let (version, rest) = text(section.get(HEADER_BYTES..).unwrap_or_default())
        .ok_or("its build information of Go is damaged")?;
    let (modules, _) = text(rest).unwrap_or_default();
    let modules = modules
        .get(SENTINEL_BYTES..modules.len().saturating_sub(SENTINEL_BYTES))
        .unwrap_or_default();
    let mut found = vec![stdlib(&String::from_utf8_lossy(version))];
    found.extend(list(&String::from_utf8_lossy(modules)));
    Ok(found)
}

fn stdlib(version: &str) -> Package {
    let version = version.split(' ').next().unwrap_or_default();
    let version = version.strip_prefix("go").unwrap_or(version);
    Package {
        license: "BSD-3-Clause".to_owned(),
        ..module("stdlib", version)
    }
}

/// A length as a varint, and that many bytes.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length: usize = 0;
    for (place, byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let rest = bytes.get(place + 1..)?;
            return Some((part(rest, 0, length)?, rest.get(length..)?));
        }
    }
    None
}

/// `mod` is the program itself, `dep` what it uses, `=>` what stands in for the line before.
fn list(text: &str) -> Vec<Package> {
    let mut found: Vec<Package> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (kind, path, version) = (fields.next(), fields.next(), fields.next());
        let (Some(kind), Some(path)) = (kind, path) else {
            continue;
        };
        let version = version
            .filter(|version| *version != "(devel)")
            .unwrap_or_default();
        match kind {
            "mod" | "dep" => found.push(module(path, version)),
            "=>" => {
                found.pop();
                found.push(module(path, version));
            }
            _ => {}
        }
    }
    found
}

fn module(path: &str, version: &str) -> Package {
    let (namespace, name) = path.rsplit_once('/').unwrap_or(("", path));
    Package {
        purl: purl("golang", namespace, name, version, &[]),
        name: path.to_owned(),
        version: version.to_owned(),
        ..Package::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(version: &str, modules: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([8, INLINE]);
        bytes.resize(HEADER_BYTES, 0);
        let framed = format!("{0}{modules}{0}", "s".repeat(SENTINEL_BYTES));
        for text in [version, &framed] {
            let mut length = text.len();
            while length >= 0x80 {
                bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
                length >>= 7;
            }
            bytes.push(u8::try_from(length).unwrap());
            bytes.extend(text.bytes());
        }
        bytes
    }

    #[test]
    fn modules_of_a_program() {
        let modules = "path\texample.com/cmd/x\nmod\texample.com/x\t(devel)\t\n\
            dep\tgithub.com/a/b\tv1.2.3\th1:abc=\ndep\told\tv1\n=>\tgithub.com/new/old\tv2\th1:d=\nbuild\tGOOS=linux\n";
        let found = packages(&section("go1.22.1 X:rangefunc", modules)).unwrap();
        let purls: Vec<&str> = found.iter().map(|it| it.purl.as_str()).collect();
        assert_eq!(
            purls,
            [
                "pkg:golang/stdlib@1.22.1",
                "pkg:golang/example.com/x",
                "pkg:golang/github.com/a/b@v1.2.3",
                "pkg:golang/github.com/new/old@v2",
            ]
        );
    }

    #[test]
    fn damage_is_no_panic() {
        let whole = section("go1.22", "mod\ta\tv1\n");
        for length in 0..whole.len() {
            let _ = packages(&whole[..length]);
        }
        assert!(packages(b"\xff Go buildinf:\x08\x00").is_err());
    }
}
