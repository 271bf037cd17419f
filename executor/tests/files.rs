//! File operations on real overlays.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_cache::root_dir::RootDir;
use rbuild_cache::tree::{Kind, Tree};
use rbuild_cache::{Snapshot, SnapshotId, Store};
use rbuild_executor::file::{
    Action, Base, Copy, Error, Input, Least, Made, Owner, Source, Unpacker,
};
use rbuild_executor::{Executor, host};

/// Copies that were listed without being made.
static PACKED: AtomicUsize = AtomicUsize::new(0);

type Outcome = Result<(), Box<dyn std::error::Error>>;
type Test = fn(&Kit) -> Outcome;

const TESTS: &[(&str, Test)] = &[
    ("links of the base lead inside", links_of_the_base),
    ("a tree merges with the base", merging),
    ("what cannot be replaced is named", refusals),
    ("names come from the base's files", owners),
    ("nothing below is read without a base", without_a_base),
    ("hard links, pipes and modes survive", special_files),
    ("working directories and heredocs", workdir_and_heredoc),
    ("a copy of a snapshot's view", from_a_snapshot),
    ("a tree becomes a snapshot", materialised),
    ("what an earlier result has is shared", twins),
    ("new directories between old ones", mixed),
];

fn main() -> ExitCode {
    let host = match host::init() {
        Ok(host) => host,
        Err(error) => {
            println!("SKIPPED all: {error}: {}", error.source);
            return ExitCode::SUCCESS;
        }
    };
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED all: owners need root, here or in a user namespace");
        return ExitCode::SUCCESS;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Arc::new(Store::open(&directory.path().join("store")).expect("a store"));
    let kit = Kit {
        executor: Executor::new(host, store),
        directory,
    };
    let mut failed = 0;
    for (name, test) in TESTS {
        if let Err(error) = test(&kit) {
            println!("FAILED {name}: {error}");
            failed += 1;
        }
    }
    let packed = PACKED.load(Ordering::Relaxed);
    if packed < 6 {
        println!("FAILED: only {packed} copies were left out of their snapshots");
        failed += 1;
    }
    println!("{} passed, {failed} failed", TESTS.len() - failed);
    ExitCode::from(u8::from(failed > 0))
}

struct Kit {
    executor: Executor,
    directory: tempfile::TempDir,
}

struct NoArchives;

impl Unpacker for NoArchives {
    fn is_archive(&self, _file: &mut std::fs::File) -> std::io::Result<bool> {
        Ok(false)
    }

    fn unpack(
        &self,
        _archive: std::fs::File,
        _root: &RootDir,
        _destination: &Path,
        _owner: Option<(u32, u32)>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("nothing is an archive here".into())
    }
}

impl Kit {
    /// A snapshot that a shell script made in an empty directory.
    fn base(&self, script: &str) -> Result<SnapshotId, Box<dyn std::error::Error>> {
        let active = self.executor.store().prepare()?;
        shell(script, active.upper())?;
        Ok(active.commit(None, 0)?.id)
    }

    /// A directory that a shell script filled, as a build context.
    fn context(&self, name: &str, script: &str) -> Result<Input, Box<dyn std::error::Error>> {
        let path = self.directory.path().join(name);
        std::fs::create_dir(&path)?;
        shell(script, &path)?;
        let root = RootDir::open_ambient(&path)?;
        let tree = Tree::scan(std::os::fd::AsFd::as_fd(&root))?;
        Ok(Input {
            root: Arc::new(root),
            tree: Arc::new(tree),
            mutable: true,
        })
    }

    fn copy(
        &self,
        base: Option<&SnapshotId>,
        input: &Input,
        copies: Vec<Copy>,
    ) -> Result<SnapshotId, Error> {
        let actions: Vec<Action> = copies.into_iter().map(Action::Copy).collect();
        let inputs = std::slice::from_ref(input);
        let snapshot = self
            .executor
            .file(on(base), &actions, inputs, &NoArchives)?;
        self.same_when_packed(base, actions, inputs, &snapshot);
        Ok(snapshot.id)
    }

    /// Whatever can be left out of a snapshot is listed as if it were there, and its bytes are found.
    fn same_when_packed(
        &self,
        base: Option<&SnapshotId>,
        actions: Vec<Action>,
        inputs: &[Input],
        snapshot: &Snapshot,
    ) {
        let none = Least { files: 0, bytes: 0 };
        let actions = Arc::from(actions);
        let made = self
            .executor
            .file_to_pack(on(base), &actions, inputs, &NoArchives, none);
        let Made::Packing(packing) = made.unwrap() else {
            return;
        };
        PACKED.fetch_add(1, Ordering::Relaxed);
        let expected = self.executor.store().tree(&snapshot.id).unwrap();
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let timeless = |tree: &Tree| {
            let mut tree = tree.clone();
            for entry in &mut tree.entries {
                // Made on the way, or changed by what was made in it.
                if entry.kind == Kind::Directory && entry.mtime.0 + 3600 > now.cast_signed() {
                    entry.mtime = (0, 0);
                }
            }
            tree
        };
        assert_eq!(timeless(packing.tree()), timeless(&expected));
        let mut reader = packing.reader();
        for (place, entry) in packing.tree().entries.iter().enumerate() {
            if entry.kind == Kind::File && packing.is_elsewhere(place) {
                let mut bytes = Vec::new();
                let read = reader.read(place, &mut |piece| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                });
                read.unwrap();
                assert_eq!(*blake3::hash(&bytes).as_bytes(), entry.content);
            }
        }
    }

    /// What the snapshot added, a line each.
    fn added(&self, id: &SnapshotId) -> Result<String, Box<dyn std::error::Error>> {
        Ok(list(&*self.executor.store().tree(id)?))
    }

    fn text(&self, id: &SnapshotId, path: &str) -> Result<String, Box<dyn std::error::Error>> {
        let view = self.executor.view(Some(id))?;
        Ok(std::io::read_to_string(view.open_file(Path::new(path))?)?)
    }
}

fn on(base: Option<&SnapshotId>) -> Base<'_> {
    Base {
        id: base,
        ..Base::default()
    }
}

fn shell(script: &str, directory: &Path) -> Outcome {
    let script = format!("set -e; umask 022; {script}");
    let status = Command::new("sh")
        .args(["-c", &script])
        .current_dir(directory)
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{script}` failed").into())
    }
}

fn list(tree: &Tree) -> String {
    let mut lines = Vec::new();
    for entry in tree.entries.iter().filter(|entry| !entry.path.is_empty()) {
        let kind = match entry.kind {
            Kind::Directory => "dir ".to_owned(),
            Kind::File => String::new(),
            Kind::Symlink => format!("-> {} ", String::from_utf8_lossy(&entry.target)),
            kind => format!("{kind:?} "),
        };
        let link = match entry.hard_link {
            0 => String::new(),
            number => format!(" #{number}"),
        };
        lines.push(format!(
            "{} {kind}{:o} {}:{}{link}",
            String::from_utf8_lossy(&entry.path),
            entry.mode,
            entry.uid,
            entry.gid
        ));
    }
    lines.join("\n")
}

fn source(input: &Input, path: &str) -> Source {
    Source {
        path: path.into(),
        name: path.rsplit('/').next().unwrap_or_default().into(),
        entries: input.tree.below(path.as_bytes()).to_vec(),
        implied: Vec::new(),
    }
}

fn to(destination: &str, source: Source) -> Copy {
    Copy {
        input: 0,
        sources: vec![source],
        destination: PathBuf::from(destination),
        destination_is_directory: destination.ends_with('/'),
        owner: Owner::Default,
        mode: None,
        mtime: None,
        unpack: false,
    }
}

fn equal(got: &str, expected: &[&str]) -> Outcome {
    let expected = expected.join("\n");
    if got == expected {
        Ok(())
    } else {
        Err(format!("{got:?} is not {expected:?}").into())
    }
}

fn links_of_the_base(kit: &Kit) -> Outcome {
    let base = kit.base("mkdir real; ln -s /real abs; ln -s ../../../real esc; ln -s /made/here dangling; echo old >target; ln -s target link")?;
    let input = kit.context("links", "echo f >f")?;
    let f = || source(&input, "f");
    let id = kit.copy(
        Some(&base),
        &input,
        vec![
            to("/abs/f1", f()),
            to("/esc/f2", f()),
            to("/abs", f()),
            to("/dangling", f()),
            to("/link", f()),
        ],
    )?;
    equal(
        &kit.added(&id)?,
        &[
            "made dir 755 0:0",
            "made/here 644 0:0",
            "real dir 755 0:0",
            "real/f 644 0:0",
            "real/f1 644 0:0",
            "real/f2 644 0:0",
            "target 644 0:0",
        ],
    )?;
    equal(&kit.text(&id, "link")?, &["f\n"])
}

fn merging(kit: &Kit) -> Outcome {
    let base = kit.base("mkdir -p t/sub; echo old >t/sub/a; echo old >t/sub/b; ln -s a t/sub/l; chmod 1777 t; chown 3:3 t/sub t/sub/b")?;
    let input = kit.context("merge", "mkdir -p d/sub/new; echo new >d/sub/b; echo l >d/sub/l; echo x >d/sub/new/x; chown -R 0:0 d; chmod 700 d d/sub; chmod 4750 d/sub/b")?;
    let id = kit.copy(Some(&base), &input, vec![to("/t", source(&input, "d"))])?;
    equal(
        &kit.added(&id)?,
        &[
            "t dir 1777 0:0",
            "t/sub dir 700 0:0",
            "t/sub/b 4750 0:0",
            "t/sub/l 644 0:0",
            "t/sub/new dir 755 0:0",
            "t/sub/new/x 644 0:0",
        ],
    )?;
    equal(&kit.text(&id, "t/sub/b")?, &["new\n"])?;
    equal(&kit.text(&id, "t/sub/a")?, &["old\n"])
}

fn refusals(kit: &Kit) -> Outcome {
    let base = kit.base("mkdir -p t/a/b real; ln -s /real t/sub; echo file >file")?;
    let input = kit.context(
        "refusals",
        "mkdir -p one two/sub; echo a >one/a; echo f >two/sub/f",
    )?;
    let error = |destination: &str, path: &str| {
        let copied = kit.copy(
            Some(&base),
            &input,
            vec![to(destination, source(&input, path))],
        );
        copied.map_or_else(|error| error.to_string(), |_| "copied".to_owned())
    };
    equal(
        &[
            error("/t", "one"),
            error("/t", "two"),
            error("/file", "one"),
        ]
        .join("\n"),
        &[
            "cannot copy `one/a` to `/t/a`: there is a directory already",
            "cannot copy the directory `two/sub` to `/t/sub`: there is something else already, and it is not a directory",
            "`/file` cannot be a directory: it, or something on the way to it, is a file",
        ],
    )
}

fn owners(kit: &Kit) -> Outcome {
    let base =
        kit.base("mkdir etc; echo app:x:1234:4321::/: >etc/passwd; echo grp:x:777: >etc/group")?;
    let input = kit.context("owners", "echo f >f; chmod 2755 f")?;
    let owned = |destination: &str, owner: &str| Copy {
        owner: Owner::Chown(owner.to_owned()),
        ..to(destination, source(&input, "f"))
    };
    let copies = vec![
        owned("/a", "app"),
        owned("/b", "app:grp"),
        owned("/c", ":grp"),
        owned("/d", "ghost"),
        owned("/e/f", "5:nogroup"),
    ];
    let id = kit.copy(Some(&base), &input, copies)?;
    equal(
        &kit.added(&id)?,
        &[
            "a 2755 1234:4321",
            "b 2755 1234:777",
            "c 2755 0:777",
            "d 2755 0:0",
            "e dir 755 5:5",
            "e/f 2755 5:5",
        ],
    )?;
    match kit.copy(None, &input, vec![owned("/a", "app")]) {
        Err(Error::User(_)) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn without_a_base(kit: &Kit) -> Outcome {
    let input = kit.context("link", "echo f >f")?;
    let id = kit.copy(None, &input, vec![to("/via/f", source(&input, "f"))])?;
    equal(&kit.added(&id)?, &["via dir 755 0:0", "via/f 644 0:0"])
}

fn special_files(kit: &Kit) -> Outcome {
    let base = kit.base("mkdir d; echo old >d/b")?;
    let input = kit.context(
        "special",
        "mkdir d; echo x >d/a; ln d/a d/b; mkfifo -m 640 d/pipe; ln -s /nowhere d/l; mkdir -m 2770 d/sg; echo y >d/sg/y; chmod 4755 d/sg/y",
    )?;
    let id = kit.copy(Some(&base), &input, vec![to("/d", source(&input, "d"))])?;
    equal(
        &kit.added(&id)?,
        &[
            "d dir 755 0:0",
            "d/a 644 0:0 #1",
            "d/b 644 0:0 #1",
            "d/l -> /nowhere 777 0:0",
            "d/pipe Fifo 640 0:0",
            "d/sg dir 2770 0:0",
            "d/sg/y 4755 0:0",
        ],
    )
}

fn workdir_and_heredoc(kit: &Kit) -> Outcome {
    let base =
        kit.base("mkdir -m 700 w; chown 3:4 w; mkdir etc; echo app:x:12:34::/: >etc/passwd")?;
    let mkdir = |path: &str, user: &str| Action::Mkdir {
        path: path.into(),
        mode: 0o755,
        owner: Owner::Chown(user.to_owned()),
        mtime: Some(1_000_000_000),
    };
    let actions = [
        mkdir("/w", "app"),
        mkdir("/one/two", "app"),
        mkdir("/three", "ghost"),
        mkdir("/four", "5"),
        mkdir("/five", "12"),
        Action::Mkfile {
            destination: "/one/".into(),
            name: "EOT".to_owned(),
            data: b"text\n".as_slice().into(),
            owner: Owner::Default,
            mode: None,
            mtime: None,
        },
    ];
    let snapshot = kit
        .executor
        .file(on(Some(&base)), &actions, &[], &NoArchives)?;
    equal(
        &kit.added(&snapshot.id)?,
        &[
            "five dir 755 12:12",
            "four dir 755 5:5",
            "one dir 755 12:34",
            "one/EOT 644 0:0",
            "one/two dir 755 12:34",
            "three dir 755 0:0",
        ],
    )?;
    let tree = kit.executor.store().tree(&snapshot.id)?;
    let time = tree.get(b"three").map(|entry| entry.mtime);
    equal(&format!("{time:?}"), &["Some((1000000000, 0))"])
}

fn from_a_snapshot(kit: &Kit) -> Outcome {
    let lower = kit.base(
        "mkdir -p srv/app; echo 1 >srv/app/one; chown 6:7 srv/app/one; chmod 4711 srv/app/one",
    )?;
    let input = kit.context(
        "upper",
        "mkdir app; echo 2 >app/two; head -c 300000 /dev/zero >app/big",
    )?;
    let id = kit.copy(
        Some(&lower),
        &input,
        vec![to("/srv/app", source(&input, "app"))],
    )?;
    let stage = Input {
        root: Arc::new(kit.executor.view(Some(&id))?),
        tree: kit.executor.store().merged_tree(&id)?,
        mutable: false,
    };
    let copy = kit.copy(None, &stage, vec![to("/x", source(&stage, "srv"))])?;
    equal(
        &kit.added(&copy)?,
        &[
            "x dir 755 0:0",
            "x/app dir 755 0:0",
            "x/app/big 644 0:0",
            "x/app/one 4711 6:7",
            "x/app/two 644 0:0",
        ],
    )?;
    equal(&kit.text(&copy, "x/app/two")?, &["2\n"])
}

fn materialised(kit: &Kit) -> Outcome {
    let input = kit.context(
        "whole",
        "mkdir -m 750 d; echo x >d/a; ln d/a d/b; ln -s a d/l; chmod 600 d/a",
    )?;
    let snapshot = kit.executor.materialise(&input, 5)?;
    equal(
        &kit.added(&snapshot.id)?,
        &[
            "d dir 750 0:0",
            "d/a 600 0:0 #1",
            "d/b 600 0:0 #1",
            "d/l -> a 777 0:0",
        ],
    )?;
    equal(&snapshot.created.to_string(), &["5"])?;
    let listed = kit.executor.store().tree(&snapshot.id)?;
    if listed.digest() == input.tree.digest() {
        Ok(())
    } else {
        Err("the snapshot differs from the tree".into())
    }
}

fn twins(kit: &Kit) -> Outcome {
    use std::os::unix::fs::MetadataExt;
    let script = "mkdir -p d/s; for i in $(seq 40); do echo $i >d/s/$i; done; ln d/s/1 d/s/one; : >d/s/empty";
    let before = kit.context("before", script)?;
    let edit = "cp -a ../before/d .; touch d/s/2; echo 33 >d/s/3; chmod 600 d/s/4; echo five >d/s/5; rm d/s/6; \
                mv d/s/7 d/s/77; rm d/s/8; ln -s 9 d/s/8";
    let after = kit.context("after", edit)?;
    let copied = |input: &Input, like: Option<&SnapshotId>, owner: Owner| {
        let mut copy = to("/app", source(input, "d"));
        copy.owner = owner;
        let base = Base {
            like,
            ..Base::default()
        };
        let inputs = std::slice::from_ref(input);
        let actions = [Action::Copy(copy)];
        kit.executor.file(base, &actions, inputs, &NoArchives)
    };
    let store = kit.executor.store();
    let inode = |id: &SnapshotId, name: &str| -> Result<u64, Box<dyn std::error::Error>> {
        let path = store.snapshot_directory(id)?.join("app/s").join(name);
        Ok(std::fs::symlink_metadata(path)?.ino())
    };
    let first = copied(&before, None, Owner::Default)?;
    let alone = copied(&after, None, Owner::Default)?;
    let shared = copied(&after, Some(&first.id), Owner::Default)?;
    let listing = |id: &SnapshotId| store.tree(id).map(|tree| (list(&tree), tree.digest()));
    assert_eq!(listing(&shared.id)?, listing(&alone.id)?);
    let own = ["1", "2", "3", "4", "5", "77", "8"];
    for name in own {
        let new = inode(&shared.id, name)?;
        assert!(
            !inode(&first.id, name).is_ok_and(|old| old == new),
            "{name}"
        );
    }
    for name in ["9", "10", "40", "empty"] {
        assert_eq!(inode(&shared.id, name)?, inode(&first.id, name)?, "{name}");
    }
    // Another owner is another file.
    let owned = copied(&after, Some(&first.id), Owner::Chown("5:6".to_owned()))?;
    assert!(list(&*store.tree(&owned.id)?).contains("app/s/9 644 5:6"));
    assert_ne!(inode(&owned.id, "9")?, inode(&first.id, "9")?);
    let again = copied(&after, Some(&owned.id), Owner::Chown("5:6".to_owned()))?;
    assert_eq!(inode(&owned.id, "9")?, inode(&again.id, "9")?);
    assert_eq!(listing(&owned.id)?, listing(&again.id)?);
    // What is not as it was listed is left.
    let damaged = store.snapshot_directory(&first.id)?.join("app/s/10");
    std::fs::write(damaged, "something else\n")?;
    let anew = copied(&after, Some(&first.id), Owner::Default)?;
    assert_eq!(listing(&anew.id)?, listing(&alone.id)?);
    assert_ne!(inode(&anew.id, "10")?, inode(&first.id, "10")?);
    assert_eq!(kit.text(&anew.id, "app/s/10")?, "10\n");
    Ok(())
}

/// Where only some directories are new, the result is what the overlay alone makes of it.
fn mixed(kit: &Kit) -> Outcome {
    let base = kit.base(
        "mkdir -p app/old/in app/node; echo 1 >app/old/a; echo 1 >app/top; ln -s old app/link; chmod 700 app/old; \
         chown 3:4 app/old app/node; touch -d @99 app/old app/node app",
    )?;
    let script = "mkdir -p d/new/below d/old/in/deep d/only; for i in $(seq 40); do echo $i >d/new/$i; done; \
        echo 2 >d/top; echo 2 >d/old/a; echo 2 >d/old/b; echo x >d/new/below/x; ln d/new/1 d/old/one; \
        ln d/new/2 d/new/two; echo y >d/old/in/deep/y; ln -s /etc d/new/etc; mkfifo d/new/pipe; chmod 4755 d/new/3; \
        touch -d @5 d d/new d/old d/old/in d/old/in/deep d/new/below d/only";
    let input = kit.context("mixed", script)?;
    for destination in ["/app", "/app/link", "/", "/app/old/in"] {
        let copy = Action::Copy(to(destination, source(&input, "d")));
        let nothing = Action::Mkdir {
            path: "/".into(),
            mode: 0o755,
            owner: Owner::Default,
            mtime: None,
        };
        let inputs = std::slice::from_ref(&input);
        let made = |actions: &[Action]| -> Result<_, Box<dyn std::error::Error>> {
            let snapshot = kit
                .executor
                .file(on(Some(&base)), actions, inputs, &NoArchives)?;
            let tree = kit.executor.store().tree(&snapshot.id)?;
            Ok((list(&tree), tree.digest()))
        };
        // Several actions go through the overlay.
        let expected = made(&[nothing, copy.clone()])?;
        let got = made(&[copy])?;
        assert_eq!(got.0, expected.0, "{destination}");
        assert_eq!(got.1, expected.1, "{destination}");
    }
    if host::without_namespaces() {
        println!(
            "SKIPPED that files are shared: without an overlay they are written over copies of the base"
        );
        return Ok(());
    }
    // And it is made in the way in which files can be shared.
    let actions = [Action::Copy(to("/app", source(&input, "d")))];
    let made = |like: Option<&SnapshotId>| {
        let base = Base {
            like,
            ..on(Some(&base))
        };
        let inputs = std::slice::from_ref(&input);
        kit.executor.file(base, &actions, inputs, &NoArchives)
    };
    let first = made(None)?;
    let second = made(Some(&first.id))?;
    let file = |id: &SnapshotId, name: &str| -> Result<_, Box<dyn std::error::Error>> {
        use std::os::unix::fs::MetadataExt;
        let path = kit.executor.store().snapshot_directory(id)?.join(name);
        Ok(std::fs::metadata(path)?.ino())
    };
    assert_eq!(
        file(&first.id, "app/new/9")?,
        file(&second.id, "app/new/9")?
    );
    assert_ne!(
        file(&first.id, "app/old/b")?,
        file(&second.id, "app/old/b")?
    );
    Ok(())
}
