//! Owners, modes, times and attributes.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rbuild_cache::RootDir;
use rbuild_image::unpack;

use crate::ground::{Ground, attribute};
use crate::kit::raw::PaxArchive;

#[test]
fn overlay_attributes_of_an_archive_are_dropped() {
    let ground = Ground::new();
    let tar = PaxArchive::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", "y"),
            ("SCHILY.xattr.user.overlay.opaque", "y"),
            ("SCHILY.xattr.user.overlay.redirect", "/etc"),
            ("SCHILY.xattr.trusted.other", "z"),
            ("SCHILY.xattr.user.kept", "k=\n"),
        ])
        .directory("d")
        .end();
    ground.layer(&tar).unwrap();
    let d = ground.root().join("d");
    for name in [
        "trusted.overlay.opaque",
        "user.overlay.opaque",
        "user.overlay.redirect",
        "trusted.other",
    ] {
        assert!(attribute(&d, name).is_empty(), "{name}");
    }
    assert_eq!(attribute(&d, "user.kept"), b"k=\n");
}

#[test]
fn attributes_have_limits() {
    // More names than a file can have.
    let names: Vec<String> = (0..9000)
        .map(|n| format!("SCHILY.xattr.user.{n}"))
        .collect();
    let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let tar = PaxArchive::new().pax(&pairs).file("f", b"x").end();
    let error = Ground::new().layer(&tar).unwrap_err().to_string();
    assert!(error.contains("no file can have"), "{error}");
    // More altogether than a listing is to hold; dropped ones count, so that no file system needs to take them.
    let value = "v".repeat(1 << 19);
    let mut tar = PaxArchive::new();
    for n in 0..140 {
        tar = tar
            .pax(&[("SCHILY.xattr.trusted.other", &value)])
            .file(&format!("f{n}"), b"");
    }
    let error = Ground::new().layer(&tar.end()).unwrap_err().to_string();
    assert!(error.contains("attributes up to here"), "{error}");
}

#[test]
fn metadata_is_kept() {
    let ground = Ground::new();
    let tar = PaxArchive::new()
        .pax(&[("mtime", "1500000000.25"), ("uid", "3000000"), ("gid", "5")])
        .directory("d")
        .pax(&[("mtime", "-1.5")])
        .file("d/f", b"x")
        .mode(0o6755)
        .file("suid", b"")
        .hard_link("d/g", "d/f")
        .device("null", b'3', 1, 3)
        .device("pipe", b'6', 0, 0)
        .end();
    ground.add(&tar).unwrap();
    let stat = |path: &str| std::fs::symlink_metadata(ground.root().join("x").join(path)).unwrap();
    assert_eq!(
        (stat("d").mtime(), stat("d").mtime_nsec()),
        (1_500_000_000, 250_000_000)
    );
    assert_eq!((stat("d").uid(), stat("d").gid()), (3_000_000, 5));
    assert_eq!(
        (stat("d/f").mtime(), stat("d/f").mtime_nsec()),
        (-2, 500_000_000)
    );
    assert_eq!(stat("d/f").ino(), stat("d/g").ino());
    assert_eq!(stat("suid").permissions().mode() & 0o7777, 0o6755);
    assert!(stat("null").file_type().is_char_device());
    assert!(stat("pipe").file_type().is_fifo());
}

#[test]
fn owners_may_be_overridden() {
    let ground = Ground::new();
    let root = RootDir::open_ambient(&ground.root()).unwrap();
    let tar = PaxArchive::new().directory("d").file("d/f", b"").end();
    unpack::archive(&mut tar.as_slice(), &root, Path::new("/y/x"), Some((7, 8))).unwrap();
    for path in ["y", "y/x", "y/x/d", "y/x/d/f"] {
        let stat = std::fs::metadata(ground.root().join(path)).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (7, 8), "{path}");
    }
}

#[test]
fn names_that_begin_as_a_compressed_stream_are_names() {
    let ground = Ground::new();
    let tar = PaxArchive::new()
        .file("BZh9.txt", b"a file")
        .directory("BZhou")
        .end();
    ground.layer(&tar).unwrap();
    assert_eq!(ground.read("BZh9.txt"), "a file");
    ground.add(&tar).unwrap();
    assert_eq!(ground.read("x/BZh9.txt"), "a file");
    assert!(ground.root().join("x/BZhou").is_dir());
}
