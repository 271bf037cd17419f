//! Filters, run as the kernel would.

use super::bpf::run;
use super::calls::Call;
use super::decision::{Comparison, Condition, Decision};
use super::rules::rules;
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
    let holds = |it: &Condition| {
        assert_eq!(it.op, Comparison::MaskedEq);
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
