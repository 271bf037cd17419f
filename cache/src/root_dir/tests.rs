use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

/// A root with a neighbour that nothing may reach: `outside/secret` beside `root/`.
struct Case {
    directory: tempfile::TempDir,
    root: RootDir,
}

impl Case {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/secret"), "secret").unwrap();
        fs::create_dir(directory.path().join("root")).unwrap();
        let root = RootDir::open_ambient(&directory.path().join("root")).unwrap();
        Self { directory, root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join("root").join(path)
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    /// Nothing out there was made, changed or removed.
    fn assert_outside_untouched(&self) {
        let names: Vec<_> = fs::read_dir(self.outside())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["secret"]);
        assert_eq!(fs::read(self.outside().join("secret")).unwrap(), b"secret");
        let mode = fs::metadata(self.outside().join("secret")).unwrap().mode();
        assert_ne!(mode & 0o777, 0);
    }
}

fn p(path: &str) -> &Path {
    Path::new(path)
}

use Resolve::{Beneath, InRoot};

#[test]
fn paths_are_taken_apart() {
    let split = |path| {
        split_last(p(path)).map(|(parent, name)| {
            let parent = parent.to_str().unwrap().to_owned();
            (parent, name.to_str().unwrap().to_owned())
        })
    };
    let some = |parent: &str, name: &str| Some((parent.to_owned(), name.to_owned()));
    assert_eq!(split("a"), some("", "a"));
    assert_eq!(split("/a"), some("/", "a"));
    assert_eq!(split("a//b/./"), some("a//", "b"));
    assert_eq!(split("a/../b"), some("a/../", "b"));
    for none in ["", "/", ".", "/.", "..", "a/..", "a/../", "//", "./."] {
        assert_eq!(split(none), None, "{none}");
    }
    assert_eq!(relative(p("///a/b")), p("a/b"));
    assert_eq!(relative(p("/")), p("."));
    assert_eq!(relative(p("")), p("."));
}

#[test]
fn links_lead_nowhere_but_into_the_root() {
    let case = Case::new();
    fs::create_dir(case.path("etc")).unwrap();
    fs::write(case.path("etc/passwd"), "inside").unwrap();
    symlink("/etc/passwd", case.path("absolute")).unwrap();
    symlink("../../../../etc/passwd", case.path("relative")).unwrap();
    symlink(case.outside(), case.path("host")).unwrap();
    symlink("/proc/self/root/etc/passwd", case.path("magic")).unwrap();
    symlink("loop", case.path("loop")).unwrap();
    for path in ["absolute", "relative", "/etc/passwd", "../../etc/passwd"] {
        let mut text = String::new();
        let mut file = case.root.open_file(p(path)).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside", "{path}");
    }
    for path in ["host/secret", "magic", "loop", "missing"] {
        assert!(case.root.open_file(p(path)).is_err(), "{path}");
    }
    for path in ["absolute", "relative", "host", "../outside/secret"] {
        assert!(
            case.root.open_file_no_follow(p(path), Beneath).is_err(),
            "{path}"
        );
    }
    assert!(
        case.root
            .open_file_no_follow(p("absolute"), InRoot)
            .is_err()
    );
    // Through a link on the way: refused beneath.
    assert!(case.root.place(p("host/new"), Beneath).is_err());
    assert!(case.root.place(p("host/new"), InRoot).is_err());
    case.assert_outside_untouched();
}

#[test]
fn nothing_but_regular_files_is_opened_and_nothing_blocks() {
    let case = Case::new();
    case.root
        .make_node(p("pipe"), Kind::Fifo, 0o644, 0, InRoot)
        .unwrap();
    case.root.create_dir(p("dir"), 0o755, InRoot).unwrap();
    for path in ["pipe", "dir", ""] {
        let error = case.root.open_file(p(path)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        assert!(
            case.root
                .node_following(p(path))
                .unwrap()
                .open_file()
                .is_err()
        );
    }
}

#[test]
fn each_call_makes_what_it_says_with_exactly_the_mode() {
    let case = Case::new();
    let root = &case.root;
    let file = root.create_file(p("file"), 0o6777, Beneath).unwrap();
    drop(file);
    root.create_dir(p("/dir/"), 0o1777, Beneath).unwrap();
    root.symlink(b"file", p("dir/link"), Beneath).unwrap();
    root.hard_link(p("file"), p("dir/hard"), Beneath).unwrap();
    root.hard_link(p("dir/link"), p("link2"), Beneath).unwrap();
    root.make_node(p("socket"), Kind::Socket, 0o4711, 0, Beneath)
        .unwrap();
    assert!(root.make_node(p("x"), Kind::File, 0, 0, Beneath).is_err());
    let file = root.metadata(p("dir/hard"), Beneath).unwrap();
    assert_eq!((file.kind, file.mode, file.links), (Kind::File, 0o6777, 2));
    let directory = root.metadata(p("dir"), Beneath).unwrap();
    assert_eq!((directory.kind, directory.mode), (Kind::Directory, 0o1777));
    let socket = root.metadata(p("socket"), Beneath).unwrap();
    assert_eq!((socket.kind, socket.mode), (Kind::Socket, 0o4711));
    assert_eq!(
        root.metadata(p("link2"), InRoot).unwrap().kind,
        Kind::Symlink
    );
    assert_eq!(
        root.metadata_following(p("link2")).unwrap().kind,
        Kind::File
    );
    assert_eq!(root.read_link(p("dir/link"), Beneath).unwrap(), p("file"));
    assert!(root.read_link(p("file"), Beneath).is_err());
    let exists = |path| root.exists(p(path), Beneath).unwrap();
    assert!(exists("dir/link") && !exists("dir/none") && !exists("file/none"));
    for taken in ["file", "dir", "link2"] {
        let error = root.create_file(p(taken), 0o644, Beneath).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
    root.rename(p("dir/hard"), p("moved"), Beneath).unwrap();
    let place = |path| root.place(p(path), Beneath).unwrap();
    let mut names: Vec<_> = root
        .read_dir(p("dir"), Beneath)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    names.sort();
    assert_eq!(names, ["link"]);
    root.remove_file(p("dir/link"), Beneath).unwrap();
    place("dir").remove_dir().unwrap();
}

#[test]
fn metadata_of_links_is_their_own() {
    let case = Case::new();
    symlink(case.outside().join("secret"), case.path("link")).unwrap();
    let before = fs::metadata(case.outside().join("secret")).unwrap();
    let node = case.root.node(p("link"), InRoot).unwrap();
    node.set_mode(0o000).unwrap();
    node.set_times((7, 8), (9, 10)).unwrap();
    assert_eq!(node.metadata().unwrap().mtime, (9, 10));
    let place = case.root.place(p("link"), Beneath).unwrap();
    place.set_times((1, 2), (3, 4)).unwrap();
    assert_eq!(place.metadata().unwrap().mtime, (3, 4));
    if rustix::process::geteuid().is_root() {
        node.set_owner(7, 8).unwrap();
        assert_eq!(node.metadata().unwrap().uid, 7);
        place.set_owner(9, 10).unwrap();
        assert_eq!(place.metadata().unwrap().gid, 10);
        node.set_xattr(b"trusted.test", b"1").unwrap();
        assert_eq!(node.xattr(b"trusted.test").unwrap().unwrap(), b"1");
    } else {
        println!("SKIPPED in part: owners and trusted attributes need root");
    }
    assert!(node.set_owner(u32::MAX, 0).is_err());
    let after = fs::metadata(case.outside().join("secret")).unwrap();
    assert_eq!(
        (
            before.mode(),
            before.mtime(),
            before.uid(),
            before.ctime_nsec()
        ),
        (after.mode(), after.mtime(), after.uid(), after.ctime_nsec())
    );
    case.assert_outside_untouched();
}

#[test]
fn attributes_are_set_read_listed_and_removed() {
    let case = Case::new();
    case.root.create_file(p("file"), 0o600, InRoot).unwrap();
    let node = case.root.node(p("file"), InRoot).unwrap();
    if node.set_xattr(b"user.one", &[5; 2000]).is_err() {
        println!("SKIPPED: no extended attributes here");
        return;
    }
    assert_eq!(node.xattr(b"user.one").unwrap().unwrap(), [5; 2000]);
    assert_eq!(node.xattr(b"user.two").unwrap(), None);
    assert!(node.xattr_names().unwrap().contains(&b"user.one".to_vec()));
    node.remove_xattr(b"user.one").unwrap();
    assert_eq!(node.xattr(b"user.one").unwrap(), None);
}

fn create_all(case: &Case, path: &str, resolve: Resolve) -> io::Result<Vec<String>> {
    let mut made = Vec::new();
    case.root
        .create_dir_all(p(path), 0o750, resolve, &mut |path, _, node| {
            assert_eq!(node.metadata()?.mode, 0o750);
            made.push(path.to_str().unwrap().to_owned());
            Ok(())
        })?;
    Ok(made)
}

#[test]
fn missing_parents_are_made_through_links_as_in_a_chroot() {
    let case = Case::new();
    assert_eq!(
        create_all(&case, "/a/b/../c", InRoot).unwrap(),
        ["a", "a/b", "a/c"]
    );
    assert_eq!(create_all(&case, "a/b", InRoot).unwrap(), [""; 0]);
    symlink("/run", case.path("a/link")).unwrap();
    assert_eq!(
        create_all(&case, "a/link/x", InRoot).unwrap(),
        ["run", "run/x"]
    );
    symlink("../../../../tmp/./y", case.path("up")).unwrap();
    assert_eq!(
        create_all(&case, "up/z", InRoot).unwrap(),
        ["tmp", "tmp/y", "tmp/y/z"]
    );
    symlink(case.outside(), case.path("host")).unwrap();
    create_all(&case, "host/new", InRoot).unwrap();
    symlink("self", case.path("self")).unwrap();
    assert!(create_all(&case, "self/x", InRoot).is_err());
    fs::write(case.path("file"), "").unwrap();
    assert!(create_all(&case, "file/x", InRoot).is_err());
    assert!(create_all(&case, "file", InRoot).is_err());
    // Beneath, links refuse; so does leaving the root.
    assert!(create_all(&case, "a/link/q", Beneath).is_err());
    assert!(create_all(&case, "../outside/q", Beneath).is_err());
    assert!(create_all(&case, "q/../../outside/q", Beneath).is_err());
    assert_eq!(create_all(&case, "n/o", Beneath).unwrap(), ["n", "n/o"]);
    case.assert_outside_untouched();
}

#[test]
fn trees_are_removed_whatever_their_depth_and_modes() {
    let case = Case::new();
    let top = case.root.create_dir(p("top"), 0o755, InRoot).unwrap();
    let mut held = top.into_root();
    for _ in 0..400 {
        fs::write(case.path("top/f"), "").unwrap();
        held.symlink(b"/", p("link"), Beneath).unwrap();
        held.create_file(p("file"), 0o000, Beneath).unwrap();
        held = held.create_dir(p("d"), 0o755, Beneath).unwrap().into_root();
    }
    symlink(case.outside(), case.path("top/out")).unwrap();
    fs::create_dir(case.path("top/closed")).unwrap();
    fs::write(case.path("top/closed/file"), "").unwrap();
    fs::set_permissions(case.path("top/closed"), fs::Permissions::from_mode(0o000)).unwrap();
    case.root.remove_tree(p("top"), InRoot).unwrap();
    assert!(!case.root.exists(p("top"), InRoot).unwrap());
    case.root.remove_tree(p("top"), InRoot).unwrap();
    symlink(case.outside(), case.path("out")).unwrap();
    case.root.remove_tree(p("out"), InRoot).unwrap();
    assert!(case.root.remove_tree(p("/"), InRoot).is_err());
    case.assert_outside_untouched();
}

/// A link is swapped with a directory all the time; nothing ever arrives outside.
#[test]
fn a_race_with_links_never_leaves_the_root() {
    let case = Case::new();
    fs::create_dir(case.path("dir")).unwrap();
    symlink(case.outside(), case.path("link")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (one, other) = (case.path("dir"), case.path("link"));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &one, cwd, &other, exchange).unwrap();
            }
        });
        for number in 0..2000 {
            let name = format!("dir/f{number}");
            let _ = case.root.create_file(p(&name), 0o644, Beneath);
            let _ = case
                .root
                .create_file(p(&format!("dir/../dir/g{number}")), 0o644, InRoot);
            let _ = create_all(&case, &format!("dir/d{number}/e"), Beneath);
            assert!(case.root.open_file(p("dir/secret")).is_err());
            let _ = case.root.remove_tree(p("dir/secret"), InRoot);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    case.assert_outside_untouched();
}

#[test]
fn paths_that_are_too_long_for_the_kernel_are_resolved_in_pieces() {
    let case = Case::new();
    let name = "d".repeat(200);
    let mut path = PathBuf::new();
    for _ in 0..50 {
        path.push(&name);
        case.root
            .create_dir(&path, 0o755, Resolve::Beneath)
            .unwrap();
    }
    path.push("file");
    let made = case.root.create_file(&path, 0o640, Resolve::Beneath);
    drop(made.unwrap());
    let found = case.root.metadata(&path, Resolve::Beneath).unwrap();
    assert_eq!((found.kind, found.mode), (Kind::File, 0o640));
    let absent = case.root.metadata(&path.join("x"), Resolve::Beneath);
    assert_eq!(absent.unwrap_err().kind(), io::ErrorKind::NotADirectory);
    // No link is followed on the way.
    let link = Path::new("link");
    case.root
        .symlink(name.as_bytes(), link, Resolve::Beneath)
        .unwrap();
    let rest = path.strip_prefix(&name).unwrap();
    let led = case.root.metadata(&link.join(rest), Resolve::Beneath);
    assert_eq!(
        led.unwrap_err().raw_os_error(),
        Some(Errno::LOOP.raw_os_error())
    );
    case.assert_outside_untouched();
}
