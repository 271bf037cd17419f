//! `--chmod`: octal, or symbolic as chmod(1) takes it.

use super::ValueError;

/// A change of permission bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Chmod {
    /// These bits, whatever the file had.
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// `u=rw`, `go-w`, `+X` …
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clause {
    /// Bits of the classes named, as a mask over `0o777`; 0 when none was, which means all but the umask's.
    who: u32,
    action: Action,
    permissions: Permissions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Permissions {
    /// Read, write, execute as one octal digit, and what `X`, `s` and `t` add.
    Bits {
        digit: u32,
        execute_if_any: bool,
        set_id: bool,
        sticky: bool,
    },
    /// Those that a class has already: by how far its bits are shifted.
    Copy(u32),
}

/// Reads the value of `--chmod` after expansion.
pub fn parse_chmod(text: &str) -> Result<Chmod, ValueError> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_number {
        let mode = u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777);
        return mode.map(Chmod::Octal).ok_or_else(|| {
            ValueError::new(format!(
                "the chmod value `{text}` is not an octal number between 0 and 07777"
            ))
        });
    }
    let invalid = || {
        ValueError::new(format!(
            "the chmod value `{text}` is neither octal nor like u=rwX,go-w"
        ))
    };
    let mut clauses = Vec::new();
    for part in text.split(',') {
        parse_clauses(part, &mut clauses).ok_or_else(invalid)?;
    }
    Ok(Chmod::Symbolic(clauses))
}

fn parse_clauses(part: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let who_length = part.find(|c| !matches!(c, 'u' | 'g' | 'o' | 'a'))?;
    let (classes, mut rest) = part.split_at(who_length);
    let who = classes.chars().fold(0, |who, class| {
        who | match class {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            _ => 0o777,
        }
    });
    // Several actions may follow one list of classes: `u=r+w`.
    while let Some(action) = rest.chars().next() {
        let action = match action {
            '+' => Action::Add,
            '-' => Action::Remove,
            '=' => Action::Set,
            _ => return None,
        };
        let body = &rest[1..];
        let length = body.find(['+', '-', '=']).unwrap_or(body.len());
        let (letters, tail) = body.split_at(length);
        clauses.push(Clause {
            who,
            action,
            permissions: permissions(letters)?,
        });
        rest = tail;
    }
    Some(())
}

fn permissions(letters: &str) -> Option<Permissions> {
    match letters {
        "u" => return Some(Permissions::Copy(6)),
        "g" => return Some(Permissions::Copy(3)),
        "o" => return Some(Permissions::Copy(0)),
        _ => {}
    }
    let (mut digit, mut execute_if_any, mut set_id, mut sticky) = (0, false, false, false);
    for letter in letters.chars() {
        match letter {
            'r' => digit |= 4,
            'w' => digit |= 2,
            'x' => digit |= 1,
            'X' => execute_if_any = true,
            's' => set_id = true,
            't' => sticky = true,
            _ => return None,
        }
    }
    Some(Permissions::Bits {
        digit,
        execute_if_any,
        set_id,
        sticky,
    })
}

impl Chmod {
    /// Returns the permission bits (`0o7777`) that a file with `mode` gets. `umask` counts where a clause names
    /// no class.
    #[must_use]
    pub fn apply(&self, mode: u32, is_dir: bool, umask: u32) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(clauses) => clauses.iter().fold(mode & 0o7777, |mode, clause| {
                clause.apply(mode, is_dir, umask)
            }),
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool, umask: u32) -> u32 {
        let classes = if self.who == 0 { 0o777 } else { self.who };
        let mask = if self.who == 0 {
            0o777 & !umask
        } else {
            self.who
        };
        let (digit, special) = match self.permissions {
            Permissions::Copy(shift) => (mode >> shift & 7, 0),
            Permissions::Bits {
                digit,
                execute_if_any,
                set_id,
                sticky,
            } => {
                let executes = execute_if_any && (is_dir || mode & 0o111 != 0);
                let mut special = 0;
                if set_id {
                    special |= if classes & 0o700 != 0 { 0o4000 } else { 0 };
                    special |= if classes & 0o070 != 0 { 0o2000 } else { 0 };
                }
                if sticky && classes & 0o007 != 0 {
                    special |= 0o1000;
                }
                (digit | u32::from(executes), special)
            }
        };
        let bits = (digit * 0o111) & mask | special;
        match self.action {
            Action::Add => mode | bits,
            Action::Remove => mode & !bits,
            Action::Set => {
                let mut cleared = classes;
                // A directory keeps its set-id bits unless they are named, as chmod(1) does.
                if !is_dir {
                    cleared |= if classes & 0o700 != 0 { 0o4000 } else { 0 };
                    cleared |= if classes & 0o070 != 0 { 0o2000 } else { 0 };
                }
                cleared |= if self.who == 0 || self.who == 0o777 {
                    0o1000
                } else {
                    0
                };
                mode & !cleared | bits
            }
        }
    }
}
