//! Why `execve` failed, in words. The kernel says "no such file" for a missing interpreter and "exec format error" for
//! a foreign machine; the file itself tells more.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};

/// Enough for a script's first line and an ELF header.
const HEAD: usize = 4096;
/// Program headers that are looked at.
const MOST_HEADERS: u16 = 256;

/// The explanation, and whether it is "not found" rather than "found but cannot be run".
pub(super) fn explain(path: &Path, error: &io::Error) -> (String, bool) {
    match error.raw_os_error() {
        Some(libc::ENOENT) => match read_head(path) {
            Some(head) => (missing_interpreter(path, &head), true),
            None => ("no such file".to_owned(), true),
        },
        Some(libc::EACCES) => (no_access(path), false),
        Some(libc::ENOEXEC) => (wrong_format(path), false),
        Some(libc::ENOTDIR) => ("a part of its path is not a directory".to_owned(), true),
        Some(libc::ELOOP) => (
            "its path leads through too many symbolic links".to_owned(),
            false,
        ),
        Some(libc::ETXTBSY) => ("it is open for writing".to_owned(), false),
        Some(libc::EAGAIN) => (
            "there are as many processes as may be (`--pids-limit`, or `--ulimit nproc`)"
                .to_owned(),
            false,
        ),
        Some(libc::E2BIG) => (
            "the arguments and environment are too long for the kernel".to_owned(),
            false,
        ),
        _ => (error.to_string(), false),
    }
}

fn no_access(path: &Path) -> String {
    let Ok(stat) = rustix::fs::stat(path) else {
        return "permission denied on its path".to_owned();
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => "it is a directory".to_owned(),
        FileType::RegularFile if stat.st_mode & 0o111 == 0 => {
            format!("it is not executable (mode {:04o})", stat.st_mode & 0o7777)
        }
        FileType::RegularFile => match read_head(path).as_deref().and_then(script_interpreter) {
            Some(interpreter) => format!(
                "permission denied on it or on its interpreter {}",
                String::from_utf8_lossy(&interpreter)
            ),
            None => "permission denied for this user".to_owned(),
        },
        _ => "it is not a regular file".to_owned(),
    }
}

fn missing_interpreter(path: &Path, head: &[u8]) -> String {
    if let Some(interpreter) = script_interpreter(head) {
        if interpreter.ends_with(b"\r") {
            let name = interpreter.strip_suffix(b"\r").unwrap_or_default();
            return format!(
                "its first line ends with a carriage return (Windows line ends): there is no interpreter `{}\\r`",
                String::from_utf8_lossy(name)
            );
        }
        return format!(
            "its interpreter {} is not in the image",
            String::from_utf8_lossy(&interpreter)
        );
    }
    match elf_interpreter(path, head) {
        Some(interpreter) => format!(
            "it is dynamically linked and its loader {} is not in the image",
            String::from_utf8_lossy(&interpreter)
        ),
        None => "its interpreter is not in the image".to_owned(),
    }
}

fn wrong_format(path: &Path) -> String {
    let Some(head) = read_head(path) else {
        return "the kernel does not know its format".to_owned();
    };
    if head.is_empty() {
        return "it is empty".to_owned();
    }
    match elf_machine(&head) {
        Some(machine) if Some(machine) != own_machine() => format!(
            "it was built for {} and this machine is {}",
            machine_name(machine),
            std::env::consts::ARCH
        ),
        Some(_) => "it is a damaged program or one for another kind of system".to_owned(),
        None => "it is neither a program nor a script that begins with `#!` and an interpreter"
            .to_owned(),
    }
}

/// The first bytes of a regular file that can be read.
fn read_head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    open(path)?
        .take(HEAD as u64)
        .read_to_end(&mut head)
        .ok()
        .map(|_| head)
}

fn open(path: &Path) -> Option<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then(|| fd.into())
}

/// The interpreter of `#!`, up to the first blank.
fn script_interpreter(head: &[u8]) -> Option<Vec<u8>> {
    let line = head
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let word = line
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .find(|word| !word.is_empty())?;
    Some(word.to_vec())
}

fn little_endian(head: &[u8]) -> Option<bool> {
    match (head.get(..4)?, head.get(5)?) {
        (b"\x7fELF", 1) => Some(true),
        (b"\x7fELF", 2) => Some(false),
        _ => None,
    }
}

fn number(bytes: &[u8], at: usize, length: usize, little: bool) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    let push = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
    Some(if little {
        bytes.iter().rev().fold(0, push)
    } else {
        bytes.iter().fold(0, push)
    })
}

fn elf_machine(head: &[u8]) -> Option<u16> {
    let little = little_endian(head)?;
    number(head, 18, 2, little).and_then(|machine| u16::try_from(machine).ok())
}

/// The content of the PT_INTERP header.
fn elf_interpreter(path: &Path, head: &[u8]) -> Option<Vec<u8>> {
    const PT_INTERP: u64 = 3;
    let little = little_endian(head)?;
    let wide = *head.get(4)? == 2;
    let (table, entry_size, count) = if wide {
        (
            number(head, 32, 8, little)?,
            number(head, 54, 2, little)?,
            number(head, 56, 2, little)?,
        )
    } else {
        (
            number(head, 28, 4, little)?,
            number(head, 42, 2, little)?,
            number(head, 44, 2, little)?,
        )
    };
    let file = open(path)?;
    let mut entry = vec![0; usize::try_from(entry_size).ok()?];
    for index in 0..count.min(u64::from(MOST_HEADERS)) {
        let at = table.checked_add(index.checked_mul(entry_size)?)?;
        file.read_exact_at(&mut entry, at).ok()?;
        if number(&entry, 0, 4, little)? != PT_INTERP {
            continue;
        }
        let (offset, size) = if wide {
            (
                number(&entry, 8, 8, little)?,
                number(&entry, 32, 8, little)?,
            )
        } else {
            (
                number(&entry, 4, 4, little)?,
                number(&entry, 16, 4, little)?,
            )
        };
        let mut name = vec![0; usize::try_from(size).ok().filter(|size| *size <= HEAD)?];
        file.read_exact_at(&mut name, offset).ok()?;
        return Some(name.split(|byte| *byte == 0).next()?.to_vec());
    }
    None
}

fn own_machine() -> Option<u16> {
    match std::env::consts::ARCH {
        "x86_64" => Some(62),
        "aarch64" => Some(183),
        "riscv64" => Some(243),
        _ => None,
    }
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "x86 (32 bits)".to_owned(),
        8 => "mips".to_owned(),
        20 => "powerpc".to_owned(),
        21 => "powerpc64".to_owned(),
        22 => "s390x".to_owned(),
        40 => "arm (32 bits)".to_owned(),
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv".to_owned(),
        258 => "loongarch".to_owned(),
        other => format!("machine number {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(content: &[u8], errno: i32) -> (String, bool) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("program");
        std::fs::write(&path, content).expect("a file");
        explain(&path, &io::Error::from_raw_os_error(errno))
    }

    fn elf(machine: u16, interpreter: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        let mut header = vec![0; 56];
        header[0] = 3;
        header[8] = 120;
        header[32] = interpreter.len() as u8;
        file.extend(header);
        file.extend(interpreter);
        file
    }

    #[test]
    fn missing_interpreters_are_named() {
        assert_eq!(
            explained(b"#! /bin/bash -e\n", libc::ENOENT),
            ("its interpreter /bin/bash is not in the image".into(), true)
        );
        let (text, not_found) = explained(b"#!/bin/sh\r\necho\r\n", libc::ENOENT);
        assert!(
            not_found && text.contains("carriage return") && text.contains("`/bin/sh\\r`"),
            "{text}"
        );
        let (text, _) = explained(&elf(62, b"/lib64/ld.so\0"), libc::ENOENT);
        assert_eq!(
            text,
            "it is dynamically linked and its loader /lib64/ld.so is not in the image"
        );
    }

    #[test]
    fn foreign_and_broken_files_are_told_apart() {
        let foreign = if cfg!(target_arch = "x86_64") {
            183
        } else {
            62
        };
        let (text, not_found) = explained(&elf(foreign, b""), libc::ENOEXEC);
        assert!(
            !not_found && text.starts_with("it was built for "),
            "{text}"
        );
        assert_eq!(explained(b"", libc::ENOEXEC).0, "it is empty");
        assert!(explained(b"echo hi\n", libc::ENOEXEC).0.contains("#!"));
        assert!(explained(b"x", libc::EACCES).0.contains("not executable"));
        assert_eq!(
            explain(
                Path::new("/nowhere/at/all"),
                &io::Error::from_raw_os_error(libc::ENOENT)
            ),
            ("no such file".into(), true)
        );
    }

    #[test]
    fn truncated_headers_do_no_harm() {
        let whole = elf(62, b"/lib64/ld.so\0");
        for length in 0..whole.len() {
            let _ = explained(&whole[..length], libc::ENOENT);
            let _ = explained(&whole[..length], libc::ENOEXEC);
        }
    }
}
