//! The filter of system calls: what every container may call elsewhere too, or what a profile says, compiled to a binary
//! search over ranges of call numbers, one search per way of calling (64 bits, and on x86_64 also i386).
//!
//! [`calls`] has the lists; [`decision`] is the form in which it is said what a call leads to, here for our own filter and
//! in [`profile`] for one of the user's; [`bpf`] makes instructions of it, [`oci`] words for another runtime.

mod bpf;
mod calls;
mod decision;
mod machine;
mod oci;
pub mod profile;

use std::sync::{Arc, Mutex, PoisonError};

use libc::sock_filter;

use super::capabilities;
use super::plan::{Around, Devices, Filter};
use calls::Call;
use decision::{Decision, ENOSYS, EPERM, PRETEND, Verdict};
use machine::Machine;
pub(super) use oci::oci;

const SYS_ADMIN: u64 = 1 << 21;
/// The bit of a mode that means a device (or a link, which `mknod` does not make).
const DEVICE: u32 = 0o20_000;
/// Flags of `clone` that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACES: u32 = 0x7e02_0000;
const ADDRESS_FAMILIES_REFUSED: [u32; 2] = [libc::AF_ALG as u32, libc::AF_VSOCK as u32];
/// Linux, Linux with 32-bit addresses or uname 2.6, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];

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
    // It is a third of what the kernel takes.
    bpf::assemble(&ranges.collect::<Vec<_>>()).unwrap_or_default()
}

/// What each call number leads to, sorted by number.
fn rules(machine: Machine, filter: Filter) -> Vec<(u32, Decision)> {
    let named = named_rules(machine, filter);
    let numbered = named
        .into_iter()
        .filter_map(|(call, decision)| Some((machine.number(&call)?, decision)));
    sorted(numbered.collect())
}

/// What each call leads to; of one that is in several lists, the first counts.
fn named_rules(machine: Machine, filter: Filter) -> Vec<(Call, Decision)> {
    let admin = filter.capabilities & SYS_ADMIN != 0;
    let is_native = Machine::HERE.first() == Some(&machine);
    let mut rules = Vec::new();
    let mut add = |call: &Call, decision: Decision| rules.push((*call, decision));
    let (allow, ask) = (
        Decision::always(Verdict::Allow),
        Decision::always(Verdict::Ask),
    );
    let absent = Decision::always(ENOSYS);
    let ask_about =
        |argument, bits| Decision::without_bits(argument, bits, Verdict::Allow, Verdict::Ask);
    if filter.emulation || filter.devices == Devices::Recorded {
        // What is asked for through a ring, no filter sees.
        add(&calls::IO_URING_SETUP, absent.clone());
    }
    // Programs of 32 bits have other structures; for them, changes of ownership succeed without effect.
    if filter.emulation && is_native {
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
        if capabilities::by_name("SYS_CHROOT").is_some_and(|bit| filter.capabilities & bit != 0) {
            add(&calls::CHROOT, ask.clone());
        }
        // Its flags lie in memory: programs then use `openat`.
        add(&calls::OPENAT2, absent.clone());
        for call in calls::ATTRIBUTES_AT {
            add(call, absent.clone());
        }
    }
    if filter.devices != Devices::Kernel && is_native {
        for (call, argument) in [(&calls::MKNOD, 1), (&calls::MKNODAT, 2)] {
            add(call, ask_about(argument, DEVICE));
        }
        // Nobody but us writes what is written down.
        if filter.devices == Devices::Recorded {
            add(&calls::SETXATTRAT, absent.clone());
            for call in calls::SET_ATTRIBUTES {
                add(call, ask.clone());
            }
        }
    }
    if let Around::Container { network } = filter.around {
        bare_rules(is_native, network, &mut add);
    }
    if filter.unrestricted {
        return rules;
    }
    for call in calls::ALLOWED {
        add(call, allow.clone());
    }
    for (name, list) in calls::WITH_CAPABILITY {
        if capabilities::by_name(name).is_some_and(|bit| filter.capabilities & bit != 0) {
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
        if admin {
            allow.clone()
        } else {
            Decision::without_bits(0, NAMESPACES, Verdict::Allow, EPERM)
        },
    );
    // Its flags lie in memory, where a filter cannot look: libraries then fall back to `clone`.
    add(&calls::CLONE3, if admin { allow } else { absent.clone() });
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
    rules
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
    // Of other processes.
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
            let is_family = decision::Condition::low_half_is(0, family as u32);
            sockets.cases.push((vec![is_family], Verdict::Allow));
        }
        add(&calls::SOCKET, sockets);
    }
}

/// Success where the argument asks for a device node.
fn pretend_devices(argument: u32) -> Decision {
    let kinds = [libc::S_IFCHR, libc::S_IFBLK];
    let case = |kind| {
        let is_kind = decision::Condition::masked(argument, libc::S_IFMT, kind);
        (vec![is_kind], PRETEND)
    };
    Decision {
        cases: kinds.into_iter().map(case).collect(),
        otherwise: Verdict::Allow,
    }
}

/// Who is at the other end of a socket is asked about, and nothing else of sockets.
fn asking_for_peers() -> Decision {
    let option = |index, value: i32| decision::Condition::low_half_is(index, value as u32);
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

#[cfg(test)]
mod tests {
    use super::bpf::run;
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;
    /// The x32 way of calling sets this bit.
    const X32: u32 = 0x4000_0000;

    fn refuse(errno: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno as u32
    }

    /// Slowly, what a decision says.
    fn decide(decision: &Decision, arguments: [u64; 6]) -> u32 {
        let holds = |it: &decision::Condition| {
            assert_eq!(it.op, decision::Comparison::MaskedEq);
            arguments[it.index as usize] & it.value == it.value_two
        };
        let mut cases = decision.cases.iter();
        let case = cases.find(|(conditions, _)| conditions.iter().all(holds));
        case.map_or(decision.otherwise, |(_, verdict)| *verdict)
            .code()
    }

    fn first(argument: u64) -> [u64; 6] {
        [argument, 0, 0, 0, 0, 0]
    }

    fn third(format: u32) -> [u64; 6] {
        [0, 0, u64::from(format | 0o600), 0, 0, 0]
    }

    fn default_filter() -> Filter {
        Filter {
            capabilities: capabilities::DEFAULT,
            emulation: false,
            devices: Devices::Kernel,
            unrestricted: false,
            around: Around::Namespaces,
        }
    }

    fn check(filter: Filter, call: &Call, arguments: [u64; 6], expected: u32) {
        let program = program(filter);
        for machine in Machine::HERE {
            if let Some(number) = machine.number(call) {
                let (result, _) = run(&program, *machine, number, arguments);
                assert_eq!(
                    result, expected,
                    "{} on {machine:?} with {arguments:x?}",
                    call.0
                );
            }
        }
    }

    #[test]
    fn every_listed_call_gets_its_rule() {
        for call in calls::ALLOWED.iter().chain(calls::OWNERSHIP) {
            check(default_filter(), call, [0; 6], ALLOW);
        }
        for (name, list) in calls::WITH_CAPABILITY {
            let expected = if *name == "SYS_CHROOT" {
                ALLOW
            } else {
                refuse(libc::EPERM)
            };
            for call in *list {
                check(default_filter(), call, [0; 6], expected);
                let all = Filter {
                    capabilities: capabilities::ALL,
                    ..default_filter()
                };
                check(all, call, [0; 6], ALLOW);
            }
        }
    }

    #[test]
    fn the_search_agrees_with_the_rules_for_every_number() {
        for (emulation, unrestricted) in [(false, false), (true, false), (true, true)] {
            let filter = Filter {
                emulation,
                unrestricted,
                ..default_filter()
            };
            let program = program(filter);
            assert!(program.len() < 1500, "{} instructions", program.len());
            for machine in Machine::HERE {
                let rules = rules(*machine, filter);
                for number in (0..1000).chain([X32, X32 + 1, u32::MAX]) {
                    let (result, steps) = run(&program, *machine, number, [0; 6]);
                    let rule = rules.iter().find(|(known, _)| *known == number);
                    let expected = match rule {
                        None if unrestricted => ALLOW,
                        None if number > calls::NEWEST => refuse(libc::ENOSYS),
                        None => refuse(libc::EPERM),
                        Some((_, decision)) => decide(decision, [0; 6]),
                    };
                    assert_eq!(result, expected, "number {number} on {machine:?}");
                    assert!(steps < 40, "{steps} steps for {number}");
                }
            }
        }
    }

    #[test]
    fn arguments_decide_where_they_must() {
        let filter = default_filter();
        check(filter, &calls::CLONE, first(libc::SIGCHLD as u64), ALLOW);
        for flag in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWCGROUP,
        ] {
            check(
                filter,
                &calls::CLONE,
                first(flag as u64),
                refuse(libc::EPERM),
            );
        }
        check(filter, &calls::CLONE3, [0; 6], refuse(libc::ENOSYS));
        check(filter, &calls::SOCKETCALL, first(1), refuse(libc::ENOSYS));
        for family in 0..64 {
            let refused = family == libc::AF_ALG || family == libc::AF_VSOCK;
            let expected = if refused {
                refuse(libc::EAFNOSUPPORT)
            } else {
                ALLOW
            };
            check(filter, &calls::SOCKET, first(family as u64), expected);
            // The kernel does not look at the upper half.
            check(
                filter,
                &calls::SOCKET,
                first(family as u64 | 1 << 32),
                expected,
            );
        }
        check(filter, &calls::PERSONALITY, first(0x2_0008), ALLOW);
        check(
            filter,
            &calls::PERSONALITY,
            first(0x4_0000),
            refuse(libc::EPERM),
        );
    }

    #[test]
    fn without_namespaces_what_is_shared_is_refused() {
        let filter = |network| Filter {
            around: Around::Container { network },
            ..default_filter()
        };
        let with = filter(true);
        check(with, &calls::CLONE, first(libc::SIGCHLD as u64), ALLOW);
        let user = first(libc::CLONE_NEWUSER as u64);
        check(with, &calls::CLONE, user, refuse(libc::EPERM));
        for call in calls::SYSTEM_V.iter().chain([&calls::IO_URING_SETUP]) {
            check(with, call, [0; 6], refuse(libc::ENOSYS));
        }
        check(with, &calls::PRLIMIT, [0; 6], ALLOW);
        check(with, &calls::PRLIMIT, first(1), refuse(libc::EPERM));
        check(with, &calls::SOCKET, first(libc::AF_INET as u64), ALLOW);
        for (family, expected) in [
            (libc::AF_UNIX, ALLOW),
            (libc::AF_INET, refuse(libc::ENETUNREACH)),
            (libc::AF_INET6, refuse(libc::ENETUNREACH)),
            (libc::AF_PACKET, refuse(libc::ENETUNREACH)),
            (libc::AF_VSOCK, refuse(libc::EAFNOSUPPORT)),
        ] {
            let without = filter(false);
            check(without, &calls::SOCKET, first(family as u64), expected);
        }
    }

    #[test]
    fn with_one_id_calls_of_owners_are_asked_about() {
        let filter = Filter {
            emulation: true,
            ..default_filter()
        };
        let here = Machine::HERE[0];
        let result = |filter: Filter, machine: Machine, call: &Call, arguments: [u64; 6]| {
            let number = machine.number(call)?;
            Some(run(&program(filter), machine, number, arguments).0)
        };
        for call in calls::OWNERSHIP.iter().chain(calls::EMULATED) {
            let asked = result(filter, here, call, [7; 6]);
            assert!(asked.is_none_or(|result| result == ASK), "{}", call.0);
            assert_ne!(result(default_filter(), here, call, [7; 6]), Some(ASK));
        }
        for (call, argument) in calls::LIMITS {
            for (limit, expected) in [
                (libc::RLIMIT_LOCKS, ASK),
                (libc::RLIMIT_RSS, ASK),
                (libc::RLIMIT_NOFILE, ALLOW),
            ] {
                let mut arguments = [0; 6];
                arguments[*argument as usize] = u64::from(limit);
                let asked = result(filter, here, call, arguments);
                assert_eq!(asked, Some(expected), "{} {limit}", call.0);
            }
        }
        for (option, expected) in [(libc::PR_SET_KEEPCAPS, ASK), (libc::PR_SET_NAME, ALLOW)] {
            let asked = result(filter, here, &calls::PRCTL, first(option as u64));
            assert_eq!(asked, Some(expected), "{option}");
        }
        for (option, expected) in [(libc::SO_PEERCRED, ASK), (libc::SO_ERROR, ALLOW)] {
            let arguments = [3, libc::SOL_SOCKET as u64, option as u64, 7, 7, 0];
            let asked = result(filter, here, &calls::GETSOCKOPT, arguments);
            assert_eq!(asked, Some(expected), "{option}");
        }
        assert_eq!(
            result(filter, here, &calls::OPENAT2, [0; 6]),
            Some(refuse(libc::ENOSYS))
        );
        let devices = Filter {
            devices: Devices::Recorded,
            ..default_filter()
        };
        for (format, expected) in [
            (libc::S_IFCHR, ASK),
            (libc::S_IFBLK, ASK),
            (libc::S_IFIFO, ALLOW),
            (libc::S_IFREG, ALLOW),
            (libc::S_IFSOCK, ALLOW),
        ] {
            let made = result(devices, here, &calls::MKNODAT, third(format));
            assert_eq!(made, Some(expected), "{format:o}");
        }
        // Programs of 32 bits: success without effect.
        for machine in &Machine::HERE[1..] {
            for call in calls::OWNERSHIP {
                let pretended = result(filter, *machine, call, [7; 6]);
                assert!(
                    pretended.is_none_or(|result| result == refuse(0)),
                    "{}",
                    call.0
                );
            }
            let device = third(libc::S_IFCHR);
            let pretended = result(filter, *machine, &calls::MKNODAT, device);
            assert_eq!(pretended, Some(refuse(0)));
        }
    }

    #[test]
    fn a_foreign_way_of_calling_is_deadly() {
        let program = program(default_filter());
        let foreign = if cfg!(target_arch = "aarch64") {
            Machine::X86_64
        } else {
            Machine::Aarch64
        };
        assert_eq!(
            run(&program, foreign, 0, [0; 6]).0,
            libc::SECCOMP_RET_KILL_PROCESS
        );
    }
}
