//! Copies the files of directories that are new beside the overlay: into the upper directory itself, which is
//! half the work for the kernel. Knows its bytes then, so that they are not read again for the snapshot's tree.
//!
//! The directories are made through the overlay, which marks them as it must, and so are the files of those that were
//! there before. Once it is gone the other files are made: nothing below hides or shows through, so the result is the
//! same.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rbuild_cache::RootDir;
use rbuild_cache::root_dir::{Resolve, read_dir};
use rbuild_cache::tree::{Entry, Kind, Written};

use super::actions::{Operation, set_time};
use super::attributes::Attributes;
use super::destination::{self, Making};
use super::tree::{self, Directory, Work};
use super::twins::Twins;
use super::{Action, Cloning, Copy, Error, Input, Source, io_error};

/// Fewer entries are not worth it.
const ENTRIES_MIN: usize = 32;

/// What is left to do when the overlay is gone.
pub(super) struct Direct<'a> {
    copy: &'a Copy,
    source: &'a Source,
    request: Parts<'a>,
    /// What is in new directories, and those.
    work: Work<'a>,
    directories: Vec<Directory>,
    /// The destination.
    to: RootDir,
}

/// A [`tree::Request`] without its destination.
struct Parts<'a> {
    input: &'a Input,
    attributes: Attributes<'a>,
    cloning: &'a Cloning,
}

/// `None`: the actions are to be done through the overlay.
pub(super) fn prepare<'a>(
    operation: &Operation<'_>,
    actions: &'a [Action],
    inputs: &'a [Input],
    cloning: &'a Cloning,
    upper: &Path,
) -> Result<Option<Direct<'a>>, Error> {
    let [Action::Copy(copy)] = actions else {
        return Ok(None);
    };
    let ([source], Some(input)) = (copy.sources.as_slice(), inputs.get(copy.input)) else {
        return Ok(None);
    };
    let Some((top, below)) = source.entries.split_first() else {
        return Ok(None);
    };
    if top.kind != Kind::Directory || below.len() < ENTRIES_MIN {
        return Ok(None);
    }
    let owner = operation.owner(&copy.owner)?;
    let making = Making::of_copy(copy.mode.as_ref(), owner, copy.mtime);
    let destination = destination::directory(operation.root, &copy.destination, &making)?;
    let failed = |action| move |error| io_error(action, &copy.destination, error);
    let there = destination
        .try_clone()
        .and_then(|directory| read_dir(std::os::fd::AsFd::as_fd(&directory)));
    let is_new = there.map_err(failed("list"))?.is_empty();
    // If it is a lower layer's, it becomes one of the upper layer too. What was just made needs nothing.
    let mtime = copy.mtime.map_or(top.mtime, |seconds| (seconds, 0));
    set_time(&destination, mtime).map_err(failed("set the time of"))?;
    // Where no link is on the way, the overlay found the same directory.
    let opened = RootDir::open_ambient(upper).and_then(|upper| {
        let path = destination::clean(&copy.destination);
        upper.directory(&path, Resolve::Beneath)
    });
    let Ok(to) = opened else {
        return Ok(None);
    };
    let request = Parts {
        input,
        attributes: Attributes {
            owner,
            mode: copy.mode.as_ref(),
            mtime: copy.mtime,
        },
        cloning,
    };
    let mut direct = Direct {
        copy,
        source,
        request,
        work: Work::of(below),
        directories: Vec::new(),
        to,
    };
    direct.directories = direct.request(&destination, None).make_directories()?;
    if !is_new {
        let (work, old) = direct.split_off_old(below);
        tree::fill(&direct.request(&destination, None), &work, &old)?;
    }
    Ok(Some(direct))
}

impl<'a> Direct<'a> {
    /// Takes away what has to be made through the overlay: directories that were there before (the destination is one)
    /// and what comes into them; also all files of several names, which may be on both sides.
    fn split_off_old(&mut self, entries: &'a [Entry]) -> (Work<'a>, Vec<Directory>) {
        let mut old_paths = HashSet::from([self.source.path.as_slice()]);
        let (old, new) = std::mem::take(&mut self.directories)
            .into_iter()
            .partition(|directory| directory.is_old);
        self.directories = new;
        let old: Vec<Directory> = old;
        let places = old
            .iter()
            .filter_map(|directory| entries.get(directory.place));
        old_paths.extend(places.map(|entry| entry.path.as_slice()));
        let comes_later = |entry: &&Entry| {
            entry.hard_link == 0 && !old_paths.contains(tree::split(&entry.path).0)
        };
        let (later, now) = std::mem::take(&mut self.work.files)
            .into_iter()
            .partition(comes_later);
        self.work.files = later;
        let now = Work {
            files: now,
            links: std::mem::take(&mut self.work.links),
        };
        (now, old)
    }

    /// Where the files come, from the root of the snapshot, as trees name it.
    pub(super) fn at(&self) -> PathBuf {
        let path = destination::clean(&self.copy.destination);
        path.strip_prefix("/").unwrap_or(&path).to_owned()
    }

    /// Only when nothing is mounted on the upper directory any more.
    pub(super) fn copy(self, twins: Option<&Twins>) -> Result<Written, Error> {
        let written = Mutex::default();
        let request = tree::Request {
            twins,
            ..self.request(&self.to, Some(&written))
        };
        tree::fill(&request, &self.work, &self.directories)?;
        // The directory itself keeps mode and owner; its time becomes the source's.
        let top = self.source.entries.first();
        let mtime = top.map_or((0, 0), |top| top.mtime);
        let mtime = self.copy.mtime.map_or(mtime, |seconds| (seconds, 0));
        set_time(&self.to, mtime)
            .map_err(|error| io_error("set the time of", &self.copy.destination, error))?;
        Ok(written.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn request<'r>(&self, to: &'r RootDir, written: Option<&'r Mutex<Written>>) -> tree::Request<'r>
    where
        'a: 'r,
    {
        tree::Request {
            input: self.request.input,
            from: &self.source.path,
            entries: self.source.entries.get(1..).unwrap_or_default(),
            implied: &self.source.implied,
            to,
            shown: &self.copy.destination,
            attributes: self.request.attributes,
            cloning: self.request.cloning,
            written,
            twins: None,
        }
    }
}
