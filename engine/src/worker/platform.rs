//! Whether this machine can execute commands of a platform.

use rbuild_image::Platform;

use super::failure::{Failure, Result};

/// Refuses a platform that this machine cannot execute, neither itself nor through a registered interpreter.
pub(crate) fn check_platform(platform: &Platform) -> Result<()> {
    let host = Platform::host();
    if host.rank(platform).is_some() || has_interpreter(&platform.architecture) {
        return Ok(());
    }
    Err(Failure::new(
        "foreign-platform",
        format!("RUN for {platform} cannot be executed on this machine, which is {host}"),
    )
    .help("register QEMU in /proc/sys/fs/binfmt_misc, or do the work in a stage `FROM --platform=$BUILDPLATFORM`"))
}

/// Whether binfmt_misc has an interpreter for an architecture (Go's name), as `qemu-ARCH` entries say.
fn has_interpreter(architecture: &str) -> bool {
    let name = match architecture {
        "amd64" => "x86_64",
        "386" => "i386",
        "arm64" => "aarch64",
        "ppc64le" => "ppc64le",
        "riscv64" => "riscv64",
        "s390x" => "s390x",
        "arm" => "arm",
        "mips64le" => "mips64el",
        "loong64" => "loongarch64",
        _ => return false,
    };
    let entry = format!("/proc/sys/fs/binfmt_misc/qemu-{name}");
    std::fs::read_to_string(entry).is_ok_and(|text| text.starts_with("enabled"))
}
