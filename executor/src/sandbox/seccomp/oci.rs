//! The filter as an OCI runtime takes it: names of calls instead of numbers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::plan::Filter;
use super::{Action, Machine, calls, named_rules};

/// `linux.seccomp` of config.json. There are no answers from outside under another runtime.
pub(in crate::sandbox) fn oci(filter: Filter) -> Value {
    let architectures: Vec<&str> = Machine::HERE.iter().map(|it| it.scmp()).collect();
    let here = Machine::HERE.first().copied().unwrap_or(Machine::X86_64);
    let mut seen = BTreeSet::new();
    let mut allowed = Vec::new();
    let mut others = Vec::new();
    for ((name, ..), action) in named_rules(here, filter) {
        match action {
            _ if !seen.insert(name) => {}
            // Runtimes have a library that makes a rule of it wherever there is one of `socket`.
            _ if name == calls::SOCKETCALL.0 => {}
            Action::Allow => allowed.push(name),
            action => others.extend(entries(name, action)),
        }
    }
    let mut syscalls = vec![json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" })];
    syscalls.extend(others);
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": architectures,
        "syscalls": syscalls,
    })
}

impl Machine {
    fn scmp(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::I386 => "SCMP_ARCH_X86",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }
}

fn entries(name: &str, action: Action) -> Vec<Value> {
    let allow_if = |argument: u32, value: u32, second: u32, compare: &str| {
        json!({
            "names": [name],
            "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": argument, "value": value, "valueTwo": second, "op": compare }],
        })
    };
    match action {
        Action::Allow => vec![json!({ "names": [name], "action": "SCMP_ACT_ALLOW" })],
        Action::Errno(errno) => {
            vec![json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno })]
        }
        Action::RefuseBits { argument, bits } => {
            vec![allow_if(argument, bits, 0, "SCMP_CMP_MASKED_EQ")]
        }
        Action::OnlyValues { argument, values } => values
            .iter()
            .map(|value| allow_if(argument, *value, 0, "SCMP_CMP_EQ"))
            .collect(),
        // Two comparisons of one argument cannot be had, so what is between the values is allowed range by range; the
        // values themselves get the default's error number, as the runtimes' library takes no second action for them.
        Action::NotValues {
            argument, values, ..
        } => {
            let mut sorted = values.to_vec();
            sorted.sort_unstable();
            let mut entries = Vec::new();
            if let (Some(first), Some(last)) = (sorted.first(), sorted.last()) {
                entries.push(allow_if(argument, *first, 0, "SCMP_CMP_LT"));
                entries.push(allow_if(argument, *last, 0, "SCMP_CMP_GT"));
                let between = (*first..*last).filter(|value| !sorted.contains(value));
                entries.extend(between.map(|value| allow_if(argument, value, 0, "SCMP_CMP_EQ")));
            }
            entries
        }
        // Answers from outside, or pretended: only our own sandbox asks for them.
        Action::PretendDevices { .. } | Action::Ask | Action::AskBits { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::capabilities;
    use super::super::super::plan::Devices;
    use super::*;

    #[test]
    fn the_default_filter_is_told_by_names() {
        let filter = Filter {
            capabilities: capabilities::DEFAULT,
            emulation: false,
            devices: Devices::Kernel,
            emulates_user: false,
            unrestricted: false,
        };
        let told = oci(filter);
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
        // Below, above and between the two families that are refused.
        assert_eq!(of("socket").len(), 3);
        assert!(of("socketcall").is_empty());
        assert_eq!(told["defaultAction"], "SCMP_ACT_ERRNO");
    }
}
