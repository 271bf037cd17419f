//! Archives that other tools made, unpacked as they unpack them.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use rbuild_cache::RootDir;
use rbuild_image::unpack;

use crate::kit;

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
