//! The filter of system calls: what every container may call elsewhere too, or what a profile says, compiled to a binary
//! search over ranges of call numbers, one search per way of calling (64 bits, and on x86_64 also i386).
//!
//! [`calls`] has the lists; [`decision`] is the form in which it is said what a call leads to, in [`mod@rules`] for
//! our own filter and in [`profile`] for one of the user's; [`bpf`] makes instructions of it, [`oci`] words for
//! another runtime.

mod bpf;
mod calls;
mod decision;
mod machine;
mod oci;
pub mod profile;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use libc::sock_filter;

use super::capabilities;
use super::plan::{Around, Devices, Filter};
use decision::{Decision, ENOSYS, EPERM, Verdict};
use machine::Machine;
pub(super) use oci::oci;
use rules::rules;

/// What this process has compiled: a child that it makes afterwards has that, too.
static COMPILED: Mutex<Vec<(Filter, Arc<[sock_filter]>)>> = Mutex::new(Vec::new());
/// Steps that have other filters than these compile them each time.
const MOST_COMPILED: usize = 16;

/// Of a command with the usual capabilities in root's user namespace.
pub(super) const USUAL: Filter = Filter {
    capabilities: capabilities::DEFAULT,
    emulation: false,
    devices: Devices::Made,
    unrestricted: false,
    around: Around::Namespaces,
};

/// The filter as instructions, compiled once.
pub(super) fn program(filter: Filter) -> Arc<[sock_filter]> {
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, program)) = compiled.iter().find(|(known, _)| *known == filter) {
        return Arc::clone(program);
    }
    let program: Arc<[sock_filter]> = instructions(filter).into();
    if compiled.len() < MOST_COMPILED {
        compiled.push((filter, Arc::clone(&program)));
    }
    program
}

fn instructions(filter: Filter) -> Vec<sock_filter> {
    let (between, beyond) = if filter.unrestricted {
        (Verdict::Allow, Verdict::Allow)
    } else {
        // Newer calls, x32 and nonsense: as if the kernel were older.
        (EPERM, ENOSYS)
    };
    let (between, beyond) = (Decision::always(between), Decision::always(beyond));
    let all: Vec<(Machine, Vec<(u32, Decision)>)> = Machine::HERE
        .iter()
        .map(|machine| (*machine, rules(*machine, filter)))
        .collect();
    let ranges = all.iter().map(|(machine, rules)| {
        let rules = rules.iter().map(|(number, decision)| (*number, decision));
        let ranges = bpf::ranges(rules, &between, (calls::NEWEST, &beyond));
        (*machine, ranges)
    });
    // It has a third of the length that the kernel takes: this does not fail.
    bpf::assemble(&ranges.collect::<Vec<_>>()).unwrap_or_default()
}
