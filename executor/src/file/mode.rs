//! What `--chmod` makes of a mode: octal, and symbolic as BSD's `setmode(3)` reads it, which BuildKit follows.

use super::{ModeChange, ModeClause, ModeOperator};

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

impl ModeChange {
    /// Returns the mode (permission bits with setuid, setgid and sticky) that `mode` becomes.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let mode = mode & 0o7777;
        match self {
            Self::Set(bits) => bits & 0o7777,
            Self::Symbolic(clauses) => clauses.iter().fold(mode, |now, clause| {
                clause.apply(now, is_dir || mode & 0o111 != 0)
            }),
        }
    }

    /// The mode of a directory that is made for the destination: octal modes hold for it, under a umask of 022 as
    /// everything that is made; symbolic ones do not.
    pub(super) fn of_made_directory(change: Option<&Self>) -> u32 {
        match change {
            Some(Self::Set(bits)) => bits & 0o755,
            Some(Self::Symbolic(_)) | None => 0o755,
        }
    }
}

impl ModeClause {
    /// `may_execute`: what `X` asks, of the mode before any clause.
    fn apply(&self, mode: u32, may_execute: bool) -> u32 {
        let who = self.who & 0o777;
        let permissions = match self.copy_from {
            Some(0o700) => (mode >> 6) & 7,
            Some(0o070) => (mode >> 3) & 7,
            Some(_) => mode & 7,
            None => {
                let execute = u32::from(self.conditional_execute && may_execute);
                (self.permissions & 7) | execute
            }
        };
        let mut bits = (permissions * 0o111) & who;
        let set_ids =
            (SETUID * u32::from(who & 0o700 != 0)) | (SETGID * u32::from(who & 0o070 != 0));
        if self.setid {
            bits |= set_ids;
        }
        // `o+t` alone says nothing.
        if self.sticky && who & 0o770 != 0 {
            bits |= STICKY;
        }
        match self.operator {
            ModeOperator::Add => mode | bits,
            ModeOperator::Remove => mode & !bits,
            // `u=g` sets the nine bits only.
            ModeOperator::Set if self.copy_from.is_some() => (mode & !who) | bits,
            ModeOperator::Set => (mode & !(who | set_ids)) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clause(who: u32, operator: ModeOperator, permissions: u32) -> ModeClause {
        ModeClause {
            who,
            operator,
            permissions,
            conditional_execute: false,
            setid: false,
            sticky: false,
            copy_from: None,
        }
    }

    fn symbolic(clauses: Vec<ModeClause>, mode: u32, is_dir: bool) -> String {
        format!("{:04o}", ModeChange::Symbolic(clauses).apply(mode, is_dir))
    }

    use ModeOperator::{Add, Remove, Set};

    #[test]
    fn octal_replaces_everything() {
        assert_eq!(ModeChange::Set(0o640).apply(0o4755, false), 0o640);
        assert_eq!(ModeChange::Set(0o4640).apply(0o644, false), 0o4640);
        assert_eq!(
            ModeChange::of_made_directory(Some(&ModeChange::Set(0o2750))),
            0o750
        );
        assert_eq!(
            ModeChange::of_made_directory(Some(&ModeChange::Set(0o777))),
            0o755
        );
        assert_eq!(ModeChange::of_made_directory(None), 0o755);
    }

    #[test]
    fn as_the_reference_builder_has_it() {
        // u+x
        assert_eq!(symbolic(vec![clause(0o700, Add, 1)], 0o644, false), "0744");
        // go=u,o-w
        let copy = ModeClause {
            copy_from: Some(0o700),
            ..clause(0o077, Set, 0)
        };
        assert_eq!(
            symbolic(vec![copy, clause(0o007, Remove, 2)], 0o700, false),
            "0775"
        );
        // a+rX
        let read = ModeClause {
            conditional_execute: true,
            ..clause(0o777, Add, 4)
        };
        assert_eq!(symbolic(vec![read.clone()], 0o644, false), "0644");
        assert_eq!(symbolic(vec![read.clone()], 0o700, false), "0755");
        assert_eq!(symbolic(vec![read], 0o750, true), "0755");
        // u=rwX,go=rX
        let user = ModeClause {
            conditional_execute: true,
            ..clause(0o700, Set, 6)
        };
        let others = ModeClause {
            conditional_execute: true,
            ..clause(0o077, Set, 4)
        };
        assert_eq!(
            symbolic(vec![user.clone(), others.clone()], 0o644, false),
            "0644"
        );
        assert_eq!(symbolic(vec![user, others], 0o700, false), "0755");
        // g+s,+t
        let setid = ModeClause {
            setid: true,
            ..clause(0o070, Add, 0)
        };
        let sticky = ModeClause {
            sticky: true,
            ..clause(0o777, Add, 0)
        };
        assert_eq!(symbolic(vec![setid, sticky], 0o644, false), "3644");
    }

    #[test]
    fn corners() {
        // u=rw takes setuid away, and leaves setgid.
        assert_eq!(symbolic(vec![clause(0o700, Set, 6)], 0o6755, false), "2655");
        // u=g leaves both.
        let copy = ModeClause {
            copy_from: Some(0o070),
            ..clause(0o700, Set, 0)
        };
        assert_eq!(symbolic(vec![copy], 0o6754, false), "6554");
        // = leaves sticky.
        assert_eq!(symbolic(vec![clause(0o777, Set, 5)], 0o1777, true), "1555");
        // o+t says nothing; neither does o+s.
        let sticky = ModeClause {
            sticky: true,
            setid: true,
            ..clause(0o007, Add, 0)
        };
        assert_eq!(symbolic(vec![sticky], 0o755, true), "0755");
        // X asks the mode before: u+x does not make it true for go+X.
        let execute = ModeClause {
            conditional_execute: true,
            ..clause(0o077, Add, 0)
        };
        assert_eq!(
            symbolic(vec![clause(0o700, Add, 1), execute], 0o644, false),
            "0744"
        );
    }
}
