//! FROM and the names of stages.

use super::flags::Flags;
use super::{Builder, Line};
use crate::ast::{From, Text};
use crate::diagnostic::Diagnostic;
use crate::grammar::Arguments;
use crate::keyword::Keyword;

impl Builder<'_, '_> {
    pub(super) fn from(
        &mut self,
        line: Line<'_>,
        arguments: Arguments,
        flags: &Flags,
    ) -> Option<From> {
        let words = self.some_words(Keyword::From, line, arguments)?;
        let (image, name) = match words.as_slice() {
            [image] => (image, None),
            [image, r#as, name] if line.slice(r#as.clone()).eq_ignore_ascii_case("as") => {
                (image, Some(name))
            }
            // Its value may be what is too much here.
            _ if flags.lacks_value() => return None,
            words => {
                // Where a name is given properly, it is what follows that is too much.
                let has_name =
                    words.len() > 3 && line.slice(words[1].clone()).eq_ignore_ascii_case("as");
                let unexpected = words.get(if has_name { 3 } else { 1 });
                let unexpected = unexpected.cloned().unwrap_or_else(|| line.end());
                let mut diagnostic = Diagnostic::error(
                    "from-arguments",
                    "FROM takes an image, or an image, AS and a name",
                    line.span(unexpected.start..line.text.len()),
                )
                .label("not expected here");
                let word = line.slice(unexpected);
                diagnostic = if word.starts_with('#') {
                    diagnostic.help("a comment needs a line of its own")
                } else if word.starts_with("--") {
                    let written = words.iter().map(|it| line.slice(it.clone()));
                    let (late, rest): (Vec<&str>, Vec<&str>) =
                        written.partition(|word| word.starts_with("--"));
                    let (late, rest) = (late.join(" "), rest.join(" "));
                    diagnostic.help(format!("flags come before the image: `FROM {late} {rest}`"))
                } else if word.eq_ignore_ascii_case("as") && words.len() == 2 {
                    diagnostic.help("a name for the stage must follow AS")
                } else {
                    let words: Vec<&str> = words.iter().map(|it| line.slice(it.clone())).collect();
                    diagnostic.help(meant(&words))
                };
                self.report(diagnostic);
                return None;
            }
        };
        self.check_word(line, image.clone());
        let name = name.map(|name| line.text(name.clone()));
        if let Some(name) = &name {
            self.stage_name(name);
        }
        Some(From {
            image: line.text(image.clone()),
            platform: flags.text("platform"),
            name,
        })
    }

    fn stage_name(&mut self, name: &Text) {
        let is_name = name.value.starts_with(|c: char| c.is_ascii_alphabetic())
            && name
                .value
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !is_name {
            let message = format!("`{}` is no valid name for a stage", name.value);
            self.report(
                Diagnostic::error("bad-stage-name", message, name.span)
                    .help("a stage's name begins with a letter and goes on with letters, digits, `-`, `_` and `.`"),
            );
        }
    }
}

/// What the words of FROM are meant to be.
fn meant(words: &[&str]) -> String {
    match words {
        [image, tag, ..] if image.ends_with(':') => {
            format!("a name of an image has no blanks: `{image}{tag}`")
        }
        [image, ..] if image.ends_with(',') => {
            "a stage has one image: begin another stage with a FROM of its own".to_owned()
        }
        [image, name] | [image, _, name] => {
            format!("a stage gets its name by AS: `FROM {image} AS {name}`")
        }
        _ => "a stage gets its name by `FROM image AS name`".to_owned(),
    }
}
