//! What holds for every input: nothing panics, places are places of the source, and what is printed parses back.

use proptest::prelude::*;
use proptest::string::string_regex;
use rbuild_parser::ast::Escape;
use rbuild_parser::ignore::Patterns;
use rbuild_parser::source::Span;
use rbuild_parser::{
    Parsed, Source, expand, format, glob, json, mount, parse, parse_trigger, print, values,
};
use serde_json::Value;

/// Pieces that Dockerfiles are made of, and that parsers stumble over.
fn fragment() -> impl Strategy<Value = String> {
    let words = [
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "ENV",
        "ARG",
        "LABEL",
        "ONBUILD",
        "HEALTHCHECK",
        "CMD",
        "SHELL",
        "VOLUME",
        "EXPOSE",
        "USER",
        "WORKDIR",
        "from",
        "Run",
        "NONE",
        "AS",
        " ",
        " ",
        "  ",
        "\t",
        "\n",
        "\n",
        "\r\n",
        "\\\n",
        "\\ \n",
        "`\n",
        "\\",
        "`",
        "#",
        "# escape=`\n",
        "# syntax=x\n",
        "=",
        "a=b",
        "a",
        "b",
        "/x",
        "\"",
        "'",
        "$A",
        "${A:-b}",
        "${A",
        "}",
        "<<EOF",
        "<<-EOF",
        "<<'EOF'",
        "EOF",
        "\nEOF\n",
        "<< ",
        "--from=a",
        "--chown",
        "--",
        "--mount=type=cache,target=/c",
        "--link",
        "[\"a\", \"b\"]",
        "[",
        "]",
        "\"a\"",
        ",",
        "{",
        "é",
        "\u{a0}",
        "\u{2028}",
        "\u{feff}",
        "\u{1f600}",
        "\0",
        "-",
        "1",
        "80/tcp",
    ];
    prop_oneof![
        8 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => string_regex("[a-z$\\\\ ]{0,8}").unwrap(),
    ]
}

fn dockerfile_like() -> impl Strategy<Value = String> {
    proptest::collection::vec(fragment(), 0..60).prop_map(|parts| parts.concat())
}

/// Lines that mostly parse without mistakes.
fn good_line() -> impl Strategy<Value = String> {
    let word = "[a-z0-9./:_\\-]{1,8}";
    let text = "[a-zA-Z0-9 ./:_=$\\\\\"'<>|&;\\-\\[\\]]{0,30}";
    let value = "[a-z0-9./]{0,6}|\"[a-z $A]{0,8}\"|'[a-z \\\\]{0,8}'|[a-z]{1,3}\\\\ [a-z]{1,3}";
    prop_oneof![
        text.prop_map(|text| format!("RUN {text}")),
        text.prop_map(|text| format!("CMD {text}")),
        (word, word).prop_map(|(a, b)| format!("COPY {a} {b}")),
        (word, word).prop_map(|(a, b)| format!("COPY --from={a} --chown=\"x y\" {b} /d")),
        (text, word).prop_map(|(a, b)| format!("ADD {} /{b}", serde_json::json!([a, b, "/c"]))),
        text.prop_map(|text| format!("ENTRYPOINT {}", serde_json::json!([text, "\n\u{e9}\""]))),
        text.prop_map(|text| format!("VOLUME {}", serde_json::json!([text, "/x"]))),
        (word, value).prop_map(|(key, value)| format!("ENV {key}={value} second=x")),
        (word, text).prop_map(|(key, value)| format!("ENV {key} {value}")),
        (word, value).prop_map(|(key, value)| format!("LABEL \"k {key}\"={value}")),
        (word, value).prop_map(|(key, value)| format!("ARG {key} x={value}")),
        word.prop_map(|word| format!("EXPOSE {word} 80/tcp")),
        text.prop_map(|text| format!("WORKDIR /{text}")),
        text.prop_map(|text| format!("USER u{text}")),
        text.prop_map(|text| format!("HEALTHCHECK --interval=3s CMD x{text}")),
        text.prop_map(|text| format!("ONBUILD RUN --network=none {text}")),
        (word, text).prop_map(|(name, text)| format!("RUN cat <<{name} x\n{text}\n{name}")),
        (word, text)
            .prop_map(|(name, text)| format!("COPY <<-\"{name}\" /x\n\t\t{text}\n\t{name}")),
        (word, text).prop_map(|(name, text)| format!("ONBUILD RUN <<{name}\n{text}\n{name}")),
        (text, text).prop_map(|(a, b)| format!("RUN {a} \\\n  # comment\n{b}")),
        text.prop_map(|text| format!("# {text}\nSTOPSIGNAL SIGTERM")),
        text.prop_map(|text| format!(
            "RUN --mount=\"type=bind,source={},target=/m\" -- --x",
            text.replace(['"', '\\', '$'], "")
        )),
    ]
}

fn good_file() -> impl Strategy<Value = String> {
    let head = proptest::sample::select(vec![
        "",
        "# escape=`\n",
        "# syntax=docker/dockerfile:1\n",
        "\u{feff}",
    ]);
    (head, proptest::collection::vec(good_line(), 0..8))
        .prop_map(|(head, lines)| format!("{head}FROM a AS b\n{}\n", lines.join("\n")))
}

fn check_spans(source: &Source, parsed: &Parsed) {
    let is_place = |span: Span| source.text().get(span.start..span.end).is_some();
    for diagnostic in &parsed.diagnostics {
        assert!(is_place(diagnostic.primary.span), "{diagnostic:?}");
        assert!(
            diagnostic
                .secondary
                .iter()
                .all(|label| is_place(label.span)),
            "{diagnostic:?}"
        );
    }
    for instruction in &parsed.dockerfile.instructions {
        assert!(is_place(instruction.span), "{instruction:?}");
        assert!(
            is_place(instruction.keyword.span) && instruction.start_line <= instruction.end_line
        );
        assert!(
            instruction
                .flags
                .iter()
                .all(|flag| is_place(flag.name.span))
        );
        assert!(
            instruction
                .heredocs
                .iter()
                .all(|heredoc| is_place(heredoc.span) && is_place(heredoc.body_span))
        );
    }
}

/// The tree without the places and texts that printing changes.
fn shape(parsed: &Parsed, source: &Source) -> Value {
    let mut tree = json::to_json(parsed, source);
    for instruction in tree["instructions"].as_array_mut().unwrap() {
        for key in ["start_line", "end_line", "original"] {
            instruction.as_object_mut().unwrap().remove(key);
        }
    }
    tree
}

fn check_print(text: &str) -> Result<(), TestCaseError> {
    let source = Source::new("Dockerfile", text.as_bytes());
    let parsed = parse(&source);
    if parsed
        .diagnostics
        .iter()
        .any(|one| one.severity == rbuild_parser::Severity::Error)
    {
        return Ok(());
    }
    let printed = print::dockerfile(&parsed.dockerfile, &source);
    let again_source = Source::new("Dockerfile", printed.as_bytes());
    let again = parse(&again_source);
    prop_assert_eq!(
        shape(&parsed, &source),
        shape(&again, &again_source),
        "printed: {:?}",
        printed
    );
    // In style it means the same, and is in style.
    let styled = format::format(&source).unwrap();
    let styled_source = Source::new("Dockerfile", styled.as_bytes());
    let styled_tree = parse(&styled_source);
    prop_assert_eq!(
        shape(&parsed, &source),
        shape(&styled_tree, &styled_source),
        "styled: {:?}",
        styled
    );
    prop_assert_eq!(format::format(&styled_source).unwrap(), styled);
    // What is printed is printed alike again.
    prop_assert_eq!(print::dockerfile(&again.dockerfile, &again_source), printed);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsing_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let source = Source::new("Dockerfile", &bytes);
        check_spans(&source, &parse(&source));
        parse_trigger(&source);
    }

    #[test]
    fn parsing_text_never_panics(text in dockerfile_like()) {
        let source = Source::new("Dockerfile", text.as_bytes());
        let parsed = parse(&source);
        check_spans(&source, &parsed);
        json::to_tree(&parsed, &source);
        let wrong = parsed.dockerfile.instructions.iter().any(|one| matches!(one.command, rbuild_parser::ast::Command::Invalid));
        prop_assert!(!wrong || !parsed.diagnostics.is_empty(), "a line is invalid and nothing says why");
    }

    #[test]
    fn odd_files_print_and_parse_back(text in dockerfile_like()) {
        check_print(&format!("FROM a\n{text}"))?;
    }

    #[test]
    fn good_files_print_and_parse_back(text in good_file()) {
        check_print(&text)?;
    }

    #[test]
    fn good_lines_print_and_parse_back(text in good_line()) {
        check_print(&format!("FROM a\n{text}\n"))?;
    }

    #[test]
    fn expansion_never_panics(text in dockerfile_like(), backtick in any::<bool>()) {
        struct Same;
        impl expand::Variables for Same {
            fn get(&self, name: &str) -> Option<String> {
                (name != "b").then(|| format!("{name} {name}"))
            }
        }
        let escape = if backtick { Escape::Backtick } else { Escape::Backslash };
        for error in [expand::word(&text, escape, &Same).err(), expand::text(&text, escape, &Same).err(), expand::check(&text, escape).err()] {
            prop_assert!(error.is_none_or(|error| error.offset <= text.len()));
        }
        let _ = expand::words(&text, escape, &Same);
    }

    #[test]
    fn patterns_never_panic(pattern in "[a-c*?\\[\\]^!\\\\/.\\-:é ]{0,12}", path in "[a-c/é.\\-]{0,12}", bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
        let _ = glob::matches(pattern.as_bytes(), path.as_bytes());
        let _ = glob::matches(&bytes, path.as_bytes());
        let _ = glob::matches(pattern.as_bytes(), &bytes);
        for patterns in [Patterns::from_list(&[pattern.clone(), format!("!{pattern}")]), Patterns::from_file(pattern.as_bytes()), Patterns::from_file(&bytes)].into_iter().flatten() {
            patterns.verdict(path.as_bytes());
            patterns.verdict(&bytes);
            patterns.may_reinclude_below(path.as_bytes());
        }
    }

    #[test]
    fn what_is_taken_back_in_below_is_announced(patterns in proptest::collection::vec("!?[ab*/]{1,5}", 1..5), directory in "[ab]{1,2}(/[ab]{1,2})?", name in "[ab]{1,2}") {
        use rbuild_parser::ignore::Verdict;
        let Ok(patterns) = Patterns::from_list(&patterns) else { return Ok(()) };
        let below = format!("{directory}/{name}");
        let is_excluded = matches!(patterns.verdict(directory.as_bytes()), Verdict::Excluded { .. });
        if is_excluded && matches!(patterns.verdict(below.as_bytes()), Verdict::Reincluded { .. }) {
            prop_assert!(patterns.may_reinclude_below(directory.as_bytes()));
        }
    }

    #[test]
    fn values_never_panic(text in "[a-z0-9=,:/+\"$. \\-µXé]{0,24}") {
        let _ = mount::parse(&text, Span::default());
        let _ = mount::parse(&format!("type=cache,target=/c,{text}"), Span::default());
        let _ = values::parse_duration(&text);
        let _ = values::parse_check_interval(&text);
        let _ = values::parse_port_spec(&text);
        let _ = values::validate_signal(&text);
        let _ = values::parse_bytes(&text);
    }
}

/// Found by fuzzing: what stood between the escape character and the line's end was trimmed with the word.
#[test]
fn an_escape_character_that_ends_a_word_prints_as_one() {
    check_print("# escape=`\nFROM a`\u{b}\nCMD b`\u{b}").unwrap();
    check_print("FROM a\\\u{b}\nCMD b\\\u{b}").unwrap();
}

#[test]
fn an_old_name_that_ends_in_an_escape_character_prints_as_one() {
    check_print("FROM a\nENV A\\\r  C=d\n").unwrap();
    check_print("# escape=`\nFROM a\nLABEL A`\u{b} C=d\n").unwrap();
}
