//! What each call leads to where no profile says it: what every container may call elsewhere too, and what is asked about
//! or refused because of what is around the command.

use super::calls::{self, Call};
use super::decision::{Condition, Decision, ENOSYS, EPERM, PRETEND, Verdict};
use super::machine::Machine;
use crate::sandbox::capabilities;
use crate::sandbox::plan::{Around, Devices, Filter};

/// The bit of a mode that means a device (or a link, which `mknod` does not make).
const DEVICE: u32 = 0o20_000;
/// Flags of `clone` that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACES: u32 = 0x7e02_0000;
const ADDRESS_FAMILIES_REFUSED: [u32; 2] = [libc::AF_ALG as u32, libc::AF_VSOCK as u32];
/// Linux, Linux with 32-bit addresses or uname 2.6, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];

/// What each call number leads to, sorted by number.
pub(super) fn rules(machine: Machine, filter: Filter) -> Vec<(u32, Decision)> {
    let named = named_rules(machine, filter);
    let numbered = named
        .into_iter()
        .filter_map(|(call, decision)| Some((machine.number(&call)?, decision)));
    sorted(numbered.collect())
}

/// What each call leads to; of one that is in several lists, the first counts.
pub(super) fn named_rules(machine: Machine, filter: Filter) -> Vec<(Call, Decision)> {
    let is_native = Machine::HERE.first() == Some(&machine);
    let mut rules = Vec::new();
    let mut add = |call: &Call, decision: Decision| rules.push((*call, decision));
    if filter.emulation || filter.devices == Devices::Recorded {
        // What is asked for through a ring, no filter sees.
        add(&calls::IO_URING_SETUP, Decision::always(ENOSYS));
    }
    // Programs of 32 bits have other structures; for them, changes of ownership succeed without effect.
    if filter.emulation && is_native {
        emulated_rules(filter.capabilities, &mut add);
    }
    if filter.devices != Devices::Kernel && is_native {
        device_rules(filter.devices, &mut add);
    }
    if let Around::Container { network } = filter.around {
        bare_rules(is_native, network, &mut add);
    }
    if !filter.unrestricted {
        usual_rules(filter, &mut add);
    }
    rules
}

/// What is asked about where owners and ids are emulated.
fn emulated_rules(held: u64, add: &mut impl FnMut(&Call, Decision)) {
    let (ask, absent) = (Decision::always(Verdict::Ask), Decision::always(ENOSYS));
    for call in calls::OWNERSHIP.iter().chain(calls::EMULATED) {
        add(call, ask.clone());
    }
    add(&calls::GETSOCKOPT, asking_for_peers());
    for (call, argument) in calls::LIMITS {
        let marks = [libc::RLIMIT_LOCKS, libc::RLIMIT_RSS];
        let about = Decision::for_values(*argument, &marks, Verdict::Ask, Verdict::Allow);
        add(call, about);
    }
    let keeping = [libc::PR_SET_KEEPCAPS as u32];
    let about = Decision::for_values(0, &keeping, Verdict::Ask, Verdict::Allow);
    add(&calls::PRCTL, about);
    if has(held, "SYS_CHROOT") {
        add(&calls::CHROOT, ask);
    }
    // Its flags lie in memory: programs then use `openat`.
    add(&calls::OPENAT2, absent.clone());
    for call in calls::ATTRIBUTES_AT {
        add(call, absent.clone());
    }
}

/// What is asked about where others than the kernel make devices.
fn device_rules(devices: Devices, add: &mut impl FnMut(&Call, Decision)) {
    for (call, argument) in [(&calls::MKNOD, 1), (&calls::MKNODAT, 2)] {
        let asked = Decision::without_bits(argument, DEVICE, Verdict::Allow, Verdict::Ask);
        add(call, asked);
    }
    // Nobody but us writes what is written down.
    if devices == Devices::Recorded {
        add(&calls::SETXATTRAT, Decision::always(ENOSYS));
        for call in calls::SET_ATTRIBUTES {
            add(call, Decision::always(Verdict::Ask));
        }
    }
}

/// What every container may call elsewhere too.
fn usual_rules(filter: Filter, add: &mut impl FnMut(&Call, Decision)) {
    let (allow, absent) = (Decision::always(Verdict::Allow), Decision::always(ENOSYS));
    let is_admin = has(filter.capabilities, "SYS_ADMIN");
    for call in calls::ALLOWED {
        add(call, allow.clone());
    }
    for (name, list) in calls::WITH_CAPABILITY {
        if has(filter.capabilities, name) {
            for call in *list {
                add(call, allow.clone());
            }
        }
    }
    for call in calls::OWNERSHIP {
        add(
            call,
            if filter.emulation {
                Decision::always(PRETEND)
            } else {
                allow.clone()
            },
        );
    }
    for (call, argument) in [(&calls::MKNOD, 1), (&calls::MKNODAT, 2)] {
        add(
            call,
            if filter.emulation {
                pretend_devices(argument)
            } else {
                allow.clone()
            },
        );
    }
    add(
        &calls::CLONE,
        if is_admin {
            allow.clone()
        } else {
            Decision::without_bits(0, NAMESPACES, Verdict::Allow, EPERM)
        },
    );
    // Its flags lie in memory, where a filter cannot look: libraries then fall back to `clone`.
    add(
        &calls::CLONE3,
        if is_admin { allow } else { absent.clone() },
    );
    add(
        &calls::PERSONALITY,
        Decision::for_values(0, &PERSONALITIES, Verdict::Allow, EPERM),
    );
    let no_such_family = Verdict::Errno(libc::EAFNOSUPPORT as u16);
    add(
        &calls::SOCKET,
        Decision::for_values(0, &ADDRESS_FAMILIES_REFUSED, no_such_family, Verdict::Allow),
    );
    // Libraries then use the single calls.
    add(&calls::SOCKETCALL, absent);
}

/// Whether a capability is among those that are held.
fn has(held: u64, name: &str) -> bool {
    capabilities::by_name(name).is_some_and(|bit| held & bit != 0)
}

/// What else is refused and asked where a command has no namespaces of its own.
fn bare_rules(is_native: bool, network: bool, add: &mut impl FnMut(&Call, Decision)) {
    let (ask, absent) = (Decision::always(Verdict::Ask), Decision::always(ENOSYS));
    // Files of /proc and /dev are given by answers. Programs of 32 bits find them empty.
    if is_native {
        for call in calls::NAMING.iter().chain([&calls::CHROOT]) {
            add(call, ask.clone());
        }
        for (call, argument) in [(&calls::MKNOD, 1), (&calls::MKNODAT, 2)] {
            let asked = Decision::without_bits(argument, DEVICE, Verdict::Allow, Verdict::Ask);
            add(call, asked);
        }
    }
    // The container's are shared, and would outlive the command. A ring would do what the filter refuses.
    for call in calls::SYSTEM_V.iter().chain([&calls::IO_URING_SETUP]) {
        add(call, absent.clone());
    }
    // Only a process's own limits: 0 stands for itself.
    let own = Decision::for_values(0, &[0], Verdict::Allow, EPERM);
    add(&calls::PRLIMIT, own);
    if !network {
        let no_such_family = Verdict::Errno(libc::EAFNOSUPPORT as u16);
        let never = &ADDRESS_FAMILIES_REFUSED;
        let mut sockets = Decision::for_values(
            0,
            never,
            no_such_family,
            Verdict::Errno(libc::ENETUNREACH as u16),
        );
        // They reach nothing outside of the machine.
        for family in [libc::AF_UNIX, libc::AF_NETLINK] {
            let is_family = Condition::low_half_is(0, family as u32);
            sockets.cases.push((vec![is_family], Verdict::Allow));
        }
        add(&calls::SOCKET, sockets);
    }
}

/// Success where the argument asks for a device node.
fn pretend_devices(argument: u32) -> Decision {
    let kinds = [libc::S_IFCHR, libc::S_IFBLK];
    let case = |kind| {
        let is_kind = Condition::masked(argument, libc::S_IFMT, kind);
        (vec![is_kind], PRETEND)
    };
    Decision {
        cases: kinds.into_iter().map(case).collect(),
        otherwise: Verdict::Allow,
    }
}

/// Who is at the other end of a socket is asked about, and nothing else of sockets.
fn asking_for_peers() -> Decision {
    let option = |index, value: i32| Condition::low_half_is(index, value as u32);
    Decision {
        cases: vec![(
            vec![option(1, libc::SOL_SOCKET), option(2, libc::SO_PEERCRED)],
            Verdict::Ask,
        )],
        otherwise: Verdict::Allow,
    }
}

/// Lists may name one number twice (aliases); the first, most specific, stays.
fn sorted(mut rules: Vec<(u32, Decision)>) -> Vec<(u32, Decision)> {
    rules.sort_by_key(|(number, _)| *number);
    rules.dedup_by_key(|(number, _)| *number);
    rules
}
