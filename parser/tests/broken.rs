//! `testdata/broken`: wrong Dockerfiles, each with what is said of it. `UPDATE_EXPECT=1` writes the answers anew;
//! read them before they are kept.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rbuild_parser::{Severity, Source, parse};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/broken")
}

/// `line:column severity[code]: message`, then labels and helps, indented.
fn render(source: &Source) -> String {
    let mut text = String::new();
    for diagnostic in parse(source).diagnostics {
        let place = |offset: usize| {
            let position = source.position(offset);
            format!("{}:{}", position.line, position.column)
        };
        let span = diagnostic.primary.span;
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let (code, message) = (diagnostic.code, &diagnostic.message);
        writeln!(text, "{} {severity}[{code}]: {message}", place(span.start)).unwrap();
        let marked: String = source.slice(span).chars().take(50).collect();
        let marked = format!("  at {marked:?} {}", diagnostic.primary.text);
        writeln!(text, "{}", marked.trim_end()).unwrap();
        for label in &diagnostic.secondary {
            writeln!(text, "  {} {}", place(label.span.start), label.text).unwrap();
        }
        for help in &diagnostic.help {
            writeln!(text, "  help: {help}").unwrap();
        }
    }
    text
}

#[test]
fn broken_files_are_explained() {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "Dockerfile")
        })
        .collect();
    files.sort();
    assert!(files.len() >= 100, "{} files", files.len());
    let mut wrong = String::new();
    for file in &files {
        let source = Source::new("Dockerfile", &std::fs::read(file).unwrap());
        let rendered = render(&source);
        assert!(
            rendered.contains(" error["),
            "{}: nothing is wrong",
            file.display()
        );
        let expected_file = file.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&expected_file, &rendered).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_file).unwrap_or_default();
        if rendered != expected {
            writeln!(
                wrong,
                "== {}\nexpected:\n{expected}got:\n{rendered}",
                file.display()
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
