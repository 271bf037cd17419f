//! What of a profile counts for one container, and its filter.
//!
//! Where rules of one call contradict each other, it is as with libseccomp: a rule without conditions counts, the first
//! of several; of those with conditions that hold, the strictest.

use std::collections::BTreeMap;

use libc::sock_filter;
use serde::{Deserialize, Serialize};

use super::super::decision::{Decision, ENOSYS, Verdict};
use super::super::machine::Machine;
use super::super::{bpf, calls};
use super::{Condition, Error, Flag, wrong};

/// Whether a decision is open enough for a call.
type IsOpen = fn(&Decision) -> bool;
/// The last calls of a sandbox before its command is there. By the first the command loses what it is not to have: it has
/// to be let through whatever its arguments are, for where it only seems to succeed nothing is lost.
const NEEDED: [(&str, IsOpen); 2] = [
    ("capset", Decision::always_lets_through),
    ("execve", Decision::ever_lets_through),
];

/// A profile's rules that count for a container, as they travel to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox) struct Rules {
    pub(in crate::sandbox::seccomp) default: Verdict,
    pub(in crate::sandbox::seccomp) architectures: Vec<String>,
    pub(in crate::sandbox::seccomp) flags: Option<Vec<Flag>>,
    pub(in crate::sandbox::seccomp) calls: Vec<Counting>,
}

/// A rule that counts. No two of its conditions are about one argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::sandbox::seccomp) struct Counting {
    pub(in crate::sandbox::seccomp) names: Vec<String>,
    pub(in crate::sandbox::seccomp) verdict: Verdict,
    pub(in crate::sandbox::seccomp) conditions: Vec<Condition>,
}

impl Rules {
    pub(super) fn check(&self) -> Result<(), Error> {
        let native = Machine::HERE.first().copied();
        let decisions = native.map(|machine| self.decisions(machine));
        for (name, is_open) in NEEDED {
            let number = native.and_then(|machine| machine.number_of(name));
            let decision = decisions.as_ref().zip(number);
            let default = Decision::always(self.default);
            let decision = decision.map_or(&default, |(all, number)| {
                all.get(&number).unwrap_or(&default)
            });
            if !is_open(decision) {
                return Err(wrong(
                    "syscalls",
                    format!("`{name}` is refused, without which no command starts: allow it"),
                ));
            }
        }
        match self.program() {
            Some(_) => Ok(()),
            None => Err(wrong(
                "syscalls",
                "there are more rules than the kernel takes in one filter: leave out some",
            )),
        }
    }

    /// The filter as instructions.
    pub(in crate::sandbox) fn program(&self) -> Option<Vec<sock_filter>> {
        let default = Decision::always(self.default);
        // As if the kernel were older; also x32, which is told from the rest by a high bit of the number.
        let absent = Decision::always(ENOSYS);
        let all: Vec<(Machine, BTreeMap<u32, Decision>)> = self
            .machines()
            .map(|machine| (machine, self.decisions(machine)))
            .collect();
        let ranges: Vec<(Machine, bpf::Ranges<'_>)> = all
            .iter()
            .map(|(machine, decisions)| {
                let rules = decisions.iter().map(|(number, it)| (*number, it));
                let newest = (self.newest(*machine), &absent);
                (*machine, bpf::ranges(rules, &default, newest))
            })
            .collect();
        bpf::assemble(&ranges)
    }

    /// `SECCOMP_FILTER_FLAG_*` with which it is installed. There is one thread.
    pub(in crate::sandbox) fn flags(&self) -> libc::c_ulong {
        let Some(flags) = &self.flags else {
            return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        };
        let bits = flags.iter().map(|flag| match flag {
            Flag::Speculation => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            Flag::Log => libc::SECCOMP_FILTER_FLAG_LOG,
            Flag::AllThreads | Flag::WaitKillable => 0,
        });
        bits.fold(0, |all, bit| all | bit)
    }

    /// Those of this machine's ways of calling that are open.
    fn machines(&self) -> impl Iterator<Item = Machine> {
        let native = Machine::HERE.first();
        Machine::HERE.iter().copied().filter(move |machine| {
            Some(machine) == native || self.architectures.iter().any(|it| it == machine.scmp())
        })
    }

    /// The last call that a profile that refuses by default can know of: those after it do not exist. Runtimes do
    /// so, that programs fall back to what was there before.
    pub(super) fn newest(&self, machine: Machine) -> u32 {
        if self.default.lets_through() || self.default == ENOSYS {
            return calls::KNOWN;
        }
        let names = self.calls.iter().flat_map(|rule| &rule.names);
        let numbers = names.filter_map(|name| machine.number_of(name));
        numbers.max().unwrap_or(calls::KNOWN)
    }

    /// What each call leads to that a rule is about.
    fn decisions(&self, machine: Machine) -> BTreeMap<u32, Decision> {
        let mut cases: BTreeMap<&str, Vec<(&[Condition], Verdict)>> = BTreeMap::new();
        for rule in &self.calls {
            // What is so anyway does not count as a rule.
            if rule.verdict == self.default {
                continue;
            }
            for name in &rule.names {
                let case = (rule.conditions.as_slice(), rule.verdict);
                cases.entry(name).or_default().push(case);
            }
        }
        let owned =
            |(conditions, verdict): &(&[Condition], Verdict)| (conditions.to_vec(), *verdict);
        let mut numbered: BTreeMap<u32, Vec<(Vec<Condition>, Verdict)>> = BTreeMap::new();
        for (name, cases) in &cases {
            if let Some(number) = machine.number_of(name) {
                let all = numbered.entry(number).or_default();
                all.extend(cases.iter().map(owned));
            }
        }
        if machine == Machine::I386 {
            for (through, list) in [
                (&calls::SOCKETCALL, calls::SOCKET_CALLS),
                (&calls::IPC, calls::IPC_CALLS),
            ] {
                let Some(through) = machine.number(through) else {
                    continue;
                };
                for (name, number) in list {
                    let Some(verdict) = cases.get(name).and_then(|cases| unseen(cases)) else {
                        continue;
                    };
                    let is_this = Condition::masked(0, 0xffff, *number);
                    let all = numbered.entry(through).or_default();
                    all.push((vec![is_this], verdict));
                }
            }
        }
        let decided = numbered.into_iter();
        decided
            .map(|(number, cases)| (number, self.decide(cases)))
            .collect()
    }

    fn decide(&self, mut cases: Vec<(Vec<Condition>, Verdict)>) -> Decision {
        let always = cases.iter().find(|(conditions, _)| conditions.is_empty());
        if let Some((_, verdict)) = always {
            return Decision::always(*verdict);
        }
        cases.sort_by_key(|(_, verdict)| verdict.rank());
        Decision {
            cases,
            otherwise: self.default,
        }
    }
}

/// What becomes of a call whose arguments lie in memory: where they decide, it is refused if it can be.
fn unseen(cases: &[(&[Condition], Verdict)]) -> Option<Verdict> {
    let always = cases.iter().find(|(conditions, _)| conditions.is_empty());
    if let Some((_, verdict)) = always {
        return Some(*verdict);
    }
    let refusals = cases.iter().map(|(_, verdict)| *verdict);
    refusals
        .filter(|verdict| !verdict.lets_through())
        .min_by_key(|verdict| verdict.rank())
}
