//! ADD of archives that are not quite as their program would write them.

use std::fs;
use std::process::Command;

use crate::kit::Kit;
use crate::require_machine;

#[test]
fn what_follows_a_compressed_archive_is_passed_over() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("d/first", "1"), ("e/second", "2")]);
    let make = |script: &str| {
        let context = kit.path("context");
        let made = Command::new("sh")
            .args(["-euc", script])
            .current_dir(context)
            .status();
        assert!(made.unwrap().success(), "{script}");
    };
    make(
        "tar cf both.tar d e; head -c 700 both.tar | gzip > two.tgz; tail -c +701 both.tar | gzip >> two.tgz",
    );
    make(
        "cp two.tgz zeros.tgz; head -c 1000 /dev/zero >> zeros.tgz; cp two.tgz text.tgz; echo signed >> text.tgz",
    );
    make("bzip2 -c both.tar > text.tbz; echo signed >> text.tbz; tar czf bad.tgz d");
    kit.must_build(
        "\
FROM busybox
ADD two.tgz /0/
ADD zeros.tgz /1/
ADD text.tgz /2/
ADD text.tbz /3/
RUN for i in 0 1 2 3; do cat /$i/d/first /$i/e/second || exit 1; done
",
        &[],
    );
    // A wrong checksum is still one.
    let bad = kit.path("context/bad.tgz");
    let mut bytes = fs::read(&bad).unwrap();
    let checksum = bytes.len() - 8;
    bytes[checksum] ^= 1;
    fs::write(&bad, bytes).unwrap();
    let output = kit.build("FROM busybox\nADD bad.tgz /\n", &[]);
    assert_eq!(output.code, 1, "{output}");
    assert!(
        output.stderr.contains("cannot unpack `bad.tgz`"),
        "{output}"
    );
}
