//! Unpacks whatever comes as a layer and as an archive of ADD. Nothing may panic or touch what is beside the root, what
//! need not be read again must be what would be read, and what was unpacked must be the same once it is packed and
//! unpacked again.
//!
//! The first byte chooses; the rest is a tar whose headers get their magic and their sums, so that mistakes beyond these are
//! reached.

#![no_main]

use std::os::fd::AsFd as _;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rbuild_cache::RootDir;
use rbuild_cache::tree::Tree;
use rbuild_image::compression::{Detected, detect};
use rbuild_image::layer;
use rbuild_image::unpack::{self, Limits};

const BLOCK: usize = 512;
const LIMITS: Limits = Limits {
    ratio: 20,
    floor_bytes: 1 << 20,
};

/// A root with a neighbour.
struct Ground(tempfile::TempDir);

impl Ground {
    fn new() -> Self {
        let ground = Self(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap());
        std::fs::create_dir(ground.0.path().join("root")).unwrap();
        std::fs::write(ground.0.path().join("keep"), "kept").unwrap();
        ground
    }

    fn root(&self) -> RootDir {
        RootDir::open_ambient(&self.0.path().join("root")).unwrap()
    }

    fn check(&self) {
        let mut names: Vec<_> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["keep", "root"]);
        assert_eq!(std::fs::read(self.0.path().join("keep")).unwrap(), b"kept");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, rest)) = bytes.split_first() else {
        return;
    };
    let mut tar = rest.to_vec();
    if choice & 2 == 0 {
        mend(&mut tar);
    }
    let ground = Ground::new();
    let root = ground.root();
    if choice & 1 == 0 {
        let unpacked = unpack::layer(Box::new(&*tar), &root, LIMITS, "it");
        ground.check();
        if let Ok(unpacked) = unpacked {
            let read = Tree::scan(root.as_fd()).unwrap();
            assert_eq!(Tree::scan_written(root.as_fd(), &unpacked.written).unwrap(), read);
            assert_eq!(Tree::decode(&read.encode()).unwrap(), read);
        }
        return;
    }
    let done = unpack::archive_with(&mut &*tar, &root, Path::new("/"), None, LIMITS);
    ground.check();
    if done.is_err() {
        return;
    }
    let tree = Tree::scan(root.as_fd()).unwrap();
    let mut packed = Vec::new();
    // A name that no tar can hold is an error that says so; one that is a compression's magic reads as that everywhere.
    if layer::write_tree(&root, &tree, &mut packed).is_err() || detect(&packed) != Detected::None {
        return;
    }
    let again = Ground::new();
    let root = again.root();
    let limits = Limits { ratio: u64::MAX, floor_bytes: u64::MAX };
    unpack::archive_with(&mut &*packed, &root, Path::new("/"), None, limits).unwrap();
    // The root itself is in no archive.
    assert_eq!(Tree::scan(root.as_fd()).unwrap().entries[1..], tree.entries[1..]);
});

/// Gives every header that is walked over its magic and its sum.
fn mend(tar: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = tar.get_mut(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            at += BLOCK;
            continue;
        }
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = header[124..136].iter().take_while(|byte| (b'0'..=b'7').contains(byte));
        let size = size.fold(0_usize, |size, byte| size.saturating_mul(8).saturating_add(usize::from(byte - b'0')));
        at = at.saturating_add(BLOCK).saturating_add(size.div_ceil(BLOCK).saturating_mul(BLOCK));
    }
}
