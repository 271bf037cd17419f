//! Ids as a process believes to have them, and what the calls that change them make of them. Values in, values out.

use rustix::io::Errno;

/// Leaves an id as it is.
const KEEP: u32 = u32::MAX;
const MOST_GROUPS: usize = 65_536;

/// Real, effective, saved, and of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    pub(super) files: u32,
}

impl Ids {
    fn all(id: u32) -> Self {
        Self {
            real: id,
            effective: id,
            saved: id,
            files: id,
        }
    }

    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// `setuid`: all of them for those who may, else the effective one.
    fn set(self, id: u32, may: bool) -> Result<Self, Errno> {
        if id == KEEP {
            Err(Errno::INVAL)
        } else if may {
            Ok(Self::all(id))
        } else if id == self.real || id == self.saved {
            Ok(Self {
                effective: id,
                files: id,
                ..self
            })
        } else {
            Err(Errno::PERM)
        }
    }

    /// `setreuid`.
    fn set_two(self, real: u32, effective: u32, may: bool) -> Result<Self, Errno> {
        let mut new = self;
        if real != KEEP {
            if !may && ![self.real, self.effective].contains(&real) {
                return Err(Errno::PERM);
            }
            new.real = real;
        }
        if effective != KEEP {
            if !may && !self.has(effective) {
                return Err(Errno::PERM);
            }
            new.effective = effective;
        }
        if real != KEEP || (effective != KEEP && effective != self.real) {
            new.saved = new.effective;
        }
        new.files = new.effective;
        Ok(new)
    }

    /// `setresuid`.
    fn set_three(self, ids: [u32; 3], may: bool) -> Result<Self, Errno> {
        if !may && ids.iter().any(|id| *id != KEEP && !self.has(*id)) {
            return Err(Errno::PERM);
        }
        let [real, effective, saved] = ids;
        let or = |new: u32, old: u32| if new == KEEP { old } else { new };
        let effective = or(effective, self.effective);
        Ok(Self {
            real: or(real, self.real),
            effective,
            saved: or(saved, self.saved),
            files: effective,
        })
    }

    /// `setfsuid`, which tells the old one and never fails.
    fn set_files(self, id: u32, may: bool) -> Self {
        if id != KEEP && (may || self.has(id) || id == self.files) {
            Self { files: id, ..self }
        } else {
            self
        }
    }
}

/// A change of ids that a call asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Uid(u32),
    Gid(u32),
    RealUid(u32, u32),
    RealGid(u32, u32),
    ThreeUids([u32; 3]),
    ThreeGids([u32; 3]),
    FilesUid(u32),
    FilesGid(u32),
    Groups(Vec<u32>),
    /// `PR_SET_KEEPCAPS`.
    Keep(bool),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Credentials {
    pub(super) users: Ids,
    pub(super) groups: Ids,
    pub(super) further: Vec<u32>,
    /// Root's rights outlive its ids, until the next execution: `setpriv` takes another group after another user.
    keeps: bool,
    kept: bool,
}

impl Credentials {
    pub(super) fn new(uid: u32, gid: u32, mut further: Vec<u32>) -> Self {
        // As the kernel keeps and shows them.
        further.sort_unstable();
        Self {
            users: Ids::all(uid),
            groups: Ids::all(gid),
            further,
            keeps: false,
            kept: false,
        }
    }

    /// Root's effective id stands for all rights.
    pub(super) fn is_root(&self) -> bool {
        self.users.effective == 0
    }

    pub(super) fn changed(&self, change: &Change) -> Result<Self, Errno> {
        let may = self.is_root() || self.kept;
        let mut new = self.clone();
        match change {
            Change::Uid(id) => new.users = self.users.set(*id, may)?,
            Change::Gid(id) => new.groups = self.groups.set(*id, may)?,
            Change::RealUid(real, effective) => {
                new.users = self.users.set_two(*real, *effective, may)?;
            }
            Change::RealGid(real, effective) => {
                new.groups = self.groups.set_two(*real, *effective, may)?;
            }
            Change::ThreeUids(ids) => new.users = self.users.set_three(*ids, may)?,
            Change::ThreeGids(ids) => new.groups = self.groups.set_three(*ids, may)?,
            Change::FilesUid(id) => new.users = self.users.set_files(*id, may),
            Change::FilesGid(id) => new.groups = self.groups.set_files(*id, may),
            Change::Groups(groups) => {
                if !may {
                    return Err(Errno::PERM);
                }
                if groups.len() > MOST_GROUPS || groups.contains(&KEEP) {
                    return Err(Errno::INVAL);
                }
                new.further.clone_from(groups);
                new.further.sort_unstable();
            }
            Change::Keep(keeps) => new.keeps = *keeps,
        }
        if self.users.has(0) && !new.users.has(0) {
            new.kept = self.keeps;
        }
        Ok(new)
    }

    /// After the execution of a file, which may take its owner's id.
    pub(super) fn executing(&self, uid: Option<u32>, gid: Option<u32>) -> Self {
        let mut new = Self {
            keeps: false,
            kept: false,
            ..self.clone()
        };
        let take = |ids: &mut Ids, id: u32| {
            (ids.effective, ids.saved, ids.files) = (id, id, id);
        };
        if let Some(uid) = uid {
            take(&mut new.users, uid);
        }
        if let Some(gid) = gid {
            take(&mut new.groups, gid);
        }
        new
    }

    pub(super) fn is_in(&self, gid: u32) -> bool {
        self.groups.files == gid || self.further.contains(&gid)
    }

    /// Whether the bits of a mode (4 read, 2 write, 1 execute) are granted on something with this owner and mode.
    pub(super) fn may(&self, wanted: u32, mode: u32, owner: (u32, u32)) -> bool {
        if self.users.files == 0 {
            return true;
        }
        let granted = if self.users.files == owner.0 {
            mode >> 6
        } else if self.is_in(owner.1) {
            mode >> 3
        } else {
            mode
        };
        granted & wanted == wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_manager_gives_up_its_rights_for_good() {
        let root = Credentials::new(0, 0, vec![0, 4]);
        let mut it = root;
        for change in [
            Change::Groups(vec![65_534]),
            Change::ThreeGids([65_534; 3]),
            Change::ThreeUids([42; 3]),
        ] {
            it = it.changed(&change).expect("allowed");
        }
        assert_eq!((it.users.effective, it.groups.real), (42, 65_534));
        for change in [
            Change::Uid(0),
            Change::Gid(0),
            Change::ThreeUids([KEEP, 0, KEEP]),
            Change::Groups(vec![]),
        ] {
            assert_eq!(it.changed(&change), Err(Errno::PERM), "{change:?}");
        }
        assert_eq!(it.changed(&Change::FilesUid(0)), Ok(it.clone()));
    }

    #[test]
    fn kept_rights_last_until_the_next_execution() {
        let root = Credentials::new(0, 0, vec![0]);
        let change = |it: &Credentials, change: Change| it.changed(&change);
        let gone = change(&root, Change::ThreeUids([7; 3])).expect("down");
        assert_eq!(change(&gone, Change::ThreeGids([8; 3])), Err(Errno::PERM));
        let keeping = change(&root, Change::Keep(true)).expect("for all");
        let mut it = keeping;
        for step in [
            Change::ThreeUids([7; 3]),
            Change::Keep(false),
            Change::ThreeGids([8; 3]),
            Change::Groups(vec![9]),
        ] {
            it = change(&it, step).expect("kept");
        }
        let executed = it.executing(None, None);
        assert_eq!(executed, Credentials::new(7, 8, vec![9]));
        assert_eq!(change(&executed, Change::Uid(0)), Err(Errno::PERM));
    }

    #[test]
    fn a_saved_id_comes_back() {
        let root = Credentials::new(0, 0, vec![]);
        let user = root
            .changed(&Change::ThreeUids([KEEP, 7, KEEP]))
            .expect("down");
        assert!(!user.is_root());
        assert_eq!(user.users.files, 7);
        let again = user
            .changed(&Change::ThreeUids([KEEP, 0, KEEP]))
            .expect("up");
        assert!(again.is_root());
        let real = root.changed(&Change::RealUid(7, 7)).expect("for good");
        assert_eq!(real.changed(&Change::RealUid(KEEP, 0)), Err(Errno::PERM));
    }

    #[test]
    fn rights_follow_owner_group_and_others() {
        let user = Credentials::new(7, 8, vec![9]);
        assert!(user.may(2, 0o200, (7, 0)));
        assert!(!user.may(4, 0o077, (7, 0)));
        assert!(user.may(6, 0o060, (0, 9)));
        assert!(user.may(1, 0o001, (0, 0)));
        assert!(!user.may(2, 0o755, (0, 0)));
        assert!(Credentials::new(0, 0, vec![]).may(7, 0, (1, 1)));
        assert!(user.executing(Some(0), None).may(7, 0, (1, 1)));
    }
}
