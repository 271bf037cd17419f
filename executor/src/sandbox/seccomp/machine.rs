//! Ways of calling the kernel.

use serde::{Deserialize, Serialize};

use super::calls::{self, Call, NONE};

/// A way of calling the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Machine {
    X86_64,
    I386,
    Aarch64,
}

impl Machine {
    /// Those that programs on this machine can use, its own first.
    pub(super) const HERE: &'static [Self] = if cfg!(target_arch = "aarch64") {
        &[Self::Aarch64]
    } else {
        &[Self::X86_64, Self::I386]
    };

    /// `AUDIT_ARCH_*`.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// As libseccomp calls it.
    pub(super) fn scmp(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::I386 => "SCMP_ARCH_X86",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }

    /// Whether arguments have 64 bits.
    pub(super) fn has_wide_arguments(self) -> bool {
        self != Self::I386
    }

    pub(super) fn number(self, call: &Call) -> Option<u32> {
        let number = match self {
            Self::X86_64 => call.1,
            Self::I386 => call.2,
            Self::Aarch64 => call.3,
        };
        (number != NONE).then_some(number)
    }

    /// Of any call of the kernel's.
    pub(super) fn number_of(self, name: &str) -> Option<u32> {
        let mut known = calls::all().filter(|call| call.0 == name);
        known.find_map(|call| self.number(call))
    }
}
