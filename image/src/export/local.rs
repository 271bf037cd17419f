//! The files of a root into a directory of the host. Every path is resolved inside that directory and through no
//! link, also through none that was there before.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rbuild_cache::root_dir::{Place, Resolve, path_of};
use rbuild_cache::tree::{Entry, Kind};
use rbuild_cache::{RootDir, SnapshotId, Store};

use crate::error::{Error, Result, shown};
use crate::layer::View;

pub(super) fn write(
    store: &Store,
    snapshot: Option<&SnapshotId>,
    directory: &Path,
    clamp_mtime: Option<i64>,
) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(failed(
        "make the directory",
        directory.as_os_str().as_bytes(),
    ))?;
    let to = RootDir::open_ambient(directory).map_err(failed(
        "open the directory",
        directory.as_os_str().as_bytes(),
    ))?;
    let Some(snapshot) = snapshot else {
        return Ok(());
    };
    let view = View::open(store, snapshot)?;
    let tree = store.merged_tree(snapshot)?;
    let mut writer = LocalWriter {
        view: &view,
        to: &to,
        clamp_mtime,
        // Owners are kept where they can be: by root on the host itself.
        owners: rustix::process::geteuid().is_root(),
        first_names: HashMap::new(),
    };
    let mut directories = Vec::new();
    for entry in tree.entries.iter().filter(|entry| !entry.path.is_empty()) {
        writer.entry(entry)?;
        if entry.kind == Kind::Directory {
            directories.push(entry);
        }
    }
    for entry in directories.into_iter().rev() {
        writer.finish_directory(entry)?;
    }
    Ok(())
}

struct LocalWriter<'a> {
    view: &'a View,
    to: &'a RootDir,
    clamp_mtime: Option<i64>,
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
            .map_err(failed("write", path))?;
        if entry.kind == Kind::Directory {
            return self.directory(&place, path);
        }
        place.remove_tree().map_err(failed("replace", path))?;
        if own.hard_link != 0 {
            if let Some(first) = self.first_names.get(&(number, own.hard_link)) {
                return self
                    .to
                    .hard_link(path_of(first), path_of(path), Resolve::Beneath)
                    .map_err(failed("make the hard link", path));
            }
            self.first_names
                .insert((number, own.hard_link), path.clone());
        }
        match own.kind {
            Kind::File => {
                let mut from = root
                    .open_file_no_follow(path_of(path), Resolve::Beneath)
                    .map_err(failed("read", path))?;
                let mut file = place.create_file(0o600).map_err(failed("write", path))?;
                std::io::copy(&mut from, &mut file).map_err(failed("write", path))?;
            }
            Kind::Symlink => place
                .symlink(&own.target)
                .map_err(failed("make the link", path))?,
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
                    result => result.map_err(failed("make the node", path))?,
                }
            }
            Kind::Directory | Kind::Socket | Kind::Whiteout => return Ok(()),
        }
        self.metadata(&place, own)
    }

    fn directory(&self, place: &Place, path: &[u8]) -> Result<()> {
        match place.metadata() {
            Ok(metadata) if metadata.kind == Kind::Directory => return Ok(()),
            Ok(_) => place.remove_file().map_err(failed("replace", path))?,
            Err(_) => {}
        }
        // Open for its owner until everything is in it.
        place
            .create_dir(0o700)
            .map(drop)
            .map_err(failed("make the directory", path))
    }

    fn finish_directory(&self, entry: &Entry) -> Result<()> {
        let place = self
            .to
            .place(path_of(&entry.path), Resolve::Beneath)
            .map_err(failed("write", &entry.path))?;
        self.metadata(&place, entry)
    }

    fn metadata(&self, place: &Place, entry: &Entry) -> Result<()> {
        let path = &entry.path;
        if self.owners {
            match place.set_owner(entry.uid, entry.gid) {
                // Ids that the caller's user namespace does not have.
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {}
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
                result => result.map_err(failed("set the owner of", path))?,
            }
        }
        if entry.kind != Kind::Symlink {
            let node = place.node().map_err(failed("open", path))?;
            for (name, value) in &entry.xattrs {
                // A destination may lack attributes or forbid them; its files are still the files.
                if let Err(error) = node.set_xattr(name, value) {
                    tracing::debug!(path = shown(path), %error, "attribute not set");
                }
            }
            node.set_mode(entry.mode)
                .map_err(failed("set the mode of", path))?;
        }
        let mut mtime = entry.mtime;
        if let Some(limit) = self.clamp_mtime.filter(|limit| mtime.0 >= *limit) {
            mtime = (limit, 0);
        }
        place
            .set_times(mtime, mtime)
            .map_err(failed("set the time of", path))
    }
}

fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(std::io::Error) -> Error {
    let path = shown(path);
    move |source| Error::Io {
        action,
        path,
        source,
    }
}
