//! Programs that are executed. The ids that one takes of its file are written down before the kernel executes it, for
//! afterwards nobody is asked; when it cannot, they are taken back.

use std::os::fd::AsFd as _;

use rustix::fs::FileType;

use super::answer::{Answering, Result};
use super::files;
use super::target::{At, Target, name_of};
use crate::proc_stat::ProcStat;
use crate::sys::{self, notify::Reply};

/// With so many, and each time there are twice as many, those are forgotten that have ended without asking for anything.
const MANY: usize = 64;

/// A process that has got other ids for a file.
#[derive(Debug)]
pub(super) struct Executing {
    /// Which asked; the process goes on as its first one.
    thread: u32,
    process: u32,
    /// Device and inode number.
    file: (u64, u64),
    /// See [`memory`]; of the program that it was.
    memory: [u64; 3],
    /// Its limit before and after.
    marks: (u64, u64),
}

impl Answering {
    /// A file that takes its owner's id makes its process its owner; kept rights go.
    pub(super) fn execute(&mut self, target: &Target<'_>, at: &At) -> Result<Reply> {
        let Ok(node) = self.node(target, at) else {
            return Ok(Reply::Continue);
        };
        let stat = rustix::fs::fstat(&node)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
            || stat.st_mode & 0o111 == 0
        {
            return Ok(Reply::Continue);
        }
        let (takes_user, takes_group) = files::takes(name_of(node.as_fd()).as_str(), stat.st_mode);
        let mut ids = (None, None);
        if (takes_user || takes_group) && !target.status()?.no_new_privileges {
            let record = self.record(&node, &stat, None);
            ids.0 = takes_user.then_some(record.uid);
            ids.1 = takes_group.then_some(record.gid);
        }
        let old = self.credentials(target)?;
        let new = old.executing(ids.0, ids.1);
        if new == *old {
            return Ok(Reply::Continue);
        }
        let before = self.limit(target)?;
        let mut executing = Executing {
            thread: target.pid,
            process: target.process()?,
            file: (stat.st_dev, stat.st_ino),
            memory: memory(target).unwrap_or_default(),
            marks: (before, before),
        };
        self.become_(target, new)?;
        executing.marks.1 = self.limit(target)?;
        self.executing.push(executing);
        let count = self.executing.len();
        if count >= MANY && count.is_power_of_two() {
            self.executing.retain(|it| target.is_there(it.process));
        }
        Ok(Reply::Continue)
    }

    /// Takes back the ids of a file that the caller has tried to execute in vain, when it asks for something else.
    /// What it has started in between keeps them.
    pub(super) fn settle(&mut self, target: &Target<'_>) {
        let is_caller = |it: &Executing| [it.thread, it.process].contains(&target.pid);
        let Some(place) = self.executing.iter().position(is_caller) else {
            return;
        };
        let Some(it) = self.executing.get(place) else {
            return;
        };
        let is_done = it.is_done(target);
        // Another thread of it is about to.
        if !is_done && it.thread != target.pid {
            return;
        }
        let it = self.executing.swap_remove(place);
        if !is_done && self.limit(target) == Ok(it.marks.1) {
            // One that is gone by now needs none.
            let _ = sys::caller::set_limit(target.pid, self.marking, it.marks.0);
        }
    }
}

impl Executing {
    /// Whether it is another program by now. Where nothing is to be seen, it is.
    fn is_done(&self, target: &Target<'_>) -> bool {
        memory(target) != Some(self.memory)
            || target
                .program()
                .and_then(rustix::fs::fstat)
                .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.file)
    }
}

/// Where the program of a process and its stack begin, which another execution nearly always changes.
fn memory(target: &Target<'_>) -> Option<[u64; 3]> {
    told(&target.text_of(target.pid, "stat").ok()?.into())
}

/// `None` where the kernel does not tell them.
fn told(stat: &ProcStat) -> Option<[u64; 3]> {
    const PROGRAM: usize = 26;
    const PROGRAM_END: usize = 27;
    const STACK: usize = 28;
    let memory = [
        stat.number(PROGRAM)?,
        stat.number(PROGRAM_END)?,
        stat.number(STACK)?,
    ];
    (memory[2] > 1).then_some(memory)
}

#[cfg(test)]
mod tests {
    use super::{ProcStat, told};

    #[test]
    fn a_program_is_known_by_its_memory() {
        let text = |stack: &str| {
            ProcStat::from(format!(
                "7 (a) b) S 1 7 7 0 -1 4194304 9 0 0 0 1 2 0 0 20 0 1 0 55 4096 1 99 100 200 {stack} 0 0"
            ))
        };
        assert_eq!(told(&text("300")), Some([100, 200, 300]));
        assert_eq!(told(&text("0")), None, "of another user's");
        assert_eq!(told(&ProcStat::from("7 (a) S 1".to_owned())), None);
    }
}
