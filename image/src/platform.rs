//! `os/arch[/variant]`, normalised as containerd does (`aarch64` → `arm64`, `arm64/v8` → `arm64`, `arm` → `arm/v7`).

use std::fmt;

use crate::{Error, Result};

/// Normalised: two of them are the same platform if they are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    /// Empty where there is none.
    pub variant: String,
}

impl Platform {
    /// The platform that this machine executes.
    pub fn host() -> Self {
        Self::normalised(std::env::consts::OS, std::env::consts::ARCH, "")
    }

    /// Normalises the three parts as they are found in an index or a config.
    pub fn normalised(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let (architecture, variant) = normalise_architecture(
            &architecture.to_ascii_lowercase(),
            &variant.to_ascii_lowercase(),
        );
        Self {
            os,
            architecture,
            variant,
        }
    }

    /// Parses and normalises; `linux` alone and `amd64` alone are completed from the host.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |reason: &str| {
            let shown = crate::error::shown(text.as_bytes());
            Error::BadPlatform(shown, reason.to_owned())
        };
        let parts: Vec<&str> = text.split('/').collect();
        let valid = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        if !parts.iter().all(valid) {
            return Err(bad(
                "write os/architecture or os/architecture/variant, for instance linux/arm64",
            ));
        }
        match *parts.as_slice() {
            [one] => {
                let lower = one.to_ascii_lowercase();
                if KNOWN_SYSTEMS.contains(&lower.as_str()) {
                    let host = Self::host();
                    return Ok(Self {
                        os: Self::normalised(one, "", "").os,
                        ..host
                    });
                }
                let platform = Self::normalised(std::env::consts::OS, one, "");
                if KNOWN_ARCHITECTURES.contains(&platform.architecture.as_str()) {
                    return Ok(platform);
                }
                Err(bad(
                    "it is no operating system and no architecture that is known",
                ))
            }
            [os, architecture] => Ok(Self::normalised(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::normalised(os, architecture, variant)),
            _ => Err(bad("it has more than three parts")),
        }
    }

    /// Whether an image for `other` runs on this platform, and how well: lower is better.
    pub fn rank(&self, other: &Platform) -> Option<u32> {
        if self.os != other.os {
            return None;
        }
        if self.architecture == other.architecture {
            if self.variant == other.variant {
                return Some(0);
            }
            // An older variant of the same architecture runs, the newest of them best.
            let (own, wanted) = (level(self)?, level(other)?);
            return own.checked_sub(wanted).filter(|distance| *distance > 0);
        }
        // 64-bit ARM mostly runs 32-bit programs, but only where nothing better is offered.
        if self.architecture == "arm64" && other.architecture == "arm" {
            return level(other)
                .filter(|level| (5..=8).contains(level))
                .map(|level| 100 - level);
        }
        None
    }
}

/// The number of a variant; that of the base architecture where there is none.
fn level(platform: &Platform) -> Option<u32> {
    match (platform.architecture.as_str(), platform.variant.as_str()) {
        ("amd64", "") => Some(1),
        ("arm64", "") => Some(8),
        ("arm", "") => Some(7),
        (_, variant) => {
            let digits = variant.strip_prefix('v')?;
            let whole = digits.split('.').next()?;
            whole.parse().ok().filter(|level| *level < 50)
        }
    }
}

fn normalise_architecture(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        ("powerpc64le" | "powerpc64", _) => ("ppc64le", ""),
        ("mips64el" | "mipsel64", variant) => ("mips64le", variant),
        ("mipsel", variant) => ("mipsle", variant),
        ("loongarch64", variant) => ("loong64", variant),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

const KNOWN_SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "macos",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
    "zos",
];

const KNOWN_ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing_normalises() {
        let host = Platform::host();
        let table = [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/i686", "linux/386"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("freebsd/amd64", "freebsd/amd64"),
            ("s390x", "linux/s390x"),
        ];
        for (text, expected) in table {
            assert_eq!(
                Platform::parse(text).unwrap().to_string(),
                expected,
                "{text}"
            );
        }
        assert_eq!(Platform::parse("linux").unwrap(), host);
    }

    #[test]
    fn what_is_no_platform() {
        for text in [
            "",
            "linux/",
            "/",
            "a/b/c/d/e",
            "linux//v7",
            "nothing",
            "linux/arm 64",
            "a\nb",
        ] {
            assert!(Platform::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranking() {
        let rank = |own: &str, other: &str| {
            Platform::parse(own)
                .unwrap()
                .rank(&Platform::parse(other).unwrap())
        };
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(rank("linux/amd64/v3", "linux/amd64"), Some(2));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert!(rank("linux/arm64", "linux/arm/v7") < rank("linux/arm64", "linux/arm/v6"));
        assert_eq!(rank("linux/amd64", "linux/386"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
    }
}
