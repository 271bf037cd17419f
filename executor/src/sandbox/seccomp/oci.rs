//! The filter as an OCI runtime takes it: names of calls instead of numbers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::plan::Filter;
use super::decision::{Condition, Decision, Verdict};
use super::profile::{Counting, Rules};
use super::rules::named_rules;
use super::{Machine, calls};

/// Arguments that name a family have fewer values than this.
const FAMILIES: u32 = 64;

/// `linux.seccomp` of config.json: the user's profile, or else our filter. There are no answers from outside under
/// another runtime.
pub(in crate::sandbox) fn oci(filter: Option<Filter>, profile: Option<&Rules>) -> Option<Value> {
    match (profile, filter) {
        (Some(rules), _) => Some(of_profile(rules)),
        (None, Some(filter)) => Some(of_filter(filter)),
        (None, None) => None,
    }
}

fn of_profile(rules: &Rules) -> Value {
    let entry = |rule: &Counting| entry(&rule.names, &rule.conditions, rule.verdict);
    let (action, errno) = action(rules.default);
    let mut told = json!({
        "defaultAction": action,
        "syscalls": rules.calls.iter().map(entry).collect::<Vec<_>>(),
    });
    if let Some(errno) = errno {
        told["defaultErrnoRet"] = errno.into();
    }
    if !rules.architectures.is_empty() {
        told["architectures"] = json!(rules.architectures);
    }
    if let Some(flags) = &rules.flags {
        told["flags"] = json!(flags);
    }
    told
}

fn of_filter(filter: Filter) -> Value {
    let architectures: Vec<&str> = Machine::HERE.iter().map(|it| it.scmp()).collect();
    let here = Machine::HERE.first().copied().unwrap_or(Machine::X86_64);
    let mut seen = BTreeSet::new();
    let mut allowed = Vec::new();
    let mut others = Vec::new();
    for ((name, ..), decision) in named_rules(here, filter) {
        if !seen.insert(name) {
            continue;
        }
        // Runtimes have a library that makes a rule of it wherever there is one of `socket`.
        if name == calls::SOCKETCALL.0 {
            continue;
        }
        if decision == Decision::always(Verdict::Allow) {
            allowed.push(name.to_owned());
        } else {
            others.extend(entries(name, &decision));
        }
    }
    let mut syscalls = vec![entry(&allowed, &[], Verdict::Allow)];
    syscalls.extend(others);
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": architectures,
        "syscalls": syscalls,
    })
}

/// A decision under a default of EPERM.
fn entries(name: &str, decision: &Decision) -> Vec<Value> {
    let names = [name.to_owned()];
    let Decision { cases, otherwise } = decision;
    if *otherwise == Verdict::Allow && !cases.is_empty() {
        // The runtimes' library cannot be told to refuse some values and to allow all others: it takes no second action,
        // and one comparison an argument. So each value that there is gets a rule, but for the refused ones, which get
        // the default's error number.
        let is_refused = |value: u32| {
            let condition = |index| Condition::low_half_is(index, value);
            cases
                .iter()
                .any(|(of, _)| of.first().is_some_and(|it| *it == condition(it.index)))
        };
        let index = cases.first().and_then(|(of, _)| of.first());
        let index = index.map_or(0, |condition| condition.index);
        return (0..FAMILIES)
            .filter(|value| !is_refused(*value))
            .map(|value| {
                let is_value = Condition::low_half_is(index, value);
                entry(&names, &[is_value], Verdict::Allow)
            })
            .collect();
    }
    let mut entries: Vec<Value> = cases
        .iter()
        // Answers from outside: only our own sandbox asks for them.
        .filter(|(_, verdict)| *verdict != Verdict::Ask)
        .map(|(conditions, verdict)| entry(&names, conditions, *verdict))
        .collect();
    if cases.is_empty() && *otherwise != Verdict::Ask {
        entries.push(entry(&names, &[], *otherwise));
    }
    entries
}

fn entry(names: &[String], conditions: &[Condition], verdict: Verdict) -> Value {
    let (action, errno) = action(verdict);
    let mut entry = json!({ "names": names, "action": action });
    if let Some(errno) = errno {
        entry["errnoRet"] = errno.into();
    }
    if !conditions.is_empty() {
        entry["args"] = json!(conditions);
    }
    entry
}

/// Its name, and the number that belongs to it.
fn action(verdict: Verdict) -> (&'static str, Option<u16>) {
    match verdict {
        Verdict::Allow => ("SCMP_ACT_ALLOW", None),
        Verdict::Errno(errno) => ("SCMP_ACT_ERRNO", Some(errno)),
        Verdict::Log => ("SCMP_ACT_LOG", None),
        Verdict::Trap => ("SCMP_ACT_TRAP", None),
        Verdict::Trace(number) => ("SCMP_ACT_TRACE", Some(number)),
        Verdict::KillThread => ("SCMP_ACT_KILL_THREAD", None),
        Verdict::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
        Verdict::Ask => ("SCMP_ACT_NOTIFY", None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::capabilities;
    use super::super::super::plan::{Around, Devices};
    use super::*;

    #[test]
    fn the_default_filter_is_told_by_names() {
        let filter = Filter {
            capabilities: capabilities::DEFAULT,
            emulation: false,
            devices: Devices::Kernel,
            unrestricted: false,
            around: Around::Namespaces,
        };
        let told = oci(Some(filter), None).expect("a filter");
        let entries = told["syscalls"].as_array().expect("a list");
        let of = |name: &str| -> Vec<&Value> {
            let has = |entry: &&Value| {
                let names = entry["names"].as_array().expect("names");
                names.iter().any(|it| it == name)
            };
            entries.iter().filter(has).collect()
        };
        assert_eq!(of("read").len(), 1);
        assert_eq!(of("read")[0]["action"], "SCMP_ACT_ALLOW");
        assert!(of("mount").is_empty());
        assert_eq!(of("clone")[0]["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
        assert_eq!(of("clone3")[0]["errnoRet"], libc::ENOSYS);
        // All families but two, of which the kernel sees the lower half.
        assert_eq!(of("socket").len(), 62);
        assert_eq!(of("socket")[0]["args"][0]["value"], u32::MAX);
        assert!(of("socketcall").is_empty());
        assert_eq!(told["defaultAction"], "SCMP_ACT_ERRNO");
    }
}
