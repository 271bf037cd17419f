//! Limits of resources (setrlimit(2)), by the names that `--ulimit` has for them.

use serde::{Deserialize, Serialize};

/// One resource's limit; `u64::MAX` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) struct ResourceLimit {
    pub(in crate::sandbox) kind: Limit,
    pub(in crate::sandbox) soft: u64,
    pub(in crate::sandbox) hard: u64,
    /// Given by the caller, so that anything less is an error.
    pub(in crate::sandbox) asked: bool,
}

/// Resources that have limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) enum Limit {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl Limit {
    pub(in crate::sandbox) const ALL: [(&'static str, Self); 16] = [
        ("as", Self::As),
        ("core", Self::Core),
        ("cpu", Self::Cpu),
        ("data", Self::Data),
        ("fsize", Self::Fsize),
        ("locks", Self::Locks),
        ("memlock", Self::Memlock),
        ("msgqueue", Self::Msgqueue),
        ("nice", Self::Nice),
        ("nofile", Self::Nofile),
        ("nproc", Self::Nproc),
        ("rss", Self::Rss),
        ("rtprio", Self::Rtprio),
        ("rttime", Self::Rttime),
        ("sigpending", Self::Sigpending),
        ("stack", Self::Stack),
    ];

    pub(in crate::sandbox) fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, limit)| *limit)
    }

    pub(in crate::sandbox) fn name(self) -> &'static str {
        let known = Self::ALL.iter().find(|(_, limit)| *limit == self);
        known.map_or("", |(name, _)| *name)
    }

    pub(in crate::sandbox) fn resource(self) -> rustix::process::Resource {
        use rustix::process::Resource;
        match self {
            Self::As => Resource::As,
            Self::Core => Resource::Core,
            Self::Cpu => Resource::Cpu,
            Self::Data => Resource::Data,
            Self::Fsize => Resource::Fsize,
            Self::Locks => Resource::Locks,
            Self::Memlock => Resource::Memlock,
            Self::Msgqueue => Resource::Msgqueue,
            Self::Nice => Resource::Nice,
            Self::Nofile => Resource::Nofile,
            Self::Nproc => Resource::Nproc,
            Self::Rss => Resource::Rss,
            Self::Rtprio => Resource::Rtprio,
            Self::Rttime => Resource::Rttime,
            Self::Sigpending => Resource::Sigpending,
            Self::Stack => Resource::Stack,
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_the_names_of_ulimit() {
        assert_eq!(Limit::by_name("nofile"), Some(Limit::Nofile));
        assert_eq!(Limit::by_name("NOFILE"), None);
    }
}
