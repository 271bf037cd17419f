//! Devices of the machine that a command is given, and what it may do with which.

use std::path::PathBuf;

/// A device node of the machine in a sandbox's /dev (`--device`). Who may open it is said by its mode and owner.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    /// On the host, without links.
    pub path: PathBuf,
    /// Below /dev, as in `snd/timer`.
    pub name: PathBuf,
    /// What the sandbox's cgroup lets it be used for.
    #[serde(default)]
    pub access: Access,
}

impl Device {
    /// Whether that is less than who may open it could do.
    pub fn is_restricted(&self) -> bool {
        !(self.access.read && self.access.write)
    }
}

/// What may be done with a device; by default, everything. Written as Docker does: `rwm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Access {
    pub read: bool,
    pub write: bool,
    /// Nodes of it are made.
    pub make: bool,
}

impl Access {
    /// Everything.
    pub const ALL: Self = Self {
        read: true,
        write: true,
        make: true,
    };

    /// Some of the letters `r`, `w` and `m`, at least one.
    pub fn parse(text: &str) -> Option<Self> {
        let known = !text.is_empty() && text.chars().all(|letter| "rwm".contains(letter));
        known.then(|| Self {
            read: text.contains('r'),
            write: text.contains('w'),
            make: text.contains('m'),
        })
    }

    /// With what another has.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            read: self.read || other.read,
            write: self.write || other.write,
            make: self.make || other.make,
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self::ALL
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (given, letter) in [(self.read, "r"), (self.write, "w"), (self.make, "m")] {
            if given {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl From<Access> for String {
    fn from(access: Access) -> Self {
        access.to_string()
    }
}

impl TryFrom<String> for Access {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("`{text}` is not some of `rwm`"))
    }
}

/// Devices that a sandbox's cgroup lets it use (`--device-cgroup-rule`); it has to find or make nodes of them itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeviceRule {
    pub kind: DeviceKind,
    /// Every number where there is none; so below.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

/// Which devices a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum DeviceKind {
    /// All of them, whatever their number.
    All,
    Block,
    Character,
}

/// As the kernel writes it: `c 1:3 rwm`.
impl std::fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            DeviceKind::All => 'a',
            DeviceKind::Block => 'b',
            DeviceKind::Character => 'c',
        };
        let number = |number: Option<u32>| {
            number.map_or_else(|| "*".to_owned(), |number| number.to_string())
        };
        let (major, minor) = (number(self.major), number(self.minor));
        write!(f, "{kind} {major}:{minor} {}", self.access)
    }
}
