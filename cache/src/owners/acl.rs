//! Access control lists that name users and groups. Where there is one id, the kernel takes lists that name no other. It
//! does not mind how often they name that one, though, and keeps the order: an id that is not there is spelled by entries
//! of the one that is, each with one octal digit in the place of its permissions.
//!
//! ```text
//! user:1234:r-x   as   user:HERE × 11: 0 0 0 0 0 0 0 2 3 2 2, most significant digit first; then user:HERE:r-x
//! ```
//!
//! So a list stays one for the kernel: `chmod` changes its mask, files that are made take it from their directory,
//! overlay copies it up. It decides about nobody, for all files are the one id's, and owners come first. Nobody else
//! writes twelve entries for one id.

use std::borrow::Cow;
use std::io;

use crate::root_dir::read_growing;

/// Of the attribute whose list says who may what.
pub const ACCESS: &str = "system.posix_acl_access";
/// Of the one with what files in a directory are given.
pub const DEFAULT: &str = "system.posix_acl_default";

const VERSION: u32 = 2;
const ENTRY_BYTES: usize = 8;
const USER: u16 = 2;
const GROUP_OWNER: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHERS: u16 = 32;
/// What stands for no id, and for one that is not there.
const NOBODY: u32 = u32::MAX;
/// Octal digits of an id.
const DIGITS: usize = 11;

/// A list, in the order of its attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

impl Entry {
    fn is_named(&self) -> bool {
        matches!(self.tag, USER | GROUP)
    }
}

/// Whether an attribute holds a list.
pub fn is_acl(name: &[u8]) -> bool {
    name == ACCESS.as_bytes() || name == DEFAULT.as_bytes()
}

/// The value of an attribute as it is written where there is one id.
pub fn spelled<'v>(name: &[u8], value: &'v [u8]) -> Cow<'v, [u8]> {
    let own = super::recorded() && is_acl(name);
    match Acl::parse(value).filter(|_| own) {
        Some(list) => list.spell(here()).map_or(value.into(), Cow::Owned),
        None => value.into(),
    }
}

/// The value of an attribute that may be [`spelled`].
pub fn read(name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    Some(Acl::parse(value).filter(|_| is_acl(name))?.read()?.encode())
}

/// As [`read`], at a path that is ours to name.
pub fn read_at(path: impl rustix::path::Arg + Copy, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let value = read_growing(|buffer| rustix::fs::getxattr(path, name, buffer))?;
    Ok(value.and_then(|value| read(name, &value)))
}

/// The list at a path that is ours to name that says who may what, if it says more than the mode.
pub fn of(path: impl rustix::path::Arg + Copy) -> io::Result<Option<Acl>> {
    let value = read_growing(|buffer| rustix::fs::getxattr(path, ACCESS, buffer))?;
    let list = value.as_deref().and_then(Acl::parse);
    Ok(list.map(|list| list.read().unwrap_or(list)))
}

/// The ids that the kernel knows.
fn here() -> (u32, u32) {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    (user.as_raw(), group.as_raw())
}

impl Acl {
    fn parse(value: &[u8]) -> Option<Self> {
        let (version, entries) = value.split_first_chunk::<4>()?;
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
            return None;
        }
        let entry = |[a, b, c, d, id @ ..]: &[u8; ENTRY_BYTES]| Entry {
            tag: u16::from_le_bytes([*a, *b]),
            permissions: u16::from_le_bytes([*c, *d]),
            id: u32::from_le_bytes(*id),
        };
        Some(Self(entries.iter().map(entry).collect()))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            bytes.extend_from_slice(&entry.tag.to_le_bytes());
            bytes.extend_from_slice(&entry.permissions.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes
    }

    /// Nothing where the list names nobody, or somebody that there cannot be: the kernel says what is wrong.
    fn spell(&self, here: (u32, u32)) -> Option<Vec<u8>> {
        let mut named = self.0.iter().filter(|entry| entry.is_named()).peekable();
        named.peek()?;
        if named.any(|entry| entry.id == NOBODY || entry.permissions > 7) {
            return None;
        }
        let mut spelled = Vec::new();
        for entry in &self.0 {
            let mut entry = *entry;
            if entry.is_named() {
                let of = entry.id;
                entry.id = if entry.tag == USER { here.0 } else { here.1 };
                spelled.extend((0..DIGITS).rev().map(|place| Entry {
                    permissions: (of >> (3 * place) & 7) as u16,
                    ..entry
                }));
            }
            spelled.push(entry);
        }
        Some(Self(spelled).encode())
    }

    /// What a spelled list says; nothing for any other.
    fn read(&self) -> Option<Self> {
        let mut read = Vec::new();
        for entries in self.0.chunk_by(|one, other| one.tag == other.tag) {
            let is_one = entries.iter().all(|it| Some(it.id) == first_id(entries));
            let (names, rest) = entries.as_chunks::<{ DIGITS + 1 }>();
            match entries.first()?.is_named() {
                false => read.extend_from_slice(entries),
                true if !is_one || !rest.is_empty() => return None,
                true => read.extend(names.iter().map(|[digits @ .., entry]| {
                    Entry {
                        id: digits
                            .iter()
                            .fold(0, |id, digit| id << 3 | u32::from(digit.permissions & 7)),
                        ..*entry
                    }
                })),
            }
        }
        (read.len() != self.0.len()).then_some(Self(read))
    }

    /// Whether it grants permissions (4 read, 2 write, 1 execute) to a user who is not the owner.
    pub fn grants(
        &self,
        wanted: u32,
        user: u32,
        owning_group: u32,
        is_in: impl Fn(u32) -> bool,
    ) -> bool {
        let has = |entry: &Entry| u32::from(entry.permissions) & wanted == wanted;
        let find = |tag| self.0.iter().find(move |entry| entry.tag == tag);
        let is_masked = || find(MASK).is_none_or(has);
        if let Some(entry) = self.0.iter().find(|it| it.tag == USER && it.id == user) {
            return has(entry) && is_masked();
        }
        let mut groups = self.0.iter().filter(|entry| match entry.tag {
            GROUP_OWNER => is_in(owning_group),
            GROUP => is_in(entry.id),
            _ => false,
        });
        let mut is_member = false;
        let is_granted = groups.any(|entry| {
            is_member = true;
            has(entry)
        });
        match is_member {
            true => is_granted && is_masked(),
            false => find(OTHERS).is_some_and(has),
        }
    }
}

fn first_id(entries: &[Entry]) -> Option<u32> {
    entries.first().map(|entry| entry.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Acl {
        let entry = |(tag, permissions, id): &(u16, u16, u32)| Entry {
            tag: *tag,
            permissions: *permissions,
            id: *id,
        };
        Acl(entries.iter().map(entry).collect())
    }

    const OWNER: (u16, u16, u32) = (1, 6, NOBODY);

    #[test]
    fn ids_that_are_not_there_are_spelled() {
        let named = list(&[
            OWNER,
            (USER, 5, 0),
            (USER, 0, 1234),
            (USER, 7, NOBODY - 1),
            (GROUP_OWNER, 4, NOBODY),
            (GROUP, 4, 4),
            (MASK, 5, NOBODY),
            (OTHERS, 0, NOBODY),
        ]);
        let spelled = named.spell((0, 7)).expect("it names somebody");
        let kernels = Acl::parse(&spelled).expect("a list");
        assert_eq!(kernels.0.len(), 4 + 4 * 12);
        let known = |entry: &Entry| match entry.tag {
            USER => entry.id == 0,
            GROUP => entry.id == 7,
            _ => entry.id == NOBODY,
        };
        assert!(kernels.0.iter().all(known), "{kernels:?}");
        let digits: Vec<u16> = kernels.0[13..25].iter().map(|it| it.permissions).collect();
        assert_eq!(digits, [0, 0, 0, 0, 0, 0, 0, 2, 3, 2, 2, 0]);
        assert_eq!(kernels.read(), Some(named.clone()));
        assert_eq!(
            read(ACCESS.as_bytes(), &spelled),
            Some(named.encode()),
            "as an attribute"
        );
        assert_eq!(read(b"user.x", &spelled), None);
    }

    #[test]
    fn other_lists_are_left_as_they_are() {
        let (group, others) = ((GROUP_OWNER, 4, NOBODY), (OTHERS, 0, NOBODY));
        let plain = list(&[OWNER, group, others]);
        let kernels_own = list(&[OWNER, (USER, 5, 0), group, (MASK, 5, NOBODY), others]);
        let unknown = list(&[OWNER, (USER, 5, NOBODY), group, (MASK, 5, NOBODY), others]);
        assert_eq!(plain.spell((0, 0)), None);
        assert_eq!(unknown.spell((0, 0)), None);
        for list in [plain, kernels_own, unknown] {
            assert_eq!(list.read(), None, "{list:?}");
        }
        let mut twelve = vec![OWNER];
        twelve.extend((0..12).map(|id| (USER, 4, id)));
        assert_eq!(list(&twelve).read(), None);
        for nonsense in [&b""[..], b"\x02\0\0", b"\x01\0\0\0", b"\x02\0\0\0four"] {
            assert_eq!(Acl::parse(nonsense), None);
        }
    }

    #[test]
    fn a_list_grants_what_the_kernel_would() {
        let list = list(&[
            OWNER,
            (USER, 7, 5),
            (USER, 0, 6),
            (GROUP_OWNER, 4, NOBODY),
            (GROUP, 3, 9),
            (MASK, 6, NOBODY),
            (OTHERS, 1, NOBODY),
        ]);
        let grants = |wanted, user, groups: &[u32]| {
            list.grants(wanted, user, 8, |group| groups.contains(&group))
        };
        assert!(grants(6, 5, &[]), "a named user");
        assert!(!grants(1, 5, &[]), "the mask");
        assert!(!grants(4, 6, &[8]), "a named user before groups");
        assert!(grants(4, 7, &[8]) && grants(2, 7, &[8, 9]), "any group");
        assert!(!grants(6, 7, &[8, 9]), "not two groups together");
        assert!(!grants(1, 7, &[9]), "the mask for groups");
        assert!(grants(1, 7, &[]) && !grants(4, 7, &[]), "others");
    }
}
