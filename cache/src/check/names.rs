//! What lies in the store's directories and is not what the store put there: strangers, and small files that are
//! not whole. Blobs and snapshots are looked at elsewhere.

use std::path::{Path, PathBuf};

use super::Foreign;
use crate::collect::is_hex;
use crate::error::IoContext as _;
use crate::images;
use crate::notes;
use crate::stat_cache;
use crate::store::{DIRECTORIES, KNOWN, Result, Store};

/// Directories that a store has and this one has not. None where there is no store yet.
pub(super) fn missing_directories(root: &Path) -> Vec<&'static str> {
    if !root.join("index.db").exists() {
        return Vec::new();
    }
    let missing = |name: &&str| !root.join(name).is_dir();
    DIRECTORIES.into_iter().filter(missing).collect()
}

impl Store {
    /// Names that nobody of us gives, and small files that are damaged.
    pub(super) fn check_names(&self) -> Result<Vec<Foreign>> {
        let root = self.root();
        let mut found = Vec::new();
        let mut look = |directory: &str, known: &dyn Fn(&str) -> bool| -> Result<()> {
            let list = match std::fs::read_dir(root.join(directory)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                result => result.at("list", &root.join(directory))?,
            };
            for entry in list {
                let name = entry.at("list", root)?.file_name();
                if !name.to_str().is_some_and(known) {
                    let path = Path::new(directory).join(&name);
                    found.push(Foreign {
                        what: format!("`{}`", path.display()),
                        path,
                        reason: "the store did not make it".to_owned(),
                    });
                }
            }
            Ok(())
        };
        look("", &|name| KNOWN.contains(&name))?;
        look("content", &|name| {
            ["blobs", "index.json", "oci-layout"].contains(&name)
        })?;
        look("content/blobs", &|name| name == "sha256")?;
        look("content/blobs/sha256", &|name| is_hex(name, 64))?;
        look("snapshots", &|name| is_hex(name, 32))?;
        look("contexts", &|name| is_hex(name, 64))?;
        look("mounts", &|name| is_hex(name, 64))?;
        look("explain", &|name| ["builds", "paths"].contains(&name))?;
        look("explain/builds", &|name| is_hex(name, 64))?;
        look("explain/paths", &|name| is_hex(name, 64))?;
        self.check_small_files(&mut found)?;
        self.check_mounts(&mut found)?;
        found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }

    /// Stat caches and notes: whole by their own checksums, or as good as not there.
    fn check_small_files(&self, found: &mut Vec<Foreign>) -> Result<()> {
        type IsWhole = fn(&[u8]) -> bool;
        let kinds: [(&str, &str, IsWhole); 3] = [
            ("contexts", "memory of a context", stat_cache::is_whole),
            ("explain/builds", "explanation of a build", notes::is_whole),
            (
                "explain/paths",
                "explanation of a selection",
                notes::is_whole,
            ),
        ];
        for (directory, what, is_whole) in kinds {
            for name in self.names_in(directory)? {
                let path = Path::new(directory).join(&name);
                if !is_hex(&name, 64) {
                    continue;
                }
                match std::fs::read(self.root().join(&path)) {
                    Ok(bytes) if is_whole(&bytes) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Ok(_) => found.push(Foreign {
                        what: format!("{what} `{}`", path.display()),
                        path,
                        reason: "its checksum is not that of its bytes".to_owned(),
                    }),
                    Err(error) => found.push(Foreign {
                        what: format!("{what} `{}`", path.display()),
                        path,
                        reason: format!("it cannot be read: {error}"),
                    }),
                }
            }
        }
        Ok(())
    }

    /// A cache mount's directory is named by its id, which lies in it. What it holds is nobody's to judge.
    fn check_mounts(&self, found: &mut Vec<Foreign>) -> Result<()> {
        for name in self.names_in("mounts")? {
            let path = PathBuf::from("mounts").join(&name);
            let directory = self.root().join(&path);
            if !is_hex(&name, 64) || self.is_being_made(&directory) {
                continue;
            }
            let reason = match std::fs::read(directory.join("id")) {
                Ok(id) if blake3::hash(&id).to_hex().as_str() == name => continue,
                Ok(_) => "its id is not the one that it is named by".to_owned(),
                // Collected meanwhile.
                Err(_) if !directory.exists() => continue,
                // Whoever began it died, or had no room: who comes next goes on. Directories come after the id.
                Err(error)
                    if error.kind() == std::io::ErrorKind::NotFound
                        && crate::cache_mounts::directories(&directory)
                            .is_ok_and(|it| it.is_empty()) =>
                {
                    continue;
                }
                Err(error) => format!("its id cannot be read: {error}"),
            };
            found.push(Foreign {
                what: format!("cache mount `{}`", path.display()),
                path,
                reason,
            });
        }
        Ok(())
    }

    fn names_in(&self, directory: &str) -> Result<Vec<String>> {
        let path = self.root().join(directory);
        if !path.exists() {
            return Ok(Vec::new());
        }
        crate::lease::names(&path)
    }

    /// The files that make `content/` an image layout.
    pub(super) fn check_layout(&self) -> Result<Vec<(&'static str, String)>> {
        let mut found = Vec::new();
        let path = self.root().join("content/oci-layout");
        if std::fs::read_to_string(&path).ok().as_deref() != Some(images::LAYOUT) {
            let reason = "it does not say that this is an image layout".to_owned();
            found.push(("`content/oci-layout`", reason));
        }
        if !self.is_layout_index_right()? {
            let reason = "it does not name the images of the store".to_owned();
            found.push(("`content/index.json`", reason));
        }
        Ok(found)
    }

    pub(super) fn mend_layout(&self) -> Result<()> {
        let path = self.root().join("content/oci-layout");
        self.shared
            .write_atomically(&path, images::LAYOUT.as_bytes())?;
        self.write_layout_index()
    }
}
