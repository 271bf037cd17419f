//! What COPY writes straight into its layer is what it writes by way of a snapshot: the layers are the same, and so are
//! the files when somebody needs them after all.

use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rbuild_engine::image::compression;

use crate::kit::Kit;
use crate::layout::Layout;
use crate::require_machine;

/// Each with the number of its steps that go straight into their layers.
const DOCKERFILES: [(&str, &str, usize); 17] = [
    ("on nothing", "FROM scratch\nCOPY many /\n", 1),
    (
        "into a new directory",
        "FROM busybox\nCOPY many /a/b/c\n",
        1,
    ),
    ("one large file", "FROM busybox\nCOPY large /opt/it\n", 1),
    (
        "a large file over a small one",
        "FROM busybox\nRUN mkdir /d && echo x > /d/large\nCOPY --chmod=4710 --chown=3:4 large /d/\n",
        1,
    ),
    (
        "owners and modes",
        "FROM busybox\nCOPY --chown=1234:99 --chmod=u=rwX,go=r many /many\n",
        1,
    ),
    (
        "merged into what is there",
        "FROM busybox\nRUN mkdir -p /w/d1/f5.d && cd /w && echo old > d1/f41 && ln -s gone d1/f42 && chown 7:7 d1 && chmod 1777 d1\nCOPY many /w\n",
        1,
    ),
    (
        "another layer with the same paths",
        "FROM busybox\nCOPY many /w\nCOPY --chown=5 many /w\n",
        2,
    ),
    (
        "steps after it",
        "FROM busybox\nCOPY many /w\nWORKDIR /w/d2\nCOPY small ./d/\nCOPY <<EOF ./f81\nhere\nEOF\nENV A=b\n",
        1,
    ),
    (
        "through a link of the base",
        "FROM busybox\nRUN mkdir /real && ln -s real /link\nCOPY many /link/x\nCOPY large /link/y\n",
        0,
    ),
    (
        "names of the base",
        "FROM busybox\nRUN mkdir -p /etc && echo app:x:77:78::/: >> /etc/passwd && echo grp:x:79: >> /etc/group\nCOPY --chown=app:grp many /w\nCOPY --chown=app many /v\nCOPY --chown=app small /u\n",
        2,
    ),
    (
        "an archive comes after it",
        "FROM busybox\nCOPY many /m\nADD small /m/d1/small\n",
        0,
    ),
    (
        "linked",
        "FROM busybox\nCOPY --link many /w\nCOPY --link small /s\n",
        2,
    ),
    (
        "with parents and without some",
        "FROM busybox\nCOPY --parents --exclude=**/f3* many/./d* /w/\n",
        1,
    ),
    (
        "several sources",
        "FROM busybox\nCOPY small large many /w/\n",
        1,
    ),
    (
        "from another stage",
        "FROM busybox AS made\nCOPY many /m\nRUN chown 8:9 /m/d0/f1\nFROM busybox\nCOPY --from=made /m /n\n",
        1,
    ),
    (
        "from a stage that nothing is executed in",
        "FROM busybox AS made\nCOPY many /m\nFROM scratch\nCOPY --from=made /m /n\n",
        1,
    ),
    (
        "what a command works on",
        "FROM busybox\nCOPY many /m\nRUN rm -r /m/d1\nCOPY many /m\n",
        1,
    ),
];

fn fill(kit: &Kit) {
    let context = kit.path("context");
    std::fs::create_dir_all(context.join("many/empty")).unwrap();
    for number in 0..200 {
        let directory = context.join(format!("many/d{}", number / 40));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join(format!("f{number}"));
        std::fs::write(&file, format!("{number}\n").repeat(number % 7)).unwrap();
        let mode = [0o644, 0o755, 0o600, 0o4755][number % 4];
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::fs::hard_link(context.join("many/d1/f50"), context.join("many/again")).unwrap();
    std::fs::hard_link(context.join("many/d1/f50"), context.join("many/d4/z")).unwrap();
    symlink("d0/f1", context.join("many/link")).unwrap();
    symlink("gone", context.join("many/d3/dangling")).unwrap();
    std::fs::write(context.join("many/d2/middle"), [b'm'; 700_000]).unwrap();
    std::fs::write(context.join("small"), "small\n").unwrap();
    let noise: Vec<u8> = (0..9_000_001_u32)
        .map(|it| (it.wrapping_mul(it) % 251) as u8)
        .collect();
    std::fs::write(context.join("large"), noise).unwrap();
    // Told apart from what builds make, with parts of a second.
    let dated = std::process::Command::new("find")
        .arg(&context)
        .args([
            "-exec",
            "touch",
            "-h",
            "-d",
            "2021-02-03 04:05:06.789",
            "{}",
            "+",
        ])
        .status();
    assert!(dated.unwrap().success());
}

/// How many snapshots have no files of their own.
fn packed(kit: &Kit) -> usize {
    let snapshots = std::fs::read_dir(kit.path("store/snapshots"));
    let paths = snapshots.into_iter().flatten().map(|it| it.unwrap().path());
    paths.filter(|path| !path.join("fs").exists()).count()
}

/// A header and what follows it.
type Member = (Vec<u8>, Vec<u8>);

/// The members of an archive with all that their headers say, without the times of what builds just made.
fn members(tar: &[u8]) -> Vec<Member> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().raw(true);
    let members = entries.map(|entry| {
        let mut entry = entry.unwrap();
        let mut header = entry.header().clone();
        if header.mtime().unwrap() + 3600 > now.as_secs() {
            header.set_mtime(0);
            header.set_cksum();
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (header.as_bytes().to_vec(), bytes)
    });
    members.collect()
}

fn layers(archive: &Path) -> Vec<Vec<Member>> {
    let layout = Layout::of_archive(archive);
    let (manifest, _) = layout.image();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let read = layers.map(|layer| {
        let digest = layer["digest"].as_str().unwrap().replace(':', "/");
        let file = std::fs::File::open(layout.0.join("blobs").join(digest)).unwrap();
        let mut tar = Vec::new();
        let mut reader = compression::reader(Box::new(file)).unwrap();
        reader.read_to_end(&mut tar).unwrap();
        members(&tar)
    });
    read.collect()
}

#[track_caller]
fn same(one: &[Member], other: &[Member], what: &str) {
    assert_eq!(one.len(), other.len(), "{what}");
    for (one, other) in one.iter().zip(other) {
        let text = |member: &Member| String::from_utf8_lossy(&member.0).into_owned();
        assert_eq!(text(one), text(other), "{what}");
        assert!(one.1 == other.1, "{what}: {}", text(one));
    }
}

#[track_caller]
fn same_layers(one: &Kit, other: &Kit, what: &str) {
    let one = layers(&one.path("o.tar"));
    let other = layers(&other.path("o.tar"));
    assert_eq!(one.len(), other.len(), "{what}");
    for (one, other) in one.iter().zip(&other) {
        same(one, other, what);
    }
}

#[test]
fn layers_are_the_same_with_and_without_snapshots() {
    require_machine!();
    let straight = Kit::new();
    let ordinary = Kit::new();
    fill(&straight);
    // The same files with the same times.
    let context = ordinary.path("context");
    let _ = std::fs::remove_dir_all(&context);
    let copied = std::process::Command::new("cp")
        .args(["-a", "--", straight.path("context").to_str().unwrap()])
        .arg(&context)
        .status();
    assert!(copied.unwrap().success());
    for (number, (what, dockerfile, count)) in DOCKERFILES.into_iter().enumerate() {
        let out = ["uncompressed", "gzip", "zstd"][number % 3];
        let oci = format!("type=oci,dest=o.tar,compression={out}");
        let before = packed(&straight);
        straight.must_build(dockerfile, &["--no-cache", "-o", &oci]);
        assert_eq!(packed(&straight) - before, count, "{what}");
        // Whoever wants files has snapshots made.
        ordinary.must_build(dockerfile, &["--no-cache", "-o", "type=tar,dest=t.tar"]);
        assert_eq!(packed(&ordinary), 0, "{what}");
        ordinary.must_build(dockerfile, &["-o", &oci]);
        same_layers(&straight, &ordinary, what);
        // The same in another form, and then with its files.
        let other = "type=oci,dest=o.tar,compression=gzip,force-compression=true";
        straight.must_build(dockerfile, &["-o", other]);
        ordinary.must_build(dockerfile, &["-o", other]);
        assert_eq!(packed(&straight) - before, count, "{what}");
        same_layers(&straight, &ordinary, what);
        straight.must_build(dockerfile, &["-o", "type=tar,dest=t.tar"]);
        let tar = |kit: &Kit| members(&std::fs::read(kit.path("t.tar")).unwrap());
        same(&tar(&straight), &tar(&ordinary), what);
    }
    straight.store_is_whole();
}

#[test]
fn commands_and_containers_see_the_files() {
    require_machine!();
    let kit = Kit::new();
    fill(&kit);
    const COPY: &str = "FROM busybox\nCOPY many /m\nCOPY small /m/d1/\n";
    kit.must_build(COPY, &["-t", "it"]);
    assert_eq!(packed(&kit), 1);
    kit.store_is_whole();
    let said = kit.must(&[
        "run",
        "--rm",
        "it",
        "cat",
        "/m/d1/small",
        "/m/d0/f1",
        "/m/again",
    ]);
    assert_eq!(said.stdout, "small\n1\n50\n");
    assert_eq!(packed(&kit), 0);
    kit.store_is_whole();
    // Another build finds the steps, and works on their files.
    let removed = Kit::new();
    fill(&removed);
    removed.must_build(COPY, &["-t", "it"]);
    let more = format!("{COPY}RUN cat /m/link && find /m -type f | wc -l\n");
    let said = removed.must_build(&more, &["--progress=plain"]);
    assert_eq!(said.cached(), 3, "{}", said.stderr);
    assert!(said.stderr.contains("204"), "{}", said.stderr);
}

/// Nothing of a layer that could not be finished stays.
#[test]
fn a_file_that_cannot_be_read_ends_the_step() {
    require_machine!();
    let kit = Kit::new();
    fill(&kit);
    let failing = "FROM busybox\nCOPY many /m/d1/f50\nCOPY many /m\n";
    let said = kit.build(failing, &["-o", "type=oci,dest=o.tar"]);
    assert_ne!(said.code, 0);
    let expected = "cannot copy `many/d1/f50` to `/m/d1/f50`";
    let expected = [expected, "there is a directory already"];
    for words in expected {
        assert!(said.stderr.contains(words), "{}", said.stderr);
    }
    kit.must(&["prune", "--all", "--force"]);
    kit.store_is_whole();
    assert_eq!(packed(&kit), 0);
}

/// A layer that holds a snapshot's files stays as long as that, and its loss is found and mended.
#[test]
fn a_layer_that_is_gone_is_found_and_made_again() {
    require_machine!();
    let kit = Kit::new();
    fill(&kit);
    const DOCKERFILE: &str = "FROM busybox\nCOPY many /m\nCOPY large /l\n";
    kit.must_build(DOCKERFILE, &["-t", "it"]);
    kit.must(&["rmi", "it"]);
    kit.must(&["prune", "--force"]);
    let said = kit.must_build(DOCKERFILE, &["-o", "type=oci,dest=o.tar"]);
    assert_eq!(said.cached(), 3, "{}", said.stderr);
    assert_eq!(packed(&kit), 2);
    let blobs = std::fs::read_dir(kit.path("store/content/blobs/sha256")).unwrap();
    for blob in blobs {
        let blob = blob.unwrap();
        if blob.metadata().unwrap().len() > 9_000_000 {
            std::fs::remove_file(blob.path()).unwrap();
        }
    }
    let found = kit.rbuild(&["store", "check"]);
    assert_ne!(found.code, 0);
    assert!(found.stdout.contains("which is gone"), "{}", found.stdout);
    kit.rbuild(&["store", "check", "--repair"]);
    kit.store_is_whole();
    let said = kit.must_build(DOCKERFILE, &["-o", "type=tar,dest=t.tar"]);
    assert_eq!(said.cached(), 2, "{}", said.stderr);
}

#[test]
fn a_layer_that_is_gone_is_no_result() {
    require_machine!();
    let kit = Kit::new();
    fill(&kit);
    const STEPS: &str = "FROM scratch\nCOPY large /a\nCOPY many /b\nCOPY large /c\nCOPY small /d\n";
    kit.must_build(STEPS, &["-t", "it", "-o", "type=oci,dest=before.tar"]);
    assert_eq!(packed(&kit), 3);
    let layout = Layout::of_archive(&kit.path("before.tar"));
    let (manifest, _) = layout.image();
    for place in 0..3 {
        let digest = manifest["layers"][place]["digest"].as_str().unwrap();
        let blob = kit
            .path("store/content/blobs")
            .join(digest.replace(':', "/"));
        std::fs::remove_file(blob).unwrap();
        // Those above stand on it, and are found again when it is there.
        let built = kit.must_build(STEPS, &["-t", "it", "-o", "type=oci,dest=after.tar"]);
        assert_eq!(built.cached(), 3, "{place}: {built}");
        let (again, _) = Layout::of_archive(&kit.path("after.tar")).image();
        assert_eq!(again["layers"], manifest["layers"], "{place}");
        kit.store_is_whole();
    }
}
