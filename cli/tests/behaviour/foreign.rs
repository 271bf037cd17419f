//! Builds for several platforms, and commands of another machine than this one.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::kit::{Kit, skipped};
use crate::require_machine;

/// The qemu of Debian's `qemu-user-static`.
const QEMU: &str = "/usr/bin/qemu-aarch64-static";

/// A program for arm64 that writes a line and ends: ELF header, program header, eight instructions, the text.
fn arm64_program(text: &str) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let length = u32::try_from(text.len()).unwrap();
    // mov x0, 1; adr x1, text; mov x2, length; mov x8, write; svc; mov x0, 0; mov x8, exit; svc
    let code: [u32; 8] = [
        0xd280_0020,
        0x1000_0001 | (7 << 5),
        0xd280_0002 | (length << 5),
        0xd280_0808,
        0xd400_0001,
        0xd280_0000,
        0xd280_0ba8,
        0xd400_0001,
    ];
    let size = HEADERS + 32 + u64::from(length);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend(value.to_le_bytes());
    half(&mut file, 2);
    half(&mut file, 183);
    word(&mut file, 1);
    for value in [BASE + HEADERS, 64, 0] {
        long(&mut file, value);
    }
    word(&mut file, 0);
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut file, value);
    }
    word(&mut file, 1);
    word(&mut file, 5);
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut file, value);
    }
    for instruction in code {
        word(&mut file, instruction);
    }
    file.extend(text.as_bytes());
    file
}

fn with_program(kit: &Kit) {
    let path = kit.path("context/hello");
    std::fs::write(&path, arm64_program("hello from arm64\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

const FOREIGN: &str = "FROM scratch\nCOPY hello /hello\nRUN [\"/hello\"]\n";

#[test]
fn what_does_not_depend_on_the_platform_runs_once() {
    require_machine!();
    let kit = Kit::new();
    let dockerfile = "FROM --platform=$BUILDPLATFORM busybox AS tool\n\
        RUN echo made-once\n\
        FROM --platform=$BUILDPLATFORM busybox AS cross\n\
        COPY --from=tool /etc /etc\n\
        ARG TARGETARCH\n\
        RUN echo for-$TARGETARCH\n\
        FROM scratch\n\
        COPY --from=cross /bin/busybox /b\n";
    let output = kit.must_build(
        dockerfile,
        &[
            "--platform=linux/amd64,linux/arm64",
            "--network=none",
            "-otype=cacheonly",
        ],
    );
    let count = |what: &str| output.stderr.matches(what).count();
    // Its name and its output.
    assert_eq!(count(" made-once\n"), 2, "{output}");
    assert_eq!(count("] COPY --from=tool"), 1, "{output}");
    for line in [" for-amd64\n", " for-arm64\n"] {
        assert_eq!(count(line), 1, "{line}{output}");
    }
    if cfg!(target_arch = "x86_64") {
        assert_eq!(count("[linux/amd64->arm64 cross 3/3] RUN"), 1, "{output}");
        assert_eq!(count("[linux/amd64 cross 3/3] RUN"), 1, "{output}");
    }
}

#[test]
fn a_foreign_command_without_an_interpreter_is_told() {
    require_machine!();
    if cfg!(target_arch = "aarch64") || Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists()
    {
        skipped(
            "a_foreign_command_without_an_interpreter_is_told",
            "this machine runs programs of arm64",
        );
        return;
    }
    let kit = Kit::new();
    with_program(&kit);
    let output = kit.build(FOREIGN, &["--platform=linux/arm64", "-otype=cacheonly"]);
    assert_eq!(output.code, 1, "{output}");
    for words in [
        "RUN for linux/arm64 cannot be executed",
        "binfmt_misc",
        "Dockerfile:3:1",
    ] {
        assert!(output.stderr.contains(words), "{output}");
    }
}

/// In a user namespace of its own, which has its own interpreters: nothing of the machine's changes.
#[test]
fn a_foreign_command_runs_through_binfmt() {
    const TEST: &str = "a_foreign_command_runs_through_binfmt";
    require_machine!();
    if cfg!(target_arch = "aarch64") || !Path::new(QEMU).exists() {
        skipped(
            TEST,
            "there is no qemu-aarch64-static (package qemu-user-static)",
        );
        return;
    }
    let kit = Kit::new();
    with_program(&kit);
    std::fs::write(kit.path("context/Dockerfile"), FOREIGN).unwrap();
    let script = format!(
        r"mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77
        echo ':qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{QEMU}:F' > /proc/sys/fs/binfmt_misc/register || exit 77
        context/hello || exit 77
        exec {} build --progress=plain --network=none --platform=linux/arm64 -otype=cacheonly context",
        env!("CARGO_BIN_EXE_rbuild")
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(kit.path(""))
        .env("RBUILD_ROOT", kit.path("store"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) {
        skipped(
            TEST,
            "this kernel has no binfmt_misc in user namespaces (Linux 6.7)",
        );
        return;
    }
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains(" hello from arm64\n"), "{stderr}");
}
