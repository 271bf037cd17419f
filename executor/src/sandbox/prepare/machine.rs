//! The devices of a privileged command whose root is the machine's: all of the machine's, besides those that every
//! command has.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::spec::{Access, Device};

/// Below /dev: what a command has of its own.
const OWN: &[&str] = &["console", "mqueue", "ptmx", "pts", "shm"];

/// With those that it was given, in whose place nothing else comes.
pub(super) fn devices(given: &[Device]) -> io::Result<Vec<Device>> {
    let mut all = given.to_vec();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        for entry in std::fs::read_dir(Path::new("/dev").join(&below))? {
            let entry = entry?;
            let name = below.join(entry.file_name());
            let is_taken =
                |device: &Device| name.starts_with(&device.name) || device.name.starts_with(&name);
            // What is gone by now is none.
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if OWN.iter().any(|own| name == Path::new(own)) {
                continue;
            }
            if kind.is_dir() {
                pending.push(name);
            } else if (kind.is_char_device() || kind.is_block_device())
                && !given.iter().any(is_taken)
            {
                all.push(Device {
                    path: entry.path(),
                    name,
                    access: Access::ALL,
                });
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_keeps_its_name() {
        let given = Device {
            path: "/dev/zero".into(),
            name: "full".into(),
            access: Access::ALL,
        };
        let all = devices(std::slice::from_ref(&given)).expect("/dev");
        let of = |name: &str| {
            let named = all.iter().filter(|it| it.name == Path::new(name));
            named.map(|it| it.path.as_path()).collect::<Vec<_>>()
        };
        assert_eq!(of("full"), [Path::new("/dev/zero")]);
        assert_eq!(of("null"), [Path::new("/dev/null")]);
        assert!(of("ptmx").is_empty() && of("fd").is_empty());
    }
}
