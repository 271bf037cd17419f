//! The filter of system calls: what every container may call elsewhere too, compiled to a binary search over ranges of
//! call numbers, one search per way of calling (64 bits, and on x86_64 also i386).
//!
//! [`calls`] has the lists; what each call number leads to is decided in [`rules`]; [`compile`] turns that into BPF.

mod calls;
mod oci;

use std::sync::{Arc, Mutex, PoisonError};

use libc::sock_filter;

use super::capabilities;
use super::plan::{Devices, Filter};
use calls::{Call, NONE};
pub(super) use oci::oci;

const SYS_ADMIN: u64 = 1 << 21;
/// The bit of a mode that means a device (or a link, which `mknod` does not make).
const DEVICE: u32 = 0o20_000;
/// Flags of `open` that may make a file: O_CREAT and the bit that only O_TMPFILE has.
const MAKING: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;
/// Flags of `clone` that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACES: u32 = 0x7e02_0000;
const ADDRESS_FAMILIES_REFUSED: [u32; 2] = [libc::AF_ALG as u32, libc::AF_VSOCK as u32];
/// Linux, Linux with 32-bit addresses or uname 2.6, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];

/// A way of calling the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    X86_64,
    I386,
    Aarch64,
}

impl Machine {
    /// Those that programs on this machine can use.
    const HERE: &'static [Self] = if cfg!(target_arch = "aarch64") {
        &[Self::Aarch64]
    } else {
        &[Self::X86_64, Self::I386]
    };

    /// `AUDIT_ARCH_*`.
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    fn number(self, call: &Call) -> Option<u32> {
        let number = match self {
            Self::X86_64 => call.1,
            Self::I386 => call.2,
            Self::Aarch64 => call.3,
        };
        (number != NONE).then_some(number)
    }
}

/// What a call leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Errno(u16),
    /// Refused with EPERM if the argument has one of the bits.
    RefuseBits {
        argument: u32,
        bits: u32,
    },
    /// Allowed if the argument is one of the values.
    OnlyValues {
        argument: u32,
        values: &'static [u32],
    },
    /// Refused with the error number if the argument is one of the values.
    NotValues {
        argument: u32,
        values: &'static [u32],
        errno: u16,
    },
    /// Pretends success where the argument asks for a device node.
    PretendDevices {
        argument: u32,
    },
    /// Waits for an answer from outside.
    Ask,
    /// Asks if the argument has one of the bits.
    AskBits {
        argument: u32,
        bits: u32,
    },
}

const EPERM: Action = Action::Errno(libc::EPERM as u16);
const ENOSYS: Action = Action::Errno(libc::ENOSYS as u16);
const PRETEND: Action = Action::Errno(0);

/// What this process has compiled: a child that it makes afterwards has that, too.
static COMPILED: Mutex<Vec<(Filter, Arc<[sock_filter]>)>> = Mutex::new(Vec::new());
/// Steps that have other filters than these compile them each time.
const MOST_COMPILED: usize = 16;

/// Of a command with the usual capabilities in root's user namespace.
pub(super) const USUAL: Filter = Filter {
    capabilities: capabilities::DEFAULT,
    emulation: false,
    devices: Devices::Made,
    emulates_user: false,
    unrestricted: false,
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
    let mut program = vec![load(ARCHITECTURE)];
    for machine in Machine::HERE {
        let mut block = vec![load(NUMBER)];
        let rules = rules(*machine, filter);
        block.extend(compile(&ranges(&rules, filter.unrestricted)));
        program.push(jump(BPF_JEQ, machine.audit(), 0, 1));
        // Over the jump that skips this block.
        program.push(skip(1));
        program.push(skip(block.len()));
        program.extend(block);
    }
    program.push(give(libc::SECCOMP_RET_KILL_PROCESS));
    program
}

/// What each call number leads to, sorted by number.
fn rules(machine: Machine, filter: Filter) -> Vec<(u32, Action)> {
    let named = named_rules(machine, filter);
    let numbered = named
        .iter()
        .filter_map(|(call, action)| Some((machine.number(call)?, *action)));
    sorted(numbered.collect())
}

/// What each call leads to; of one that is in several lists, the first counts.
fn named_rules(machine: Machine, filter: Filter) -> Vec<(Call, Action)> {
    let admin = filter.capabilities & SYS_ADMIN != 0;
    let mut rules = Vec::new();
    let mut add = |call: &Call, action: Action| rules.push((*call, action));
    // Programs of 32 bits have other structures; for them, changes of ownership succeed without effect.
    let asks = filter.emulation && Machine::HERE.first() == Some(&machine);
    if asks {
        for call in calls::OWNERSHIP.iter().chain(calls::EMULATED) {
            add(call, Action::Ask);
        }
        for (call, argument) in calls::OPENING {
            let making = Action::AskBits {
                argument: *argument,
                bits: MAKING,
            };
            // Those who are not root from the beginning are also refused what they may not read.
            add(
                call,
                if filter.emulates_user {
                    Action::Ask
                } else {
                    making
                },
            );
        }
        if capabilities::by_name("SYS_CHROOT").is_some_and(|bit| filter.capabilities & bit != 0) {
            add(&calls::CHROOT, Action::Ask);
        }
        // Its flags lie in memory: programs then use `openat`.
        add(&calls::OPENAT2, ENOSYS);
        for call in calls::ATTRIBUTES_AT {
            add(call, ENOSYS);
        }
    }
    if filter.devices != Devices::Kernel && Machine::HERE.first() == Some(&machine) {
        for (call, argument) in [(&calls::MKNOD, 1), (&calls::MKNODAT, 2)] {
            add(
                call,
                Action::AskBits {
                    argument,
                    bits: DEVICE,
                },
            );
        }
        // Nobody but us writes what is written down.
        if filter.devices == Devices::Recorded {
            add(&calls::SETXATTRAT, ENOSYS);
            for call in calls::SET_ATTRIBUTES {
                add(call, Action::Ask);
            }
        }
    }
    if filter.unrestricted {
        return rules;
    }
    for call in calls::ALLOWED {
        add(call, Action::Allow);
    }
    for (name, list) in calls::WITH_CAPABILITY {
        if capabilities::by_name(name).is_some_and(|bit| filter.capabilities & bit != 0) {
            for call in *list {
                add(call, Action::Allow);
            }
        }
    }
    let ownership = if filter.emulation {
        PRETEND
    } else {
        Action::Allow
    };
    for call in calls::OWNERSHIP {
        add(call, ownership);
    }
    let device = |argument| {
        if filter.emulation {
            Action::PretendDevices { argument }
        } else {
            Action::Allow
        }
    };
    add(&calls::MKNOD, device(1));
    add(&calls::MKNODAT, device(2));
    add(
        &calls::CLONE,
        if admin {
            Action::Allow
        } else {
            Action::RefuseBits {
                argument: 0,
                bits: NAMESPACES,
            }
        },
    );
    // Its flags lie in memory, where a filter cannot look: libraries then fall back to `clone`.
    add(&calls::CLONE3, if admin { Action::Allow } else { ENOSYS });
    add(
        &calls::PERSONALITY,
        Action::OnlyValues {
            argument: 0,
            values: &PERSONALITIES,
        },
    );
    add(
        &calls::SOCKET,
        Action::NotValues {
            argument: 0,
            values: &ADDRESS_FAMILIES_REFUSED,
            errno: libc::EAFNOSUPPORT as u16,
        },
    );
    // Libraries then use the single calls.
    add(&calls::SOCKETCALL, ENOSYS);
    rules
}

/// Lists may name one number twice (aliases); the first, most specific, stays.
fn sorted(mut rules: Vec<(u32, Action)>) -> Vec<(u32, Action)> {
    rules.sort_by_key(|(number, _)| *number);
    rules.dedup_by_key(|(number, _)| *number);
    rules
}

/// Start of each range of numbers with one action; the first begins at 0, the last has no end.
fn ranges(rules: &[(u32, Action)], unrestricted: bool) -> Vec<(u32, Action)> {
    let (between, beyond) = if unrestricted {
        (Action::Allow, Action::Allow)
    } else {
        // Newer calls, x32 and nonsense: as if the kernel were older.
        (EPERM, ENOSYS)
    };
    let mut ranges: Vec<(u32, Action)> = Vec::new();
    let mut next = 0;
    let mut push = |start: u32, action: Action| {
        if ranges.last().is_none_or(|(_, last)| *last != action) {
            ranges.push((start, action));
        }
    };
    for (number, action) in rules {
        if *number > next {
            push(next, between);
        }
        push(*number, *action);
        next = number + 1;
    }
    if next <= calls::NEWEST {
        push(next, between);
    }
    push(calls::NEWEST + 1, beyond);
    ranges
}

/// A binary search; the number is in the accumulator.
fn compile(ranges: &[(u32, Action)]) -> Vec<sock_filter> {
    match ranges {
        [] => vec![give_errno(libc::EPERM as u16)],
        [(_, action)] => leaf(*action),
        _ => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let middle = right.first().map_or(u32::MAX, |(start, _)| *start);
            let left = compile(left);
            let mut code = match u8::try_from(left.len()) {
                Ok(length) => vec![jump(BPF_JGE, middle, length, 0)],
                Err(_) => vec![jump(BPF_JGE, middle, 0, 1), skip(left.len())],
            };
            code.extend(left);
            code.extend(compile(right));
            code
        }
    }
}

fn leaf(action: Action) -> Vec<sock_filter> {
    match action {
        Action::Allow => vec![give(libc::SECCOMP_RET_ALLOW)],
        Action::Errno(errno) => vec![give_errno(errno)],
        Action::Ask => vec![give(libc::SECCOMP_RET_USER_NOTIF)],
        Action::AskBits { argument, bits } => vec![
            load(low_half(argument)),
            jump(BPF_JSET, bits, 0, 1),
            give(libc::SECCOMP_RET_USER_NOTIF),
            give(libc::SECCOMP_RET_ALLOW),
        ],
        Action::RefuseBits { argument, bits } => vec![
            load(low_half(argument)),
            jump(BPF_JSET, bits, 0, 1),
            give_errno(libc::EPERM as u16),
            give(libc::SECCOMP_RET_ALLOW),
        ],
        Action::OnlyValues { argument, values } => {
            let mut code = vec![load(low_half(argument))];
            for value in values {
                code.push(jump(BPF_JEQ, *value, 0, 1));
                code.push(give(libc::SECCOMP_RET_ALLOW));
            }
            code.push(give_errno(libc::EPERM as u16));
            code
        }
        Action::NotValues {
            argument,
            values,
            errno,
        } => {
            let mut code = vec![load(low_half(argument))];
            for value in values {
                code.push(jump(BPF_JEQ, *value, 0, 1));
                code.push(give_errno(errno));
            }
            code.push(give(libc::SECCOMP_RET_ALLOW));
            code
        }
        Action::PretendDevices { argument } => {
            let mut code = vec![
                load(low_half(argument)),
                instruction(BPF_ALU_AND, 0, 0, libc::S_IFMT),
            ];
            for kind in [libc::S_IFCHR, libc::S_IFBLK] {
                code.push(jump(BPF_JEQ, kind, 0, 1));
                code.push(give_errno(0));
            }
            code.push(give(libc::SECCOMP_RET_ALLOW));
            code
        }
    }
}

const BPF_LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const BPF_JEQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const BPF_JGE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const BPF_JSET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const BPF_SKIP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const BPF_ALU_AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const BPF_GIVE: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// All machines here are little-endian; what is looked at are 32-bit values.
fn low_half(argument: u32) -> u32 {
    16 + 8 * argument
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LOAD, 0, 0, offset)
}

fn jump(code: u16, value: u32, then: u8, otherwise: u8) -> sock_filter {
    instruction(code, then, otherwise, value)
}

fn skip(length: usize) -> sock_filter {
    // A filter has at most 4096 instructions.
    instruction(BPF_SKIP, 0, 0, length as u32)
}

fn give(value: u32) -> sock_filter {
    instruction(BPF_GIVE, 0, 0, value)
}

fn give_errno(errno: u16) -> sock_filter {
    give(libc::SECCOMP_RET_ERRNO | u32::from(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const ASK: u32 = libc::SECCOMP_RET_USER_NOTIF;
    /// The x32 way of calling sets this bit.
    const X32: u32 = 0x4000_0000;

    fn refuse(errno: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno as u32
    }

    /// Runs a filter as the kernel would, and counts its steps.
    fn run(
        program: &[sock_filter],
        machine: Machine,
        number: u32,
        arguments: [u32; 3],
    ) -> (u32, usize) {
        let word = |offset: u32| match offset {
            NUMBER => number,
            ARCHITECTURE => machine.audit(),
            offset => arguments[(offset as usize - 16) / 8],
        };
        let (mut at, mut accumulator, mut steps) = (0, 0, 0);
        loop {
            let i = program[at];
            at += 1;
            steps += 1;
            let mut branch = |taken: bool| at += usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                BPF_LOAD => accumulator = word(i.k),
                BPF_ALU_AND => accumulator &= i.k,
                BPF_JEQ => branch(accumulator == i.k),
                BPF_JGE => branch(accumulator >= i.k),
                BPF_JSET => branch(accumulator & i.k != 0),
                BPF_SKIP => at += i.k as usize,
                BPF_GIVE => return (i.k, steps),
                code => panic!("instruction {code}"),
            }
        }
    }

    fn default_filter() -> Filter {
        Filter {
            capabilities: capabilities::DEFAULT,
            emulation: false,
            devices: Devices::Kernel,
            emulates_user: false,
            unrestricted: false,
        }
    }

    fn check(filter: Filter, call: &Call, arguments: [u32; 3], expected: u32) {
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
            check(default_filter(), call, [0; 3], ALLOW);
        }
        for (name, list) in calls::WITH_CAPABILITY {
            let expected = if *name == "SYS_CHROOT" {
                ALLOW
            } else {
                refuse(libc::EPERM)
            };
            for call in *list {
                check(default_filter(), call, [0; 3], expected);
                let all = Filter {
                    capabilities: capabilities::ALL,
                    ..default_filter()
                };
                check(all, call, [0; 3], ALLOW);
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
                    let (result, steps) = run(&program, *machine, number, [0; 3]);
                    let rule = rules.iter().find(|(known, _)| *known == number);
                    let expected = match rule {
                        None if unrestricted => ALLOW,
                        None if number > calls::NEWEST => refuse(libc::ENOSYS),
                        None => refuse(libc::EPERM),
                        Some((_, Action::Errno(errno))) => refuse(i32::from(*errno)),
                        Some((_, Action::Ask)) => ASK,
                        Some(_) => ALLOW,
                    };
                    assert_eq!(result, expected, "number {number} on {machine:?}");
                    assert!(steps < 30, "{steps} steps for {number}");
                }
            }
        }
    }

    #[test]
    fn arguments_decide_where_they_must() {
        let filter = default_filter();
        check(filter, &calls::CLONE, [libc::SIGCHLD as u32, 0, 0], ALLOW);
        for flag in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWCGROUP,
        ] {
            check(
                filter,
                &calls::CLONE,
                [flag as u32, 0, 0],
                refuse(libc::EPERM),
            );
        }
        check(filter, &calls::CLONE3, [0; 3], refuse(libc::ENOSYS));
        check(filter, &calls::SOCKETCALL, [1, 0, 0], refuse(libc::ENOSYS));
        for family in 0..64 {
            let refused = family == libc::AF_ALG || family == libc::AF_VSOCK;
            let expected = if refused {
                refuse(libc::EAFNOSUPPORT)
            } else {
                ALLOW
            };
            check(filter, &calls::SOCKET, [family as u32, 0, 0], expected);
        }
        check(filter, &calls::PERSONALITY, [0x2_0008, 0, 0], ALLOW);
        check(
            filter,
            &calls::PERSONALITY,
            [0x4_0000, 0, 0],
            refuse(libc::EPERM),
        );
    }

    #[test]
    fn with_one_id_calls_of_owners_are_asked_about() {
        let filter = Filter {
            emulation: true,
            ..default_filter()
        };
        let here = Machine::HERE[0];
        let result = |filter: Filter, machine: Machine, call: &Call, arguments: [u32; 3]| {
            let number = machine.number(call)?;
            Some(run(&program(filter), machine, number, arguments).0)
        };
        for call in calls::OWNERSHIP.iter().chain(calls::EMULATED) {
            let asked = result(filter, here, call, [7; 3]);
            assert!(asked.is_none_or(|result| result == ASK), "{}", call.0);
            assert_ne!(result(default_filter(), here, call, [7; 3]), Some(ASK));
        }
        for (call, argument) in calls::OPENING {
            let open = |flags: i32, filter| {
                let mut arguments = [0; 3];
                arguments[*argument as usize] = flags as u32;
                result(filter, here, call, arguments)
            };
            let user = Filter {
                emulates_user: true,
                ..filter
            };
            for (flags, expected) in [
                (libc::O_RDONLY, ALLOW),
                (libc::O_DIRECTORY, ALLOW),
                (libc::O_CREAT | libc::O_RDWR, ASK),
                (libc::O_TMPFILE | libc::O_WRONLY, ASK),
            ] {
                assert!(open(flags, filter).is_none_or(|result| result == expected));
                assert!(open(flags, user).is_none_or(|result| result == ASK));
            }
        }
        assert_eq!(
            result(filter, here, &calls::OPENAT2, [0; 3]),
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
            let made = result(devices, here, &calls::MKNODAT, [0, 0, format | 0o600]);
            assert_eq!(made, Some(expected), "{format:o}");
        }
        // Programs of 32 bits: success without effect.
        for machine in &Machine::HERE[1..] {
            for call in calls::OWNERSHIP {
                let pretended = result(filter, *machine, call, [7; 3]);
                assert!(
                    pretended.is_none_or(|result| result == refuse(0)),
                    "{}",
                    call.0
                );
            }
            let device = [0, 0, libc::S_IFCHR | 0o600];
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
            run(&program, foreign, 0, [0; 3]).0,
            libc::SECCOMP_RET_KILL_PROCESS
        );
    }
}
