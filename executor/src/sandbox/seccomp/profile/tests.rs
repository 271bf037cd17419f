use proptest::prelude::*;

use super::super::bpf::run;
use super::super::calls;
use super::*;

const KERNEL: (u32, u32) = (6, 1);

fn parse(text: &str) -> Profile {
    Profile::parse(text).expect("a profile")
}

fn refusal(text: &str) -> String {
    Profile::parse(text).expect_err("not a profile").to_string()
}

fn rules(profile: &Profile) -> Rules {
    let rules = profile.rules_under(capabilities::DEFAULT, KERNEL);
    rules.expect("rules")
}

/// What the compiled filter gives for a call by its name.
fn given(rules: &Rules, machine: Machine, name: &str, arguments: [u64; 6]) -> u32 {
    let number = machine.number_of(name).expect("a call of this machine");
    let program = rules.program().expect("a filter");
    run(&program, machine, number, arguments).0
}

fn first(argument: u64) -> [u64; 6] {
    [argument, 0, 0, 0, 0, 0]
}

const NATIVE: Machine = Machine::HERE[0];
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32
}

#[test]
fn every_action_is_what_the_kernel_calls_so() {
    let profile = parse(
        r#"{
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                { "names": ["mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
                { "name": "getpid", "action": "SCMP_ACT_ERRNO", "comment": "its number is EPERM" },
                { "names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errno": "EINVAL", "args": null },
                { "names": ["gettid"], "action": "SCMP_ACT_LOG" },
                { "names": ["sync"], "action": "SCMP_ACT_TRAP" },
                { "names": ["getsid"], "action": "SCMP_ACT_TRACE", "errnoRet": 7 },
                { "names": ["times"], "action": "SCMP_ACT_KILL" },
                { "names": ["sysinfo"], "action": "SCMP_ACT_KILL_THREAD" },
                { "names": ["umask"], "action": "SCMP_ACT_KILL_PROCESS", "includes": {}, "excludes": null }
            ]
        }"#,
    );
    let rules = rules(&profile);
    for (name, expected) in [
        ("mkdirat", errno(libc::ENOSPC)),
        ("getpid", errno(libc::EPERM)),
        ("getppid", errno(libc::EINVAL)),
        ("gettid", libc::SECCOMP_RET_LOG),
        ("sync", libc::SECCOMP_RET_TRAP),
        ("getsid", libc::SECCOMP_RET_TRACE | 7),
        ("times", libc::SECCOMP_RET_KILL_THREAD),
        ("sysinfo", libc::SECCOMP_RET_KILL_THREAD),
        ("umask", libc::SECCOMP_RET_KILL_PROCESS),
        ("read", ALLOW),
    ] {
        assert_eq!(given(&rules, NATIVE, name, [0; 6]), expected, "{name}");
    }
}

#[test]
fn all_of_an_arguments_bits_are_compared() {
    let with = |op: &str, value: u64, second: u64| {
        let text = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                { "names": ["capset", "execve"], "action": "SCMP_ACT_ALLOW" },
                {
                    "names": ["lseek"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{ "index": 5, "op": op, "value": value, "valueTwo": second }],
                },
            ],
        });
        rules(&parse(&text.to_string()))
    };
    let wide = 0x1234_5678_9abc_def0;
    for (op, value, second, argument, holds) in [
        ("SCMP_CMP_EQ", wide, 0, wide, true),
        ("SCMP_CMP_EQ", wide, 0, wide ^ 1 << 63, false),
        ("SCMP_CMP_EQ", wide, 0, wide ^ 1, false),
        ("SCMP_CMP_NE", wide, 0, wide, false),
        ("SCMP_CMP_NE", wide, 0, wide ^ 1 << 32, true),
        ("SCMP_CMP_NE", wide, 0, wide ^ 2, true),
        ("SCMP_CMP_LT", 1 << 32, 0, u64::from(u32::MAX), true),
        ("SCMP_CMP_LT", 1 << 32, 0, 1 << 32, false),
        ("SCMP_CMP_LE", 1 << 32, 0, 1 << 32, true),
        ("SCMP_CMP_LE", 1 << 32, 0, (1 << 32) + 1, false),
        ("SCMP_CMP_GT", 1 << 32, 0, (1 << 32) + 1, true),
        ("SCMP_CMP_GT", 1 << 32, 0, u64::from(u32::MAX), false),
        ("SCMP_CMP_GE", 1 << 32, 0, 1 << 32, true),
        ("SCMP_CMP_GE", (1 << 32) + 5, 0, (1 << 32) + 4, false),
        ("SCMP_CMP_MASKED_EQ", 0xff << 56, 1 << 56, 1 << 56 | 9, true),
        ("SCMP_CMP_MASKED_EQ", 0xff << 56, 1 << 56, 2 << 56, false),
        // What is compared with is masked, too.
        ("SCMP_CMP_MASKED_EQ", 0xf0, 0x1f, 0x12, true),
    ] {
        let rules = with(op, value, second);
        let expected = if holds { ALLOW } else { errno(libc::EPERM) };
        let result = given(&rules, NATIVE, "lseek", [0, 0, 0, 0, 0, argument]);
        assert_eq!(
            result, expected,
            "{op} {value:x} {second:x} of {argument:x}"
        );
    }
}

#[test]
fn circumstances_decide_which_rules_count() {
    let text = |circumstances: &str| {
        format!(
            r#"{{ "defaultAction": "SCMP_ACT_ALLOW",
                  "syscalls": [{{ "names": ["sync"], "action": "SCMP_ACT_ERRNO", {circumstances} }}] }}"#
        )
    };
    let here = architecture_here();
    for (circumstances, counts) in [
        (r#""includes": { "caps": ["CAP_CHOWN"] }"#.to_owned(), true),
        (
            r#""includes": { "caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"] }"#.to_owned(),
            false,
        ),
        (
            r#""includes": { "caps": ["CAP_OF_NOBODY"] }"#.to_owned(),
            false,
        ),
        (
            r#""excludes": { "caps": ["CAP_SYS_ADMIN"] }"#.to_owned(),
            true,
        ),
        (
            r#""excludes": { "caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"] }"#.to_owned(),
            false,
        ),
        (
            format!(r#""includes": {{ "arches": ["s390x", "{here}"] }}"#),
            true,
        ),
        (r#""includes": { "arches": ["s390x"] }"#.to_owned(), false),
        (format!(r#""excludes": {{ "arches": ["{here}"] }}"#), false),
        (r#""includes": { "minKernel": "6.1" }"#.to_owned(), true),
        (r#""includes": { "minKernel": "6.2" }"#.to_owned(), false),
        (r#""excludes": { "minKernel": "4.8" }"#.to_owned(), false),
        (r#""excludes": { "minKernel": "10.0" }"#.to_owned(), true),
    ] {
        let rules = rules(&parse(&text(&circumstances)));
        let expected = if counts { errno(libc::EPERM) } else { ALLOW };
        assert_eq!(
            given(&rules, NATIVE, "sync", [0; 6]),
            expected,
            "{circumstances}"
        );
    }
}

#[test]
fn contradictions_are_settled_as_libseccomp_does() {
    let profile = parse(
        r#"{
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [
                { "names": ["sync"], "action": "SCMP_ACT_KILL", "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }] },
                { "names": ["sync"], "action": "SCMP_ACT_LOG" },
                { "names": ["sync"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": 9, "op": "SCMP_CMP_LT" }] },
                { "names": ["dup"], "action": "SCMP_ACT_TRAP", "args": [{ "index": 0, "value": 3, "op": "SCMP_CMP_LT" }] },
                { "names": ["close"], "action": "SCMP_ACT_ALLOW", "args": [
                    { "index": 0, "value": 3, "op": "SCMP_CMP_EQ" }, { "index": 0, "value": 5, "op": "SCMP_CMP_EQ" }] },
                { "names": ["lseek"], "action": "SCMP_ACT_ALLOW", "args": [
                    { "index": 0, "value": 3, "op": "SCMP_CMP_EQ" }, { "index": 1, "value": 5, "op": "SCMP_CMP_EQ" }] },
                { "names": ["getpid"], "action": "SCMP_ACT_ERRNO" },
                { "names": ["getpid"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["statx"], "action": "SCMP_ACT_ALLOW" }
            ]
        }"#,
    );
    let rules = rules(&profile);
    let refused = errno(libc::EPERM);
    for (name, arguments, expected) in [
        ("sync", first(1), libc::SECCOMP_RET_LOG),
        ("dup", first(2), libc::SECCOMP_RET_TRAP),
        ("dup", first(8), ALLOW),
        ("dup", first(9), refused),
        ("close", first(3), ALLOW),
        ("close", first(5), ALLOW),
        ("close", first(4), refused),
        ("lseek", [3, 5, 0, 0, 0, 0], ALLOW),
        ("lseek", [3, 4, 0, 0, 0, 0], refused),
        ("getpid", [0; 6], ALLOW),
    ] {
        assert_eq!(
            given(&rules, NATIVE, name, arguments),
            expected,
            "{name} {arguments:?}"
        );
    }
    let program = rules.program().expect("a filter");
    let newest = NATIVE.number_of("statx").expect("a call");
    // What the profile cannot know of does not exist.
    for (number, expected) in [
        (newest - 1, refused),
        (newest + 1, errno(libc::ENOSYS)),
        (calls::KNOWN + 1, errno(libc::ENOSYS)),
        (0x4000_0000, errno(libc::ENOSYS)),
    ] {
        assert_eq!(
            run(&program, NATIVE, number, [0; 6]).0,
            expected,
            "{number}"
        );
    }
}

#[test]
fn calls_that_nobody_knows_yet_are_not_there_where_all_is_allowed() {
    let rules = rules(&parse(r#"{ "defaultAction": "SCMP_ACT_ALLOW" }"#));
    let program = rules.program().expect("a filter");
    assert_eq!(run(&program, NATIVE, calls::KNOWN, [0; 6]).0, ALLOW);
    let result = run(&program, NATIVE, calls::KNOWN + 1, [0; 6]).0;
    assert_eq!(result, errno(libc::ENOSYS));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn programs_of_32_bits_are_let_in_by_name_and_find_no_way_around() {
    let text = |architectures: &str| {
        format!(
            r#"{{ "defaultAction": "SCMP_ACT_ALLOW", {architectures}
                  "syscalls": [
                      {{ "names": ["socket"], "action": "SCMP_ACT_ERRNO",
                         "args": [{{ "index": 0, "value": 38, "op": "SCMP_CMP_EQ" }}] }},
                      {{ "names": ["semget", "bind", "mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5 }} ] }}"#
        )
    };
    let closed = rules(&parse(&text("")));
    let program = closed.program().expect("a filter");
    assert_eq!(
        run(&program, Machine::I386, 3, [0; 6]).0,
        libc::SECCOMP_RET_KILL_PROCESS
    );
    for architectures in [
        r#""architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],"#,
        r#""archMap": [{ "architecture": "SCMP_ARCH_AARCH64" },
            { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] }],"#,
    ] {
        let open = rules(&parse(&text(architectures)));
        for (name, argument, expected) in [
            ("read", 0, ALLOW),
            ("mkdir", 0, errno(5)),
            ("socket", 38, errno(1)),
            ("socket", 1, ALLOW),
            // Through the one call for all, whose other arguments cannot be seen.
            ("socketcall", 1, errno(1)),
            ("socketcall", 2, errno(5)),
            ("socketcall", 3, ALLOW),
            ("ipc", 2, errno(5)),
            ("ipc", 0x1_0002, errno(5)),
            ("ipc", 3, ALLOW),
        ] {
            let result = given(&open, Machine::I386, name, first(argument));
            assert_eq!(result, expected, "{name} {argument}");
        }
    }
}

#[test]
fn mistakes_are_shown_with_their_places() {
    for (text, expected) in [
        ("", "line 1, column 0: EOF while parsing a value"),
        (
            "{\n \"defaultAction\": \"SCMP_ACT_MAYBE\" }",
            "line 2, column 34: unknown variant `SCMP_ACT_MAYBE`, expected one of",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscall": [] }"#,
            "line 1, column 46: unknown field `syscall`, expected one of",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_NOTIFY" }"#,
            "defaultAction: calls that wait for an answer of another program cannot be had",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x" }"#,
            "listenerPath: calls that wait",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096 }"#,
            "defaultErrnoRet: 4096 is not an error number: they go up to 4095",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["amd64"] }"#,
            "architectures[0]: there is no architecture `amd64`",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_ARM"}] }"#,
            "architectures: `archMap` is there, too",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "action": "SCMP_ACT_LOG" }] }"#,
            "syscalls[0].names: the name of a system call is missing",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["a"], "name": "b", "action": "SCMP_ACT_LOG" }] }"#,
            "syscalls[0].name: `names` is there, too",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["dup"], "action": "SCMP_ACT_LOG",
                "args": [{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }] }] }"#,
            "syscalls[0].args[0].index: 6 is not an argument: they are counted from 0 to 5",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["dup"], "action": "SCMP_ACT_LOG",
                "includes": { "minKernel": "new" } }] }"#,
            "syscalls[0].includes.minKernel: `new` is not a kernel's version",
        ),
        (
            r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["dup"], "action": "SCMP_ACT_ERRNO", "errno": "EWHAT" }] }"#,
            "syscalls[0].errno: there is no error called `EWHAT`",
        ),
    ] {
        let shown = refusal(text);
        assert!(shown.starts_with(expected), "{shown}\n{expected}");
    }
    let useless = parse(
        r#"{ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{ "names": ["execve"], "action": "SCMP_ACT_ALLOW" }] }"#,
    );
    // Nor may it seem to succeed where it was not made.
    let pretending = parse(
        r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["capset"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0,
            "args": [{ "index": 0, "op": "SCMP_CMP_NE", "value": 7 }] }] }"#,
    );
    for profile in [useless, pretending] {
        let error = profile.rules_for(capabilities::DEFAULT);
        let error = error.expect_err("nothing starts under it");
        assert_eq!(
            error.to_string(),
            "syscalls: `capset` is refused, without which no command starts: allow it"
        );
    }
}

/// The kernel's table, as far as this machine has its headers.
#[test]
fn every_call_of_the_kernels_has_a_name_here() {
    let directory = format!("/usr/include/{}-linux-gnu/asm", std::env::consts::ARCH);
    let mut seen = 0;
    for (file, machine) in [("unistd_64.h", NATIVE), ("unistd_32.h", Machine::I386)] {
        let Ok(text) = std::fs::read_to_string(format!("{directory}/{file}")) else {
            continue;
        };
        for line in text.lines() {
            let mut words = line.split_whitespace().skip(1);
            let name = words.next().and_then(|name| name.strip_prefix("__NR_"));
            let number = words.next().and_then(|number| number.parse().ok());
            if let (Some(name), Some(number)) = (name, number) {
                assert_eq!(
                    machine.number_of(name),
                    Some(number),
                    "{name} on {machine:?}"
                );
                seen += 1;
            }
        }
    }
    if seen == 0 {
        eprintln!("SKIPPED: the kernel's headers are not in {directory}");
    }
}

#[test]
fn a_profile_survives_being_kept() {
    let profile = parse(
        r#"{ "comment": "c", "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
             "syscalls": [{ "names": ["dup"], "action": "SCMP_ACT_ALLOW",
                            "args": [{ "index": 1, "value": 18446744073709551615, "valueTwo": 3, "op": "SCMP_CMP_GE" }],
                            "excludes": { "caps": ["CAP_CHOWN"], "minKernel": "4.8" } }] }"#,
    );
    let kept = serde_json::to_string(&profile).expect("JSON");
    let again = parse(&kept);
    assert_eq!(again.syscalls, profile.syscalls);
    assert_eq!(again.flags, profile.flags);
    assert_eq!(again.default_errno_ret, Some(38));
}

/// What a profile says of a call, told from its text alone, as slowly as it may be.
fn meaning(profile: &Profile, machine: Machine, name: &str, arguments: [u64; 6]) -> Verdict {
    let places = ("", "", "");
    let numbers = (profile.default_errno_ret, profile.default_errno.as_deref());
    let default = verdict(profile.default_action, numbers, places).expect("an action");
    let mut strictest = None;
    for rule in profile.syscalls.iter().flatten() {
        let of = rule.verdict("").expect("an action");
        if of == default || !rule.names().iter().any(|it| it == name) {
            continue;
        }
        let conditions = rule.args.as_deref().unwrap_or_default();
        if conditions.is_empty() {
            return of;
        }
        let holds = |condition: &Condition| {
            let narrow = |value: u64| match machine {
                Machine::I386 => value & u64::from(u32::MAX),
                _ => value,
            };
            let argument = narrow(arguments[condition.index as usize]);
            let value = narrow(condition.value);
            match condition.op {
                Comparison::Ne => argument != value,
                Comparison::Lt => argument < value,
                Comparison::Le => argument <= value,
                Comparison::Eq => argument == value,
                Comparison::Ge => argument >= value,
                Comparison::Gt => argument > value,
                Comparison::MaskedEq => argument & value == value & narrow(condition.value_two),
            }
        };
        let repeats = |condition: &&Condition| {
            let same = |other: &&Condition| other.index == condition.index;
            conditions.iter().filter(same).count() > 1
        };
        let applies = if conditions.iter().any(|it| repeats(&it)) {
            conditions.iter().any(holds)
        } else {
            conditions.iter().all(holds)
        };
        let stricter = strictest.is_none_or(|known: Verdict| of.rank() < known.rank());
        if applies && stricter {
            strictest = Some(of);
        }
    }
    strictest.unwrap_or(default)
}

/// Some calls, several of which get several rules.
const NAMES: [&str; 6] = ["lseek", "dup", "openat", "mkdirat", "statx", "close"];

fn any_value() -> impl Strategy<Value = u64> {
    // Near each other, with either half the same.
    let half = prop_oneof![0..3_u64, Just(u64::from(u32::MAX)), Just(1 << 31)];
    (half.clone(), half).prop_map(|(high, low)| high << 32 | low)
}

fn any_action() -> impl Strategy<Value = (Action, Option<u32>)> {
    prop_oneof![
        Just((Action::Allow, None)),
        Just((Action::Errno, None)),
        Just((Action::Errno, Some(28))),
        Just((Action::Log, None)),
        Just((Action::Trap, None)),
        Just((Action::Trace, Some(3))),
        Just((Action::Kill, None)),
        Just((Action::KillProcess, None)),
    ]
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let op = prop_oneof![
        Just(Comparison::Ne),
        Just(Comparison::Lt),
        Just(Comparison::Le),
        Just(Comparison::Eq),
        Just(Comparison::Ge),
        Just(Comparison::Gt),
        Just(Comparison::MaskedEq),
    ];
    (0..3_u32, any_value(), any_value(), op).prop_map(|(index, value, value_two, op)| Condition {
        index,
        value,
        value_two,
        op,
    })
}

fn any_profile() -> impl Strategy<Value = Profile> {
    let names = proptest::sample::subsequence(NAMES.to_vec(), 1..3);
    let conditions = proptest::collection::vec(any_condition(), 0..4);
    let rule = (names, any_action(), conditions).prop_map(|(names, (action, errno), args)| {
        serde_json::json!({ "names": names, "action": action, "errnoRet": errno, "args": args })
    });
    let rules = proptest::collection::vec(rule, 0..12);
    (any_action(), rules).prop_map(|((action, errno), rules)| {
        let text = serde_json::json!({
            "defaultAction": action,
            "defaultErrnoRet": errno,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
            "syscalls": rules,
        });
        parse(&text.to_string())
    })
}

proptest! {
    #[test]
    fn the_filter_means_what_the_profile_says(
        profile in any_profile(),
        calls in proptest::collection::vec((0..NAMES.len(), any_value(), any_value(), any_value()), 1..40),
    ) {
        let rules = rules(&profile);
        let program = rules.program().expect("a filter");
        for (name, a, b, c) in calls {
            let name = NAMES[name];
            for machine in Machine::HERE {
                let wide = [a, b, c, 0, 0, 0];
                let arguments = match machine {
                    Machine::I386 => wide.map(|it| it & u64::from(u32::MAX)),
                    _ => wide,
                };
                let number = machine.number_of(name).expect("a call of this machine");
                let (result, _) = run(&program, *machine, number, arguments);
                let mut expected = meaning(&profile, *machine, name, arguments).code();
                if number > rules.newest(*machine) {
                    expected = errno(libc::ENOSYS);
                }
                prop_assert_eq!(result, expected, "{} {:x?} on {:?}", name, arguments, machine);
            }
        }
    }
}
