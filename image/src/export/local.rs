//! The files of a root into a directory of the host. Every path is resolved inside that directory and through no
//! link, also through none that was there before.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rbuild_cache::root_dir::{Place, Resolve, path_of};
use rbuild_cache::tree::{Entry, Kind};
use rbuild_cache::{RootDir, Store};

use super::Root;
use crate::error::{Error, Result, io, shown};
use crate::layer::View;

pub(super) fn write(
    store: &Store,
    roots: &[Root<'_>],
    directory: &Path,
    delete: bool,
) -> Result<()> {
    std::fs::create_dir_all(directory)
        .map_err(io("make the directory", directory.as_os_str().as_bytes()))?;
    let to = RootDir::open_ambient(directory)
        .map_err(io("open the directory", directory.as_os_str().as_bytes()))?;
    let mut written = HashSet::new();
    for root in roots {
        match &root.directory {
            None => one(store, root, &to, b"", &mut written)?,
            Some(name) => {
                let place = to
                    .place(Path::new(name), Resolve::Beneath)
                    .map_err(io("write", name.as_bytes()))?;
                make_directory(&place, name.as_bytes(), 0o755)?;
                let below = to
                    .directory(Path::new(name), Resolve::Beneath)
                    .map_err(io("open the directory", name.as_bytes()))?;
                written.insert(name.clone().into_bytes());
                let prefix = format!("{name}/");
                one(store, root, &below, prefix.as_bytes(), &mut written)?;
            }
        }
    }
    if delete {
        remove_others(&to, &written)?;
    }
    Ok(())
}

fn one(
    store: &Store,
    root: &Root<'_>,
    to: &RootDir,
    prefix: &[u8],
    written: &mut HashSet<Vec<u8>>,
) -> Result<()> {
    for (name, bytes) in &root.documents {
        written.insert([prefix, name.as_bytes()].concat());
        document(to, name, bytes, root.epoch).map_err(io("write", name.as_bytes()))?;
    }
    let Some(snapshot) = root.snapshot else {
        return Ok(());
    };
    let view = View::open(store, snapshot)?;
    let tree = store.merged_tree(snapshot)?;
    let mut writer = LocalWriter {
        view: &view,
        to,
        epoch: root.epoch,
        // Owners are kept where they can be: by root on the host itself.
        owners: rustix::process::geteuid().is_root(),
        first_names: HashMap::new(),
    };
    let mut directories = Vec::new();
    for entry in tree.entries.iter().filter(|entry| !entry.path.is_empty()) {
        let is_directory = entry.kind == Kind::Directory;
        let is_new = written.insert([prefix, entry.path.as_slice()].concat());
        if !is_new && !is_directory {
            return Err(Error::BadArchive {
                what: format!("`{}`", shown(&entry.path)),
                reason:
                    "the results for two platforms have it: write each to a directory of its own"
                        .to_owned(),
            });
        }
        writer.entry(entry)?;
        if is_directory {
            directories.push(entry);
        }
    }
    for entry in directories.into_iter().rev() {
        writer.finish_directory(entry)?;
    }
    Ok(())
}

/// Writes a file that is in no tree.
fn document(to: &RootDir, name: &str, bytes: &[u8], epoch: Option<i64>) -> std::io::Result<()> {
    let place = to.place(Path::new(name), Resolve::Beneath)?;
    place.remove_tree()?;
    place.create_file(0o644)?.write_all(bytes)?;
    match epoch {
        Some(epoch) => place.set_times((epoch, 0), (epoch, 0)),
        None => Ok(()),
    }
}

/// Removes what is in a directory and was not written.
fn remove_others(to: &RootDir, written: &HashSet<Vec<u8>>) -> Result<()> {
    let mut directories = vec![Vec::new()];
    while let Some(directory) = directories.pop() {
        let listed = to
            .read_dir(path_of(&directory), Resolve::Beneath)
            .map_err(io("list", &directory))?;
        for entry in listed {
            let mut path = directory.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.name.as_bytes());
            if !written.contains(&path) {
                to.remove_tree(path_of(&path), Resolve::Beneath)
                    .map_err(io("remove", &path))?;
                continue;
            }
            let metadata = to
                .metadata(path_of(&path), Resolve::Beneath)
                .map_err(io("look at", &path))?;
            if metadata.kind == Kind::Directory {
                directories.push(path);
            }
        }
    }
    Ok(())
}

/// Sees to it that there is a directory, whatever was there.
fn make_directory(place: &Place, path: &[u8], mode: u32) -> Result<()> {
    match place.metadata() {
        Ok(metadata) if metadata.kind == Kind::Directory => return Ok(()),
        Ok(_) => place.remove_file().map_err(io("replace", path))?,
        Err(_) => {}
    }
    place
        .create_dir(mode)
        .map(drop)
        .map_err(io("make the directory", path))
}

struct LocalWriter<'a> {
    view: &'a View,
    to: &'a RootDir,
    epoch: Option<i64>,
    owners: bool,
    first_names: HashMap<(usize, u32), Vec<u8>>,
}

impl LocalWriter<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<()> {
        let path = &entry.path;
        let (own, root, number) = self.view.find(entry)?;
        let place = self
            .to
            .place(path_of(path), Resolve::Beneath)
            .map_err(io("write", path))?;
        if entry.kind == Kind::Directory {
            // Open for its owner until everything is in it.
            return make_directory(&place, path, 0o700);
        }
        place.remove_tree().map_err(io("replace", path))?;
        if own.hard_link != 0 {
            if let Some(first) = self.first_names.get(&(number, own.hard_link)) {
                return self
                    .to
                    .hard_link(path_of(first), path_of(path), Resolve::Beneath)
                    .map_err(io("make the hard link", path));
            }
            self.first_names
                .insert((number, own.hard_link), path.clone());
        }
        match own.kind {
            Kind::File => {
                let mut from = root
                    .open_file_no_follow(path_of(path), Resolve::Beneath)
                    .map_err(io("read", path))?;
                let mut file = place.create_file(0o600).map_err(io("write", path))?;
                std::io::copy(&mut from, &mut file).map_err(io("write", path))?;
            }
            Kind::Symlink => place
                .symlink(&own.target)
                .map_err(io("make the link", path))?,
            Kind::Fifo | Kind::CharDevice | Kind::BlockDevice => {
                match place.make_node(own.kind, own.mode, own.device) {
                    // Docker and BuildKit leave devices out for ordinary users too; there is no other way.
                    Err(error)
                        if error.kind() == std::io::ErrorKind::PermissionDenied
                            && own.kind != Kind::Fifo =>
                    {
                        tracing::warn!(path = shown(path), "device node left out");
                        return Ok(());
                    }
                    result => result.map_err(io("make the node", path))?,
                }
            }
            Kind::Directory | Kind::Socket | Kind::Whiteout => return Ok(()),
        }
        self.metadata(&place, own)
    }

    fn finish_directory(&self, entry: &Entry) -> Result<()> {
        let place = self
            .to
            .place(path_of(&entry.path), Resolve::Beneath)
            .map_err(io("write", &entry.path))?;
        self.metadata(&place, entry)
    }

    fn metadata(&self, place: &Place, entry: &Entry) -> Result<()> {
        let path = &entry.path;
        if self.owners {
            match place.set_owner(entry.uid, entry.gid) {
                // Ids that the caller's user namespace does not have.
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {}
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
                result => result.map_err(io("set the owner of", path))?,
            }
        }
        if entry.kind != Kind::Symlink {
            let node = place.node().map_err(io("open", path))?;
            for (name, value) in &entry.xattrs {
                // A destination may lack attributes or forbid them; its files are still the files.
                if let Err(error) = node.set_xattr(name, value) {
                    tracing::debug!(path = shown(path), %error, "attribute not set");
                }
            }
            node.set_mode(entry.mode)
                .map_err(io("set the mode of", path))?;
        }
        let mtime = self.epoch.map_or(entry.mtime, |epoch| (epoch, 0));
        place
            .set_times(mtime, mtime)
            .map_err(io("set the time of", path))
    }
}
