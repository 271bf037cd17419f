//! What words expand to: one row a case. Variables: those of [`Table::get`]; everything else is not set.

use rbuild_parser::ast::Escape;
use rbuild_parser::expand::{self, Variables};

struct Table;

impl Variables for Table {
    fn get(&self, name: &str) -> Option<String> {
        let value = match name {
            "A" => "a",
            "B" => "b",
            "AB" => "ab",
            "A_B" => "under",
            "_x" => "underscore",
            "n1" => "digit",
            "EMPTY" => "",
            "TWO" => "two words",
            "QUOTED" => "say \"hi\" it's",
            "DOLLAR" => "$A",
            "SLASH" => "back\\slash",
            "P" => "/usr/local/lib/libz.so.1.2",
            "D" => "a.b.c",
            "V" => "aXbXc",
            "W" => "foo.bar.baz",
            "STARS" => "a*b*c",
            "Q" => "x?y",
            "ONE" => "one-two-one",
            "R" => "1",
            "S" => "one",
            "LINES" => "one\ntwo\nthree",
            "UTF" => "äöü",
            "größe" => "gross",
            "BRACES" => "{x}",
            "REPEAT" => "aaaa",
            "PATHS" => "/a/b",
            "PERCENT" => "50%",
            "HASH" => "#1",
            _ => return None,
        };
        Some(value.to_owned())
    }
}

/// `Ok` is the whole expansion, `Err` words that the message has.
type Row = (&'static str, Result<&'static str, &'static str>);

const WORDS: &[Row] = &[
    // Plain text and quotes.
    ("", Ok("")),
    ("plain", Ok("plain")),
    ("two words", Ok("two words")),
    ("'single'", Ok("single")),
    ("\"double\"", Ok("double")),
    ("a'b'c\"d\"e", Ok("abcde")),
    ("'a\"b'", Ok("a\"b")),
    ("\"a'b\"", Ok("a'b")),
    ("''", Ok("")),
    ("\"\"", Ok("")),
    ("''\"\"x", Ok("x")),
    ("'a  b'", Ok("a  b")),
    ("'\\'", Ok("\\")),
    ("'a\\nb'", Ok("a\\nb")),
    ("'$A'", Ok("$A")),
    ("'${A'", Ok("${A")),
    ("'", Err("single quote")),
    ("a'b", Err("single quote")),
    ("\"", Err("double quote")),
    ("a\"b", Err("double quote")),
    ("\"a'", Err("double quote")),
    ("'a\"", Err("single quote")),
    ("it's", Err("single quote")),
    ("\"it's\"", Ok("it's")),
    // The escape character.
    ("a\\b", Ok("ab")),
    ("a\\ b", Ok("a b")),
    ("\\\\", Ok("\\")),
    ("\\'", Ok("'")),
    ("\\\"", Ok("\"")),
    ("\\$A", Ok("$A")),
    ("\\\\$A", Ok("\\a")),
    ("\\\\\\$A", Ok("\\$A")),
    ("end\\", Ok("end")),
    ("\\", Ok("")),
    ("\"a\\b\"", Ok("a\\b")),
    ("\"a\\\\b\"", Ok("a\\b")),
    ("\"a\\\"b\"", Ok("a\"b")),
    ("\"\\$A\"", Ok("$A")),
    ("\"\\'\"", Ok("\\'")),
    ("\"\\`\"", Ok("\\`")),
    ("\"a\\", Err("double quote")),
    ("\\n", Ok("n")),
    ("\\ä", Ok("ä")),
    // Names.
    ("$A", Ok("a")),
    ("${A}", Ok("a")),
    ("x$A", Ok("xa")),
    ("$A$B", Ok("ab")),
    ("$A.B", Ok("a.B")),
    ("$A-b", Ok("a-b")),
    ("$A/b", Ok("a/b")),
    ("$A_B", Ok("under")),
    ("${A}_B", Ok("a_B")),
    ("$AB", Ok("ab")),
    ("${A}B", Ok("aB")),
    ("$_x", Ok("underscore")),
    ("$n1", Ok("digit")),
    ("$n1x", Ok("")),
    ("$größe", Ok("gross")),
    ("$NONE", Ok("")),
    ("x${NONE}y", Ok("xy")),
    ("$EMPTY", Ok("")),
    ("$TWO", Ok("two words")),
    ("$QUOTED", Ok("say \"hi\" it's")),
    ("$DOLLAR", Ok("$A")),
    ("$SLASH", Ok("back\\slash")),
    ("\"$TWO\"", Ok("two words")),
    ("\"$A'$B'\"", Ok("a'b'")),
    ("$A'$A'\"$A\"", Ok("a$Aa")),
    ("'$A'$A", Ok("$Aa")),
    ("\"${A}\"", Ok("a")),
    ("$A\\_x", Ok("a_x")),
    ("$UTF", Ok("äöü")),
    // A dollar that is none, special parameters, digits.
    ("$", Ok("$")),
    ("a$", Ok("a$")),
    ("$ A", Ok("$ A")),
    ("\"$\"", Ok("$")),
    ("$.", Ok("$.")),
    ("$/x", Ok("$/x")),
    ("$1", Ok("")),
    ("$1x", Ok("x")),
    ("$12x", Ok("x")),
    ("$?", Ok("")),
    ("$$", Ok("")),
    ("$$A", Ok("A")),
    ("$-x", Ok("x")),
    ("$@", Ok("")),
    ("$*", Ok("")),
    ("$#", Ok("")),
    ("$!", Ok("")),
    ("${1}", Ok("")),
    ("${?}", Ok("")),
    ("$'A'", Ok("$A")),
    ("$\"A\"", Ok("$A")),
    ("$(A)", Ok("$(A)")),
    // Defaults.
    ("${A:-d}", Ok("a")),
    ("${EMPTY:-d}", Ok("d")),
    ("${NONE:-d}", Ok("d")),
    ("${A-d}", Ok("a")),
    ("${EMPTY-d}", Ok("")),
    ("${NONE-d}", Ok("d")),
    ("${NONE:-}", Ok("")),
    ("${NONE-}", Ok("")),
    ("${NONE:-two words}", Ok("two words")),
    ("${NONE:-'$A'}", Ok("$A")),
    ("${NONE:-\"$A\"}", Ok("a")),
    ("${NONE:-\"}\"}", Ok("}")),
    ("${NONE:-'}'}", Ok("}")),
    ("${NONE:-\\}}", Ok("}")),
    ("${NONE:-$A}", Ok("a")),
    ("${NONE:-${A}}", Ok("a")),
    ("${NONE:-${NOPE:-$B}}", Ok("b")),
    ("${NONE:-${A}-${NOPE:-$B}}", Ok("a-b")),
    ("${NONE:-a:b}", Ok("a:b")),
    ("${NONE:--1}", Ok("-1")),
    ("${NONE:-{x}", Ok("{x")),
    ("${NONE:-/}", Ok("/")),
    ("\"${NONE:-d}\"", Ok("d")),
    ("\"${NONE:-a b}\"", Ok("a b")),
    ("\"${NONE:-it's}\"", Err("quote")),
    ("\"${NONE:-\"q\"}\"", Ok("q")),
    // Alternatives.
    ("${A:+p}", Ok("p")),
    ("${EMPTY:+p}", Ok("")),
    ("${NONE:+p}", Ok("")),
    ("${A+p}", Ok("p")),
    ("${EMPTY+p}", Ok("p")),
    ("${NONE+p}", Ok("")),
    ("${A:+<${B}>}", Ok("<b>")),
    ("${A:+$NONE}", Ok("")),
    ("${A:+${B:+${AB}}}", Ok("ab")),
    // Demands.
    ("${A:?gone}", Ok("a")),
    ("${A?gone}", Ok("a")),
    ("${A?}", Ok("a")),
    ("${EMPTY?gone}", Ok("")),
    ("${EMPTY:?gone}", Err("EMPTY: gone")),
    ("${EMPTY:?}", Err("EMPTY: is not allowed to be empty")),
    ("${NONE:?please give it}", Err("NONE: please give it")),
    ("${NONE?gone}", Err("NONE: gone")),
    ("${NONE:?}", Err("NONE: is not allowed to be unset")),
    ("${NONE:?no $A}", Err("NONE: no a")),
    ("${A:+${NONE:?inner}}", Err("NONE: inner")),
    // Prefixes.
    ("${P#*/}", Ok("usr/local/lib/libz.so.1.2")),
    ("${P##*/}", Ok("libz.so.1.2")),
    ("${D#*.}", Ok("b.c")),
    ("${D##*.}", Ok("c")),
    ("${D#x}", Ok("a.b.c")),
    ("${D#?.}", Ok("b.c")),
    ("${D##}", Ok("a.b.c")),
    ("${D#}", Ok("a.b.c")),
    ("${D#a.b.c}", Ok("")),
    ("${D#a.b.c.d}", Ok("a.b.c")),
    ("${D##*}", Ok("")),
    ("${D#*}", Ok("a.b.c")),
    ("${NONE#x}", Ok("")),
    ("${STARS#*\\*}", Ok("b*c")),
    ("${STARS##*\\*}", Ok("c")),
    ("${ONE#$S-}", Ok("two-one")),
    ("${ONE#${S}}", Ok("-two-one")),
    ("${BRACES#\\{}", Err("no escape")),
    ("${BRACES#{}", Ok("x}")),
    ("${D#[a]}", Ok("a.b.c")),
    ("${W#foo.}", Ok("bar.baz")),
    ("${UTF#?}", Ok("öü")),
    ("${LINES#*e}", Ok("\ntwo\nthree")),
    ("${LINES##*e}", Ok("\ntwo\nthree")),
    ("${D#\\q}", Err("no escape")),
    ("${HASH#\\#}", Err("no escape")),
    ("${D:#a}", Err("no modifier")),
    ("${D:%%a}", Err("no modifier")),
    ("${NONE:##a}", Err("no modifier")),
    // Suffixes.
    ("${P%.*}", Ok("/usr/local/lib/libz.so.1")),
    ("${P%%.*}", Ok("/usr/local/lib/libz")),
    ("${P%/*}", Ok("/usr/local/lib")),
    ("${P%%/*}", Ok("")),
    ("${D%.?}", Ok("a.b")),
    ("${D%%?}", Ok("a.b.")),
    ("${D%x*}", Ok("a.b.c")),
    ("${D%}", Ok("a.b.c")),
    ("${D%c}", Ok("a.b.")),
    ("${Q%\\?*}", Ok("x")),
    ("${ONE%-${S}}", Ok("one-two")),
    ("${ONE%%-*}", Ok("one")),
    ("${UTF%?}", Ok("äö")),
    ("${REPEAT%a}", Ok("aaa")),
    ("${REPEAT%%a*}", Ok("")),
    ("${REPEAT%a*a}", Ok("aa")),
    ("${BRACES%\\}}", Ok("{x")),
    ("${LINES%t*}", Ok("one\ntwo\n")),
    // Replacements.
    ("${V/X/-}", Ok("a-bXc")),
    ("${V//X/-}", Ok("a-b-c")),
    ("${V//X/}", Ok("abc")),
    ("${V/X/}", Ok("abXc")),
    ("${PATHS//\\//_}", Ok("_a_b")),
    ("${PATHS/\\//_}", Ok("_a/b")),
    ("${W/.*./!}", Ok("foo!baz")),
    ("${W//[.]/x}", Ok("foo.bar.baz")),
    ("${W//./}", Ok("foobarbaz")),
    ("${V/none/y}", Ok("aXbXc")),
    ("${V//?X/z}", Ok("zzc")),
    ("${STARS/\\*/+}", Ok("a+b*c")),
    ("${ONE//${S}/$R}", Ok("1-two-1")),
    ("${ONE/$S/<$A>}", Ok("<a>-two-one")),
    ("${V//*/all}", Ok("all")),
    ("${V/*/all}", Ok("all")),
    ("${EMPTY//*/x}", Ok("x")),
    ("${D///-}", Ok("-a-.-b-.-c-")),
    ("${V/#a/x}", Ok("aXbXc")),
    ("${V/%c/x}", Ok("aXbXc")),
    ("${V/X}", Err("lacks the `/`")),
    ("${V//X}", Err("lacks the `/`")),
    ("${V/X/y", Err("no closing `}`")),
    ("${V//X/a b}", Ok("aa bba bc")),
    ("${NONE/a/b}", Ok("")),
    ("${UTF//ö/o}", Ok("äoü")),
    ("${REPEAT//aa/b}", Ok("bb")),
    ("${REPEAT/a*/b}", Ok("b")),
    // What is no expansion.
    ("${", Err("no closing `}`")),
    ("${}", Err("bad substitution")),
    ("${{A}", Err("bad substitution")),
    ("${:}", Err("bad substitution")),
    ("${:-x}", Err("bad substitution")),
    ("${A", Err("`${A` has no closing `}`")),
    ("${A:", Err("no closing `}`")),
    ("${A:-", Err("no closing `}`")),
    ("${A:-b", Err("no closing `}`")),
    ("${A:=b}", Err("`:=`")),
    ("${A=b}", Err("`=`")),
    ("${A^}", Err("`^`")),
    ("${A,,}", Err("`,`")),
    ("${A:0:1}", Err("`:0`")),
    ("${A@Q}", Err("`@`")),
    ("${A b}", Err("` `")),
    ("${A b", Err("`${A b` has no closing `}`")),
    ("${A\nb}", Err("`${A` has no closing `}`")),
    ("\"${A b\"}", Err("no closing `}`")),
    ("${A:-${B}", Err("no closing `}`")),
    ("${!A}", Err("no modifier")),
    ("\"${A\"", Err("no closing `}`")),
];

#[test]
fn words_expand_as_buildkit_does() {
    let mut wrong = Vec::new();
    for (raw, expected) in WORDS {
        let expanded = expand::word(raw, Escape::Backslash, &Table);
        let is_right = match (&expanded, expected) {
            (Ok(expanded), Ok(text)) => expanded.text == *text,
            (Err(error), Err(words)) => error.message.contains(words) && error.offset <= raw.len(),
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{raw:?}: expected {expected:?}, got {expanded:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(WORDS.len() >= 150, "{} rows", WORDS.len());
}

#[test]
fn backtick_escapes() {
    for (raw, expected) in [
        ("a`b", "ab"),
        ("c:\\dir\\", "c:\\dir\\"),
        ("x`\"y", "x\"y"),
        ("`$A", "$A"),
        ("\"`$A\"", "$A"),
        ("\"a`b\"", "a`b"),
        ("\\$A", "\\a"),
        ("``", "`"),
    ] {
        assert_eq!(
            expand::word(raw, Escape::Backtick, &Table).unwrap().text,
            expected,
            "{raw}"
        );
    }
}

#[test]
fn words_split_at_unquoted_blanks() {
    for (raw, expected) in [
        ("", &[][..]),
        ("a b", &["a", "b"]),
        ("  a\t b ", &["a", "b"]),
        ("'a b' c", &["a b", "c"]),
        ("a' 'b", &["a b"]),
        ("a\\ b", &["a b"]),
        ("$TWO", &["two", "words"]),
        ("\"$TWO\"", &["two words"]),
        ("x$TWO", &["xtwo", "words"]),
        ("${TWO}x", &["two", "wordsx"]),
        ("$NONE", &[]),
        ("''", &[]),
        ("$EMPTY a", &["a"]),
        ("<< EOF", &["<< EOF"]),
        ("a < b", &["a", "<", "b"]),
    ] {
        assert_eq!(
            expand::words(raw, Escape::Backslash, &Table).unwrap(),
            expected,
            "{raw}"
        );
    }
}

#[test]
fn texts_keep_quotes() {
    for (raw, expected) in [
        ("say \"$A\" it's", "say \"a\" it's"),
        ("\\$A", "$A"),
        ("slash=\\\\", "slash=\\"),
        ("'single $A'", "'single a'"),
        ("missing=[$NOPE] default=${NOPE:-d}", "missing=[] default=d"),
        ("a\n\tb\n", "a\n\tb\n"),
        ("${NONE:-it's}", "it's"),
    ] {
        assert_eq!(
            expand::text(raw, Escape::Backtick, &Table).unwrap().text,
            expected,
            "{raw}"
        );
    }
}

#[test]
fn reports_what_was_looked_up() {
    let expanded = expand::word(
        "$A ${B:-x} $NONE ${NOPE:-$A} $NONE",
        Escape::Backslash,
        &Table,
    )
    .unwrap();
    assert_eq!(expanded.used, ["A", "B"]);
    assert_eq!(expanded.undefined, ["NONE", "NOPE"]);
}

#[test]
fn is_bounded() {
    struct Big;
    impl Variables for Big {
        fn get(&self, _name: &str) -> Option<String> {
            Some("x".repeat(700_000))
        }
    }
    let error = |raw: &str| {
        expand::word(raw, Escape::Backslash, &Big)
            .unwrap_err()
            .message
    };
    assert!(error("$A$A").contains("expands to more"));
    assert!(error(&"${A:+$A}".repeat(3)).contains("expands to more"));
    assert!(error(&"${A:+${A:+".repeat(60)).contains("nested"));
    assert!(error("${A//x/xxx}").contains("too long"));
    // Each level multiplies what the one within gives.
    let growing = (0..60).fold("x".to_owned(), |inner, _| format!("${{V///{inner}}}"));
    assert!(expand::word(&growing, Escape::Backslash, &Table).is_err());
    let patterns = "${A//*x*x*x*y/}".repeat(2000);
    assert!(expand::word(&patterns, Escape::Backslash, &Big).is_err());
    let deep = format!("{}{}", "${N:-".repeat(100), "}".repeat(100));
    assert_eq!(
        expand::word(&deep, Escape::Backslash, &Table).unwrap().text,
        ""
    );
    let deeper = format!("{}{}", "${N:-".repeat(101), "}".repeat(101));
    assert!(expand::word(&deeper, Escape::Backslash, &Table).is_err());
}

#[test]
fn check_finds_only_what_no_value_mends() {
    for good in [
        "$A",
        "${NONE:?x}",
        "'a'",
        "${A#?}",
        "a\\",
        "${A:-\"x\"}",
        "plain",
    ] {
        assert_eq!(expand::check(good, Escape::Backslash), Ok(()), "{good}");
    }
    for bad in ["'", "\"a", "${A", "${A:=b}", "${}", "${A/x}"] {
        assert!(expand::check(bad, Escape::Backslash).is_err(), "{bad}");
    }
}
