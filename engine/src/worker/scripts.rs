//! Why a shell says "not found" of a program that is there: what the kernel tells a shell is less than what the file
//! tells.

use std::io::Read as _;
use std::path::Path;

use rbuild_cache::{RootDir, SnapshotId};
use rbuild_executor::Exit;

use super::Worker;
use super::failure::Failure;

/// Enough for a script's first line.
const HEAD_BYTES: u64 = 512;
/// Of a shell whose command cannot be executed, or is not there.
const CODES: [i32; 2] = [126, 127];

impl Worker {
    /// Looks at the program that a shell's last words are about, as it was before the step.
    pub(super) fn why_not_found(
        &self,
        failure: &Failure,
        base: Option<&SnapshotId>,
        cwd: &str,
    ) -> Option<String> {
        match failure.exit {
            Some(Exit::Code(code)) if CODES.contains(&i32::from(code)) => {}
            _ => return None,
        }
        let program = program(&String::from_utf8_lossy(&failure.output))?;
        let root = self.executor.view(base).ok()?;
        let path = Path::new(cwd).join(&program);
        why(&root, &path).map(|why| format!("`{program}` is there, but {why}"))
    }
}

/// The path in `/bin/sh: 1: ./run.sh: not found` and the like.
fn program(output: &str) -> Option<String> {
    let line = output.lines().rev().find(|line| !line.trim().is_empty())?;
    let part = line.split(": ").skip(1).find(|part| {
        part.contains('/') && !part.contains(char::is_whitespace) && part.len() < 4096
    })?;
    Some(part.to_owned())
}

fn why(root: &RootDir, path: &Path) -> Option<String> {
    let mut head = Vec::new();
    let file = root.open_file(path).ok()?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return None;
    }
    file.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    let line = head
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let line = String::from_utf8_lossy(line);
    if line.ends_with('\r') {
        return Some("its first line ends in a carriage return (Windows line ends), which counts as a part of the interpreter's name: save it with Unix line ends".to_owned());
    }
    let interpreter = line.split_whitespace().next()?;
    let is_there = root.metadata_following(Path::new(interpreter)).is_ok();
    (!is_there).then(|| format!("its interpreter `{interpreter}` is not in the image"))
}

#[cfg(test)]
mod tests {
    use super::program;

    #[test]
    fn programs_are_found_in_what_shells_say() {
        for (line, wanted) in [
            ("/bin/sh: /x.sh: not found", Some("/x.sh")),
            ("/bin/sh: 1: ./run.sh: not found", Some("./run.sh")),
            (
                "bash: line 1: /a/b: cannot execute: required file not found",
                Some("/a/b"),
            ),
            ("/bin/sh: npm: not found", None),
            ("", None),
        ] {
            assert_eq!(program(line).as_deref(), wanted, "{line}");
        }
    }
}
