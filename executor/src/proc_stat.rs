//! What `/proc/PID/stat` says of a process.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};

/// Its text. Fields are numbered as in proc(5), from 1; the second is the name, which may hold any bytes, blanks and
/// brackets among them, so that those before the third cannot be asked for.
pub(crate) struct ProcStat(String);

impl ProcStat {
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        std::fs::read(format!("/proc/{pid}/stat")).map(|text| Self::new(&text))
    }

    pub(crate) fn own() -> io::Result<Self> {
        std::fs::read("/proc/self/stat").map(|text| Self::new(&text))
    }

    /// Of a `/proc` that is held open.
    pub(crate) fn within(proc: BorrowedFd<'_>, pid: u32) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut file: std::fs::File =
            rustix::fs::openat(proc, format!("{pid}/stat"), flags, Mode::empty())?.into();
        let mut text = Vec::new();
        io::Read::read_to_end(&mut file, &mut text)?;
        Ok(Self::new(&text))
    }

    fn new(text: &[u8]) -> Self {
        Self(String::from_utf8_lossy(text).into_owned())
    }

    /// The number of a field that is one. `None` also where the kernel wrote no such field.
    pub(crate) fn number<T: std::str::FromStr>(&self, field: usize) -> Option<T> {
        self.field(field)?.parse().ok()
    }

    /// The letter of proc(5): `R`, `S`, `D`, `T` and so on.
    pub(crate) fn state(&self) -> Option<&str> {
        self.field(3)
    }

    pub(crate) fn parent(&self) -> Option<u32> {
        self.number(4)
    }

    fn field(&self, number: usize) -> Option<&str> {
        let (_, after_name) = self.0.rsplit_once(')')?;
        after_name
            .split_ascii_whitespace()
            .nth(number.checked_sub(3)?)
    }
}

impl From<String> for ProcStat {
    fn from(text: String) -> Self {
        Self(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_any_name() {
        let fields: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        let stat = ProcStat(format!("1 (a) S 2) T {}", fields.join(" ")));
        assert_eq!(stat.state(), Some("T"));
        assert_eq!(stat.number(48), Some(48));
        assert_eq!(stat.number::<u32>(53), None);
        assert_eq!(stat.number::<u32>(1), None);
        assert_eq!(ProcStat("1 (a".to_owned()).state(), None);
        let odd = ProcStat::new(b"1 (\xff) S 7");
        assert_eq!(odd.parent(), Some(7));
    }

    #[test]
    fn this_process_has_its_parent() {
        let stat = ProcStat::own().expect("it runs");
        assert_eq!(stat.parent(), Some(std::os::unix::process::parent_id()));
        let same = ProcStat::of(std::process::id()).expect("it runs");
        assert_eq!(same.number::<u64>(22), stat.number::<u64>(22));
    }
}
