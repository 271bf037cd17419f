//! Everything that can be damaged in a store is: each time it is found and named, put away, and the next build is
//! right.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::dice::{Random, number};
use crate::kit::{Archive, Kit, Output};
use crate::require_machine;

const DOCKERFILE: &str = r#"FROM busybox AS one
COPY files /files
RUN --mount=type=cache,target=/c,id=mount echo 1 > /one; echo 2 > /c/two
FROM busybox
COPY --from=one /one /files /
RUN cat /one > /two
"#;

struct Scene {
    kit: Kit,
    expected: BTreeMap<String, String>,
}

impl Scene {
    fn new() -> Self {
        let kit = Kit::new();
        for number in 0..9 {
            let name = format!("files/{number}");
            kit.context(&[(&name, &"x".repeat(number * 99 + 1))]);
        }
        // Older than the clock's tick, or nothing is remembered of them.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut scene = Self {
            kit,
            expected: BTreeMap::new(),
        };
        scene.build("store").success();
        scene.expected = Archive::read(&scene.kit.path("out.tar")).files;
        scene
    }

    fn command(&self, arguments: &[&str], store: &str) -> Output {
        let mut command = self.kit.command(arguments);
        command.env("RBUILD_ROOT", self.kit.path(store));
        self.kit.finish(command.spawn().unwrap())
    }

    fn build(&self, store: &str) -> Output {
        let more = ["--tag=kept", "--output=type=oci,dest=out.tar"];
        let arguments = self.kit.build_arguments(DOCKERFILE, &more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.command(&arguments, store)
    }

    /// A copy of the store as it is.
    fn copy(&self) -> PathBuf {
        let copy = self.kit.path("copy");
        for (program, arguments) in [
            ("rm", vec!["-rf", copy.to_str().unwrap()]),
            (
                "cp",
                vec![
                    "-a",
                    self.kit.path("store").to_str().unwrap(),
                    copy.to_str().unwrap(),
                ],
            ),
        ] {
            assert!(
                Command::new(program)
                    .args(arguments)
                    .status()
                    .unwrap()
                    .success()
            );
        }
        copy
    }

    /// Damages a copy: it is found under that name, repaired, and all is well.
    #[track_caller]
    fn damaged(&self, what: &str, damage: &dyn Fn(&Path)) {
        damage(&self.copy());
        let found = self.command(&["store", "check"], "copy");
        assert_eq!(found.code, 1, "{what}: {found}");
        let said = format!("{}{}", found.stdout, found.stderr);
        assert!(said.contains(what), "{what}: {found}");
        assert!(said.contains("store check --repair"), "{what}: {found}");
        self.repaired(what);
    }

    #[track_caller]
    fn repaired(&self, what: &str) {
        let repaired = self.command(&["store", "check", "--repair"], "copy");
        assert_eq!(repaired.code, 0, "{what}: {repaired}");
        let clean = self.command(&["store", "check"], "copy");
        assert_eq!(
            clean.stdout, "The store is whole.\n",
            "{what}: {repaired}{clean}"
        );
        self.is_right(what);
    }

    #[track_caller]
    fn is_right(&self, what: &str) {
        let built = self.build("copy");
        assert_eq!(built.code, 0, "{what}: {built}");
        let files = Archive::read(&self.kit.path("out.tar")).files;
        assert_eq!(files, self.expected, "{what}");
        let clean = self.command(&["store", "check"], "copy");
        assert_eq!(clean.stdout, "The store is whole.\n", "{what}");
    }
}

/// Files below a directory, the largest first.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                found.push((entry.metadata().unwrap().len(), entry.path()));
            }
        }
    }
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn flip(path: &Path, at: usize) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).unwrap().permissions();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 1 << (at % 8);
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, mode).unwrap();
}

#[test]
fn flipped_and_missing_bytes_are_found() {
    require_machine!();
    let scene = Scene::new();
    let first = |store: &Path, below: &str| files(&store.join(below))[0].clone();
    for (what, below) in [
        ("blob sha256:", "content/blobs"),
        ("snapshot ", "snapshots"),
        ("memory of a context `contexts/", "contexts"),
        ("explanation of a build `explain/builds/", "explain/builds"),
        (
            "explanation of a selection `explain/paths/",
            "explain/paths",
        ),
    ] {
        scene.damaged(what, &|store| flip(&first(store, below), 77));
        scene.damaged(what, &|store| {
            let file = first(store, below);
            let length = std::fs::metadata(&file).unwrap().len();
            let file = std::fs::File::options().write(true).open(file).unwrap();
            file.set_len(length / 2).unwrap();
        });
    }
    let listing = |store: &Path| {
        let all = files(&store.join("snapshots"));
        all.into_iter()
            .find(|it| it.file_name().unwrap() == "tree")
            .unwrap()
    };
    scene.damaged("its listing is gone", &|store| {
        std::fs::remove_file(listing(store)).unwrap();
    });
    scene.damaged("listing", &|store| flip(&listing(store), 5));
    scene.damaged("its file is gone", &|store| {
        std::fs::remove_file(first(store, "content/blobs")).unwrap();
    });
    scene.damaged("it is not a regular file", &|store| {
        let blob = first(store, "content/blobs");
        std::fs::remove_file(&blob).unwrap();
        symlink("/etc/passwd", &blob).unwrap();
    });
    scene.damaged("`content/index.json`", &|store| {
        std::fs::write(store.join("content/index.json"), "{\"manifes").unwrap();
    });
    scene.damaged("`content/oci-layout`", &|store| {
        std::fs::remove_file(store.join("content/oci-layout")).unwrap();
    });
    scene.damaged("cache mount `mounts/", &|store| {
        let all = files(&store.join("mounts"));
        let id = all
            .iter()
            .find(|it| it.file_name().unwrap() == "id")
            .unwrap();
        std::fs::write(id, "another").unwrap();
    });
}

#[test]
fn strangers_are_put_away_and_directories_come_back() {
    require_machine!();
    let scene = Scene::new();
    for place in [
        "stranger",
        "content/stranger",
        "content/blobs/stranger",
        "content/blobs/sha256/stranger",
        "snapshots/stranger",
        "contexts/stranger",
        "mounts/stranger",
        "explain/builds/stranger",
    ] {
        scene.damaged(&format!("`{place}`"), &|store| {
            std::fs::write(store.join(place), "mine").unwrap();
        });
        // It was not removed.
        let away = files(&scene.kit.path("copy/quarantine"));
        assert_eq!(std::fs::read(&away[0]).unwrap(), b"mine");
    }
    for directory in ["snapshots", "content/blobs", "content"] {
        scene.damaged("is gone", &|store| {
            std::fs::remove_dir_all(store.join(directory)).unwrap();
        });
    }
    for directory in ["mounts", "contexts", "explain", "locks", "leases", "tmp"] {
        std::fs::remove_dir_all(scene.copy().join(directory)).unwrap();
        let said = scene.command(&["store", "check"], "copy");
        assert!(
            said.stdout.contains(&format!("directory `{directory}")),
            "{said}"
        );
        scene.is_right(directory);
        // Nobody needs `store check` for that.
        std::fs::remove_dir_all(scene.copy().join(directory)).unwrap();
        scene.is_right(directory);
    }
}

#[test]
fn an_index_that_is_lost_is_made_anew() {
    require_machine!();
    let scene = Scene::new();
    let index = |store: &Path| store.join("index.db");
    // Its log goes, too: with that, SQLite mends it by itself.
    let spoil = |store: &Path, bytes: &[u8]| {
        std::fs::write(index(store), bytes).unwrap();
        for log in ["index.db-wal", "index.db-shm"] {
            let _ = std::fs::remove_file(store.join(log));
        }
    };
    let has_image = || {
        let said = scene.command(&["run", "kept", "cat", "/two"], "copy");
        assert_eq!(said.stdout, "1\n", "{said}");
    };
    for (what, bytes) in [
        (
            "rubbish",
            &b"rubbish, and enough of it to be no header of anything"[..],
        ),
        ("zeros", &[0; 65536]),
    ] {
        spoil(&scene.copy(), bytes);
        let built = scene.build("copy");
        assert!(
            built.stderr.contains("store check --repair"),
            "{what}: {built}"
        );
        spoil(&scene.copy(), bytes);
        let repaired = scene.command(&["store", "check", "--repair"], "copy");
        assert!(
            repaired.stdout.contains("repaired: the index: "),
            "{repaired}"
        );
        has_image();
        scene.repaired(what);
    }
    // One that is gone, or empty, is no error: what `content/` knows is back.
    let gone = |store: &Path| std::fs::remove_file(index(store)).unwrap();
    let empty = |store: &Path| std::fs::write(index(store), "").unwrap();
    let ways: [&dyn Fn(&Path); 2] = [&gone, &empty];
    for way in ways {
        way(&scene.copy());
        has_image();
        scene.is_right("an index that is gone");
    }
    // Half of it: what can be read is taken over.
    let copy = scene.copy();
    let length = std::fs::metadata(index(&copy)).unwrap().len();
    std::fs::File::options()
        .write(true)
        .open(index(&copy))
        .unwrap()
        .set_len(length / 2 / 4096 * 4096)
        .unwrap();
    let built = scene.build("copy");
    assert!(
        built.code == 0 || built.stderr.contains("store check --repair"),
        "{built}"
    );
    scene.repaired("half of the index");
}

/// Wherever a bit of the index flips: a build says so or is right, and repair makes it right.
#[test]
fn no_bit_of_the_index_leads_a_build_astray() {
    require_machine!();
    let scene = Scene::new();
    let mut random = Random::new(number("RBUILD_FLIPS_SEED", 7));
    let flips = number("RBUILD_FLIPS", 8);
    let (mut found, mut refused) = (0, 0);
    for round in 0..flips {
        let copy = scene.copy();
        let index = copy.join("index.db");
        // Where something is: most pages are full of zeros.
        let bytes = std::fs::read(&index).unwrap();
        let at = loop {
            let at = random.below(bytes.len());
            if bytes[at] != 0 {
                break at;
            }
        };
        let what = format!("flip {round}, at {at} of {}", bytes.len());
        flip(&index, at);
        let built = scene.build("copy");
        if built.code == 0 {
            let files = Archive::read(&scene.kit.path("out.tar")).files;
            assert_eq!(files, scene.expected, "{what}");
        } else {
            refused += 1;
            assert!(
                built.stderr.contains("store check --repair"),
                "{what}: {built}"
            );
        }
        let copy = scene.copy();
        flip(&copy.join("index.db"), at);
        found += u32::from(scene.command(&["store", "check"], "copy").code != 0);
        scene.repaired(&what);
    }
    println!("{flips} bits of the index flipped: {found} found, {refused} builds refused");
}
