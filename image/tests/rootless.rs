//! Unpacking as an ordinary user: this test starts itself again in a user namespace with one id.

mod kit;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use kit::raw::PaxArchive;
use rbuild_cache::RootDir;
use rbuild_image::unpack::{self, Limits};

const MARK: &str = "RBUILD_TEST_IN_USER_NAMESPACE";

fn layer() -> Vec<u8> {
    PaxArchive::new()
        .pax(&[("uid", "33"), ("gid", "1000000")])
        .mode(0o4755)
        .file("suid", b"x")
        .pax(&[(
            "SCHILY.xattr.security.capability",
            "\u{1}\0\0\u{2}\0\u{4}\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        )])
        .file("capable", b"x")
        .device("null", b'3', 1, 3)
        .device("pipe", b'6', 0, 0)
        .directory("opaque")
        .file("opaque/.wh..wh..opq", b"")
        .file(".wh.gone", b"")
        .end()
}

#[test]
fn one_id_is_enough() {
    if std::env::var_os(MARK).is_some() {
        return inside();
    }
    let test = std::env::current_exe().unwrap();
    // `--map-root-user` maps the caller alone, whoever that is.
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(test)
        .args(["--exact", "one_id_is_enough", "--nocapture"])
        .env(MARK, "1")
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            if text.contains("unshare failed") || text.contains("uid_map") {
                println!("SKIPPED: no user namespaces here: {text}");
                return;
            }
            panic!("{}{text}", String::from_utf8_lossy(&output.stdout));
        }
        Err(error) => println!("SKIPPED: `unshare` cannot be run: {error}"),
    }
}

fn inside() {
    let directory = tempfile::tempdir().unwrap();
    let upper = RootDir::open_ambient(directory.path()).unwrap();
    let tar = layer();
    unpack::layer(
        Box::new(tar.as_slice()),
        &upper,
        Limits::default(),
        "the layer",
    )
    .unwrap();
    let stat = |name: &str| std::fs::symlink_metadata(directory.path().join(name));
    assert_eq!(
        (
            stat("suid").unwrap().uid(),
            stat("suid").unwrap().mode() & 0o7777
        ),
        (0, 0o4755)
    );
    assert!(stat("pipe").unwrap().file_type().is_fifo());
    assert!(stat("gone").unwrap().file_type().is_char_device());
    // What cannot be made is written down.
    let tree = rbuild_cache::tree::Tree::scan(std::os::fd::AsFd::as_fd(&upper)).unwrap();
    let suid = tree.get(b"suid").unwrap();
    assert_eq!((suid.uid, suid.gid, suid.mode), (33, 1_000_000, 0o4755));
    let null = tree.get(b"null").unwrap();
    assert_eq!(null.kind, rbuild_cache::tree::Kind::CharDevice);
    assert_eq!(null.device, rustix::fs::makedev(1, 3));
    let mut value = [0; 16];
    let path = directory.path().join("opaque");
    assert_eq!(
        rustix::fs::lgetxattr(&path, "user.overlay.opaque", &mut value),
        Ok(1)
    );
    let mut value = [0; 64];
    let path = directory.path().join("capable");
    assert!(rustix::fs::lgetxattr(&path, "security.capability", &mut value).is_ok());

    let archive = PaxArchive::new().device("null", b'3', 1, 3).end();
    unpack::archive(&mut archive.as_slice(), &upper, Path::new("/x"), None).unwrap();
    let owned = PaxArchive::new().file("f", b"").end();
    unpack::archive(&mut owned.as_slice(), &upper, Path::new("/y"), Some((5, 6))).unwrap();
    let tree = rbuild_cache::tree::Tree::scan(std::os::fd::AsFd::as_fd(&upper)).unwrap();
    let device = tree.get(b"x/null").unwrap();
    assert_eq!((device.uid, device.device), (0, rustix::fs::makedev(1, 3)));
    let owner = |path: &[u8]| tree.get(path).map(|entry| (entry.uid, entry.gid));
    assert_eq!((owner(b"y"), owner(b"y/f")), (Some((5, 6)), Some((5, 6))));
}
