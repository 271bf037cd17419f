//! From patterns to what must be looked at.

use std::collections::{HashSet, VecDeque};
use std::io;

use rbuild_cache::root_dir::{Resolve, is_absence, path_of, read_dir};
use rbuild_cache::tree::{Kind, is_at_or_below};
use rbuild_parser::glob::Glob;
use rbuild_parser::ignore::Verdict;
use rustix::fs::{FileType, OFlags};

use super::walk::walk;
use super::{Context, Effort, Error, Found, Wanted};
use crate::select::LINK_LIMIT;
use crate::select::pattern::{Pattern, Segment, components, join};

/// In any order, some more than once.
pub(super) fn find(
    context: &Context,
    effort: Effort,
    wanted: &[Wanted],
) -> Result<Vec<Found>, Error> {
    let mut finder = Finder {
        context,
        found: Vec::new(),
        whole: Vec::new(),
    };
    finder.look_up(b"".to_vec())?;
    for wanted in wanted {
        for source in &wanted.sources {
            finder.pattern(&Pattern::parse(source, wanted.parents, wanted.wildcards))?;
        }
    }
    let Finder {
        mut found, whole, ..
    } = finder;
    // What is no directory has nothing below.
    let others = found.iter().filter(|it| it.entry.kind != Kind::Directory);
    let others: HashSet<&[u8]> = others.map(|it| it.entry.path.as_slice()).collect();
    let whole: Vec<Vec<u8>> = whole
        .into_iter()
        .filter(|path| !others.contains(path.as_slice()))
        .collect();
    for directory in &whole {
        // A directory that lies in another one of them is walked with that one.
        let is_part = whole
            .iter()
            .any(|other| other != directory && is_at_or_below(directory, other));
        if !is_part {
            walk(context, effort, directory, &mut found)?;
        }
    }
    Ok(found)
}

struct Finder<'a> {
    context: &'a Context,
    found: Vec<Found>,
    /// Real paths of directories that are needed with everything below them.
    whole: Vec<Vec<u8>>,
}

impl Finder<'_> {
    fn pattern(&mut self, pattern: &Pattern) -> Result<(), Error> {
        let literal = pattern
            .base
            .iter()
            .position(|segment| matches!(segment, Segment::Wildcard(_)))
            .unwrap_or(pattern.base.len());
        let (start, wildcards) = pattern.base.split_at(literal);
        let Some(start) = self.follow(start.iter().map(Segment::bytes))? else {
            return Ok(());
        };
        for base in self.matches(start, wildcards)? {
            match &pattern.kept {
                None => self.take(base),
                Some(kept) => self.kept(base, kept)?,
            }
        }
        Ok(())
    }

    /// What the wildcards match below a directory, links at the end followed.
    fn matches(&mut self, start: Vec<u8>, wildcards: &[Segment]) -> Result<Vec<Vec<u8>>, Error> {
        let Some((last, before)) = wildcards.split_last() else {
            return Ok(vec![start]);
        };
        let mut directories = vec![start];
        for wildcard in before {
            let mut next = Vec::new();
            for directory in directories {
                for path in self.matching_children(&directory, wildcard, true)? {
                    if self.look_up(path.clone())? == Some(Kind::Directory) {
                        next.push(path);
                    }
                }
            }
            directories = next;
        }
        let mut matched = Vec::new();
        for directory in directories {
            for path in self.matching_children(&directory, last, false)? {
                matched.extend(self.follow(path.split(|byte| *byte == b'/'))?);
            }
        }
        Ok(matched)
    }

    fn matching_children(
        &self,
        directory: &[u8],
        wildcard: &Segment,
        only_directories: bool,
    ) -> Result<Vec<Vec<u8>>, Error> {
        // The selection will say what is wrong with it.
        let Ok(glob) = Glob::new(wildcard.bytes()) else {
            return Ok(Vec::new());
        };
        let path = path_of(directory);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let names = self
            .context
            .root
            .open(path, flags, 0, Resolve::Beneath)
            .and_then(|directory| read_dir(std::os::fd::AsFd::as_fd(&directory)));
        let names = match names {
            Ok(names) => names,
            Err(error) if is_nothing(&error) => return Ok(Vec::new()),
            Err(source) => return Err(io_error("list", directory, source)),
        };
        Ok(names
            .iter()
            .filter(|entry| {
                let may_be_directory =
                    matches!(entry.file_type, FileType::Directory | FileType::Unknown);
                may_be_directory || !only_directories
            })
            .map(|entry| entry.name.as_encoded_bytes())
            .filter(|name| glob.is_match(name))
            .map(|name| join(directory, name))
            .collect())
    }

    /// `--parents`: the names that the pattern begins with, links not followed, and all below.
    fn kept(&mut self, base: Vec<u8>, kept: &str) -> Result<(), Error> {
        let mut path = base;
        for name in crate::select::parents::literal_prefix(kept) {
            if !name.is_empty() {
                path = join(&path, &name);
            }
            if self.look_up(path.clone())? != Some(Kind::Directory) {
                return Ok(());
            }
        }
        self.take(path);
        Ok(())
    }

    /// Needs `path`, which was looked up, with everything below it.
    fn take(&mut self, path: Vec<u8>) {
        if !self.whole.contains(&path) {
            self.whole.push(path);
        }
    }

    /// Looks up the names one after the other, links followed in the context. Returns the real path.
    fn follow<'n>(
        &mut self,
        names: impl Iterator<Item = &'n [u8]>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut todo: VecDeque<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
        let mut real = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    let mut names = components(&real);
                    names.pop();
                    real = names.join(&b'/');
                    continue;
                }
                _ => {}
            }
            let here = join(&real, &name);
            match self.look_up(here.clone())? {
                None => return Ok(None),
                Some(Kind::Symlink) => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Ok(None);
                    }
                    let target = self.read_link(&here)?;
                    if target.starts_with(b"/") {
                        real.clear();
                    }
                    for name in target.split(|byte| *byte == b'/').rev() {
                        todo.push_front(name.to_vec());
                    }
                }
                Some(_) => real = here,
            }
        }
        Ok(Some(real))
    }

    /// Adds what is at a real path and says what it is; `None` for what is not there or may not be seen.
    fn look_up(&mut self, path: Vec<u8>) -> Result<Option<Kind>, Error> {
        let Some(is_excluded) = self.context.is_excluded(&path) else {
            return Ok(None);
        };
        let metadata = match self.context.root.metadata(path_of(&path), Resolve::Beneath) {
            Ok(metadata) => metadata,
            Err(error) if is_nothing(&error) => return Ok(None),
            Err(source) => return Err(io_error("look up", &path, source)),
        };
        let kind = metadata.kind;
        if kind == Kind::Socket || (is_excluded && kind != Kind::Directory) {
            return Ok(None);
        }
        let mut found = Found::new(path, metadata, is_excluded);
        if kind == Kind::Symlink {
            found.entry.target = self.read_link(&found.entry.path)?;
            found.entry.content = *blake3::hash(&found.entry.target).as_bytes();
        } else if kind != Kind::File {
            let path = path_of(&found.entry.path);
            let node = self.context.root.node(path, Resolve::Beneath);
            let xattrs = node.and_then(|node| super::walk::xattrs(&node));
            found.entry.xattrs = xattrs
                .map_err(|source| io_error("read attributes of", &found.entry.path, source))?;
        }
        self.found.push(found);
        Ok(Some(kind))
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, Error> {
        self.context
            .root
            .read_link(path_of(path), Resolve::Beneath)
            .map(|target| target.into_os_string().into_encoded_bytes())
            .map_err(|source| io_error("read the link", path, source))
    }
}

impl Context {
    /// Whether the ignore file excludes a path; `None` if neither the path nor anything below it may be seen.
    pub(super) fn is_excluded(&self, path: &[u8]) -> Option<bool> {
        let Some(ignore) = &self.ignore else {
            return Some(false);
        };
        if path.is_empty() {
            return Some(false);
        }
        match ignore.patterns.verdict(path) {
            Verdict::Unmatched | Verdict::Reincluded { .. } => Some(false),
            Verdict::Excluded { .. } => ignore.patterns.may_reinclude_below(path).then_some(true),
        }
    }
}

/// Nothing there, or a link where a directory should be: somebody changes the context.
fn is_nothing(error: &io::Error) -> bool {
    is_absence(error) || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

pub(super) fn io_error(action: &'static str, path: &[u8], source: io::Error) -> Error {
    Error::Io {
        action,
        path: if path.is_empty() {
            ".".to_owned()
        } else {
            String::from_utf8_lossy(path).into_owned()
        },
        source,
    }
}
