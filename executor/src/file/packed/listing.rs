//! The listing of a layer whose last files were not made: they are added as the copy would have made them.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::path::Path;

use rbuild_cache::RootDir;
use rbuild_cache::tree::{Entry, Kind, Tree, is_at_or_below, path_order};

use super::{IN_DIRECTORY, Pending};
use crate::file::{Error, io_error};

impl Pending<'_> {
    /// The whole listing, and where the bytes of each entry are. Only when nothing is mounted on the upper directory
    /// any more. `None` where the files would not become what they are to be, or be somewhere else.
    pub(in crate::file) fn complete(
        &self,
        upper: &Path,
    ) -> Result<Option<(Tree, Vec<u32>)>, Error> {
        let root = RootDir::open_ambient(upper).map_err(|error| io_error("open", upper, error))?;
        let made = Tree::scan(root.as_fd())?;
        let is_file = self.source.entries.first().map(|top| top.kind) == Some(Kind::File);
        let expected = if is_file { Kind::File } else { Kind::Directory };
        // Where a link was on the way, it is at another path.
        if made.get(&self.at).map(|there| there.kind) != Some(expected) {
            return Ok(None);
        }
        // Files in such a directory are given access lists when they are made.
        let inherits = |entry: &Entry| {
            let named = |(name, _): &(Vec<u8>, _)| name == b"system.posix_acl_default";
            entry.kind == Kind::Directory
                && is_at_or_below(&entry.path, &self.at)
                && entry.xattrs.iter().any(named)
        };
        if !is_file && made.entries.iter().any(inherits) {
            return Ok(None);
        }
        let mut all: Vec<(Entry, u32)> = made
            .entries
            .into_iter()
            .map(|entry| (entry, IN_DIRECTORY))
            .collect();
        if is_file {
            let Some(top) = self.source.entries.first() else {
                return Ok(None);
            };
            for (entry, place) in all.iter_mut().filter(|(entry, _)| entry.path == self.at) {
                (entry.size, entry.content, *place) = (top.size, top.content, 0);
            }
        } else {
            let files = self.source.entries.iter();
            all.reserve_exact(files.filter(|it| it.kind != Kind::Directory).count());
            for (place, entry) in self.source.entries.iter().enumerate().skip(1) {
                let place = u32::try_from(place).ok().filter(|it| *it != IN_DIRECTORY);
                let Some(place) = place else {
                    return Ok(None);
                };
                if entry.kind != Kind::Directory {
                    all.push((self.made(entry), place));
                }
            }
            // Of two with one path the later one is what was copied last.
            all.sort_unstable_by(|(one, place), (other, other_place)| {
                path_order(&one.path, &other.path).then(other_place.cmp(place))
            });
            let mut is_blocked = false;
            all.dedup_by(|later, earlier| {
                let is_same = later.0.path == earlier.0.path;
                if is_same {
                    is_blocked |= earlier.0.kind == Kind::Directory;
                    std::mem::swap(later, earlier);
                }
                is_same
            });
            if is_blocked {
                return Ok(None);
            }
        }
        number_hard_links(&mut all);
        let places = all.iter().map(|(_, place)| *place).collect();
        // In place: there may be very many.
        let entries = all.into_iter().map(|(entry, _)| entry).collect();
        Ok(Some((Tree { entries }, places)))
    }

    /// What a copy of an entry is like.
    fn made(&self, entry: &Entry) -> Entry {
        let prefix = self.source.path.len() + usize::from(!self.source.path.is_empty());
        let relative = entry.path.get(prefix..).unwrap_or_default();
        let path = if self.at.is_empty() {
            relative.to_vec()
        } else {
            [&self.at, b"/".as_slice(), relative].concat()
        };
        let ids = self.attributes.owner_of(entry);
        let is_file = entry.kind == Kind::File;
        Entry {
            mode: if is_file {
                self.attributes.mode_of(entry)
            } else {
                0o777
            },
            uid: ids.uid,
            gid: ids.gid,
            size: if is_file { entry.size } else { 0 },
            mtime: self.attributes.mtime_of(entry),
            content: entry.content,
            target: entry.target.clone(),
            hard_link: if is_file { entry.hard_link } else { 0 },
            ..Entry::new(path, entry.kind)
        }
    }
}

/// Numbers what is one file under several names, as a scan would: in the order of first names.
fn number_hard_links(all: &mut [(Entry, u32)]) {
    let key = |(entry, place): &(Entry, u32)| {
        (entry.hard_link != 0).then_some((*place == IN_DIRECTORY, entry.hard_link))
    };
    let mut names: HashMap<(bool, u32), u32> = HashMap::new();
    for key in all.iter().filter_map(key) {
        *names.entry(key).or_default() += 1;
    }
    let mut numbers: HashMap<(bool, u32), u32> = HashMap::new();
    for one in all {
        let Some(key) = key(one) else { continue };
        one.0.hard_link = if names.get(&key).is_some_and(|names| *names > 1) {
            let next = u32::try_from(numbers.len() + 1).unwrap_or(u32::MAX);
            *numbers.entry(key).or_insert(next)
        } else {
            0
        };
    }
}
