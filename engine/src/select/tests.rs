use proptest::prelude::*;

use super::*;

/// One entry a word: `d/` is a directory, `l=target` a link, `f#1` a file with hard link number 1, else a file whose
/// content is its path.
fn tree(listing: &str) -> Tree {
    let mut tree = Tree::default();
    tree.entries.push(root_entry(Vec::new()));
    for word in listing.split_whitespace() {
        let entry = if let Some(path) = word.strip_suffix('/') {
            Entry {
                mode: 0o755,
                ..Entry::new(path.into(), Kind::Directory)
            }
        } else if let Some((path, target)) = word.split_once('=') {
            Entry {
                target: target.into(),
                content: *blake3::hash(target.as_bytes()).as_bytes(),
                ..Entry::new(path.into(), Kind::Symlink)
            }
        } else {
            Entry {
                mode: 0o644,
                content: *blake3::hash(word.as_bytes()).as_bytes(),
                ..Entry::new(word.into(), Kind::File)
            }
        };
        tree.entries.push(entry);
    }
    tree.sort();
    tree
}

struct Options<'a> {
    excludes: &'a [&'a str],
    parents: bool,
}

const PLAIN: Options<'static> = Options {
    excludes: &[],
    parents: false,
};
const PARENTS: Options<'static> = Options {
    excludes: &[],
    parents: true,
};

fn run(tree: &Tree, sources: &[&str], options: &Options<'_>) -> Result<Selection, Error> {
    let sources: Vec<String> = sources.iter().map(|source| (*source).to_owned()).collect();
    let excludes: Vec<String> = options.excludes.iter().map(|e| (*e).to_owned()).collect();
    select(
        tree,
        &Request {
            sources: &sources,
            excludes: &Patterns::from_list(&excludes).unwrap(),
            parents: options.parents,
            wildcards: true,
        },
    )
}

/// `name: path path`, or `path/: relative ..` for directories; implied ones in brackets.
fn show(result: &Result<Selection, Error>) -> String {
    let selection = match result {
        Ok(selection) => selection,
        Err(error) => return error.to_string(),
    };
    let mut lines = Vec::new();
    for source in &selection.sources {
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let (top, below) = source.entries.split_first().unwrap();
        if top.kind != Kind::Directory {
            assert!(below.is_empty());
            lines.push(format!("{}: {}", text(&source.name), text(&top.path)));
            continue;
        }
        let prefix = source.path.len() + usize::from(!source.path.is_empty());
        let names: Vec<String> = source
            .entries
            .iter()
            .enumerate()
            .skip(1)
            .map(|(index, entry)| {
                let name = text(&entry.path[prefix..]);
                if source.implied.contains(&index) {
                    format!("[{name}]")
                } else {
                    name
                }
            })
            .collect();
        lines.push(
            format!("{}/: {}", text(&source.path), names.join(" "))
                .trim_end()
                .to_owned(),
        );
    }
    lines.join("\n")
}

#[track_caller]
fn check(listing: &str, sources: &[&str], options: &Options<'_>, expected: &str) {
    let got = show(&run(&tree(listing), sources, options));
    assert_eq!(got, expected);
}

#[test]
fn plain_paths() {
    check("f d/ d/x", &["f"], &PLAIN, "f: f");
    check("f d/ d/x", &["f/"], &PLAIN, "f: f");
    check(
        "f d/ d/x",
        &["/f", "../../f", "d/../f", "./d/x"],
        &PLAIN,
        "f: f\nf: f\nf: f\nx: d/x",
    );
    check(
        "f d/ d/x",
        &["d", "d/", "d/."],
        &PLAIN,
        "d/: x\nd/: x\nd/: x",
    );
    check("f d/ d/x", &["."], &PLAIN, "/: d d/x f");
    check("f", &["f/x"], &PLAIN, "`f/x` was not found");
}

#[test]
fn missing_paths_name_their_neighbours() {
    check(
        "readme.md d/ d/main.c",
        &["README.md"],
        &PLAIN,
        "`README.md` was not found; did you mean `readme.md`?",
    );
    check(
        "d/ d/main.c",
        &["d/mian.c"],
        &PLAIN,
        "`d/mian.c` was not found; did you mean `d/main.c`?",
    );
    check(
        "d/ d/main.c",
        &["dd/main.c"],
        &PLAIN,
        "`dd/main.c` was not found; did you mean `d`?",
    );
    check(
        "d/ d/main.c",
        &["absent.txt"],
        &PLAIN,
        "`absent.txt` was not found",
    );
}

#[test]
fn missing_paths_are_those_before_links() {
    let path = |sources, options: &Options<'_>| match run(
        &tree("out=../../etc/passwd l=d d/"),
        sources,
        options,
    ) {
        Err(Error::Missing { path, .. }) => String::from_utf8(path).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(path(&["o*"], &PLAIN), "out");
    assert_eq!(path(&["./l/x/"], &PLAIN), "l/x");
    assert_eq!(path(&["d/./x"], &PARENTS), "d/x");
}

#[test]
fn links_are_followed_inside_the_tree() {
    let listing = "real link=real dir/ dir/in dirlink=dir abslink=/real out=../../../../etc/passwd deep=dir/../link";
    check(listing, &["link"], &PLAIN, "link: real");
    check(listing, &["dirlink"], &PLAIN, "dir/: in");
    check(listing, &["dirlink/in"], &PLAIN, "in: dir/in");
    check(
        listing,
        &["abslink", "deep"],
        &PLAIN,
        "abslink: real\ndeep: real",
    );
    check(
        listing,
        &["*link"],
        &PLAIN,
        "abslink: real\ndir/: in\nlink: real",
    );
    check(listing, &["out"], &PLAIN, "`out` was not found");
    check(
        "a=b b=a",
        &["a"],
        &PLAIN,
        "`a` cannot be followed: more than 255 links, or a circle of them",
    );
}

#[test]
fn wildcards() {
    let listing = "a.txt b.txt ab.txt .hid.txt c.md 1.log 2.log 3.log d.txt/ d.txt/inner";
    check(
        listing,
        &["*.txt"],
        &PLAIN,
        ".hid.txt: .hid.txt\na.txt: a.txt\nab.txt: ab.txt\nb.txt: b.txt\nd.txt/: inner",
    );
    check(
        listing,
        &["?.txt"],
        &PLAIN,
        "a.txt: a.txt\nb.txt: b.txt\nd.txt/: inner",
    );
    check(listing, &["[12].log"], &PLAIN, "1.log: 1.log\n2.log: 2.log");
    check(listing, &["[^1].log"], &PLAIN, "2.log: 2.log\n3.log: 3.log");
    check(listing, &["nothing*here"], &PLAIN, "");
    check(listing, &["nowhere/*"], &PLAIN, "");
    check(listing, &["c.md", "none*"], &PLAIN, "c.md: c.md");
    check("[x].txt x.txt", &["[[]x].txt"], &PLAIN, "[x].txt: [x].txt");
    check(
        listing,
        &["[a-"],
        &PLAIN,
        "`[a-` is not a valid pattern: syntax error in pattern",
    );
}

#[test]
fn wildcards_of_one_segment_each() {
    let listing = "src/ src/one/ src/one/extra src/one/main.c src/two/ src/two/main2.c";
    check(listing, &["src/*/main.c"], &PLAIN, "main.c: src/one/main.c");
    check(
        listing,
        &["s*/o?e/*"],
        &PLAIN,
        "extra: src/one/extra\nmain.c: src/one/main.c",
    );
    check(
        "a/ a/b/ a/b/x.c a/x.c x.c",
        &["**/x.c"],
        &PLAIN,
        "x.c: a/x.c",
    );
    // Names in the order of directories, not of strings.
    check(
        "a/ a/x a-b a.c",
        &["a*"],
        &PLAIN,
        "a/: x\na-b: a-b\na.c: a.c",
    );
    // Links are not walked through by wildcards, but before them.
    check(
        "l=d d/ d/e/ d/e/f",
        &["*/e/f", "l/*/f"],
        &PLAIN,
        "f: d/e/f\nf: d/e/f",
    );
}

#[test]
fn excludes() {
    let listing = "Dockerfile d/ d/a.tmp d/b d/sub/ d/sub/c.tmp d/sub/keep";
    let with = |excludes| Options {
        excludes,
        parents: false,
    };
    check(
        listing,
        &["d"],
        &with(&["*.tmp"]),
        "d/: b sub sub/c.tmp sub/keep",
    );
    check(
        listing,
        &["d"],
        &with(&["**/*.tmp", "sub/keep"]),
        "d/: b sub",
    );
    check(listing, &["d"], &with(&["sub"]), "d/: a.tmp b");
    check(
        listing,
        &["."],
        &with(&["d/*.tmp", "Dockerfile"]),
        "/: d d/b d/sub d/sub/c.tmp d/sub/keep",
    );
    check(
        listing,
        &["d/b", "d/*.tmp"],
        &with(&["b", "*.tmp", "d"]),
        "b: d/b\na.tmp: d/a.tmp",
    );
    let listing = "d/ d/keep.me d/main.c d/other.c d/s/ d/s/main.c";
    check(listing, &["d"], &with(&["**", "!keep.me"]), "d/: keep.me");
    check(
        listing,
        &["d"],
        &with(&["*.c", "!main.c"]),
        "d/: keep.me main.c s s/main.c",
    );
    check(
        listing,
        &["d"],
        &with(&["s", "!s/main.c"]),
        "d/: keep.me main.c other.c [s] s/main.c",
    );
}

#[test]
fn parents() {
    let listing = "a/ a/b/ a/b/c.txt a/b/d/ a/b/d/e.md a/r.md x.txt";
    check(
        listing,
        &["a/b/c.txt", "x.txt"],
        &PARENTS,
        "/: [a] [a/b] a/b/c.txt\n/: x.txt",
    );
    check(listing, &["*/b/*.txt"], &PARENTS, "/: [a] [a/b] a/b/c.txt");
    check(
        listing,
        &["a/**/*.md"],
        &PARENTS,
        "/: [a] [a/b] [a/b/d] a/b/d/e.md a/r.md",
    );
    check(listing, &["**/c.txt"], &PARENTS, "/: [a] [a/b] a/b/c.txt");
    check(
        listing,
        &["a/b/d"],
        &PARENTS,
        "/: [a] [a/b] a/b/d a/b/d/e.md",
    );
    check(listing, &["none*"], &PARENTS, "/:");
    check(listing, &["a/none"], &PARENTS, "`a/none` was not found");
    check(
        listing,
        &["."],
        &PARENTS,
        "/: a a/b a/b/c.txt a/b/d a/b/d/e.md a/r.md x.txt",
    );
}

#[test]
fn parents_with_a_pivot() {
    let listing = "a/ a/b/ a/b/c.txt a/b/d/ a/b/d/e srv/ srv/app/ srv/app/g";
    check(listing, &["a/./b/c.txt"], &PARENTS, "a/: [b] b/c.txt");
    check(listing, &["./a/./b/d"], &PARENTS, "a/: [b] b/d b/d/e");
    check(
        listing,
        &["a/b/./*.txt", "a/./b/d/"],
        &PARENTS,
        "a/b/: c.txt\na/: [b] b/d b/d/e",
    );
    check(listing, &["/srv/./app/g"], &PARENTS, "srv/: [app] app/g");
    check(listing, &["none/./x"], &PARENTS, "`none/./x` was not found");
    check(listing, &["a/./nope"], &PARENTS, "`a/./nope` was not found");
    // Of what wildcards before it match, only directories that have the rest take part.
    check(
        "a/ a/b/ a/b/x c/ c/b f",
        &["*/./b/x", "?/./none"],
        &PARENTS,
        "a/: [b] b/x",
    );
}

#[test]
fn parents_with_excludes() {
    let options = Options {
        excludes: &["**/skip*"],
        parents: true,
    };
    check(
        "a/ a/b/ a/b/skip.txt a/b/take.txt",
        &["a"],
        &options,
        "/: a a/b a/b/take.txt",
    );
}

#[test]
fn literal_paths_of_bind_mounts() {
    let tree = tree("a*b d/ d/f");
    let select_path = |path: &str| {
        let selection = select(
            &tree,
            &Request {
                sources: &[path.to_owned()],
                excludes: &Patterns::default(),
                parents: false,
                wildcards: false,
            },
        );
        show(&selection)
    };
    assert_eq!(select_path("a*b"), "a*b: a*b");
    assert_eq!(select_path("d*"), "`d*` was not found; did you mean `d`?");
}

#[test]
fn names_need_not_be_text() {
    let mut tree = tree("");
    tree.entries
        .push(Entry::new(b"\xff\xfe".to_vec(), Kind::File));
    let selection = run(&tree, &["*"], &PLAIN).unwrap();
    assert_eq!(selection.sources[0].name, b"\xff\xfe");
}

#[test]
fn keys_know_what_matters() {
    let key = |tree: &Tree, sources: &[&str], options: &Options<'_>| {
        run(tree, sources, options).unwrap().key()
    };
    let one = tree("f g d/ d/x d/y");
    let same =
        |other: &Tree, sources: &[&str]| key(&one, sources, &PLAIN) == key(other, sources, &PLAIN);
    // Unrelated files do not matter.
    assert!(same(&tree("f g d/ d/x d/y more"), &["d"]));
    assert!(!same(&tree("f g d/ d/x d/y d/z"), &["d"]));
    // Times and a directory's own mode do not matter.
    let mut other = one.clone();
    for entry in &mut other.entries {
        entry.mtime = (5, 5);
        if entry.path == b"d" {
            entry.mode = 0o700;
        }
    }
    assert!(same(&other, &["d", "f"]));
    other.entries.last_mut().unwrap().mode = 0o600;
    assert!(!same(&other, &["g"]));
    // A directory's name does not matter, a file's does.
    let renamed = tree("e/ e/x");
    let mut original = tree("d/ d/x");
    let content = renamed.get(b"e/x").unwrap().content;
    original.entries.last_mut().unwrap().content = content;
    assert_eq!(
        key(&original, &["d"], &PLAIN),
        key(&renamed, &["e"], &PLAIN)
    );
    assert_ne!(
        key(&original, &["d/x"], &PLAIN),
        key(&original, &["d"], &PLAIN)
    );
    // How sources are written does not matter, their order does.
    assert_eq!(key(&one, &["f"], &PLAIN), key(&one, &["./f/"], &PLAIN));
    assert_ne!(
        key(&one, &["f", "g"], &PLAIN),
        key(&one, &["g", "f"], &PLAIN)
    );
    assert_ne!(key(&one, &["d"], &PLAIN), key(&one, &["d"], &PARENTS));
}

pub(crate) fn any_listing() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(vec!["a", "b", "a-b", "a.c", "*", "d"]);
    let path = proptest::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let entry = (path.clone(), 0..4_u8, path).prop_map(|(path, kind, target)| match kind {
        0 => format!("{path}={target}"),
        1 => format!("{path}/"),
        _ => path,
    });
    proptest::collection::vec(entry, 0..12).prop_map(|entries| entries.join(" "))
}

pub(crate) fn any_pattern() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(vec![
        "a", "b", "a-b", "*", "?", "**", "[a-c]", "..", ".", "", "a*", "\\*", "d", "[", "!a",
    ]);
    proptest::collection::vec(name, 0..4).prop_map(|names| names.join("/"))
}

proptest! {
    #[test]
    fn never_panics(listing in any_listing(), pattern in any_pattern(), exclude in any_pattern(), parents: bool) {
        let tree = tree(&listing);
        let Ok(excludes) = Patterns::from_list(&[exclude]) else { return Ok(()) };
        let result = select(&tree, &Request {
            sources: &[pattern],
            excludes: &excludes,
            parents,
            wildcards: true,
        });
        if let Ok(selection) = result {
            selection.key();
            for source in &selection.sources {
                prop_assert!(!source.entries.is_empty());
                prop_assert!(source.entries.iter().all(|entry| rbuild_cache::tree::is_at_or_below(&entry.path, &source.path)));
                prop_assert!(source.entries.is_sorted_by(|one, other| rbuild_cache::tree::path_order(&one.path, &other.path).is_lt()) || tree.entries.windows(2).any(|pair| pair[0].path == pair[1].path));
            }
        }
    }
}
