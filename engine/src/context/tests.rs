use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::select::tests::{any_listing, any_pattern};
use crate::select::{Request, select};

struct Kit {
    directory: tempfile::TempDir,
    store: Arc<Store>,
    _store_directory: tempfile::TempDir,
}

impl Kit {
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store_directory = tempfile::tempdir().unwrap();
        let script = format!("set -e; umask 022; {script}");
        let status = Command::new("sh")
            .args(["-c", &script])
            .current_dir(directory.path())
            .status()
            .unwrap();
        assert!(status.success(), "{script}");
        Self {
            directory,
            store: Arc::new(Store::open(&store_directory.path().join("store")).unwrap()),
            _store_directory: store_directory,
        }
    }

    fn context(&self, ignore: &str) -> Context {
        let ignore = Ignore {
            file: ".dockerignore".to_owned(),
            patterns: Patterns::from_file(ignore.as_bytes()).unwrap(),
        };
        Context::open(self.directory.path(), Some(ignore), self.store.clone()).unwrap()
    }

    fn tree(&self, ignore: &str, sources: &[&str]) -> Tree {
        self.context(ignore)
            .tree(&[wanted(sources, false)])
            .unwrap()
    }

    /// Paths of the tree, without the root.
    fn paths(&self, ignore: &str, sources: &[&str]) -> String {
        paths(&self.tree(ignore, sources))
    }
}

fn wanted(sources: &[&str], parents: bool) -> Wanted {
    Wanted {
        sources: sources.iter().map(|source| (*source).to_owned()).collect(),
        parents,
        wildcards: true,
    }
}

fn paths(tree: &Tree) -> String {
    let paths: Vec<_> = tree
        .entries
        .iter()
        .skip(1)
        .map(|entry| String::from_utf8_lossy(&entry.path))
        .collect();
    paths.join(" ")
}

#[test]
fn little_that_is_known_is_looked_at_at_once() {
    let kit = Kit::new("mkdir -p a/b; echo 1 > a/b/one; echo 2 > a/two; ln -s two a/link");
    let sources = [wanted(&["a", "none*"], false)];
    let at_once = || kit.context("").tree_at_once(&sources);
    // Nothing is known of it.
    assert!(at_once().is_none());
    // Files that changed just now are not remembered.
    std::thread::sleep(Duration::from_millis(50));
    let known = kit.tree("", &["a", "none*"]);
    let found = at_once().map(Result::unwrap);
    assert_eq!(
        found.as_ref().map(|tree| &tree.entries),
        Some(&known.entries)
    );
    // One of them has to be read, or there is more.
    fs::write(kit.directory.path().join("a/two"), "changed").unwrap();
    assert!(at_once().is_none());
    let known = kit.tree("", &["a", "none*"]);
    assert_ne!(found.map(|tree| tree.entries), Some(known.entries));
    for number in 0..300 {
        let directory = kit.directory.path().join(format!("a/many/{number}"));
        fs::create_dir_all(directory).unwrap();
    }
    kit.tree("", &["a", "none*"]);
    assert!(at_once().is_none());
}

#[test]
fn only_what_is_named() {
    let kit = Kit::new("mkdir -p d/e other; touch f g d/x d/e/y other/z");
    assert_eq!(kit.paths("", &["f"]), "f");
    assert_eq!(kit.paths("", &["d/e"]), "d d/e d/e/y");
    assert_eq!(kit.paths("", &["d/x", "f", "absent"]), "d d/x f");
    assert_eq!(kit.paths("", &["*"]), "d d/e d/e/y d/x f g other other/z");
    assert_eq!(kit.paths("", &["*/z"]), "d other other/z");
    assert_eq!(kit.paths("", &["../../f"]), "f");
    assert_eq!(kit.paths("", &["."]), "d d/e d/e/y d/x f g other other/z");
    assert_eq!(kit.paths("", &[]), "");
    let parents = kit
        .context("")
        .tree(&[wanted(&["d/./e/*", "other/z"], true)])
        .unwrap();
    assert_eq!(paths(&parents), "d d/e d/e/y other other/z");
}

#[test]
fn links_are_followed_inside() {
    let kit = Kit::new(
        "mkdir dir; echo in >dir/in; ln -s dir dirlink; echo f >real; ln -s /real abs; ln -s abs twice",
    );
    assert_eq!(kit.paths("", &["dirlink/in"]), "dir dir/in dirlink");
    assert_eq!(kit.paths("", &["dirlink"]), "dir dir/in dirlink");
    assert_eq!(kit.paths("", &["twice"]), "abs real twice");
    assert_eq!(kit.paths("real", &["twice"]), "abs twice");
    assert_eq!(kit.paths("", &["*link"]), "dir dir/in dirlink");
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    symlink(outside.path(), kit.directory.path().join("out")).unwrap();
    assert_eq!(kit.paths("", &["out/secret"]), "out");
    symlink("loop", kit.directory.path().join("loop")).unwrap();
    assert_eq!(kit.paths("", &["loop"]), "loop");
}

#[test]
fn ignore_files() {
    let kit = Kit::new(
        "mkdir -p top/mid/leaf docs/public emptied gone/sub; touch top/a top/mid/b top/mid/leaf/c top/mid/leaf/d \
         docs/f docs/public/yes docs/public/no emptied/x gone/sub/y keep",
    );
    let all = |ignore| kit.paths(ignore, &["."]);
    let rest = "*\n!keep\n";
    assert_eq!(all(rest), "keep");
    assert_eq!(
        all("*\n!top/mid/leaf/c\n"),
        "top top/mid top/mid/leaf top/mid/leaf/c"
    );
    assert_eq!(
        all("top\nemptied/*\ngone\nkeep\ndocs\n!docs/public\ndocs/public/no"),
        "docs docs/public docs/public/yes emptied"
    );
    assert_eq!(kit.paths("docs", &["docs/f"]), "");
    assert_eq!(kit.paths("docs\n!docs/f", &["docs/f"]), "docs docs/f");
    assert_eq!(kit.paths("docs\n!docs/f", &["docs/public/no"]), "");
    assert_eq!(kit.paths("docs\n!docs/f", &["d*"]), "docs docs/f");
}

#[test]
fn entries_are_normalised() {
    let kit = Kit::new(
        "mkdir -m 700 d; echo x >d/a; ln d/a d/b; echo y >d/c; ln d/c outside; chmod 4755 d/c; \
                        mkfifo -m 640 d/pipe; ln -s nowhere d/l; touch -d @1000.5 d/a",
    );
    let _socket =
        std::os::unix::net::UnixListener::bind(kit.directory.path().join("d/socket")).unwrap();
    let tree = kit.tree("", &["d"]);
    assert_eq!(paths(&tree), "d d/a d/b d/c d/l d/pipe");
    let entry = |path: &[u8]| tree.get(path).unwrap();
    assert!(
        tree.entries
            .iter()
            .all(|entry| (entry.uid, entry.gid) == (0, 0))
    );
    assert_eq!(entry(b"").mode, 0o755);
    assert_eq!(entry(b"d").mode, 0o700);
    assert_eq!(entry(b"d/c").mode, 0o4755);
    assert_eq!(
        (entry(b"d/pipe").kind, entry(b"d/pipe").mode),
        (Kind::Fifo, 0o640)
    );
    assert_eq!(entry(b"d/l").target, b"nowhere");
    assert_eq!(entry(b"d/a").mtime, (1000, 500_000_000));
    assert_eq!(
        (
            entry(b"d/a").hard_link,
            entry(b"d/b").hard_link,
            entry(b"d/c").hard_link
        ),
        (1, 1, 0)
    );
    assert_eq!(entry(b"d/a").content, *blake3::hash(b"x\n").as_bytes());
    assert_eq!(entry(b"d/a").size, 2);
}

#[test]
fn attributes_are_chosen() {
    let kit = Kit::new("touch f");
    let path = kit.directory.path().join("f");
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&path, "user.note", b"hi", flags).is_err() {
        eprintln!("SKIPPED: no user attributes on this file system");
        return;
    }
    rustix::fs::setxattr(&path, "user.overlay.opaque", b"y", flags).unwrap();
    for sources in [&["f"], &["."]] {
        let tree = kit.tree("", sources);
        assert_eq!(
            tree.get(b"f").unwrap().xattrs,
            [(b"user.note".to_vec(), b"hi".to_vec())]
        );
    }
}

#[test]
fn unchanged_files_are_not_read() {
    let kit = Kit::new("echo one >f; echo two >g");
    let path = kit.directory.path().join("f");
    let old = SystemTime::now() - Duration::from_secs(1000);
    for name in ["f", "g"] {
        let file = fs::File::options()
            .write(true)
            .open(kit.directory.path().join(name))
            .unwrap();
        file.set_modified(old).unwrap();
    }
    // The change of times is a change of the inode, which must lie in the past too.
    std::thread::sleep(Duration::from_millis(50));
    let first = kit.tree("", &["."]);
    assert_eq!(
        first.get(b"f").unwrap().content,
        *blake3::hash(b"one\n").as_bytes()
    );
    // What the cache says is believed, so nothing was read.
    let context = kit.context("");
    let mut cache = kit.store.stat_cache(context.path());
    let metadata = context
        .root()
        .metadata("f".as_ref(), rbuild_cache::root_dir::Resolve::Beneath);
    let known = rbuild_cache::stat_cache::Known {
        content: [7; 32],
        has_xattrs: false,
    };
    cache.put(b"f", hash::stamp(&metadata.unwrap()), known);
    kit.store.save_stat_cache(cache).unwrap();
    assert_eq!(kit.tree("", &["."]).get(b"f").unwrap().content, [7; 32]);
    // Until the file changes.
    fs::write(&path, "new\n").unwrap();
    let changed = kit.tree("", &["."]);
    assert_eq!(
        changed.get(b"f").unwrap().content,
        *blake3::hash(b"new\n").as_bytes()
    );
    // Same size, and the time set back: the inode's own time tells.
    std::thread::sleep(Duration::from_millis(50));
    kit.tree("", &["."]);
    fs::write(&path, "wen\n").unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(old).unwrap();
    assert_eq!(
        kit.tree("", &["."]).get(b"f").unwrap().content,
        *blake3::hash(b"wen\n").as_bytes()
    );
}

#[test]
fn large_files() {
    let kit = Kit::new("head -c 20000000 /dev/urandom >big");
    let bytes = fs::read(kit.directory.path().join("big")).unwrap();
    assert_eq!(
        kit.tree("", &["big"]).get(b"big").unwrap().content,
        *blake3::hash(&bytes).as_bytes()
    );
}

#[test]
fn why_things_are_missing() {
    let kit = Kit::new(
        "mkdir d; touch readme.md d/secret; ln -s ../../etc/passwd out; ln -s /nowhere abs; ln -s gone in",
    );
    let _socket =
        std::os::unix::net::UnixListener::bind(kit.directory.path().join("sock")).unwrap();
    let context = kit.context("# c\nd/secret\nsee*\n");
    let check = |source: &str, expected: &str| {
        assert_eq!(
            context.why_missing(source).to_string(),
            expected,
            "{source}"
        );
    };
    check(
        "README.md",
        "`README.md` is not in the build context; did you mean `readme.md`?",
    );
    check(
        "./d/secret",
        "`d/secret` is excluded from the build context by line 2 of .dockerignore",
    );
    check("/d/x/y", "`d/x` is not in the build context");
    check(
        "out",
        "`out` is a link to `../../etc/passwd`, which leads out of the build context",
    );
    check(
        "abs",
        "`abs` is a link to `/nowhere`, which leads out of the build context",
    );
    check("in", "`gone` is not in the build context");
    check("sock", "`sock` is a socket and cannot be copied");
    check(
        "readme.md",
        "it was not in the build context when the build began",
    );
}

#[test]
fn a_context_that_is_none() {
    let kit = Kit::new("touch f");
    for name in ["f", "absent"] {
        let path = kit.directory.path().join(name);
        let error = Context::open(&path, None, kit.store.clone()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Makes the listing's files as far as they go together.
fn make(listing: &str) -> Kit {
    let kit = Kit::new("");
    for word in listing.split_whitespace() {
        let at = |path: &str| kit.directory.path().join(path);
        let parent = |path: &str| fs::create_dir_all(at(path).parent().unwrap());
        let _ = if let Some(path) = word.strip_suffix('/') {
            fs::create_dir_all(at(path))
        } else if let Some((path, target)) = word.split_once('=') {
            parent(path).and_then(|()| symlink(target, at(path)))
        } else {
            parent(word).and_then(|()| {
                if at(word).symlink_metadata().is_ok() {
                    return Ok(());
                }
                fs::write(at(word), word)?;
                fs::set_permissions(at(word), fs::Permissions::from_mode(0o640))
            })
        };
    }
    kit
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// The whole context is what a plain walk finds.
    #[test]
    fn whole_trees_are_plain_walks(listing in any_listing()) {
        let kit = make(&listing);
        let tree = kit.tree("", &["."]);
        let plain = Tree::scan(rustix::fs::open(
            kit.directory.path(),
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        ).unwrap().as_fd()).unwrap();
        let known = |tree: &Tree| -> Vec<Entry> {
            tree.entries.iter().map(|entry| Entry {
                uid: 0,
                gid: 0,
                mode: if entry.path.is_empty() { 0 } else { entry.mode },
                ..entry.clone()
            }).collect()
        };
        prop_assert_eq!(known(&tree), known(&plain));
    }

    /// What a pattern selects does not depend on how much of the context was looked at.
    #[test]
    fn looking_at_less_selects_the_same(
        listing in any_listing(), pattern in any_pattern(), ignore in any_pattern(), parents: bool,
    ) {
        let kit = make(&listing);
        let Ok(patterns) = Patterns::from_file(ignore.as_bytes()) else { return Ok(()) };
        let ignore = Some(Ignore { file: String::new(), patterns });
        let context = Context::open(kit.directory.path(), ignore, kit.store.clone()).unwrap();
        let whole = context.tree(&[wanted(&["."], false)]).unwrap();
        let part = context.tree(&[wanted(&[&pattern], parents)]).unwrap();
        let select = |tree: &Tree| {
            let selection = select(tree, &Request {
                sources: std::slice::from_ref(&pattern),
                excludes: &Patterns::default(),
                parents,
                wildcards: true,
            });
            // Names of neighbours are hints only.
            selection.map(|selection| (format!("{:?}", selection.sources), selection.key())).map_err(|error| {
                std::mem::discriminant(&error)
            })
        };
        prop_assert_eq!(select(&part), select(&whole), "{}", pattern);
    }
}
