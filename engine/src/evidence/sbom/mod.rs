//! What is in a result: the packages that its files tell of. Nothing of it is run, and no file is read that is not
//! named by a package manager's rules or is a program; sizes are bounded. What could not be read is said.
//!
//! * [`debian`], [`alpine`], [`rpm`]: databases of installed packages; * [`python`], [`node`]: what lies beside a
//!   package; * [`go`], [`rust`]: what compilers leave in programs ([`elf`]), and lock files;
//! * [`licenses`]: words of licenses as SPDX expressions; * [`spdx`]: all of it as a document.

mod alpine;
mod bytes;
mod debian;
mod elf;
mod go;
mod licenses;
mod node;
mod python;
mod rpm;
mod rust;
mod scan;
mod spdx;
mod sqlite;

use std::collections::BTreeMap;

pub(super) use scan::scan;
pub(super) use spdx::{Described, document};

/// Something that was installed or compiled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) purl: String,
    /// As its own metadata words it.
    pub(super) license: String,
    /// Who made or maintains it.
    pub(super) supplier: String,
    pub(super) homepage: String,
    /// (SPDX's name of the algorithm, hex digits) of what was downloaded.
    pub(super) checksum: Option<(&'static str, String)>,
    /// What a reader should know besides.
    pub(super) comment: String,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By package URL; with where each was found.
    pub(super) packages: BTreeMap<String, (Package, Vec<String>)>,
    /// What was seen and not read, and why.
    pub(super) notes: Vec<String>,
}

impl Found {
    fn add(&mut self, place: &str, packages: impl IntoIterator<Item = Package>) {
        for package in packages {
            if package.name.is_empty() {
                continue;
            }
            let known = self.packages.entry(package.purl.clone());
            let (_, places) = known.or_insert_with(|| (package, Vec::new()));
            if !places.iter().any(|known| known == place) {
                places.push(place.to_owned());
            }
        }
    }

    fn note(&mut self, place: &str, reason: impl std::fmt::Display) {
        self.notes.push(format!("{place} was not read: {reason}"));
    }
}

/// Which distribution a root is of (os-release(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Distribution {
    id: String,
    version: String,
}

impl Distribution {
    fn read(text: &str) -> Self {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| {
                let (key, value) = line.split_once('=')?;
                (key.trim() == name).then_some(value)
            });
            let value = line.unwrap_or_default().trim();
            value.trim_matches(['"', '\'']).to_owned()
        };
        Self {
            id: field("ID"),
            version: field("VERSION_ID"),
        }
    }

    fn id_or<'a>(&'a self, default: &'a str) -> &'a str {
        if self.id.is_empty() {
            default
        } else {
            &self.id
        }
    }

    /// `debian-12`; empty where it is not known.
    fn name(&self) -> String {
        match (self.id.as_str(), self.version.as_str()) {
            ("", _) => String::new(),
            (id, "") => id.to_owned(),
            (id, version) => format!("{id}-{version}"),
        }
    }
}

/// Fields of a stanza as Debian, Python and mail write them: `Name: value`, continued by lines that begin with a
/// blank. Names are compared without case.
#[derive(Debug, Default)]
struct Stanza<'a> {
    fields: Vec<(&'a str, String)>,
}

impl<'a> Stanza<'a> {
    fn get(&self, name: &str) -> &str {
        let mut fields = self.fields.iter();
        let found = fields.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s str> {
        let fields = self.fields.iter();
        fields
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn add(&mut self, line: &'a str) {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = self.fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            self.fields.push((name.trim_end(), value.trim().to_owned()));
        }
    }

    fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

/// Splits at empty lines.
fn stanzas(text: &str) -> Vec<Stanza<'_>> {
    let mut all = Vec::new();
    let mut current = Stanza::default();
    for line in text.lines() {
        if line.trim().is_empty() {
            if !current.is_empty() {
                all.push(std::mem::take(&mut current));
            }
        } else {
            current.add(line);
        }
    }
    if !current.is_empty() {
        all.push(current);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_say_who_they_are() {
        let text = "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID='3.20.1'\n";
        assert_eq!(Distribution::read(text).name(), "alpine-3.20.1");
        assert_eq!(Distribution::read("ID=debian").name(), "debian");
        assert_eq!(Distribution::read("nonsense").name(), "");
    }

    #[test]
    fn stanzas_are_split_and_continued() {
        let all = stanzas("A: 1\nB: x\n y\n z\n\n\nA: 2\n broken\nC\n");
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("b"), "x\ny\nz");
        assert_eq!(all[1].get("A"), "2\nbroken");
        assert_eq!(all[1].get("C"), "");
    }
}
