//! Capabilities: names, the default set, what a command ends up with.

use rustix::thread::{CapabilitySet, CapabilitySets};

use super::step::{Result, Step};
use crate::sys;

/// By number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The 14 that builds get elsewhere too: CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP
/// NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE.
pub(super) const DEFAULT: u64 = 0xa804_25fb;

/// The mask of everything that has a name here.
pub(super) const ALL: u64 = (1 << NAMES.len()) - 1;

/// The names that there are, as `--cap-add` takes them.
pub fn known() -> impl Iterator<Item = &'static str> {
    ["ALL"].into_iter().chain(NAMES)
}

/// `CAP_CHOWN` and so on.
pub(super) fn names(mask: u64) -> Vec<String> {
    let numbered = NAMES.iter().enumerate();
    let given = numbered.filter(|(number, _)| mask & (1 << number) != 0);
    given.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// The bit of a name, with or without `CAP_`, in any case.
pub fn by_name(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if short == "ALL" {
        return Some(ALL);
    }
    NAMES
        .iter()
        .position(|known| *known == short)
        .map(|number| 1 << number)
}

/// The mask after `--cap-add` and `--cap-drop`: `ALL` counts first, single names win over it.
pub(super) fn mask(base: u64, add: &[String], drop: &[String]) -> std::result::Result<u64, String> {
    let bits = |names: &[String]| -> std::result::Result<(bool, u64), String> {
        let mut all = false;
        let mut mask = 0;
        for name in names {
            match by_name(name).ok_or_else(|| name.clone())? {
                ALL => all = true,
                bit => mask |= bit,
            }
        }
        Ok((all, mask))
    };
    let (add_all, add) = bits(add)?;
    let (drop_all, drop) = bits(drop)?;
    let start = match (add_all, drop_all) {
        (true, _) => ALL,
        (false, true) => 0,
        (false, false) => base,
    };
    Ok((start | add) & !drop)
}

/// Takes everything else out of the bounding set.
pub(super) fn bound(mask: u64) -> Result<()> {
    for capability in 0..64 {
        if mask & (1 << capability) != 0 {
            continue;
        }
        match sys::drop_bounding(capability) {
            // Beyond the last one that this kernel knows.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => result.step("bound the capabilities")?,
        }
    }
    Ok(())
}

/// The command's own sets: what root gets, and nothing for anybody else.
pub(super) fn take(mask: u64, uid: u32) -> Result<()> {
    clear_ambient()?;
    let left = permitted_of(mask, uid).step("look at the capabilities")?;
    take_permitted(left).step("set the capabilities")
}

pub(super) fn clear_ambient() -> Result<()> {
    rustix::thread::clear_ambient_capability_set().step("clear ambient capabilities")
}

/// What [`take`] would leave that is not ambient.
pub(super) fn permitted_of(mask: u64, uid: u32) -> rustix::io::Result<CapabilitySet> {
    let wanted = if uid == 0 { mask } else { 0 };
    // What the builder itself lacks cannot be given.
    Ok(permitted()? & CapabilitySet::from_bits_retain(wanted))
}

/// Makes no other call than the one.
pub(super) fn take_permitted(set: CapabilitySet) -> rustix::io::Result<()> {
    set_both(set, set)
}

/// All that this thread may have, it has.
pub(super) fn raise_permitted() -> rustix::io::Result<()> {
    let set = permitted()?;
    set_both(set, set)
}

fn permitted() -> rustix::io::Result<CapabilitySet> {
    Ok(rustix::thread::capabilities(None)?.permitted)
}

fn set_both(effective: CapabilitySet, permitted: CapabilitySet) -> rustix::io::Result<()> {
    let inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective,
            permitted,
            inheritable,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_default_set_is_the_usual_fourteen() {
        assert_eq!(DEFAULT.count_ones(), 14);
        let listed = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE";
        let mask = listed.split(' ').filter_map(by_name).fold(0, |a, b| a | b);
        assert_eq!(mask, DEFAULT);
    }

    #[test]
    fn names_are_added_and_dropped() {
        let mask_of = |add: &[&str], drop: &[&str]| mask(DEFAULT, &names(add), &names(drop));
        assert_eq!(mask_of(&["cap_sys_admin"], &[]), Ok(DEFAULT | 1 << 21));
        assert_eq!(mask_of(&["CHOWN"], &["all"]), Ok(1));
        assert_eq!(mask_of(&["ALL"], &["NET_RAW"]), Ok(ALL & !(1 << 13)));
        assert_eq!(mask_of(&["FLY"], &[]), Err("FLY".to_owned()));
    }
}
