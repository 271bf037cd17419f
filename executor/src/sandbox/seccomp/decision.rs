//! What a call leads to, in the one form that is compiled to BPF for our own sandboxes and told to other runtimes.

use serde::{Deserialize, Serialize};

/// What the kernel does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) enum Verdict {
    KillProcess,
    KillThread,
    /// SIGSYS.
    Trap,
    Errno(u16),
    /// Waits for an answer from outside.
    Ask,
    /// Stops for a tracer, with a number for it; without a tracer it is ENOSYS.
    Trace(u16),
    /// Allowed, and written into the machine's log.
    Log,
    Allow,
}

pub(super) const EPERM: Verdict = Verdict::Errno(libc::EPERM as u16);
pub(super) const ENOSYS: Verdict = Verdict::Errno(libc::ENOSYS as u16);
/// Success without effect.
pub(super) const PRETEND: Verdict = Verdict::Errno(0);

impl Verdict {
    /// Whether the call may be made at all.
    pub(super) fn lets_through(self) -> bool {
        matches!(self, Self::Allow | Self::Log | Self::Trace(_) | Self::Ask)
    }

    /// The strictest first: of several filters' verdicts, the kernel takes that one.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::KillProcess => 0,
            Self::KillThread => 1,
            Self::Trap => 2,
            Self::Errno(_) => 3,
            Self::Ask => 4,
            Self::Trace(_) => 5,
            Self::Log => 6,
            Self::Allow => 7,
        }
    }

    /// As a filter gives it back.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Self::Ask => libc::SECCOMP_RET_USER_NOTIF,
            Self::Trace(number) => libc::SECCOMP_RET_TRACE | u32::from(number),
            Self::Log => libc::SECCOMP_RET_LOG,
            Self::Allow => libc::SECCOMP_RET_ALLOW,
        }
    }
}

/// How an argument is compared, by libseccomp's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    /// `value` is the mask, `valueTwo` what the masked argument is compared with.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

/// A comparison of one argument, of 64 bits; programs of 32 bits have its lower half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// Which argument, from 0 on.
    pub index: u32,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: Comparison,
}

impl Condition {
    /// What the kernel takes from a register as an `int`: whatever is above does not count.
    pub(super) fn low_half_is(index: u32, value: u32) -> Self {
        Self::masked(index, u32::MAX, value)
    }

    pub(super) fn masked(index: u32, mask: u32, value: u32) -> Self {
        Self {
            index,
            value: mask.into(),
            value_two: value.into(),
            op: Comparison::MaskedEq,
        }
    }
}

/// The first case all of whose conditions hold counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) cases: Vec<(Vec<Condition>, Verdict)>,
    pub(super) otherwise: Verdict,
}

impl Decision {
    /// Whatever the arguments are.
    pub(super) const fn always(otherwise: Verdict) -> Self {
        Self {
            cases: Vec::new(),
            otherwise,
        }
    }

    /// `then` if the argument has none of the bits.
    pub(super) fn without_bits(index: u32, bits: u32, then: Verdict, otherwise: Verdict) -> Self {
        Self {
            cases: vec![(vec![Condition::masked(index, bits, 0)], then)],
            otherwise,
        }
    }

    /// `then` if the argument is one of the values.
    pub(super) fn for_values(
        index: u32,
        values: &[u32],
        then: Verdict,
        otherwise: Verdict,
    ) -> Self {
        let case = |value: &u32| (vec![Condition::low_half_is(index, *value)], then);
        Self {
            cases: values.iter().map(case).collect(),
            otherwise,
        }
    }

    /// Whether the call may be made with any arguments.
    pub(super) fn always_lets_through(&self) -> bool {
        let mut verdicts = self.cases.iter().map(|(_, verdict)| *verdict);
        self.otherwise.lets_through() && verdicts.all(Verdict::lets_through)
    }

    /// Whether there are arguments with which the call may be made.
    pub(super) fn ever_lets_through(&self) -> bool {
        let mut verdicts = self.cases.iter().map(|(_, verdict)| *verdict);
        self.otherwise.lets_through() || verdicts.any(Verdict::lets_through)
    }
}
