//! The ids of a user namespace: which id inside is which outside, as in `/proc/PID/uid_map`.

use std::borrow::Cow;
use std::fmt;

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// Ranges that do not overlap. Displayed as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMap(Vec<Extent>);

impl IdMap {
    /// Of ranges that do not overlap, on either side.
    pub fn new(extents: Vec<Extent>) -> Self {
        Self(extents)
    }

    /// `None` where it is not what the kernel shows.
    pub fn parse(text: &str) -> Option<Self> {
        let extent = |line: &str| {
            let mut numbers = line.split_whitespace().map(str::parse);
            Some(Extent {
                inside: numbers.next()?.ok()?,
                outside: numbers.next()?.ok()?,
                count: numbers.next()?.ok()?,
            })
        };
        text.lines().map(extent).collect::<Option<_>>().map(Self)
    }

    /// The ranges, in the order given.
    pub fn extents(&self) -> &[Extent] {
        &self.0
    }

    /// What an id inside is outside.
    pub fn outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|extent| {
            let offset = id.checked_sub(extent.inside)?;
            (offset < extent.count).then(|| extent.outside + offset)
        })
    }

    /// What an id outside is inside.
    pub fn inside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|extent| {
            let offset = id.checked_sub(extent.outside)?;
            (offset < extent.count).then(|| extent.inside + offset)
        })
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for extent in &self.0 {
            writeln!(f, "{} {} {}", extent.inside, extent.outside, extent.count)?;
        }
        Ok(())
    }
}

/// Those of users and those of groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ids {
    pub users: IdMap,
    pub groups: IdMap,
}

impl Ids {
    /// Whose a file is outside that is this owner's inside; `None` where either id is nobody's.
    pub fn outside(&self, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
        Some((self.users.outside(uid)?, self.groups.outside(gid)?))
    }

    /// Whose a file is inside that is this owner's outside; `None` where either id is nobody's.
    pub fn inside(&self, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
        Some((self.users.inside(uid)?, self.groups.inside(gid)?))
    }
}

/// Which way files go between what a user namespace shows, seen from outside, and everything else.
#[derive(Debug, Clone, Copy, Default)]
pub enum Crossing<'i> {
    #[default]
    Not,
    Out(&'i Ids),
    In(&'i Ids),
}

impl Crossing<'_> {
    /// Whose a file is on the other side. `None` where nobody there is that.
    pub fn owner(self, owner: (u32, u32)) -> Option<(u32, u32)> {
        match self {
            Self::Not => Some(owner),
            // Of a file that is nobody's in there, nothing better is known.
            Self::Out(ids) => Some(ids.inside(owner).unwrap_or(owner)),
            Self::In(ids) => ids.outside(owner),
        }
    }

    /// The value of an extended attribute on the other side: capabilities of files name the root that they are of,
    /// where it is not the machine's.
    pub fn attribute<'v>(self, name: &[u8], value: &'v [u8]) -> Cow<'v, [u8]> {
        const OF_MACHINE: u8 = 2;
        const OF_NAMESPACE: u8 = 3;
        let root = match self {
            Self::Not => None,
            Self::Out(ids) | Self::In(ids) => ids.users.outside(0),
        };
        let (Some(root), b"security.capability") = (root, name) else {
            return Cow::Borrowed(value);
        };
        match (self, value) {
            (Self::In(_), [flags, a, b, OF_MACHINE, rest @ ..]) if rest.len() == 16 => {
                let mut own = vec![*flags, *a, *b, OF_NAMESPACE];
                own.extend_from_slice(rest);
                own.extend_from_slice(&root.to_le_bytes());
                Cow::Owned(own)
            }
            (Self::Out(_), [flags, a, b, OF_NAMESPACE, rest @ ..])
                if rest.len() == 20 && rest.ends_with(&root.to_le_bytes()) =>
            {
                let mut plain = vec![*flags, *a, *b, OF_MACHINE];
                plain.extend_from_slice(rest.get(..16).unwrap_or_default());
                Cow::Owned(plain)
            }
            _ => Cow::Borrowed(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_of_the_root_of_their_side() {
        let map = IdMap::new(vec![Extent {
            inside: 0,
            outside: 0x8000_0001,
            count: 10,
        }]);
        let ids = Ids {
            users: map.clone(),
            groups: map,
        };
        let plain = [[1, 0, 0, 2].as_slice(), &[7; 16]].concat();
        let own = [[1, 0, 0, 3].as_slice(), &[7; 16], &[1, 0, 0, 0x80]].concat();
        let name = b"security.capability";
        assert_eq!(*Crossing::In(&ids).attribute(name, &plain), *own);
        assert_eq!(*Crossing::Out(&ids).attribute(name, &own), *plain);
        assert_eq!(*Crossing::Not.attribute(name, &plain), *plain);
        assert_eq!(*Crossing::In(&ids).attribute(b"user.x", &plain), *plain);
        let foreign = [[1, 0, 0, 3].as_slice(), &[7; 16], &[5, 0, 0, 0]].concat();
        assert_eq!(*Crossing::Out(&ids).attribute(name, &foreign), *foreign);
        assert_eq!(
            Crossing::In(&ids).owner((3, 4)),
            Some((0x8000_0004, 0x8000_0005))
        );
        assert_eq!(Crossing::In(&ids).owner((3, 10)), None);
        assert_eq!(
            Crossing::Out(&ids).owner((0x8000_0004, 0x8000_0005)),
            Some((3, 4))
        );
        assert_eq!(Crossing::Out(&ids).owner((65_534, 0)), Some((65_534, 0)));
    }

    #[test]
    fn ids_go_out_and_come_back() {
        let map =
            IdMap::parse("         0     100000      65536\n     65536 2147549184 2147418111\n");
        let map = map.expect("a map");
        assert_eq!(
            map.to_string(),
            "0 100000 65536\n65536 2147549184 2147418111\n"
        );
        for (inside, outside) in [
            (0, Some(100_000)),
            (65_535, Some(165_535)),
            (65_536, Some(2_147_549_184)),
            (2_147_483_646, Some(u32::MAX - 1)),
            (2_147_483_647, None),
        ] {
            assert_eq!(map.outside(inside), outside, "{inside}");
            if let Some(outside) = outside {
                assert_eq!(map.inside(outside), Some(inside));
            }
        }
        assert_eq!(map.inside(0), None);
        assert_eq!(IdMap::parse("0 x 1"), None);
    }
}
