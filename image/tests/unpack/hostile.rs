//! Archives that attack: names and links that lead out, sizes that lie, and whatever chance makes of them.

use proptest::prelude::*;

use crate::ground::Ground;
use crate::gzip;
use crate::kit::noise;
use crate::kit::raw::{PaxArchive, up};

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
