//! Archives that attack, archives that are odd, and archives that other tools read the same way.

mod kit;

use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use kit::raw::{PaxArchive, up};
use proptest::prelude::*;
use rbuild_cache::RootDir;
use rbuild_cache::tree::Tree;
use rbuild_image::unpack::{self, Limits};

/// A root to unpack to, and beside it a directory that must stay as it is.
struct Ground {
    directory: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("keep"), "kept").unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        Self { directory }
    }

    fn outside(&self) -> String {
        self.directory.path().join("outside").display().to_string()
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn add(&self, tar: &[u8]) -> rbuild_image::Result<()> {
        let root = RootDir::open_ambient(&self.root()).unwrap();
        let result = unpack::archive(&mut &*tar, &root, Path::new("/x"), None);
        self.check();
        result
    }

    fn layer(&self, tar: &[u8]) -> rbuild_image::Result<unpack::Unpacked> {
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

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn list(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.root().join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn names_do_not_lead_out() {
    let ground = Ground::new();
    let out = ground.outside();
    let tar = PaxArchive::new()
        .file("../up", b"1")
        .file(&format!("{out}/pwn"), b"2")
        .file("a/../../b", b"3")
        .file(&up(&format!("{out}/pwn2")), b"4")
        .file("ok", b"5")
        .end();
    ground.add(&tar).unwrap();
    assert_eq!(ground.read("x/up"), "1");
    assert_eq!(ground.read("x/b"), "3");
    let ground = Ground::new();
    ground.layer(&tar).unwrap();
    assert_eq!(ground.read("up"), "1");
}

#[test]
fn links_do_not_lead_out() {
    let ground = Ground::new();
    let out = ground.outside();
    let keep = format!("{out}/keep");
    let archives = [
        PaxArchive::new().symlink("d", &out).file("d/pwn", b"x"),
        PaxArchive::new()
            .symlink("d", &up(&out))
            .directory("d/sub")
            .file("d/sub/pwn", b"x"),
        PaxArchive::new()
            .symlink("a", "b")
            .symlink("b", "c")
            .symlink("c", &out)
            .file("a/pwn", b"x")
            .directory("a"),
        PaxArchive::new().hard_link("h", &keep),
        PaxArchive::new().hard_link("h", &up(&keep)),
        PaxArchive::new()
            .symlink("s", &out)
            .hard_link("h", "s/keep"),
        PaxArchive::new()
            .symlink("s", &keep)
            .hard_link("h", "s")
            .file("h", b"overwritten"),
        PaxArchive::new()
            .pax(&[("path", &up(&format!("{out}/pwn")))])
            .file("fine", b"x"),
        PaxArchive::new()
            .symlink("d", &out)
            .file("d/.wh.keep", b"")
            .file("d/.wh..wh..opq", b""),
    ];
    for archive in archives {
        let tar = archive.end();
        let _ = Ground::new().add(&tar);
        let _ = Ground::new().layer(&tar);
        let _ = ground.add(&tar);
        let _ = ground.layer(&tar);
    }
}

#[test]
fn later_entries_win() {
    let ground = Ground::new();
    let out = ground.outside();
    let tar = PaxArchive::new()
        .symlink("f", &format!("{out}/keep"))
        .file("f", b"new")
        .file("a", b"file")
        .directory("a")
        .file("a/b", b"1")
        .file("a", b"file2")
        .symlink("c", "a")
        .directory("c")
        .file("c/e", b"2")
        .end();
    ground.add(&tar).unwrap();
    assert_eq!(ground.read("x/f"), "new");
    assert_eq!(ground.read("x/a"), "file2");
    assert_eq!(ground.read("x/c/e"), "2");
    let layer = Ground::new();
    layer.layer(&tar).unwrap();
    assert_eq!(layer.read("a"), "file2");
}

#[test]
fn what_is_refused() {
    let big = "x".repeat(2 << 20);
    let archives: Vec<(&str, Vec<u8>)> = vec![
        (
            "negative size",
            PaxArchive::new()
                .raw("n", b'0', i64::from(-512), b"")
                .file("m", b"x")
                .end(),
        ),
        (
            "huge size",
            PaxArchive::new().raw("n", b'0', 1 << 62, b"abc").end(),
        ),
        (
            "truncated",
            PaxArchive::new().file("a", &[7; 100_000]).end()[..60_000].to_vec(),
        ),
        (
            "long pax",
            PaxArchive::new()
                .pax(&[("comment", &big)])
                .file("a", b"")
                .end(),
        ),
        (
            "pax of 1 GiB",
            PaxArchive::new()
                .raw("p", b'x', 1 << 30, b"20 path=a\n")
                .end(),
        ),
        (
            "long name",
            PaxArchive::new()
                .raw("p", b'L', 2 << 20, big.as_bytes())
                .file("a", b"")
                .end(),
        ),
        (
            "two pax headers",
            PaxArchive::new()
                .pax(&[("path", "a")])
                .pax(&[("path", "b")])
                .file("c", b"")
                .end(),
        ),
        (
            "two long names",
            PaxArchive::new()
                .raw("l", b'L', 2, b"a\0")
                .raw("l", b'L', 2, b"b\0")
                .file("c", b"")
                .end(),
        ),
        (
            "two names",
            PaxArchive::new()
                .pax(&[("path", "a")])
                .raw("l", b'L', 2, b"b\0")
                .file("c", b"")
                .end(),
        ),
        (
            "global size",
            PaxArchive::new()
                .raw("g", b'g', 12, b"12 size=123\n")
                .file("c", b"")
                .end(),
        ),
        (
            "uid 2^32",
            PaxArchive::new()
                .pax(&[("uid", "4294967296")])
                .file("c", b"")
                .end(),
        ),
        (
            "uid 2^32-1",
            PaxArchive::new()
                .pax(&[("gid", "4294967295")])
                .file("c", b"")
                .end(),
        ),
        (
            "uid",
            PaxArchive::new().pax(&[("uid", "-1")]).file("c", b"").end(),
        ),
        (
            "size",
            PaxArchive::new()
                .pax(&[("size", "0x10")])
                .file("c", b"")
                .end(),
        ),
        (
            "zero in path",
            PaxArchive::new()
                .pax(&[("path", "a\0b")])
                .file("c", b"")
                .end(),
        ),
        ("root is a file", PaxArchive::new().file(".", b"x").end()),
        (
            "root is a link",
            PaxArchive::new().symlink("/", "/etc").end(),
        ),
        (
            "data behind a link",
            PaxArchive::new().raw("s", b'2', 512, &[b'x'; 512]).end(),
        ),
        (
            "device 0:0",
            PaxArchive::new().device("d", b'3', 0, 0).end(),
        ),
        (
            "unknown type",
            PaxArchive::new().raw("s", b'@', 0, b"").end(),
        ),
        (
            "ends after pax",
            PaxArchive::new().pax(&[("path", "a")]).end(),
        ),
        (
            "lone zero block",
            [&[0; 512][..], &PaxArchive::new().file("a", b"").end()].concat(),
        ),
        (
            "hard link to itself",
            PaxArchive::new().hard_link("a", "a").end(),
        ),
        (
            "file as directory",
            PaxArchive::new().file("a", b"").file("a/b", b"").end(),
        ),
    ];
    for (what, tar) in archives {
        let first = PaxArchive::new().file("first", b"1").end();
        let tar = match what {
            "lone zero block" => tar,
            _ => [&first[..1024], &tar].concat(),
        };
        assert!(Ground::new().layer(&tar).is_err(), "layer: {what}");
        assert!(Ground::new().add(&tar).is_err(), "archive: {what}");
    }
    for name in [".wh...", ".wh..", ".wh.", "a/.wh.", "a/.wh...", ".wh.x/y"] {
        let tar = PaxArchive::new().directory("a").file(name, b"").end();
        assert!(Ground::new().layer(&tar).is_err(), "{name}");
    }
    let compressed = gzip(&PaxArchive::new().file("a", &noise(200_000)).end());
    assert!(
        Ground::new()
            .add(&compressed[..compressed.len() / 2])
            .is_err()
    );
    assert!(
        Ground::new()
            .add(&compressed[..compressed.len() - 4])
            .is_err()
    );
    assert!(Ground::new().add(&compressed).is_ok());
}

#[test]
fn the_size_in_a_pax_header_decides() {
    let inner = PaxArchive::new().file("smuggled", b"evil").end();
    let length = inner.len().to_string();
    let mut tar = PaxArchive::new()
        .pax(&[("size", &length)])
        .raw("outer", b'0', 0, b"");
    tar.bytes.extend_from_slice(&inner);
    let tar = tar.file("after", b"ok").end();
    let ground = Ground::new();
    ground.add(&tar).unwrap();
    assert_eq!(ground.list("x"), ["after", "outer"]);
    assert_eq!(
        std::fs::metadata(ground.root().join("x/outer"))
            .unwrap()
            .len(),
        inner.len() as u64
    );
}

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

fn attribute(path: &Path, name: &str) -> Vec<u8> {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap_or(0);
    value[..length].to_vec()
}

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
fn what_counts_as_an_archive() {
    let directory = tempfile::tempdir().unwrap();
    let tar = PaxArchive::new().file("a", b"x").end();
    let table: Vec<(&str, Vec<u8>, bool)> = vec![
        ("tar", tar.clone(), true),
        ("gzip", gzip(&tar), true),
        ("header only", tar[..512].to_vec(), true),
        ("empty tar", vec![0; 10240], false),
        ("empty", Vec::new(), false),
        ("text", b"not a tar\n".to_vec(), false),
        ("gzipped text", gzip(b"data"), false),
        ("half a header", tar[..300].to_vec(), false),
        ("magic only", vec![0x1f, 0x8b, 0x08], false),
    ];
    for (what, bytes, expected) in table {
        let path = directory.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        let mut file = std::fs::File::open(&path).unwrap();
        assert_eq!(unpack::is_archive(&mut file).unwrap(), expected, "{what}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, &bytes));
    let output = child.wait_with_output().unwrap().stdout;
    writer.join().unwrap().unwrap();
    output
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

/// `path type mode uid:gid mtime size-or-target links content` of everything below a directory.
fn describe(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, lines: &mut Vec<String>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let kind = stat.file_type();
            let content = if kind.is_file() {
                rbuild_cache::Digest::of(&std::fs::read(&path).unwrap()).hex()
            } else if kind.is_symlink() {
                std::fs::read_link(&path).unwrap().display().to_string()
            } else {
                String::new()
            };
            lines.push(format!(
                "{:?} {:o} {}:{} {}.{:09} {} {}",
                path.strip_prefix(root).unwrap(),
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.mtime(),
                stat.mtime_nsec(),
                if kind.is_file() { stat.nlink() } else { 0 },
                content
            ));
            if kind.is_dir() {
                walk(root, &path, lines);
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, root, &mut lines);
    lines.sort();
    lines
}

/// A tree with all that tars can hold, packed by GNU tar in each of its formats and by Python, unpacked by them and by
/// this crate.
#[test]
fn other_tools_unpack_the_same() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can make devices and foreign owners");
        return;
    }
    if !["xz", "bzip2", "zstd"].into_iter().all(kit::installed) {
        return;
    }
    let script = r#"
        set -e; cd "$1"; mkdir src; cd src; umask 022
        mkdir -p a/b "$(printf 'd%.0s' $(seq 120))/$(printf 'e%.0s' $(seq 120))"
        echo hi > a/f; ln a/f a/hard; ln -s ../x a/soft; ln -s "$(printf 'l%.0s' $(seq 150))" a/longlink
        echo long > "$(printf 'd%.0s' $(seq 120))/$(printf 'e%.0s' $(seq 120))/$(printf 'f%.0s' $(seq 200))"
        touch -d '2001-02-03 04:05:06.789012345' a/f; touch -d '1960-01-01' a/old; echo s > a/suid; chmod 6755 a/suid
        chown 3000000:4000000 a/b; mkfifo a/pipe; mknod a/null c 1 3
        truncate -s 3M a/sparse; printf middle | dd of=a/sparse bs=1 seek=1500000 conv=notrunc 2>/dev/null
        truncate -s 9M a/hole; i=0; while [ $i -lt 60 ]; do printf x | dd of=a/hole bs=1 seek=$((i*140000)) conv=notrunc 2>/dev/null; i=$((i+1)); done
        printf 'x' > "$(printf 'new\nline')"; printf y > "$(printf '\351')"
        touch -d '2010-01-01 00:00:00.5' a/b a .
        for f in gnu ustar pax v7 oldgnu; do tar --format=$f -cf ../$f.tar . 2>/dev/null || true; done
        tar --format=gnu -S -cf ../gnusparse.tar .
        for v in 0.0 0.1 1.0; do tar --format=pax --sparse-version=$v -S -cf ../sparse$v.tar .; done
        tar -cf - . | gzip > ../z.tar.gz; tar -cf - . | xz -0 > ../z.tar.xz
        tar -cf - . | bzip2 > ../z.tar.bz2; tar -cf - . | zstd -q > ../z.tar.zst
        python3 -c "
import tarfile
for n, f in (('pypax', tarfile.PAX_FORMAT), ('pygnu', tarfile.GNU_FORMAT)):
    t = tarfile.open('../' + n + '.tar', 'w', format=f); t.add('.', '.'); t.close()" 2>/dev/null || true
    "#;
    let directory = tempfile::tempdir().unwrap();
    let made = Command::new("bash")
        .args(["-c", script, "bash"])
        .arg(directory.path())
        .status();
    assert!(made.unwrap().success());
    let mut compared = 0;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() || std::fs::metadata(&path).unwrap().len() == 0 {
            continue;
        }
        let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let status = Command::new("tar")
            .arg("-xpf")
            .arg(&path)
            .arg("-C")
            .arg(theirs.path())
            .args(["--same-owner", "--numeric-owner"])
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        if !status.success() {
            println!("SKIPPED: GNU tar cannot read its own {}", path.display());
            continue;
        }
        let root = RootDir::open_ambient(ours.path()).unwrap();
        let mut file = std::fs::File::open(&path).unwrap();
        assert!(unpack::is_archive(&mut file).unwrap());
        unpack::archive(&mut file, &root, Path::new("/"), None).unwrap();
        assert_eq!(
            describe(ours.path()),
            describe(theirs.path()),
            "{}",
            path.display()
        );
        compared += 1;
    }
    assert!(compared >= 10, "{compared}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn nothing_panics_and_nothing_leaves(actions in prop::collection::vec(action(), 1..12), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let ground = Ground::new();
        let out = ground.outside();
        let mut archive = PaxArchive::new();
        for action in &actions {
            archive = action.apply(archive, &out);
        }
        let mut tar = archive.end();
        let _ = ground.add(&tar);
        let _ = ground.layer(&tar);
        for (at, value) in flips {
            let at = at.index(tar.len());
            tar[at] = value;
            PaxArchive::repair(&mut tar, at);
        }
        let _ = ground.add(&tar);
        let _ = ground.layer(&tar);
    }
}

#[derive(Debug, Clone)]
enum Action {
    File(String, u8),
    Directory(String),
    Symlink(String, String),
    HardLink(String, String),
    Pax(String, String),
    Raw(String, u8, i64),
}

impl Action {
    fn apply(&self, archive: PaxArchive, out: &str) -> PaxArchive {
        let with = |text: &str| text.replace("OUT", out);
        match self {
            Self::File(path, length) => {
                archive.file(&with(path), &vec![b'x'; usize::from(*length) * 5])
            }
            Self::Directory(path) => archive.directory(&with(path)),
            Self::Symlink(path, target) => archive.symlink(&with(path), &with(target)),
            Self::HardLink(path, target) => archive.hard_link(&with(path), &with(target)),
            Self::Pax(key, value) => archive.pax(&[(key, &with(value))]),
            Self::Raw(path, kind, size) => archive.raw(&with(path), *kind, *size, b"1 2 3"),
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec![
            "a",
            "b",
            "c",
            "..",
            ".",
            "",
            "OUT",
            "keep",
            "pwn",
            ".wh.a",
            ".wh..wh..opq",
            ".wh...",
        ]),
        1..4,
    )
    .prop_map(|parts| parts.join("/"))
}

fn action() -> impl Strategy<Value = Action> {
    let keys = vec![
        "path",
        "linkpath",
        "size",
        "uid",
        "mtime",
        "GNU.sparse.major",
        "GNU.sparse.map",
        "GNU.sparse.size",
        "GNU.sparse.numblocks",
        "GNU.sparse.realsize",
        "SCHILY.xattr.user.x",
        "SCHILY.xattr.user.overlay.opaque",
    ];
    let values = vec![
        "0",
        "1",
        "512",
        "99999999999",
        "0,1,5,6",
        "x",
        "",
        "-1.5",
        "OUT/pwn",
        "../a",
    ];
    prop_oneof![
        (path(), any::<u8>()).prop_map(|(path, length)| Action::File(path, length)),
        path().prop_map(Action::Directory),
        (path(), path()).prop_map(|(path, target)| Action::Symlink(path, target)),
        (path(), path()).prop_map(|(path, target)| Action::HardLink(path, target)),
        (prop::sample::select(keys), prop::sample::select(values))
            .prop_map(|(key, value)| Action::Pax(key.to_owned(), value.to_owned())),
        (
            path(),
            prop::sample::select(b"0123456789LKxgSVDMX@\0".to_vec()),
            -3_i64..2000
        )
            .prop_map(|(path, kind, size)| Action::Raw(path, kind, size)),
    ]
}
