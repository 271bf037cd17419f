//! dpkg's database: `var/lib/dpkg/status`, and a file a package in `status.d` as distroless images have it.
//! What is listed is what `dpkg-query -W` lists: everything but what is not installed.

use super::{Distribution, Package, Stanza, stanzas};
use crate::evidence::purl::purl;

pub(super) fn packages(text: &str, distribution: &Distribution) -> Vec<Package> {
    let stanzas = stanzas(text);
    let installed = stanzas.iter().filter(|stanza| is_here(stanza));
    installed.map(|it| package(it, distribution)).collect()
}

/// `Status: want flag state`; files of `status.d` have none.
fn is_here(stanza: &Stanza<'_>) -> bool {
    let state = stanza.get("Status").split_whitespace().nth(2);
    state != Some("not-installed") && !stanza.get("Package").is_empty()
}

fn package(stanza: &Stanza<'_>, distribution: &Distribution) -> Package {
    let (name, version) = (stanza.get("Package"), stanza.get("Version"));
    let source = stanza.get("Source");
    // `name (version)`, where the version differs.
    let upstream = match source.split_once(" (") {
        Some((name, version)) => format!("{name}@{}", version.trim_end_matches(')')),
        None => source.to_owned(),
    };
    let removed = stanza.get("Status").ends_with("config-files");
    Package {
        purl: purl(
            "deb",
            distribution.id_or("debian"),
            name,
            version,
            &[
                ("arch", stanza.get("Architecture")),
                ("distro", &distribution.name()),
                ("upstream", &upstream),
            ],
        ),
        name: name.to_owned(),
        version: version.to_owned(),
        supplier: stanza.get("Maintainer").to_owned(),
        homepage: stanza.get("Homepage").to_owned(),
        comment: if removed {
            "removed: only configuration files are left".to_owned()
        } else {
            String::new()
        },
        ..Package::default()
    }
}

/// The licenses that a `copyright` file names, where it is machine-readable (DEP 5): short names, each once.
pub(super) fn licenses(copyright: &str) -> String {
    let mut stanzas = stanzas(copyright).into_iter();
    let is_readable = stanzas
        .next()
        .is_some_and(|header| header.get("Format").contains("copyright-format"));
    if !is_readable {
        return String::new();
    }
    let mut names: Vec<String> = Vec::new();
    for stanza in stanzas.filter(|stanza| !stanza.get("Files").is_empty()) {
        let name = stanza.get("License").lines().next().unwrap_or_default();
        let name = name.trim().to_owned();
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort();
    let bracketed = |name: String| match name.contains(" or ") {
        true => format!("({name})"),
        false => name,
    };
    let names: Vec<String> = names.into_iter().map(bracketed).collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_file() {
        let text = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nMulti-Arch: same\n\
            Source: glibc (2.36-9)\nVersion: 2.36-9+deb12u1\nMaintainer: GNU <a@b>\nDescription: x\n y\n .\n z\n\n\
            Package: gone\nStatus: purge ok not-installed\nVersion: 1\n\n\
            Package: old\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1:2~3\n";
        let distribution = Distribution {
            id: "debian".to_owned(),
            version: "12".to_owned(),
        };
        let found = packages(text, &distribution);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0].purl,
            "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64&distro=debian-12&upstream=glibc%402.36-9"
        );
        assert_eq!(found[1].version, "1:2~3");
        assert!(!found[1].comment.is_empty());
    }

    #[test]
    fn licenses_of_a_copyright_file() {
        let text = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n\
            Files: *\nLicense: GPL-2+\n\nFiles: a\nLicense: Expat or Artistic\n text\n\nLicense: GPL-2+\n long\n";
        assert_eq!(licenses(text), "(Expat or Artistic) and GPL-2+");
        assert_eq!(licenses("This package was debianized by hand\n"), "");
    }
}
