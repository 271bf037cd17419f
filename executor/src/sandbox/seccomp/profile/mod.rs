//! A profile of the user's (`--security-opt seccomp=FILE`), in the form that Docker reads, which is libseccomp's with
//! conditions on capabilities, machines and kernels. It replaces our own filter, and is what other runtimes are told.

mod rules;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::super::capabilities;
use super::decision::Verdict;
use super::machine::Machine;

pub use super::decision::{Comparison, Condition};
pub(super) use rules::Counting;
pub(in crate::sandbox) use rules::Rules;

/// More than any profile has.
pub const MOST_BYTES: u64 = 4 << 20;
const MOST_ARGUMENTS: u32 = 6;
/// The kernel gives no higher error numbers.
const MOST_ERRNO: u32 = 4095;

/// A profile as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// For what no rule is about.
    pub default_action: Action,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// The same by its name, which counts where there is no number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno: Option<String>,
    /// Ways of calling besides the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architectures: Option<Vec<String>>,
    /// Such ways by the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch_map: Option<Vec<Architecture>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<Flag>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscalls: Option<Vec<Rule>>,
    #[serde(default, skip_serializing)]
    comment: Option<String>,
    /// Of answers from outside, which are refused.
    #[serde(default, skip_serializing)]
    listener_path: Option<String>,
    #[serde(default, skip_serializing)]
    listener_metadata: Option<String>,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_KILL")]
    Kill,
    #[serde(rename = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// How the filter is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flag {
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    AllThreads,
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    Speculation,
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillable,
}

/// A machine's own way of calling, and its others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Architecture {
    pub architecture: String,
    #[serde(default)]
    pub sub_architectures: Option<Vec<String>>,
    #[serde(default, skip_serializing)]
    comment: Option<String>,
}

/// What becomes of some calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// Instead of `names`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub action: Action,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// All must hold; where two are about one argument, one of all is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<Condition>>,
    /// It counts only where all of this is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub includes: Option<Circumstances>,
    /// It does not count where any of this is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excludes: Option<Circumstances>,
    #[serde(default, skip_serializing)]
    comment: Option<String>,
}

/// What a container and its machine may be like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Circumstances {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caps: Option<Vec<String>>,
    /// `amd64`, `arm64` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arches: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_kernel: Option<String>,
}

/// What is wrong with a profile, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Error {
    /// A line and column, or a path as `syscalls[3].args[0].index`.
    pub place: String,
    pub problem: String,
    pub help: Option<&'static str>,
}

fn wrong(place: impl Into<String>, problem: impl Into<String>) -> Error {
    Error {
        place: place.into(),
        problem: problem.into(),
        help: None,
    }
}

impl Profile {
    /// Reads a profile and makes sure that all of it can be done.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let profile: Self = serde_json::from_str(text).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            let whole = error.to_string();
            let at = format!(" at line {} column {}", error.line(), error.column());
            wrong(place, whole.strip_suffix(&at).unwrap_or(&whole))
        })?;
        profile.check()?;
        Ok(profile)
    }

    fn check(&self) -> Result<(), Error> {
        let maps = self.arch_map.as_deref().unwrap_or_default();
        let listed = self.architectures.as_deref().unwrap_or_default();
        if !maps.is_empty() && !listed.is_empty() {
            return Err(Error {
                help: Some(
                    "take one of them away; `archMap` is for profiles that several kinds of machines share",
                ),
                ..wrong("architectures", "`archMap` is there, too")
            });
        }
        for (index, name) in listed.iter().enumerate() {
            known_architecture(name, || format!("architectures[{index}]"))?;
        }
        for (index, map) in maps.iter().enumerate() {
            known_architecture(&map.architecture, || {
                format!("archMap[{index}].architecture")
            })?;
            for (inner, name) in map.sub_architectures.iter().flatten().enumerate() {
                known_architecture(name, || {
                    format!("archMap[{index}].subArchitectures[{inner}]")
                })?;
            }
        }
        if self
            .listener_path
            .as_deref()
            .is_some_and(|it| !it.is_empty())
            || self
                .listener_metadata
                .as_deref()
                .is_some_and(|it| !it.is_empty())
        {
            return Err(unanswered("listenerPath"));
        }
        let flags = self.flags.as_deref().unwrap_or_default();
        if let Some(index) = flags.iter().position(|flag| *flag == Flag::WaitKillable) {
            return Err(unanswered(&format!("flags[{index}]")));
        }
        verdict(
            self.default_action,
            (self.default_errno_ret, self.default_errno.as_deref()),
            ("defaultAction", "defaultErrnoRet", "defaultErrno"),
        )?;
        for (index, rule) in self.rules().iter().enumerate() {
            rule.check(&format!("syscalls[{index}]"))?;
        }
        Ok(())
    }

    fn rules(&self) -> &[Rule] {
        self.syscalls.as_deref().unwrap_or_default()
    }

    /// What of it counts for a container with these capabilities on this machine.
    pub(in crate::sandbox) fn rules_for(&self, capabilities: u64) -> Result<Rules, Error> {
        let release = rustix::system::uname();
        let release = release.release().to_string_lossy();
        let rules = self.rules_under(capabilities, kernel_version(&release).unwrap_or((0, 0)))?;
        rules.check()?;
        Ok(rules)
    }

    fn rules_under(&self, capabilities: u64, kernel: (u32, u32)) -> Result<Rules, Error> {
        let default = verdict(
            self.default_action,
            (self.default_errno_ret, self.default_errno.as_deref()),
            ("defaultAction", "defaultErrnoRet", "defaultErrno"),
        )?;
        let mut calls = Vec::new();
        for (index, rule) in self.rules().iter().enumerate() {
            if !rule.counts(capabilities, kernel) {
                continue;
            }
            let verdict = rule.verdict(&format!("syscalls[{index}]"))?;
            let conditions = rule.args.clone().unwrap_or_default();
            let names = rule.names();
            let mut indices: Vec<u32> = conditions.iter().map(|it| it.index).collect();
            indices.sort_unstable();
            indices.dedup();
            if indices.len() == conditions.len() {
                calls.push(Counting {
                    names,
                    verdict,
                    conditions,
                });
            } else {
                calls.extend(conditions.into_iter().map(|condition| Counting {
                    names: names.clone(),
                    verdict,
                    conditions: vec![condition],
                }));
            }
        }
        Ok(Rules {
            default,
            architectures: self.architectures_here(),
            flags: self.flags.clone(),
            calls,
        })
    }

    fn architectures_here(&self) -> Vec<String> {
        let listed = self.architectures.clone().unwrap_or_default();
        if !listed.is_empty() {
            return listed;
        }
        let mut maps = self.arch_map.iter().flatten();
        let native = Machine::HERE.first().map(|machine| machine.scmp());
        maps.find(|map| Some(map.architecture.as_str()) == native)
            .map(|map| {
                let others = map.sub_architectures.iter().flatten();
                std::iter::once(&map.architecture)
                    .chain(others)
                    .cloned()
                    .collect()
            })
            .unwrap_or_default()
    }
}

impl Rule {
    fn check(&self, place: &str) -> Result<(), Error> {
        if self.name.as_deref().is_some_and(|name| !name.is_empty())
            && self.names.as_deref().is_some_and(|names| !names.is_empty())
        {
            return Err(Error {
                help: Some("write all of them in `names`"),
                ..wrong(format!("{place}.name"), "`names` is there, too")
            });
        }
        let names = self.names();
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err(wrong(
                format!("{place}.names"),
                "the name of a system call is missing",
            ));
        }
        for (index, condition) in self.args.iter().flatten().enumerate() {
            if condition.index >= MOST_ARGUMENTS {
                return Err(wrong(
                    format!("{place}.args[{index}].index"),
                    format!(
                        "{} is not an argument: they are counted from 0 to 5",
                        condition.index
                    ),
                ));
            }
        }
        for (name, circumstances) in [("includes", &self.includes), ("excludes", &self.excludes)] {
            let version = circumstances
                .as_ref()
                .and_then(|it| it.min_kernel.as_deref());
            if let Some(version) = version.filter(|version| kernel_version(version).is_none()) {
                return Err(wrong(
                    format!("{place}.{name}.minKernel"),
                    format!("`{version}` is not a kernel's version, as `4.8` is"),
                ));
            }
        }
        self.verdict(place)?;
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        match &self.names {
            Some(names) if !names.is_empty() => names.clone(),
            _ => self.name.iter().cloned().collect(),
        }
    }

    fn verdict(&self, place: &str) -> Result<Verdict, Error> {
        verdict(
            self.action,
            (self.errno_ret, self.errno.as_deref()),
            (
                &format!("{place}.action"),
                &format!("{place}.errnoRet"),
                &format!("{place}.errno"),
            ),
        )
    }

    fn counts(&self, capabilities: u64, kernel: (u32, u32)) -> bool {
        let has = |name: &String| {
            name.to_ascii_uppercase().starts_with("CAP_")
                && capabilities::by_name(name).is_some_and(|bit| capabilities & bit == bit)
        };
        let here = |name: &String| name == architecture_here();
        let is_reached = |version: &String| kernel_version(version).is_some_and(|it| kernel >= it);
        let excluded = self.excludes.as_ref().is_some_and(|excludes| {
            excludes.caps.iter().flatten().any(has)
                || excludes.arches.iter().flatten().any(here)
                || excludes.min_kernel.as_ref().is_some_and(is_reached)
        });
        let included = self.includes.as_ref().is_none_or(|includes| {
            let arches = includes.arches.as_deref().unwrap_or_default();
            includes.caps.iter().flatten().all(has)
                && (arches.is_empty() || arches.iter().any(here))
                && includes.min_kernel.as_ref().is_none_or(is_reached)
        });
        included && !excluded
    }
}

/// A name of the machine as Go has it.
fn architecture_here() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn known_architecture(name: &str, place: impl Fn() -> String) -> Result<(), Error> {
    const KNOWN: [&str; 21] = [
        "X86",
        "X86_64",
        "X32",
        "ARM",
        "AARCH64",
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
        "MIPSEL64N32",
        "PPC",
        "PPC64",
        "PPC64LE",
        "S390",
        "S390X",
        "PARISC",
        "PARISC64",
        "RISCV64",
        "LOONGARCH64",
        "M68K",
    ];
    let short = name.strip_prefix("SCMP_ARCH_");
    if short.is_some_and(|short| KNOWN.contains(&short)) {
        return Ok(());
    }
    Err(Error {
        help: Some(
            "they are called as `SCMP_ARCH_X86_64`, `SCMP_ARCH_X86` and `SCMP_ARCH_AARCH64` are",
        ),
        ..wrong(place(), format!("there is no architecture `{name}`"))
    })
}

fn unanswered(place: &str) -> Error {
    Error {
        help: Some("take it away, or let the calls be answered with SCMP_ACT_ERRNO"),
        ..wrong(
            place,
            "calls that wait for an answer of another program cannot be had",
        )
    }
}

/// `places`: of the action, of its number and of the number's name.
fn verdict(
    action: Action,
    (number, name): (Option<u32>, Option<&str>),
    places: (&str, &str, &str),
) -> Result<Verdict, Error> {
    let named = name
        .filter(|name| !name.is_empty())
        .map(|name| {
            errno_by_name(name)
                .ok_or_else(|| wrong(places.2, format!("there is no error called `{name}`")))
        })
        .transpose()?;
    let number = number.or(named).unwrap_or(libc::EPERM as u32);
    let number = u16::try_from(number)
        .ok()
        .filter(|number| u32::from(*number) <= MOST_ERRNO)
        .ok_or_else(|| {
            wrong(
                places.1,
                format!("{number} is not an error number: they go up to {MOST_ERRNO}"),
            )
        })?;
    Ok(match action {
        Action::Allow => Verdict::Allow,
        Action::Errno => Verdict::Errno(number),
        Action::Log => Verdict::Log,
        Action::Trap => Verdict::Trap,
        Action::Trace => Verdict::Trace(number),
        Action::Kill | Action::KillThread => Verdict::KillThread,
        Action::KillProcess => Verdict::KillProcess,
        Action::Notify => return Err(unanswered(places.0)),
    })
}

/// Those that profiles give.
fn errno_by_name(name: &str) -> Option<u32> {
    const NAMES: [(&str, i32); 14] = [
        ("EPERM", libc::EPERM),
        ("ENOENT", libc::ENOENT),
        ("EIO", libc::EIO),
        ("EBADF", libc::EBADF),
        ("EAGAIN", libc::EAGAIN),
        ("ENOMEM", libc::ENOMEM),
        ("EACCES", libc::EACCES),
        ("EBUSY", libc::EBUSY),
        ("EINVAL", libc::EINVAL),
        ("ENOSYS", libc::ENOSYS),
        ("EOPNOTSUPP", libc::EOPNOTSUPP),
        ("ENOTSUP", libc::ENOTSUP),
        ("EAFNOSUPPORT", libc::EAFNOSUPPORT),
        ("EPROTONOSUPPORT", libc::EPROTONOSUPPORT),
    ];
    let mut known = NAMES.iter();
    known
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number as u32)
}

/// `4.8` of `4.8.0-rc1` and the like.
fn kernel_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.splitn(3, '.');
    let number = |part: &str| {
        let end = part.find(|c: char| !c.is_ascii_digit());
        part.get(..end.unwrap_or(part.len()))?.parse().ok()
    };
    Some((number(parts.next()?)?, number(parts.next()?)?))
}
