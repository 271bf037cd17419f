//! Layers: what their marks hide, and links to files of the layers below.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use crate::ground::{Ground, attribute};
use crate::kit::raw::PaxArchive;

#[test]
fn whiteouts_hide_what_is_below_only() {
    let ground = Ground::new();
    let tar = PaxArchive::new()
        .directory("q")
        .file("q/new", b"2")
        .file("q/.wh..wh..opq", b"")
        .file("q/new2", b"3")
        .file(".wh.gone", b"")
        .file("kept", b"")
        .file(".wh.kept", b"")
        .file(".wh.again", b"")
        .directory("again")
        .directory("before")
        .file(".wh.before", b"")
        .file(".wh.under", b"")
        .file("under/x", b"")
        .file(".wh..wh.plnk/1.2", b"")
        .end();
    let unpacked = ground.layer(&tar).unwrap();
    assert_eq!(ground.list("q"), ["new", "new2"]);
    assert_eq!(
        ground.list(""),
        ["again", "before", "gone", "kept", "q", "under"]
    );
    let gone = std::fs::symlink_metadata(ground.root().join("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for path in ["q", "again", "before", "under"] {
        assert_eq!(
            attribute(&ground.root().join(path), "user.overlay.opaque"),
            b"y",
            "{path}"
        );
    }
    assert!(unpacked.implied_directories.is_empty());
}

/// The longest name that a file can have.
#[test]
fn long_names_can_be_removed() {
    let ground = Ground::new();
    let longest = "n".repeat(255);
    let tar = PaxArchive::new().file(&format!(".wh.{longest}"), b"").end();
    ground.layer(&tar).unwrap();
    assert_eq!(ground.list(""), [longest.as_str()]);
    for too_long in [format!(".wh.{longest}n"), format!("{longest}n")] {
        let tar = PaxArchive::new().file(&too_long, b"").end();
        let refused = Ground::new().layer(&tar).unwrap_err().to_string();
        assert!(refused.contains("255 bytes"), "{refused}");
    }
}

/// Docker's oldest driver for layers keeps files that have several names in a directory of its own.
#[test]
fn aufs_bookkeeping_is_left_out_and_its_links_lead_to_files() {
    let ground = Ground::new();
    let tar = PaxArchive::new()
        .directory(".wh..wh.plnk")
        .file(".wh..wh.plnk/12.34", b"linked")
        .file(".wh..wh.plnk/56.78", b"by nobody")
        .directory(".wh..wh.orph")
        .file(".wh..wh.orph/x", b"")
        .file(".wh..wh.aufs", b"")
        .hard_link("d/one", ".wh..wh.plnk/12.34")
        .hard_link("two", "/.wh..wh.plnk/12.34")
        .end();
    let unpacked = ground.layer(&tar).unwrap();
    assert_eq!(ground.list(""), ["d", "two"]);
    assert_eq!(ground.read("d/one"), "linked");
    assert_eq!(
        std::fs::metadata(ground.root().join("two"))
            .unwrap()
            .nlink(),
        2
    );
    assert_eq!(unpacked.implied_directories, [b"d".to_vec()]);
}

/// What they lead to is in a layer below, so that they are made later; by then their names may be others'.
#[test]
fn links_to_files_below_give_way_to_what_comes_later() {
    let ground = Ground::new();
    let tar = PaxArchive::new()
        .hard_link("file", "below/f")
        .file("file", b"new")
        .hard_link("twice", "below/f")
        .hard_link("twice", "below/g")
        .hard_link("first", "below/f")
        .hard_link("second", "first")
        .file(".wh.first", b"")
        .hard_link("directory", "below/f")
        .directory("directory")
        .hard_link("gone/x", "below/f")
        .file("gone", b"")
        .end();
    let unpacked = ground.layer(&tar).unwrap();
    let links: Vec<(&str, &str)> = unpacked
        .links_below
        .iter()
        .map(|(path, target)| {
            (
                str::from_utf8(path).unwrap(),
                str::from_utf8(target).unwrap(),
            )
        })
        .collect();
    assert_eq!(
        links,
        [
            ("first", "below/f"),
            ("second", "below/f"),
            ("twice", "below/g")
        ]
    );
    assert_eq!(ground.list(""), ["directory", "file", "gone"]);
    assert!(unpacked.implied_directories.is_empty());
    let tar = PaxArchive::new()
        .hard_link("a", "below/f")
        .file("a/b", b"")
        .end();
    let refused = Ground::new().layer(&tar).unwrap_err().to_string();
    assert!(refused.contains("used as a directory"), "{refused}");
}
