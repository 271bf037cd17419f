//! Draws errors and warnings for people: the Dockerfile, the place, the way out. Data comes from
//! `parser::Diagnostic` and the engine's errors; nothing here decides an exit code or prints. The lines that are shown:
//! `excerpt`; what is behind an error: `causes`.

mod causes;
mod excerpt;

use std::fmt::Write as _;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use rbuild_engine::error::StepFailure;
use rbuild_engine::executor::Exit;
use rbuild_engine::parser::{Diagnostic, Severity, Source};
use rbuild_engine::{self as engine, Located};

use crate::error::{Error, Message};
use crate::stdio::{escape, escape_line};
use causes::{causes, store_help};
use excerpt::Excerpt;

/// Lines of a failed command's output that are repeated below the error.
const MAX_OUTPUT_LINES: usize = 40;

/// Returns what to write to standard error for a command that failed.
pub(crate) fn failure(error: &Error, coloured: bool) -> String {
    match error {
        Error::Usage(message) | Error::Failed(message) => plain_message(message, coloured),
        Error::Engine(error) => engine_failure(error, coloured),
        Error::Run(_, error) => failure(error, coloured),
    }
}

/// Returns a diagnostic with its excerpt.
pub(crate) fn located(located: &Located, coloured: bool) -> String {
    report(&located.source, &located.diagnostic, coloured)
}

/// Returns `warning: text`, for warnings without a place.
pub(crate) fn warning(text: &str, coloured: bool) -> String {
    title("warning", "\x1b[1;33m", &escape(text), coloured)
}

fn engine_failure(error: &engine::Error, coloured: bool) -> String {
    match error {
        engine::Error::Dockerfile(all) => {
            let mut text = String::new();
            for one in all {
                text.push_str(&located(one, coloured));
            }
            if text.is_empty() {
                text = title("error", ERROR, &error.to_string(), coloured);
            }
            text
        }
        engine::Error::Step(failure) => step_failure(failure, coloured),
        engine::Error::Cancelled => title("error", ERROR, "interrupted", coloured),
        engine::Error::Usage(_)
        | engine::Error::Io { .. }
        | engine::Error::Image(_)
        | engine::Error::NoImage(_)
        | engine::Error::NotPulled { .. }
        | engine::Error::Store(_)
        | engine::Error::Exec(_)
        | engine::Error::Damaged(_)
        | engine::Error::Other(_) => chain(error, coloured),
    }
}

const ERROR: &str = "\x1b[1;31m";

fn plain_message(message: &Message, coloured: bool) -> String {
    let mut text = title("error", ERROR, &escape(&message.text), coloured);
    if let Some(source) = &message.source {
        causes(source.as_ref(), &mut text);
    }
    for help in &message.help {
        text.push_str(&title("help", "\x1b[1;36m", &escape(help), coloured));
    }
    text
}

fn chain(error: &(dyn std::error::Error + 'static), coloured: bool) -> String {
    let mut text = title("error", ERROR, &escape(&error.to_string()), coloured);
    if let Some(source) = error.source() {
        causes(source, &mut text);
    }
    let help = match error.downcast_ref() {
        Some(engine::Error::NoImage(_)) => Some("`rbuild images` lists those that are there"),
        _ => store_help(error),
    };
    if let Some(help) = help {
        text.push_str(&title("help", "\x1b[1;36m", help, coloured));
    }
    text
}

/// `name: words`, continued lines indented.
fn title(name: &str, colour: &str, words: &str, coloured: bool) -> String {
    let words = words.trim_end().replace('\n', "\n  ");
    if coloured {
        format!("{colour}{name}\x1b[0m\x1b[1m: {words}\x1b[0m\n")
    } else {
        format!("{name}: {words}\n")
    }
}

fn step_failure(failure: &StepFailure, coloured: bool) -> String {
    let mut text = report(
        &failure.located.source,
        &failure.located.diagnostic,
        coloured,
    );
    let mut next = failure
        .cause
        .as_deref()
        .map(|cause| cause as &(dyn std::error::Error + 'static));
    while let Some(cause) = next {
        let words = cause.to_string();
        if !failure.located.diagnostic.message.contains(&words) {
            append(&mut text, format_args!("  caused by: {}\n", escape(&words)));
        }
        next = cause.source();
    }
    let output = String::from_utf8_lossy(&failure.output);
    let lines: Vec<&str> = output.trim_end().lines().collect();
    if !lines.is_empty() {
        append(&mut text, format_args!("its last output:\n"));
        for line in lines
            .iter()
            .skip(lines.len().saturating_sub(MAX_OUTPUT_LINES))
        {
            append(
                &mut text,
                format_args!("  {}\n", escape(line.trim_end_matches('\r'))),
            );
        }
    }
    let help = failure
        .cause
        .as_deref()
        .and_then(|cause| store_help(cause as &(dyn std::error::Error + 'static)));
    if let Some(help) = help
        && !failure.located.diagnostic.help.iter().any(|it| it == help)
    {
        text.push_str(&title("help", "\x1b[1;36m", help, coloured));
    }
    if let Some(hint) = failure.exit.and_then(exit_hint) {
        text.push_str(&title("help", "\x1b[1;36m", hint, coloured));
    }
    text
}

/// What an exit status usually means, where it is not told by the output.
fn exit_hint(exit: Exit) -> Option<&'static str> {
    match exit {
        Exit::Code(127) => Some("127 usually means that the shell did not find a command"),
        Exit::Code(126) => Some("126 usually means that a file is there but cannot be executed"),
        Exit::Code(137) | Exit::Signal(9) => {
            Some("the command was killed; a frequent reason is a lack of memory")
        }
        Exit::OutOfMemory => Some("give it more with --memory"),
        Exit::Code(_) | Exit::Signal(_) | Exit::TimedOut => None,
    }
}

fn report(source: &Source, diagnostic: &Diagnostic, coloured: bool) -> String {
    let excerpt = Excerpt::of(source, diagnostic);
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let message = escape(&diagnostic.message);
    let path = escape_line(source.name());
    let (first, visible) = excerpt.clipped(diagnostic.primary.span);
    let label = escape_line(&diagnostic.primary.text);
    let primary = AnnotationKind::Primary.span(first);
    let mut snippet = Snippet::source(excerpt.text.as_str())
        .path(path.as_str())
        .line_start(excerpt.first_line)
        .annotation(if label.is_empty() {
            primary
        } else {
            primary.label(label)
        });
    if let Some(visible) = visible {
        snippet = snippet.annotation(AnnotationKind::Visible.span(visible));
    }
    for secondary in &diagnostic.secondary {
        if !excerpt.holds(secondary.span) {
            continue;
        }
        let annotation = AnnotationKind::Context.span(excerpt.clipped(secondary.span).0);
        let label = escape_line(&secondary.text);
        snippet = snippet.annotation(if label.is_empty() {
            annotation
        } else {
            annotation.label(label)
        });
    }
    let mut groups = vec![
        level
            .primary_title(message.as_ref())
            .id(diagnostic.code)
            .element(snippet),
    ];
    for help in &diagnostic.help {
        groups.push(Group::with_title(Level::HELP.secondary_title(escape(help))));
    }
    let renderer = if coloured {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut text = renderer.decor_style(DecorStyle::Ascii).render(&groups);
    for secondary in &diagnostic.secondary {
        // What lies too far away for the excerpt is told in words.
        if !excerpt.holds(secondary.span) {
            let position = source.position(secondary.span.start);
            append(
                &mut text,
                format_args!(
                    "\nnote: {path}:{}:{}: {}",
                    position.line,
                    position.column,
                    escape_line(&secondary.text)
                ),
            );
        }
    }
    text.push('\n');
    text
}

/// Writing to a string cannot fail.
fn append(text: &mut String, words: std::fmt::Arguments<'_>) {
    text.write_fmt(words).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuild_engine::parser::Span;
    use std::sync::Arc;

    fn draw(text: &str, diagnostic: Diagnostic) -> String {
        located(
            &Located {
                source: Arc::new(Source::new("Dockerfile", text.as_bytes())),
                diagnostic,
            },
            false,
        )
    }

    #[test]
    fn a_place_is_underlined_and_help_follows() {
        let text = "FROM a AS builder\nFROM scratch\nCOPY --from=bulider /app /app\n";
        let at = text.find("bulider").unwrap();
        let diagnostic = Diagnostic::error(
            "unknown-stage",
            "no stage named `bulider`",
            Span::new(at, at + 7),
        )
        .label("not a stage")
        .help("there is a stage `builder`, line 1");
        insta::assert_snapshot!(draw(text, diagnostic), @r"
        error[unknown-stage]: no stage named `bulider`
         --> Dockerfile:3:13
          |
        3 | COPY --from=bulider /app /app
          |             ^^^^^^^ not a stage
          |
        help: there is a stage `builder`, line 1
        ");
    }

    #[test]
    fn spans_of_several_lines_underline_the_first() {
        let text = "FROM a\nRUN one \\\n  two \\\n  three\nCMD x\n";
        let at = text.find("RUN").unwrap();
        let end = text.find("\nCMD").unwrap();
        let diagnostic =
            Diagnostic::error("run-failed", "RUN exited with code 2", Span::new(at, end))
                .secondary(Span::new(0, 4), "here")
                .secondary(Span::new(end + 1, end + 4), "there");
        insta::assert_snapshot!(draw(text, diagnostic), @r"
        error[run-failed]: RUN exited with code 2
         --> Dockerfile:2:1
          |
        1 | FROM a
          | ---- here
        2 | RUN one \
          | ^^^^^^^^^
        3 |   two \
        4 |   three
        5 | CMD x
          | --- there
        ");
    }

    #[test]
    fn hostile_spans_and_text_do_no_harm() {
        let long = "x".repeat(100_000);
        for text in [
            "",
            "\n",
            "ä",
            "a\u{1b}[31m\r\nb",
            "\u{feff}",
            long.as_str(),
            "a\tb\n\tc",
        ] {
            for span in [
                (0, 0),
                (0, 1),
                (1, 0),
                (2, 9),
                (usize::MAX - 1, usize::MAX),
                (0, usize::MAX),
            ] {
                let diagnostic = Diagnostic::error("x", "m\u{1b}", Span::new(span.0, span.1))
                    .secondary(Span::new(span.1, span.0), "s");
                let drawn = draw(text, diagnostic);
                assert!(!drawn.contains('\u{1b}'), "{drawn}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_span_of_any_text_is_drawn(
            text in "(\\PC|[\\n\\r\\t\u{1b}äß💥]){0,40}",
            spans in proptest::collection::vec((0usize..60, 0usize..60), 1..4),
        ) {
            let mut spans = spans.into_iter().map(|(a, b)| Span::new(a.min(b), a.max(b)));
            let mut diagnostic = Diagnostic::error("x", "m", spans.next().unwrap_or_default());
            for span in spans {
                diagnostic = diagnostic.secondary(span, "s");
            }
            draw(&text, diagnostic);
        }
    }
}
