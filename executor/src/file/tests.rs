//! Against plain directories; overlays are in `executor/tests/`.

use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::process::Command;

use rbuild_cache::tree::Kind;

use super::*;

struct Kit {
    from: tempfile::TempDir,
    to: tempfile::TempDir,
}

struct NoArchives;

impl Unpacker for NoArchives {
    fn is_archive(&self, file: &mut std::fs::File) -> std::io::Result<bool> {
        let mut start = [0; 7];
        Ok(std::io::Read::read(file, &mut start)? == 7 && &start == b"archive")
    }

    fn unpack(
        &self,
        _archive: std::fs::File,
        root: &RootDir,
        destination: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let path = destination.join("unpacked");
        let resolve = rbuild_cache::root_dir::Resolve::InRoot;
        drop(root.create_file(&path, 0o600, resolve)?);
        let (uid, gid) = owner.unwrap_or((7, 8));
        Ok(root.place(&path, resolve)?.set_owner(uid, gid)?)
    }
}

/// A COPY with nothing special.
fn copy_to(destination: &str, sources: Vec<Source>) -> Copy {
    Copy {
        input: 0,
        sources,
        destination: PathBuf::from(destination),
        destination_is_directory: destination.ends_with('/'),
        owner: Owner::Default,
        mode: None,
        mtime: None,
        unpack: false,
    }
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: owners and devices need root");
    }
    is_root
}

impl Kit {
    /// Runs shell commands in an empty source directory and in an empty root.
    fn new(source: &str, root: &str) -> Self {
        let kit = Self {
            from: tempfile::tempdir().unwrap(),
            to: tempfile::tempdir().unwrap(),
        };
        for (script, directory) in [(source, &kit.from), (root, &kit.to)] {
            let script = format!("set -e; umask 022; {script}");
            let status = Command::new("sh")
                .args(["-c", &script])
                .current_dir(directory.path())
                .status()
                .unwrap();
            assert!(status.success(), "{script}");
        }
        kit
    }

    fn input(&self) -> Input {
        let root = RootDir::open_ambient(self.from.path()).unwrap();
        let tree = Tree::scan(root.as_fd()).unwrap();
        Input {
            root: Arc::new(root),
            tree: Arc::new(tree),
            mutable: true,
        }
    }

    fn source(&self, path: &str) -> Source {
        Source {
            path: path.into(),
            name: path.rsplit('/').next().unwrap().into(),
            entries: self.input().tree.below(path.as_bytes()).to_vec(),
            implied: Vec::new(),
        }
    }

    fn run(&self, actions: &[Action]) -> Result<(), Error> {
        self.run_on(actions, &[self.input()])
    }

    fn run_on(&self, actions: &[Action], inputs: &[Input]) -> Result<(), Error> {
        let operation = Operation {
            root: &RootDir::open_ambient(self.to.path()).unwrap(),
            is_scratch: false,
            inputs,
            unpacker: &NoArchives,
            cloning: &Cloning::default(),
        };
        actions
            .iter()
            .try_for_each(|action| operation.action(action))
    }

    fn copy(&self, sources: &[&str], destination: &str) -> Result<(), Error> {
        let sources = sources.iter().map(|path| self.source(path)).collect();
        self.run(&[Action::Copy(copy_to(destination, sources))])
    }

    /// `path kind mode [owner] [content]` a line.
    fn list(&self) -> String {
        let root = RootDir::open_ambient(self.to.path()).unwrap();
        let mut list = String::new();
        for entry in Tree::scan(root.as_fd()).unwrap().entries {
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            if path.is_empty() {
                continue;
            }
            let _ = write!(list, "{path}");
            let _ = match entry.kind {
                Kind::Directory => write!(list, " dir {:o}", entry.mode),
                Kind::File => {
                    let bytes = std::fs::read(self.to.path().join(&path)).unwrap();
                    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                    write!(list, " {:o} '{text}'", entry.mode)
                }
                Kind::Symlink => write!(list, " -> {}", String::from_utf8_lossy(&entry.target)),
                kind => write!(list, " {kind:?} {:o}", entry.mode),
            };
            if is_root() && (entry.uid, entry.gid) != (0, 0) {
                let _ = write!(list, " {}:{}", entry.uid, entry.gid);
            }
            if entry.hard_link != 0 {
                let _ = write!(list, " #{}", entry.hard_link);
            }
            list.push('\n');
        }
        list
    }
}

/// One COPY and what is in the root then, or the error.
#[track_caller]
fn check(source: &str, root: &str, sources: &[&str], destination: &str, expected: &str) {
    let kit = Kit::new(source, root);
    let got = match kit.copy(sources, destination) {
        Ok(()) => kit.list(),
        Err(error) => error.to_string(),
    };
    let expected: Vec<&str> = expected
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let got: Vec<&str> = got.lines().collect();
    assert_eq!(got, expected);
}

#[test]
fn a_file_to_a_name_makes_parents() {
    check(
        "echo f >f; chmod 640 f",
        "",
        &["f"],
        "/deep/er/name",
        "
        deep dir 755
        deep/er dir 755
        deep/er/name 640 'f'",
    );
}

#[test]
fn a_file_to_a_directory() {
    check("echo f >f", "", &["f"], "/d/", "d dir 755\nd/f 644 'f'");
    check(
        "echo f >f",
        "mkdir -m 700 d",
        &["f"],
        "/d",
        "d dir 700\nd/f 644 'f'",
    );
    check("echo f >f", "", &["f"], "/", "f 644 'f'");
}

#[test]
fn several_to_a_name_the_last_wins() {
    check("echo a >a; echo b >b", "", &["a", "b"], "/to", "to 644 'b'");
    check(
        "mkdir d; echo x >d/x; echo f >f",
        "",
        &["d", "f"],
        "/to/",
        "
        to dir 755
        to/f 644 'f'
        to/x 644 'x'",
    );
}

#[test]
fn a_directory_gives_its_content() {
    check(
        "mkdir -p d/s/e; echo 1 >d/f; chmod 711 d; chmod 700 d/s; chmod 751 d/s/e",
        "",
        &["d"],
        "/t",
        "
        t dir 755
        t/f 644 '1'
        t/s dir 700
        t/s/e dir 751",
    );
}

#[test]
fn a_directory_over_one_merges() {
    if !is_root() {
        return;
    }
    check(
        "mkdir -p d/sub; echo new >d/sub/b; chmod 700 d d/sub",
        "mkdir -p t/sub; echo old >t/sub/a; echo old >t/sub/b; chmod 1777 t; chown 3:3 t/sub",
        &["d"],
        "/t",
        "
        t dir 1777
        t/sub dir 700
        t/sub/a 644 'old'
        t/sub/b 644 'new'",
    );
}

#[test]
fn below_setgid_new_directories_are_of_its_group() {
    if !is_root() {
        return;
    }
    check(
        "mkdir -p d/s; echo f >d/f; chmod 700 d/s",
        "mkdir t; chown 3:50 t; chmod 2775 t",
        &["d"],
        "/t/a/b",
        "
        t dir 2775 3:50
        t/a dir 2755 0:50
        t/a/b dir 2755 0:50
        t/a/b/f 644 'f'
        t/a/b/s dir 700",
    );
}

#[test]
fn links_in_destinations() {
    // Of a file: followed, whether it leads somewhere or not.
    check(
        "echo new >f",
        "echo old >target; ln -s /target link",
        &["f"],
        "/link",
        "
        link -> /target
        target 644 'new'",
    );
    check(
        "echo new >f",
        "ln -s some/where link",
        &["f"],
        "/link",
        "
        link -> some/where
        some dir 755
        some/where 644 'new'",
    );
    // Of a directory: followed inside the root, however it is written.
    check(
        "echo f >f",
        "mkdir real; ln -s ../../../../real esc",
        &["f"],
        "/esc/g",
        "
        esc -> ../../../../real
        real dir 755
        real/g 644 'f'",
    );
    check(
        "echo f >f",
        "mkdir real; ln -s /real abs",
        &["f"],
        "/abs",
        "
        abs -> /real
        real dir 755
        real/f 644 'f'",
    );
    // A link to `..` is the parent of where it really lies.
    check(
        "echo f >f",
        "mkdir -p srv/www; ln -s /srv/www abs; ln -s .. srv/www/up",
        &["f"],
        "/abs/up",
        "
        abs -> /srv/www
        srv dir 755
        srv/f 644 'f'
        srv/www dir 755
        srv/www/up -> ..",
    );
    // Inside a destination directory a link is replaced.
    check(
        "echo f >f",
        "mkdir d; ln -s /target d/f",
        &["f"],
        "/d/",
        "
        d dir 755
        d/f 644 'f'",
    );
    check(
        "mkdir s; echo f >s/f",
        "mkdir d; echo t >target; ln -s /target d/f",
        &["s"],
        "/d",
        "
        d dir 755
        d/f 644 'f'
        target 644 't'",
    );
    check(
        "echo f >f",
        "ln -s a b; ln -s b a",
        &["f"],
        "/a",
        "cannot follow the link `/b`",
    );
}

#[test]
fn what_cannot_be_replaced() {
    check(
        "mkdir d; echo a >d/a",
        "echo x >t",
        &["d"],
        "/t",
        "`/t` cannot be a directory: it, or something on the way to it, is a file",
    );
    check(
        "mkdir d; echo a >d/a",
        "mkdir -p t/a/b",
        &["d"],
        "/t",
        "cannot copy `d/a` to `/t/a`: there is a directory already",
    );
    check(
        "mkdir -p d/sub; echo a >d/sub/a",
        "mkdir -p t real; ln -s /real t/sub",
        &["d"],
        "/t",
        "cannot copy the directory `d/sub` to `/t/sub`: there is something else already, and it is not a directory",
    );
    check(
        "echo x >t",
        "mkdir -p d/t",
        &["t"],
        "/d/",
        "cannot replace the directory `/d/t` with a file",
    );
}

#[test]
fn modes_links_and_special_files() {
    check(
        "mkdir d; cd d; for m in 4755 2755 1777 000; do echo $m >$m; chmod $m $m; done; mkfifo -m 640 pipe; \
           ln -s nowhere l; echo x >a; ln a b",
        "",
        &["d"],
        "/d",
        "
        d dir 755
        d/000 0 '000'
        d/1777 1777 '1777'
        d/2755 2755 '2755'
        d/4755 4755 '4755'
        d/a 644 'x' #1
        d/b 644 'x' #1
        d/l -> nowhere
        d/pipe Fifo 640",
    );
}

#[test]
fn hard_links_replace_what_is_there() {
    check(
        "mkdir d; echo x >d/a; ln d/a d/b",
        "mkdir d; echo old >d/a; echo old >d/b",
        &["d"],
        "/d",
        "
        d dir 755
        d/a 644 'x' #1
        d/b 644 'x' #1",
    );
}

#[test]
fn owners_reach_everything_that_is_made() {
    if !is_root() {
        return;
    }
    let kit = Kit::new(
        "mkdir -p d/sub; echo f >d/sub/f; chmod 4755 d/sub/f",
        "mkdir have",
    );
    let copy = Copy {
        owner: Owner::Chown("9:8".to_owned()),
        ..copy_to("/have/new/d", vec![kit.source("d")])
    };
    kit.run(&[Action::Copy(copy)]).unwrap();
    assert_eq!(
        kit.list(),
        "have dir 755\nhave/new dir 755 9:8\nhave/new/d dir 755 9:8\nhave/new/d/sub dir 755 9:8\n\
         have/new/d/sub/f 4755 'f' 9:8\n"
    );
}

#[test]
fn octal_modes_reach_parents_and_symbolic_ones_do_not() {
    let kit = Kit::new("mkdir -p d/s; echo g >d/s/g", "");
    let mode = |mode, destination| {
        Action::Copy(Copy {
            mode: Some(mode),
            ..copy_to(destination, vec![kit.source("d")])
        })
    };
    let clause = ModeClause {
        who: 0o077,
        operator: ModeOperator::Remove,
        permissions: 5,
        conditional_execute: false,
        setid: false,
        sticky: false,
        copy_from: None,
    };
    kit.run(&[
        mode(ModeChange::Set(0o700), "/new/d"),
        mode(ModeChange::Symbolic(vec![clause]), "/sym/d"),
    ])
    .unwrap();
    assert_eq!(
        kit.list(),
        "new dir 700\nnew/d dir 700\nnew/d/s dir 700\nnew/d/s/g 700 'g'\n\
         sym dir 755\nsym/d dir 755\nsym/d/s dir 700\nsym/d/s/g 600 'g'\n"
    );
}

#[test]
fn times_are_those_of_the_source() {
    let kit = Kit::new(
        "mkdir -p d/s; echo a >d/s/a; ln -s a d/s/l; touch -h -d @1000 d/s/l; touch -d @2000.5 d/s/a; \
         touch -d @3000 d/s; touch -d @4000 d",
        "",
    );
    kit.copy(&["d"], "/t").unwrap();
    let root = RootDir::open_ambient(kit.to.path()).unwrap();
    let tree = Tree::scan(root.as_fd()).unwrap();
    let mtime = |path: &[u8]| tree.get(path).unwrap().mtime;
    assert_eq!(mtime(b"t"), (4000, 0));
    assert_eq!(mtime(b"t/s"), (3000, 0));
    assert_eq!(mtime(b"t/s/a"), (2000, 500_000_000));
    assert_eq!(mtime(b"t/s/l"), (1000, 0));
}

#[test]
fn workdirs_and_heredocs() {
    let kit = Kit::new(
        "",
        "mkdir -m 711 have; mkdir etc; echo 'app:x:12:34::/:' >etc/passwd",
    );
    let mkdir = |path: &str, user: &str, mtime| Action::Mkdir {
        path: path.into(),
        mode: 0o755,
        owner: match user {
            "" => Owner::Default,
            user => Owner::Chown(user.to_owned()),
        },
        mtime,
    };
    let mkfile = |destination: &str, mode| Action::Mkfile {
        destination: destination.into(),
        name: "EOT".to_owned(),
        data: b"text\n".as_slice().into(),
        owner: Owner::Default,
        mode,
        mtime: Some(77),
    };
    kit.run(&[
        mkdir("/have", "", None),
        mkdir("/have/more", "ghost", Some(5)),
        mkfile("/have", None),
        mkfile("/new/", None),
        mkfile("/new/name", Some(ModeChange::Set(0o755))),
    ])
    .unwrap();
    assert_eq!(
        kit.list(),
        "etc dir 755\netc/passwd 644 'app:x:12:34::/:'\nhave dir 711\nhave/EOT 644 'text'\nhave/more dir 755\n\
         new dir 755\nnew/EOT 644 'text'\nnew/name 755 'text'\n"
    );
    let modified = std::fs::metadata(kit.to.path().join("have/more")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mtime(&modified), 5);
    if is_root() {
        let kit = Kit::new("", "mkdir etc; echo 'app:x:12:34::/:' >etc/passwd");
        kit.run(&[mkdir("/one/two", "app", None)]).unwrap();
        assert!(
            kit.list()
                .ends_with("one dir 755 12:34\none/two dir 755 12:34\n")
        );
    }
    let error = Kit::new("", "touch file").run(&[mkdir("/file/x", "", None)]);
    assert!(error.unwrap_err().to_string().contains("/file/x"));
}

#[test]
fn archives_are_unpacked_only_where_asked() {
    if !is_root() {
        return;
    }
    let kit = Kit::new("printf 'archive!' >a; echo no >n", "");
    let add = |destination: &str, unpack, owner: Owner| {
        Action::Copy(Copy {
            unpack,
            owner,
            mode: Some(ModeChange::Set(0o600)),
            ..copy_to(destination, vec![kit.source("a"), kit.source("n")])
        })
    };
    kit.run(&[
        add("/x/", true, Owner::Default),
        add("/y/", true, Owner::Chown("1:2".into())),
        add("/z/", false, Owner::Default),
    ])
    .unwrap();
    assert_eq!(
        kit.list(),
        "x dir 755\nx/n 600 'no'\nx/unpacked 600 '' 7:8\n\
         y dir 755 1:2\ny/n 600 'no' 1:2\ny/unpacked 600 '' 1:2\n\
         z dir 600\nz/a 600 'archive!'\nz/n 600 'no'\n"
    );
}

#[test]
fn changes_while_copying_are_noticed() {
    let kit = Kit::new(
        "mkdir d; echo one >d/f; head -c 300000 /dev/zero >d/big",
        "",
    );
    let input = kit.input();
    let source = kit.source("d");
    let run = |kit: &Kit| {
        let copy = copy_to("/t", vec![source.clone()]);
        kit.run_on(&[Action::Copy(copy)], std::slice::from_ref(&input))
    };
    let path = kit.from.path().join("d/f");
    let times = std::fs::metadata(&path).unwrap().modified().unwrap();
    run(&kit).unwrap();
    // Same size, same time, other bytes.
    std::fs::write(&path, "two\n").unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(times).unwrap();
    assert!(matches!(run(&kit), Err(Error::Changed(path)) if path == "d/f"));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(run(&kit), Err(Error::Changed(_))));
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(run(&kit), Err(Error::Changed(_))));
    // A directory on the way that became a link.
    std::fs::rename(kit.from.path().join("d"), kit.from.path().join("e")).unwrap();
    std::os::unix::fs::symlink("e", kit.from.path().join("d")).unwrap();
    assert!(matches!(run(&kit), Err(Error::Changed(_))));
}

#[test]
fn large_files_and_holes() {
    let kit = Kit::new(
        "mkdir d; head -c 3000000 /dev/urandom >d/full; truncate -s 5M d/hole; \
         head -c 200000 /dev/urandom | dd of=d/middle bs=1M seek=3 conv=notrunc status=none; truncate -s 9M d/middle",
        "",
    );
    kit.copy(&["d"], "/d").unwrap();
    for name in ["full", "hole", "middle"] {
        let from = std::fs::read(kit.from.path().join("d").join(name)).unwrap();
        let to = std::fs::read(kit.to.path().join("d").join(name)).unwrap();
        assert!(from == to, "{name}");
    }
    let blocks = |name| {
        let metadata = std::fs::metadata(kit.to.path().join("d").join(name)).unwrap();
        std::os::unix::fs::MetadataExt::blocks(&metadata)
    };
    assert!(blocks("hole") < 100);
    assert!(blocks("middle") < 1000);
}

#[test]
fn implied_directories_keep_the_owner_of_old_ones() {
    if !is_root() {
        return;
    }
    let kit = Kit::new(
        "mkdir -p p/q; echo f >p/q/f; chmod 700 p; chmod 711 p/q",
        "mkdir -p t/p; chown 5:5 t/p",
    );
    let mut source = kit.source("");
    source.entries.retain(|entry| entry.path != b"x");
    source.implied = vec![1, 2];
    kit.run(&[Action::Copy(copy_to("/t", vec![source]))])
        .unwrap();
    assert_eq!(
        kit.list(),
        "t dir 755\nt/p dir 700 5:5\nt/p/q dir 711\nt/p/q/f 644 'f'\n"
    );
}

#[test]
fn extended_attributes_come_along() {
    let kit = Kit::new("mkdir d; echo f >d/f", "");
    let name = kit.from.path().join("d/f");
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&name, "user.note", b"hi", flags).is_err() {
        eprintln!("SKIPPED: no user attributes on this file system");
        return;
    }
    kit.copy(&["d"], "/t").unwrap();
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(kit.to.path().join("t/f"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"hi");
}

#[test]
fn unknown_names_on_nothing_are_refused() {
    let kit = Kit::new("echo f >f", "");
    let operation = Operation {
        root: &RootDir::open_ambient(kit.to.path()).unwrap(),
        is_scratch: true,
        inputs: &[kit.input()],
        unpacker: &NoArchives,
        cloning: &Cloning::default(),
    };
    let copy = |owner: &str| {
        operation.action(&Action::Copy(Copy {
            owner: Owner::Chown(owner.to_owned()),
            ..copy_to("/f", vec![kit.source("f")])
        }))
    };
    assert!(copy("someone").unwrap_err().to_string().contains("someone"));
    if is_root() {
        copy("5:6").unwrap();
    }
}
