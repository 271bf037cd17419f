//! Archives that attack, archives that are odd, and archives that other tools read the same way.

mod ground;
mod hostile;
#[path = "../kit/mod.rs"]
mod kit;
mod marks;
mod metadata;
mod tools;

use std::process::Command;

use rbuild_image::unpack;

use ground::Ground;
use kit::raw::PaxArchive;

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
