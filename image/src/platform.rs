//! `os/arch[/variant]`, normalised as containerd does (`aarch64` → `arm64`, `arm64/v8` → `arm64`, `arm` → `arm/v7`).

use std::fmt;

use crate::Result;

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
        todo!()
    }

    /// Parses and normalises; `linux` alone and `amd64` alone are completed from the host.
    pub fn parse(_text: &str) -> Result<Self> {
        todo!()
    }

    /// Whether an image for `other` runs on this platform, and how well: lower is better.
    pub fn rank(&self, _other: &Platform) -> Option<u32> {
        todo!()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}
