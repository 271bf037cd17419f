//! What a word in a Dockerfile stands for: a stage or a variable, where it is declared, and where it is used.

use rbuild_engine::parser::ast::{Command, Instruction, Run, Transfer};
use rbuild_engine::parser::{Span, Spanned};

use super::document::Document;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// In lower case.
    Stage(String),
    Variable(String),
}

/// A declaration.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) name: Name,
    /// Of the name itself.
    pub(super) span: Span,
    /// What it is: the line that declares it.
    pub(super) text: String,
    /// Of its stage, from 0; `None` before the first.
    pub(super) stage: Option<usize>,
}

/// A stage or a variable where it is named.
#[derive(Debug, Clone)]
pub(super) struct Used {
    pub(super) name: Name,
    pub(super) span: Span,
    pub(super) stage: Option<usize>,
}

/// The instructions with the stage that each is in; a FROM is in the stage that it begins.
pub(super) fn staged(document: &Document) -> impl Iterator<Item = (Option<usize>, &Instruction)> {
    let mut stage = None;
    document
        .parsed
        .dockerfile
        .instructions
        .iter()
        .map(move |instruction| {
            if matches!(instruction.command, Command::From(_)) {
                stage = Some(stage.map_or(0, |stage| stage + 1));
            }
            (stage, instruction)
        })
}

pub(super) fn declared(document: &Document) -> Vec<Declared> {
    let mut all = Vec::new();
    for (stage, instruction) in staged(document) {
        let mut add = |name: Name, span: Span| {
            all.push(Declared {
                name,
                span,
                text: instruction.original.trim().to_owned(),
                stage,
            });
        };
        match &instruction.command {
            Command::From(from) => {
                if let Some(name) = &from.name {
                    add(Name::Stage(name.value.to_lowercase()), name.span);
                }
            }
            Command::Arg(declarations) => {
                for one in declarations {
                    add(Name::Variable(one.name.value.clone()), one.name.span);
                }
            }
            Command::Env(pairs) => {
                for pair in pairs {
                    add(Name::Variable(pair.key.value.clone()), pair.key.span);
                }
            }
            _ => {}
        }
    }
    all
}

pub(super) fn used(document: &Document) -> Vec<Used> {
    let mut all = Vec::new();
    for (stage, instruction) in staged(document) {
        let mut add_stage = |text: &str, span: Span| {
            all.push(Used {
                name: Name::Stage(text.to_lowercase()),
                span,
                stage,
            });
        };
        match &instruction.command {
            Command::From(from) => add_stage(&from.image.value, from.image.span),
            Command::Copy(Transfer {
                from: Some(from), ..
            }) => add_stage(&from.value, from.span),
            Command::Run(Run { mounts, .. }) => {
                for mount in mounts {
                    if let Some(from) = source_of(mount) {
                        add_stage(&from.value, from.span);
                    }
                }
            }
            _ => {}
        }
        let text = document.source.slice(instruction.span);
        all.extend(variables(text).map(|(at, name)| Used {
            name: Name::Variable(name.to_owned()),
            span: Span::new(
                instruction.span.start + at,
                instruction.span.start + at + name.len(),
            ),
            stage,
        }));
    }
    all
}

/// The `from=` of a mount.
fn source_of(mount: &Spanned<String>) -> Option<Spanned<String>> {
    let mut at = mount.span.start;
    for option in mount.value.split(',') {
        if let Some(value) = option.strip_prefix("from=") {
            let start = at + "from=".len();
            let span = Span::new(start, start + value.len());
            return Some(Spanned::new(value.to_owned(), span));
        }
        at += option.len() + 1;
    }
    None
}

/// `$name` and `${name…`: where the names begin, and the names.
fn variables(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices('$').filter_map(|(at, _)| {
        let rest = text.get(at + 1..)?;
        let brace = usize::from(rest.starts_with('{'));
        let rest = rest.get(brace..)?;
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let name = rest.get(..end)?;
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        is_name.then_some((at + 1 + brace, name))
    })
}

/// What stands at a place, and whether it is declared there.
pub(super) fn at(document: &Document, offset: usize) -> Option<Used> {
    let covers = |span: Span| span.start <= offset && offset <= span.end;
    let declared = declared(document).into_iter().map(|one| Used {
        name: one.name,
        span: one.span,
        stage: one.stage,
    });
    declared.chain(used(document)).find(|one| covers(one.span))
}

/// The declaration that holds where a name is used: for a stage, the first one above; for a variable, the last one above
/// in its stage, else one before the first stage, else the last one above in any stage, which it may be built on.
pub(super) fn declaration(document: &Document, used: &Used) -> Option<Declared> {
    let mut above: Vec<Declared> = declared(document)
        .into_iter()
        .filter(|one| one.name == used.name && one.span.start <= used.span.start)
        .collect();
    if matches!(used.name, Name::Stage(_)) {
        return above.into_iter().next();
    }
    let of_stage = |wanted: Option<usize>| {
        let mut found = above.iter().filter(|one| one.stage == wanted);
        found.next_back().cloned()
    };
    of_stage(used.stage)
        .or_else(|| of_stage(None))
        .or_else(|| above.pop())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_in_both_forms() {
        let found: Vec<_> = variables("a $b ${c:-$d} \\$e $1 $ ${").collect();
        assert_eq!(found, [(3, "b"), (7, "c"), (11, "d"), (16, "e")]);
    }

    #[test]
    fn the_source_of_a_mount_is_found_in_its_place() {
        let mount = Spanned::new("type=bind,from=a,target=/x".to_owned(), Span::new(100, 126));
        let from = source_of(&mount).unwrap();
        assert_eq!((from.value.as_str(), from.span), ("a", Span::new(115, 116)));
    }
}
