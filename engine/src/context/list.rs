//! What a context holds and what its ignore file keeps out of it, for people: `rbuild context ls`.
//! Reads names and sizes, never contents. A directory that is ignored as a whole is not entered.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use rbuild_cache::RootDir;
use rbuild_cache::root_dir::{Resolve, is_absence, path_of};
use rbuild_cache::tree::Kind;
use rbuild_parser::ignore::Verdict;

use super::find::io_error;
use super::{Error, Ignore};
use crate::select::pattern::join;

/// Something in the directory of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the context.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Bytes of a file, else 0.
    pub size: u64,
    /// No COPY can see it.
    pub is_ignored: bool,
    /// The pattern that decided.
    pub rule: Option<Rule>,
}

/// A pattern of an ignore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub file: String,
    pub line: usize,
    /// Cleaned, with its `!`.
    pub pattern: String,
}

/// Lists files, directories of which nothing else is left, and what is ignored, in the order of their paths. A
/// directory of which everything is ignored stands for all that is in it.
pub fn list(root: &RootDir, ignore: Option<&Ignore>) -> Result<Vec<Listed>, Error> {
    let mut listing = Listing {
        root,
        ignore,
        found: Vec::new(),
    };
    listing.directory(b"")?;
    Ok(listing.found)
}

struct Listing<'a> {
    root: &'a RootDir,
    ignore: Option<&'a Ignore>,
    found: Vec<Listed>,
}

impl Listing<'_> {
    fn directory(&mut self, directory: &[u8]) -> Result<(), Error> {
        let here = if directory.is_empty() {
            b".".as_slice()
        } else {
            directory
        };
        let mut children = match self.root.read_dir(path_of(here), Resolve::Beneath) {
            Ok(children) => children,
            Err(error) if is_absence(&error) => return Ok(()),
            Err(source) => return Err(io_error("list", directory, source)),
        };
        children.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        for child in &children {
            self.entry(directory, &child.name)?;
        }
        Ok(())
    }

    fn entry(&mut self, directory: &[u8], name: &OsStr) -> Result<(), Error> {
        let path = join(directory, name.as_bytes());
        let metadata = match self.root.metadata(path_of(&path), Resolve::Beneath) {
            Ok(metadata) => metadata,
            Err(error) if is_absence(&error) => return Ok(()),
            Err(source) => return Err(io_error("look up", &path, source)),
        };
        let (is_ignored, rule) = self.verdict(&path);
        let is_directory = metadata.kind == Kind::Directory;
        let is_mixed = is_ignored
            && is_directory
            && self
                .ignore
                .is_some_and(|ignore| ignore.patterns.may_reinclude_below(&path));
        let listed = Listed {
            path,
            kind: metadata.kind,
            size: if metadata.kind == Kind::File {
                metadata.size
            } else {
                0
            },
            is_ignored,
            rule,
        };
        let before = self.found.len();
        if is_directory && (!is_ignored || is_mixed) {
            self.directory(&listed.path)?;
            let has_something = self.found[before..].iter().any(|below| !below.is_ignored);
            if has_something {
                return Ok(());
            }
            if is_ignored {
                self.found.truncate(before);
            }
        }
        self.found.insert(before, listed);
        Ok(())
    }

    fn verdict(&self, path: &[u8]) -> (bool, Option<Rule>) {
        let Some(ignore) = self.ignore else {
            return (false, None);
        };
        let (is_ignored, line) = match ignore.patterns.verdict(path) {
            Verdict::Unmatched => return (false, None),
            Verdict::Excluded { line } => (true, line),
            Verdict::Reincluded { line } => (false, line),
        };
        let rule = Rule {
            file: ignore.file.clone(),
            line,
            pattern: ignore.patterns.written(line).unwrap_or_default(),
        };
        (is_ignored, Some(rule))
    }
}
