//! Where archives are unpacked in these tests.

use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::RootDir;
use rbuild_cache::tree::Tree;
use rbuild_image::unpack::{self, Limits};

/// A root to unpack to, and beside it a directory that must stay as it is.
pub(crate) struct Ground {
    directory: tempfile::TempDir,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("keep"), "kept").unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        Self { directory }
    }

    pub(crate) fn outside(&self) -> String {
        self.directory.path().join("outside").display().to_string()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub(crate) fn add(&self, tar: &[u8]) -> rbuild_image::Result<()> {
        let root = RootDir::open_ambient(&self.root()).unwrap();
        let result = unpack::archive(&mut &*tar, &root, Path::new("/x"), None);
        self.check();
        result
    }

    pub(crate) fn layer(&self, tar: &[u8]) -> rbuild_image::Result<unpack::Unpacked> {
        let root = RootDir::open_ambient(&self.root()).unwrap();
        let result = unpack::layer(Box::new(tar), &root, Limits::default(), "it");
        self.check();
        if let Ok(unpacked) = &result {
            // What need not be read again is what would be read.
            let read = Tree::scan(root.as_fd()).unwrap();
            assert_eq!(
                Tree::scan_written(root.as_fd(), &unpacked.written).unwrap(),
                read
            );
        }
        result
    }

    fn check(&self) {
        let outside = self.directory.path().join("outside");
        let names: Vec<_> = std::fs::read_dir(&outside)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["keep"]);
        let keep = outside.join("keep");
        assert_eq!(std::fs::read_to_string(&keep).unwrap(), "kept");
        assert_eq!(std::fs::metadata(keep).unwrap().nlink(), 1);
        let mut beside: Vec<_> = std::fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        beside.sort();
        assert_eq!(beside, ["outside", "root"]);
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root().join(path)).unwrap()
    }

    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.root().join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn attribute(path: &Path, name: &str) -> Vec<u8> {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap_or(0);
    value[..length].to_vec()
}
