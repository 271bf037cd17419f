//! apk's database: `lib/apk/db/installed`, a stanza a package, a letter a field.

use super::{Distribution, Package, Stanza, stanzas};
use crate::evidence::purl::purl;

pub(super) fn packages(text: &str, distribution: &Distribution) -> Vec<Package> {
    let stanzas = stanzas(text);
    let named = stanzas
        .iter()
        .filter(|stanza| !letter(stanza, "P").is_empty());
    named.map(|it| package(it, distribution)).collect()
}

/// Letters in different cases are different fields.
fn letter<'a>(stanza: &'a Stanza<'_>, name: &str) -> &'a str {
    let mut fields = stanza.fields.iter();
    fields
        .find(|(key, _)| *key == name)
        .map_or("", |(_, value)| value)
}

fn package(stanza: &Stanza<'_>, distribution: &Distribution) -> Package {
    let (name, version) = (letter(stanza, "P"), letter(stanza, "V"));
    let origin = letter(stanza, "o");
    Package {
        purl: purl(
            "apk",
            distribution.id_or("alpine"),
            name,
            version,
            &[
                ("arch", letter(stanza, "A")),
                ("distro", &distribution.name()),
                ("upstream", if origin == name { "" } else { origin }),
            ],
        ),
        name: name.to_owned(),
        version: version.to_owned(),
        license: letter(stanza, "L").to_owned(),
        supplier: letter(stanza, "m").to_owned(),
        homepage: letter(stanza, "U").to_owned(),
        ..Package::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_file() {
        let text = "C:Q1abc=\nP:musl-utils\nV:1.2.5-r0\nA:x86_64\nL:MIT AND BSD-2-Clause\no:musl\n\
            m:Timo <t@a>\nU:https://musl.libc.org/\nF:bin\nR:ldd\na:0:0:755\nZ:Q1x=\n\nP:busybox\nV:1.36\nA:x86_64\no:busybox\n";
        let found = packages(text, &Distribution::read("ID=alpine\nVERSION_ID=3.20.1"));
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0].purl,
            "pkg:apk/alpine/musl-utils@1.2.5-r0?arch=x86_64&distro=alpine-3.20.1&upstream=musl"
        );
        assert_eq!(found[0].license, "MIT AND BSD-2-Clause");
        assert_eq!(
            found[1].purl,
            "pkg:apk/alpine/busybox@1.36?arch=x86_64&distro=alpine-3.20.1"
        );
    }
}
