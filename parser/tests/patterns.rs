//! Ignore patterns and wildcards, one row a case: patterns, path, what the patterns say.

use rbuild_parser::glob;
use rbuild_parser::ignore::{Patterns, Verdict};

/// `-` not matched, `x` excluded, `+` taken back in.
const VERDICTS: &[(&[&str], &str, char)] = &[
    (&[], "a", '-'),
    (&["a"], "a", 'x'),
    (&["a"], "b", '-'),
    (&["a"], "ab", '-'),
    (&["a"], "a/b", 'x'),
    (&["a"], "a/b/c", 'x'),
    (&["a"], "b/a", '-'),
    (&["a/b"], "a", '-'),
    (&["a/b"], "a/b", 'x'),
    (&["a/b"], "a/b/c", 'x'),
    (&["a/b"], "x/a/b", '-'),
    (&["*"], "a", 'x'),
    (&["*"], "a/b", 'x'),
    (&["*"], ".hidden", 'x'),
    (&["*.log"], "x.log", 'x'),
    (&["*.log"], "d/x.log", '-'),
    (&["*.log"], ".log", 'x'),
    (&["*.log"], "xlog", '-'),
    (&["*.go"], "fileutils.go", 'x'),
    (&["a*"], "ab/c", 'x'),
    (&["a*/b"], "abc/b", 'x'),
    (&["a*/b"], "a/c/b", '-'),
    (&["a*b*c*d*e*/f"], "axbxcxdxe/f", 'x'),
    (&["a*b*c*d*e*/f"], "axbxcxdxexxx/f", 'x'),
    (&["a*b*c*d*e*/f"], "axbxcxdxe/xxx/f", '-'),
    (&["a*b*c*d*e*/f"], "axbxcxdxexxx/fff", '-'),
    (&["a*b?c*x"], "abxbbxdbxebxczzx", 'x'),
    (&["a*b?c*x"], "abxbbxdbxebxczzy", '-'),
    (&["a?"], "ab", 'x'),
    (&["a?"], "a", '-'),
    (&["a?"], "abc", '-'),
    (&["a?b"], "a/b", '-'),
    (&["a?b"], "a☺b", 'x'),
    (&["a???b"], "a☺b", '-'),
    (&["a*b"], "a/b", '-'),
    (&["ab[c]"], "abc", 'x'),
    (&["ab[b-d]"], "abc", 'x'),
    (&["ab[e-g]"], "abc", '-'),
    (&["ab[^c]"], "abc", '-'),
    (&["ab[^b-d]"], "abc", '-'),
    (&["ab[^e-g]"], "abc", 'x'),
    (&["a[b-d]e"], "ae", '-'),
    (&["a[b-d]e"], "ace", 'x'),
    (&["a[b-d]e"], "aae", '-'),
    (&["a[^b-d]e"], "aze", 'x'),
    (&["a[^a]b"], "a☺b", 'x'),
    (&["a[^a][^a][^a]b"], "a☺b", '-'),
    (&["[a-ζ]*"], "α", 'x'),
    (&["*[a-ζ]"], "A", '-'),
    (&["[\\]a]"], "]", 'x'),
    (&["[\\-]"], "-", 'x'),
    (&["[x\\-]"], "x", 'x'),
    (&["[x\\-]"], "-", 'x'),
    (&["[x\\-]"], "z", '-'),
    (&["[\\-x]"], "x", 'x'),
    (&["[\\-x]"], "-", 'x'),
    (&["[\\-x]"], "a", '-'),
    (&["a\\*b"], "a*b", 'x'),
    (&["a\\*b"], "ab", '-'),
    (&["a\\*b"], "axb", '-'),
    (&["a\\\\"], "a\\", 'x'),
    (&["st\\*r"], "star", '-'),
    (&["a(b)c/def"], "a(b)c/def", 'x'),
    (&["a(b)c/def"], "a(b)c/xyz", '-'),
    (&["a.|)$(}+{bc"], "a.|)$(}+{bc", 'x'),
    (&["abc.def"], "abcdef", '-'),
    (&["abc.def"], "abc.def", 'x'),
    (&["abc.def"], "abcZdef", '-'),
    (&["abc?def"], "abcZdef", 'x'),
    (&["abc?def"], "abcdef", '-'),
    (&[".*"], ".foo", 'x'),
    (&[".*"], "foo", '-'),
    (&["a^b"], "a^b", 'x'),
    (&["a^b*"], "a^b", '-'),
    (
        &["dist/*.whl"],
        "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
        'x',
    ),
    (&["**"], "file", 'x'),
    (&["**"], "dir/file", 'x'),
    (&["**/"], "file", 'x'),
    (&["**/"], "dir/file", 'x'),
    (&["**/**"], "dir/file", 'x'),
    (&["dir/**"], "dir/file", 'x'),
    (&["dir/**"], "dir/dir2/file", 'x'),
    (&["dir/**"], "dir", '-'),
    (&["dir/**"], "dir2/file", '-'),
    (&["**/dir"], "dir", 'x'),
    (&["**/dir"], "a/dir", 'x'),
    (&["**/dir"], "a/b/dir", 'x'),
    (&["**/dir"], "dir/file", 'x'),
    (&["**/dir"], "adir", '-'),
    (&["**/dir2/*"], "dir/dir2/file", 'x'),
    (&["**/dir2/**"], "dir/dir2/dir3/file", 'x'),
    (&["**file"], "file", 'x'),
    (&["**file"], "dir/file", 'x'),
    (&["**file"], "dir/afile", 'x'),
    (&["**/file"], "dir/dir/file", 'x'),
    (&["**/file*"], "dir/dir/file", 'x'),
    (&["**/file*"], "dir/dir/file.txt", 'x'),
    (&["**/file*txt"], "dir/dir/file.txt", 'x'),
    (&["**/file*.txt*"], "dir/dir/file.txt", 'x'),
    (&["**/**/*.txt"], "dir/dir/file.txt", 'x'),
    (&["**/**/*.txt2"], "dir/dir/file.txt", '-'),
    (&["**/*.txt"], "file.txt", 'x'),
    (&["**/**/*.txt"], "file.txt", 'x'),
    (&["a**/*.txt"], "a/file.txt", 'x'),
    (&["a**/*.txt"], "a/dir/file.txt", 'x'),
    (&["a**/*.txt"], "a/dir/dir/file.txt", 'x'),
    (&["a/*.txt"], "a/dir/file.txt", '-'),
    (&["a/*.txt"], "a/file.txt", 'x'),
    (&["a/*.txt**"], "a/file.txt", 'x'),
    (&["**/foo/bar"], "foo/bar", 'x'),
    (&["**/foo/bar"], "dir/foo/bar", 'x'),
    (&["**/foo/bar"], "dir/dir2/foo/bar", 'x'),
    (&["**/.foo"], ".foo", 'x'),
    (&["**/.foo"], "bar.foo", '-'),
    (&["a/**/z"], "a/z", 'x'),
    (&["a/**/z"], "a/b/z", 'x'),
    (&["a/**/z"], "a/b/c/z", 'x'),
    (&["a/**/z"], "az", '-'),
    (&["**/*.o"], "x.o", 'x'),
    (&["**/*.o"], "a/b/x.o", 'x'),
    // Order and `!`.
    (&["!a"], "a", '-'),
    (&["a", "!a"], "a", '+'),
    (&["!a", "a"], "a", 'x'),
    (&["a", "!a", "a"], "a", 'x'),
    (&["*.md", "!README.md"], "README.md", '+'),
    (&["*.md", "!README.md"], "other.md", 'x'),
    (
        &["*.md", "!README*.md", "README-secret.md"],
        "README-secret.md",
        'x',
    ),
    (
        &["*.md", "!README*.md", "README-secret.md"],
        "README-a.md",
        '+',
    ),
    (
        &["*.md", "README-secret.md", "!README*.md"],
        "README-secret.md",
        '+',
    ),
    (&["docs", "!docs/README.md"], "docs/README.md", '+'),
    (&["docs/", "!docs/README.md"], "docs/README.md", '+'),
    (&["docs/*", "!docs/README.md"], "docs/README.md", '+'),
    (&["docs", "!docs/README.md"], "docs/x", 'x'),
    (
        &["docs", "!docs/public", "docs/public/no"],
        "docs/public/yes",
        '+',
    ),
    (
        &["docs", "!docs/public", "docs/public/no"],
        "docs/public/no",
        'x',
    ),
    (&["*", "!src"], "src/main.c", '+'),
    (&["*", "!src", "src/**/*_test.c"], "src/a/b_test.c", 'x'),
    (&["*", "!src", "src/**/*_test.c"], "src/b_test.c", 'x'),
    (&["*", "!src", "src/**/*_test.c"], "src/a/b.c", '+'),
    (&["*", "!go.mod"], "go.mod", '+'),
    (&["**", "!util/docker/web"], "util/docker/web/foo", '+'),
    (
        &["**", "!util/docker/web", "util/docker/web/foo"],
        "util/docker/web/foo",
        'x',
    ),
    (&["**", "!dist/*.whl"], "dist/a+b.whl", '+'),
    (&["a", "!b"], "a", 'x'),
    (&["a", "!*"], "a", '+'),
    (&["a/b", "!a"], "a/b", 'x'),
    // Cleaning.
    (&["a/"], "a", 'x'),
    (&["./a"], "a", 'x'),
    (&["a/../b"], "b", 'x'),
    (&["a//b"], "a/b", 'x'),
    (&["  a  "], "a", 'x'),
    (&[""], "a", '-'),
    (&["."], "a", '-'),
    (&["/"], "a", '-'),
    (&["../a"], "a", '-'),
    // What brackets come to, as the pattern goes through a regular expression.
    (&["[*]"], "]", 'x'),
    (&["[*]"], "*", '-'),
    (&["[!a]b"], "!b", 'x'),
    (&["[!a]b"], "cb", '-'),
    (&["[[:digit:]]x"], "7x", 'x'),
    (&["a\\d*"], "a5", 'x'),
    (&["\\A"], "A", '-'),
    (&["\\A*.c"], "a.c", 'x'),
    (&["a\\A"], "aA", '-'),
    (&["a\\z"], "a/b", 'x'),
    (&["a\\z"], "az", '-'),
    (&["a\\z*"], "ab", '-'),
    (&["**/a\\b*"], "x/a.c", 'x'),
    (&["**/a\\b*"], "x/ab", '-'),
    (&["a\\B*"], "ab", 'x'),
    (&["a\\B*"], "a-b", '-'),
    (&["*", "!\\w\\b/x"], "a/x", '+'),
    (&["\\pL"], "L", 'e'),
    (&["\\Q"], "Q", 'e'),
    // What takes back a directory takes back only what was excluded with it.
    (&["d/x", "!d"], "d/x", 'x'),
    (&["d/x", "!d"], "d/y", '-'),
    (&["d", "!d"], "d/x", '+'),
    (&["*", "!d"], "d/x", '+'),
    (&["*", "!d", "d/x"], "d/x", 'x'),
    (&["d/x", "!*"], "d/x", 'x'),
    (&["d/x", "!**"], "d/x", '+'),
    (&["d/x", "!d/**"], "d/x", '+'),
    (&["**/x", "!p"], "p/q/x", 'x'),
    (&["**/x", "!p"], "p/x/y", 'x'),
    (&["**/x", "!p/x"], "p/x/y", '+'),
    (&["p/q", "!p/q/r"], "p/q/r/s", '+'),
    (&["p", "!p/q", "p/q/r"], "p/q/r", 'x'),
    (&["p", "!p/q", "p/q/r", "!p"], "p/q/r", '+'),
    (&["d/a*", "!d", "d/b*"], "d/a", 'x'),
];

#[test]
fn ignore_patterns_decide_as_patternmatcher_does() {
    let mut wrong = Vec::new();
    for (patterns, path, expected) in VERDICTS {
        let list: Vec<String> = patterns
            .iter()
            .map(|pattern| (*pattern).to_owned())
            .collect();
        let verdict = match Patterns::from_list(&list) {
            Ok(patterns) => match patterns.verdict(path.as_bytes()) {
                Verdict::Unmatched => '-',
                Verdict::Excluded { .. } => 'x',
                Verdict::Reincluded { .. } => '+',
            },
            Err(_) => 'e',
        };
        if verdict != *expected {
            wrong.push(format!(
                "{patterns:?} {path:?}: expected {expected}, got {verdict}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(VERDICTS.len() >= 120, "{} rows", VERDICTS.len());
}

#[test]
fn bad_ignore_patterns_name_their_line() {
    for (file, line) in [
        ("[a-", 1),
        ("ok\n\n# c\n[", 4),
        ("!", 1),
        ("a\n ! \n", 2),
        ("[]a]", 1),
        ("[-x]", 1),
        ("[x-]", 1),
        ("\\", 1),
        ("[a-b-c]", 1),
        ("a[", 1),
        ("[^", 1),
    ] {
        let error = Patterns::from_file(file.as_bytes()).expect_err(file);
        assert_eq!(error.line, line, "{file:?}");
    }
}

#[test]
fn ignore_files_are_read_as_docker_does() {
    let patterns = Patterns::from_file(b"\xef\xbb\xbfone\r\n\n  two  \n#three\n /four\nfive/\n./six\n\tseven\t\n e/../eight\r\n ! one \n/\n.\n");
    let patterns = patterns.unwrap();
    let excluded =
        |path: &str| matches!(patterns.verdict(path.as_bytes()), Verdict::Excluded { .. });
    for path in ["two", "four", "five", "five/x", "six", "seven", "eight"] {
        assert!(excluded(path), "{path}");
    }
    assert!(!excluded("three"));
    assert!(!excluded("e"));
    assert_eq!(patterns.verdict(b"one"), Verdict::Reincluded { line: 10 });
    assert_eq!(patterns.verdict(b"two"), Verdict::Excluded { line: 3 });
    assert!(Patterns::from_file(b"\n# only\n").unwrap().is_empty());
}

#[test]
fn excluded_directories_are_walked_only_where_needed() {
    let patterns = |list: &[&str]| {
        Patterns::from_list(&list.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>()).unwrap()
    };
    for (list, directory, expected) in [
        (&["a"][..], "a", false),
        (&["a", "!b"], "a", false),
        (&["a", "!a/b"], "a", true),
        (&["a", "!a/b/c"], "a/b", true),
        (&["a", "!a/b/c"], "a/x", false),
        (&["*", "!src"], "node_modules", false),
        (&["*", "!src/*.c"], "src", true),
        (&["*", "!**/*.c"], "any", true),
        (&["*", "!*/x"], "any", true),
        (&["*", "!\\w*/x"], "any", true),
    ] {
        assert_eq!(
            patterns(list).may_reinclude_below(directory.as_bytes()),
            expected,
            "{list:?} {directory}"
        );
    }
}

#[test]
fn wildcards_match_as_in_go() {
    for (pattern, name, expected) in [
        ("abc", "abc", Some(true)),
        ("*", "abc", Some(true)),
        ("*", "a/b", Some(false)),
        ("*c", "abc", Some(true)),
        ("a*", "a", Some(true)),
        ("a*", "ab/c", Some(false)),
        ("a*/b", "abc/b", Some(true)),
        ("a*/b", "a/c/b", Some(false)),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true)),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
        ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
        ("ab[^e-g]", "abc", Some(true)),
        ("a\\*b", "a*b", Some(true)),
        ("a\\*b", "ab", Some(false)),
        ("a?b", "a☺b", Some(true)),
        ("a[^a]b", "a☺b", Some(true)),
        ("a???b", "a☺b", Some(false)),
        ("[a-ζ]*", "α", Some(true)),
        ("a?b", "a/b", Some(false)),
        ("[\\]a]", "]", Some(true)),
        ("[x\\-]", "-", Some(true)),
        ("[]a]", "]", None),
        ("[-]", "-", None),
        ("[x-]", "x", None),
        ("[a-b-c]", "a", None),
        ("[", "a", None),
        ("[^bc", "a", None),
        ("a[", "a", None),
        ("\\", "a", None),
        ("*x", "xxx", Some(true)),
        ("**", "a", Some(true)),
        ("**", "a/b", Some(false)),
        ("[[]x].txt", "[x].txt", Some(true)),
        ("", "", Some(true)),
        ("", "a", Some(false)),
        ("*", "", Some(true)),
    ] {
        assert_eq!(
            glob::matches(pattern.as_bytes(), name.as_bytes()).ok(),
            expected,
            "{pattern} {name}"
        );
    }
    assert!(glob::matches(b"a?b", b"a\xffb").unwrap());
    for (pattern, expected) in [
        ("a", false),
        ("a*", true),
        ("a\\*", false),
        ("[a]", true),
        ("a?", true),
        ("\\\\*", true),
    ] {
        assert_eq!(
            glob::has_wildcards(pattern.as_bytes()),
            expected,
            "{pattern}"
        );
    }
}

/// Of thousands of stars each can be nothing; none of them is followed again for each one before it.
#[test]
fn stars_in_a_row_cost_what_others_do() {
    let path = "d/".repeat(100) + "file";
    for stars in ["**".repeat(1500), "**/".repeat(1500)] {
        let patterns = Patterns::from_file(format!("{stars}x").as_bytes()).unwrap();
        for _ in 0..3 {
            assert_eq!(patterns.verdict(path.as_bytes()), Verdict::Unmatched);
        }
    }
}
