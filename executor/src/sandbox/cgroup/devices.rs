//! Which devices may be used: rules that a cgroup holds its processes to, whoever they are and whatever nodes they find
//! or make. Version 1 takes them one by one, version 2 as a program.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::hierarchies::place_unified;
use super::{Cgroup, Hierarchies, doors, unique_name, write};
use crate::sandbox::plan::DEVICES;
use crate::spec::{Access, DeviceKind, DeviceRule, SecurityOptions};
use crate::sys::devices::{Instruction, guard};

impl Cgroup {
    /// Adds rules for devices to a command's cgroup, or makes one that has nothing else.
    pub(in crate::sandbox) fn guard_devices(
        made: &mut Option<(Self, Vec<OwnedFd>)>,
        parent: Option<&str>,
        options: &SecurityOptions,
    ) -> io::Result<()> {
        let rules = rules(options)?;
        let (cgroup, joined) = made.get_or_insert_default();
        let added = cgroup.guard(parent, &rules)?;
        joined.extend(doors(added.as_slice())?);
        Ok(())
    }

    /// Returns a directory that has to be joined now, too.
    fn guard(&mut self, parent: Option<&str>, rules: &[DeviceRule]) -> io::Result<Option<PathBuf>> {
        let hierarchies = Hierarchies::read()?;
        let name = unique_name();
        let is_legacy = |(controllers, ..): &(Vec<String>, PathBuf, PathBuf)| {
            controllers.iter().any(|known| known == "devices")
        };
        if hierarchies.legacy.iter().any(is_legacy) {
            let directory = hierarchies.place("devices", parent, &name)?.directory;
            self.directories.push(directory.clone());
            write_rules(&directory, rules)?;
            return Ok(Some(directory));
        }
        let mut known = self.directories.iter();
        let (directory, added) = match known.find(|known| known.join("cgroup.controllers").exists())
        {
            Some(known) => (known.clone(), None),
            None => {
                let Some((point, own)) = &hierarchies.unified else {
                    return Err(io::Error::new(
                        io::ErrorKind::NotFound,
                        "no cgroup file system is mounted",
                    ));
                };
                let directory = place_unified(point, own, None, parent, &name)?;
                self.directories.push(directory.clone());
                (directory.clone(), Some(directory))
            }
        };
        guard(File::open(&directory)?.as_fd(), &program(rules))?;
        Ok(added)
    }
}

/// What every container may use, as Docker has it: nodes of anything are made, and nothing is done with most of them.
fn usual() -> impl Iterator<Item = DeviceRule> {
    let character = |major, minor, access| DeviceRule {
        kind: DeviceKind::Character,
        major,
        minor,
        access,
    };
    let make = Access {
        read: false,
        write: false,
        make: true,
    };
    let every = character(None, None, make);
    let blocks = DeviceRule {
        kind: DeviceKind::Block,
        ..every
    };
    // The console, the master of all terminals, and the terminals.
    let terminals = [(5, Some(1)), (5, Some(2)), (136, None)];
    let usable = DEVICES
        .iter()
        .map(|(_, major, minor)| (*major, Some(*minor)));
    let usable = usable.chain(terminals);
    let usable = usable.map(move |(major, minor)| character(Some(major), minor, Access::ALL));
    [every, blocks].into_iter().chain(usable)
}

/// All rules, one for each device.
fn rules(options: &SecurityOptions) -> io::Result<Vec<DeviceRule>> {
    let mut all: Vec<DeviceRule> = usual().collect();
    for device in &options.devices {
        let found = std::fs::metadata(&device.path)?;
        all.push(DeviceRule {
            kind: match FileType::from_raw_mode(found.mode()) {
                FileType::BlockDevice => DeviceKind::Block,
                _ => DeviceKind::Character,
            },
            major: Some(rustix::fs::major(found.rdev())),
            minor: Some(rustix::fs::minor(found.rdev())),
            access: device.access,
        });
    }
    all.extend(&options.device_rules);
    Ok(merged(all))
}

/// Who opens a device for several things needs one rule for all of them.
fn merged(rules: Vec<DeviceRule>) -> Vec<DeviceRule> {
    let mut merged: Vec<DeviceRule> = Vec::new();
    for rule in rules {
        let same = |other: &&mut DeviceRule| {
            (other.kind, other.major, other.minor) == (rule.kind, rule.major, rule.minor)
        };
        match merged.iter_mut().find(same) {
            Some(other) => other.access = other.access.and(rule.access),
            None => merged.push(rule),
        }
    }
    merged
}

fn write_rules(directory: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    write(&directory.join("devices.deny"), "a")?;
    let allow = directory.join("devices.allow");
    for rule in rules {
        write(&allow, &rule.to_string())
            .map_err(|error| io::Error::new(error.kind(), format!("the rule `{rule}`: {error}")))?;
    }
    Ok(())
}

/// In what a program is asked about, and what it is asked: `struct bpf_cgroup_dev_ctx` and `BPF_DEVCG_*`.
mod asked {
    /// The kind in the lower half, the access in the upper.
    pub(super) const WHAT: i16 = 0;
    pub(super) const MAJOR: i16 = 4;
    pub(super) const MINOR: i16 = 8;
    pub(super) const BLOCK: i32 = 1;
    pub(super) const CHARACTER: i32 = 2;
    pub(super) const MAKE: i32 = 1;
    pub(super) const READ: i32 = 2;
    pub(super) const WRITE: i32 = 4;
}

/// A register.
type Register = u8;
const ANSWER: Register = 0;
/// At first what is asked, then whatever.
const SCRATCH: Register = 1;
const ACCESS: Register = 2;
const KIND: Register = 3;
const MAJOR: Register = 4;
const MINOR: Register = 5;

/// The answer is 1 where some rule gives all that is asked.
fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        load(ACCESS, asked::WHAT),
        load(MAJOR, asked::MAJOR),
        load(MINOR, asked::MINOR),
        instruction(COPY, KIND, ACCESS, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT, ACCESS, 0, 0, 16),
        instruction(SET, ANSWER, 0, 0, 1),
    ];
    for rule in rules {
        program.extend(of_rule(rule));
    }
    program.extend([
        instruction(SET, ANSWER, 0, 0, 0),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
    program
}

/// Ends where the rule gives what is asked, and goes on behind it otherwise.
fn of_rule(rule: &DeviceRule) -> Vec<Instruction> {
    let unless = |register, value: i32| instruction(JUMP_UNLESS, register, 0, 0, value);
    let mut code = Vec::new();
    match rule.kind {
        DeviceKind::All => {}
        DeviceKind::Block => code.push(unless(KIND, asked::BLOCK)),
        DeviceKind::Character => code.push(unless(KIND, asked::CHARACTER)),
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        code.extend(number.map(|number| unless(register, number.cast_signed())));
    }
    let given = [
        (rule.access.make, asked::MAKE),
        (rule.access.read, asked::READ),
        (rule.access.write, asked::WRITE),
    ];
    let lacking = given.iter().filter(|(given, _)| !given).map(|(_, bit)| bit);
    let lacking: i32 = lacking.sum();
    if lacking != 0 {
        code.extend([
            instruction(COPY, SCRATCH, ACCESS, 0, 0),
            instruction(AND, SCRATCH, 0, 0, lacking),
            unless(SCRATCH, 0),
        ]);
    }
    code.push(instruction(EXIT, 0, 0, 0, 0));
    let length = code.len();
    for (at, instruction) in code.iter_mut().enumerate() {
        if instruction.code == JUMP_UNLESS {
            // A rule has few instructions, so that it fits.
            instruction.offset = (length - at - 1) as i16;
        }
    }
    code
}

/// `dst = *(u32 *)(asked + offset)`
const LOAD: u8 = (libc::BPF_LDX | libc::BPF_MEM | libc::BPF_W) as u8;
/// Of 32 bits; so the next.
const COPY: u8 = 0xbc;
const SET: u8 = 0xb4;
const AND: u8 = 0x54;
/// To the right.
const SHIFT: u8 = 0x74;
/// Compares 32 bits with the immediate.
const JUMP_UNLESS: u8 = 0x56;
const EXIT: u8 = 0x95;

fn load(to: Register, offset: i16) -> Instruction {
    instruction(LOAD, to, SCRATCH, offset, 0)
}

fn instruction(code: u8, to: Register, from: Register, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | (from << 4),
        offset,
        immediate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn rule(kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
        DeviceRule {
            kind,
            major,
            minor,
            access: Access::parse(access).expect("letters"),
        }
    }

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], (what, major, minor): (u32, u32, u32)) -> u32 {
        let mut registers = [0_u32; 6];
        let mut at = 0;
        loop {
            let i = program[at];
            at += 1;
            let to = usize::from(i.registers & 15);
            let from = registers[usize::from(i.registers >> 4)];
            let value = i.immediate.cast_unsigned();
            match i.code {
                LOAD => registers[to] = [what, major, minor][i.offset as usize / 4],
                COPY => registers[to] = from,
                SET => registers[to] = value,
                AND => registers[to] &= value,
                SHIFT => registers[to] >>= value,
                JUMP_UNLESS if registers[to] != value => at += i.offset as usize,
                JUMP_UNLESS => {}
                EXIT => return registers[0],
                code => panic!("instruction {code}"),
            }
        }
    }

    #[test]
    fn programs_give_what_rules_give() {
        use DeviceKind::{All, Block, Character};
        let (make, read, write) = (1, 2, 4);
        let asked = |kind: u32, access: u32, major, minor| (kind | (access << 16), major, minor);
        let rules = merged(vec![
            rule(Character, None, None, "m"),
            rule(Character, Some(1), Some(3), "r"),
            rule(Character, Some(1), Some(3), "w"),
            rule(Block, Some(7), None, "r"),
            rule(Character, Some(u32::MAX), Some(0), "rwm"),
        ]);
        let program = program(&rules);
        for (question, answer) in [
            (asked(2, make, 1, 3), 1),
            (asked(2, make, 9, 9), 1),
            (asked(1, make, 9, 9), 0),
            (asked(2, read, 1, 3), 1),
            (asked(2, read | write, 1, 3), 1),
            (asked(2, read, 1, 4), 0),
            (asked(2, read | make, 1, 3), 0),
            (asked(1, read, 7, 200), 1),
            (asked(1, write, 7, 200), 0),
            (asked(1, read | write, 7, 0), 0),
            (asked(2, read, 7, 0), 0),
            (asked(2, read | write | make, u32::MAX, 0), 1),
        ] {
            assert_eq!(run(&program, question), answer, "{question:?}");
        }
        let all = super::program(&[rule(All, None, None, "rwm")]);
        assert_eq!(run(&all, asked(1, read | write | make, 8, 0)), 1);
    }

    #[test]
    fn the_usual_rules_are_dockers() {
        let rules: Vec<String> = usual().map(|rule| rule.to_string()).collect();
        assert_eq!(
            rules,
            [
                "c *:* m",
                "b *:* m",
                "c 1:3 rwm",
                "c 1:5 rwm",
                "c 1:7 rwm",
                "c 1:8 rwm",
                "c 1:9 rwm",
                "c 5:0 rwm",
                "c 5:1 rwm",
                "c 5:2 rwm",
                "c 136:* rwm"
            ]
        );
    }

    /// In version 2, wherever that is mounted: another of version 1 beside it does not matter.
    #[test]
    fn the_kernel_takes_programs() {
        const TRY: &str = "echo 0 > \"$0/cgroup.procs\" || exit 9\n\
            for d in null zero full random; do head -c 0 /dev/$d 2>/dev/null && printf '%s ' $d; done\n\
            : > /dev/zero && echo zero is written";
        let unified = Hierarchies::read()
            .expect("the cgroup file systems")
            .unified;
        let made =
            unified.map(|(point, own)| place_unified(&point, &own, None, None, &unique_name()));
        let Some(Ok(directory)) = made else {
            println!("SKIPPED: this user can make no cgroup of version 2");
            return;
        };
        let rules = [
            rule(DeviceKind::Character, Some(1), Some(3), "rwm"),
            rule(DeviceKind::Character, Some(1), Some(5), "r"),
        ];
        let taken =
            File::open(&directory).and_then(|opened| guard(opened.as_fd(), &program(&rules)));
        let output = Command::new("sh")
            .args(["-c", TRY])
            .arg(&directory)
            .output();
        crate::sandbox::cgroup::remove([directory.as_path()].into_iter());
        if taken.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            println!("SKIPPED: this user may load no programs");
            return;
        }
        let output = output.expect("a shell");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "null zero ",
            "{output:?}"
        );
        assert!(!output.status.success());
    }
}
