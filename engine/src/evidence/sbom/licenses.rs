//! Words of licenses as SPDX license expressions: what SPDX lists stays, some well-known other words are translated,
//! everything else becomes a `LicenseRef-`, explained in the document.

/// Identifiers of SPDX's list that packages really use.
const LISTED: [&str; 104] = [
    "0BSD",
    "AFL-2.1",
    "AFL-3.0",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-1.1",
    "Apache-2.0",
    "APSL-2.0",
    "Artistic-1.0",
    "Artistic-1.0-Perl",
    "Artistic-2.0",
    "Beerware",
    "BlueOak-1.0.0",
    "blessing",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-2-Clause-Patent",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSD-4-Clause",
    "BSD-4-Clause-UC",
    "BSL-1.0",
    "bzip2-1.0.6",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC-PDDC",
    "CC0-1.0",
    "CDDL-1.0",
    "CDDL-1.1",
    "CPL-1.0",
    "curl",
    "ECL-2.0",
    "EFL-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.2",
    "FSFAP",
    "FSFUL",
    "FSFULLR",
    "FTL",
    "GFDL-1.2-or-later",
    "GFDL-1.3-only",
    "GFDL-1.3-or-later",
    "GPL-1.0-only",
    "GPL-1.0-or-later",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "HPND",
    "ICU",
    "IJG",
    "Info-ZIP",
    "Intel",
    "ISC",
    "JSON",
    "LGPL-2.0-only",
    "LGPL-2.0-or-later",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "Libpng",
    "LPPL-1.3c",
    "MirOS",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-1.1",
    "MPL-2.0",
    "MPL-2.0-no-copyleft-exception",
    "MS-PL",
    "MulanPSL-2.0",
    "NAIST-2003",
    "NCSA",
    "Newsletr",
    "NTP",
    "OFL-1.0",
    "OFL-1.1",
    "OLDAP-2.8",
    "OpenSSL",
    "OSL-3.0",
    "PHP-3.01",
    "PostgreSQL",
    "PSF-2.0",
    "Python-2.0",
    "Python-2.0.1",
    "Ruby",
    "SGI-B-2.0",
    "SISSL",
    "Sleepycat",
    "SSPL-1.0",
    "TCL",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "UPL-1.0",
    "Vim",
    "W3C",
    "WTFPL",
    "X11",
    "Zlib",
];

/// Words that mean a license of the list.
const MEANT: [(&str, &str); 40] = [
    ("agpl-3+", "AGPL-3.0-or-later"),
    ("agpl-3", "AGPL-3.0-only"),
    ("apache 2", "Apache-2.0"),
    ("apache 2.0", "Apache-2.0"),
    ("apache license 2.0", "Apache-2.0"),
    ("apache license, version 2.0", "Apache-2.0"),
    ("apache software license", "Apache-2.0"),
    ("artistic", "Artistic-1.0-Perl"),
    ("asl 2.0", "Apache-2.0"),
    ("bsd", "BSD-3-Clause"),
    ("bsd license", "BSD-3-Clause"),
    ("bsd-3-clauses", "BSD-3-Clause"),
    ("expat", "MIT"),
    ("gpl-1", "GPL-1.0-only"),
    ("gpl-1+", "GPL-1.0-or-later"),
    ("gpl-2", "GPL-2.0-only"),
    ("gpl-2+", "GPL-2.0-or-later"),
    ("gpl-2.0", "GPL-2.0-only"),
    ("gpl-2.0+", "GPL-2.0-or-later"),
    ("gpl-3", "GPL-3.0-only"),
    ("gpl-3+", "GPL-3.0-or-later"),
    ("gpl-3.0", "GPL-3.0-only"),
    ("gpl-3.0+", "GPL-3.0-or-later"),
    ("gplv2", "GPL-2.0-only"),
    ("gplv2+", "GPL-2.0-or-later"),
    ("gplv3", "GPL-3.0-only"),
    ("gplv3+", "GPL-3.0-or-later"),
    ("lgpl-2", "LGPL-2.0-only"),
    ("lgpl-2+", "LGPL-2.0-or-later"),
    ("lgpl-2.1", "LGPL-2.1-only"),
    ("lgpl-2.1+", "LGPL-2.1-or-later"),
    ("lgpl-3", "LGPL-3.0-only"),
    ("lgpl-3+", "LGPL-3.0-or-later"),
    ("lgplv2", "LGPL-2.0-only"),
    ("lgplv2+", "LGPL-2.0-or-later"),
    ("lgplv3+", "LGPL-3.0-or-later"),
    ("mit license", "MIT"),
    ("mit/x11", "MIT"),
    ("psf", "PSF-2.0"),
    ("the mit license", "MIT"),
];

/// A license that is not listed: its identifier in this document, and what it was called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unlisted {
    pub(super) id: String,
    pub(super) name: String,
}

/// Returns an expression for what a package says of its license; `None` where it says nothing.
pub(super) fn expression(said: &str, unlisted: &mut Vec<Unlisted>) -> Option<String> {
    let said = said.trim();
    if said.is_empty() {
        return None;
    }
    // As a whole it may be one license, with words in between that look like operators.
    if let Some(id) = known(said) {
        return Some(id.to_owned());
    }
    Some(parsed(said, unlisted).unwrap_or_else(|| reference(said, unlisted)))
}

fn known(word: &str) -> Option<&'static str> {
    let listed = LISTED.iter().find(|id| id.eq_ignore_ascii_case(word));
    let meant = || {
        MEANT
            .iter()
            .find(|(words, _)| words.eq_ignore_ascii_case(word))
    };
    listed.copied().or_else(|| meant().map(|(_, id)| *id))
}

fn reference(name: &str, unlisted: &mut Vec<Unlisted>) -> String {
    let mut id = "LicenseRef-".to_owned();
    for character in name.chars().take(60) {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' => id.push(character),
            _ if id.ends_with('-') => {}
            _ => id.push('-'),
        }
    }
    let mut id = id.trim_end_matches('-').to_owned();
    // Different words must not meet under one name.
    if name.chars().count() > 60 || id.len() != "LicenseRef-".len() + name.len() {
        let digest = blake3::hash(name.as_bytes()).to_hex();
        id.push('-');
        id.push_str(digest.get(..8).unwrap_or_default());
    }
    let new = Unlisted {
        id: id.clone(),
        name: name.to_owned(),
    };
    if !unlisted.contains(&new) {
        unlisted.push(new);
    }
    id
}

/// Reads licenses joined by and, or, with and brackets. `None` for what is no such thing.
fn parsed(text: &str, unlisted: &mut Vec<Unlisted>) -> Option<String> {
    let mut out = String::new();
    let mut open = 0_u32;
    let mut waits_for_license = true;
    let spaced = text
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace(',', " ");
    let mut words = spaced.split_whitespace().peekable();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let operator = match word.to_ascii_lowercase().as_str() {
            "and" | "&" => Some(" AND "),
            "or" | "|" | "/" => Some(" OR "),
            _ => None,
        };
        match (word, operator) {
            (_, Some(operator)) if !waits_for_license => {
                out.push_str(operator);
                waits_for_license = true;
            }
            ("(", _) if waits_for_license => {
                open += 1;
                out.push('(');
            }
            (")", _) if !waits_for_license && open > 0 => {
                open -= 1;
                out.push(')');
            }
            (word, None) if waits_for_license && !matches!(word, "(" | ")") => {
                let mut name = word.to_owned();
                // `LICENSE with EXCEPTION`: whether the exception is listed is not known here, so both are one.
                if words
                    .peek()
                    .is_some_and(|next| next.eq_ignore_ascii_case("with"))
                {
                    words.next();
                    let exception = words.next()?;
                    name = format!("{word}-with-{exception}");
                }
                match known(&name) {
                    Some(id) => out.push_str(id),
                    None => out.push_str(&reference(&name, &mut found)),
                }
                waits_for_license = false;
            }
            _ => return None,
        }
    }
    if open > 0 || waits_for_license {
        return None;
    }
    for one in found {
        if !unlisted.contains(&one) {
            unlisted.push(one);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_expressions() {
        for (said, expected) in [
            ("MIT", "MIT"),
            (
                "mit and (bsd-2-clause or Expat)",
                "MIT AND (BSD-2-Clause OR MIT)",
            ),
            ("Apache License, Version 2.0", "Apache-2.0"),
            (
                "GPLv2+ and LGPLv2+",
                "GPL-2.0-or-later AND LGPL-2.0-or-later",
            ),
            ("Weird", "LicenseRef-Weird"),
            (
                "GPL-2.0-only WITH Linux",
                "LicenseRef-GPL-2.0-only-with-Linux",
            ),
        ] {
            let mut unlisted = Vec::new();
            assert_eq!(expression(said, &mut unlisted).as_deref(), Some(expected));
            assert_eq!(unlisted.len(), usize::from(expected.contains("LicenseRef")));
        }
        assert_eq!(expression(" ", &mut Vec::new()), None);
    }

    #[test]
    fn what_is_no_expression_is_one_license() {
        let mut unlisted = Vec::new();
        let id = expression("See the file (LICENSE", &mut unlisted).unwrap();
        assert!(id.starts_with("LicenseRef-See-the-file-LICENSE-"), "{id}");
        assert_eq!(unlisted[0].name, "See the file (LICENSE");
        let other = expression("See the file LICENSE!", &mut unlisted).unwrap();
        assert_ne!(id, other);
    }

    #[test]
    fn what_is_meant_is_listed() {
        assert!(MEANT.iter().all(|(_, id)| LISTED.contains(id)));
    }
}
