//! Answers to what editors ask about an open file.

use lsp_types::{
    CompletionItem, CompletionItemKind, DocumentSymbol, FoldingRange, FoldingRangeKind, Hover,
    HoverContents, Location, MarkupContent, MarkupKind, Position, Range, SymbolKind, TextEdit,
};
use rbuild_engine::parser::ast::{Command, Instruction};
use rbuild_engine::parser::{Keyword, Span, format};

use super::document::{Document, number};
use super::names::{self, Name};

/// One edit of the whole text; none where it is in style, or cannot be read.
pub(super) fn formatting(document: &Document) -> Vec<TextEdit> {
    let text = document.source.text();
    match format::format(&document.source) {
        Ok(formatted) if formatted != text => {
            let whole = document.range(Span::new(0, text.len()));
            vec![TextEdit::new(whole, formatted)]
        }
        _ => Vec::new(),
    }
}

/// Stages, with their instructions below them.
#[expect(
    deprecated,
    reason = "a field that the protocol no longer uses has to be given"
)]
pub(super) fn symbols(document: &Document) -> Vec<DocumentSymbol> {
    let symbol = |instruction: &Instruction, name: String, kind: SymbolKind| DocumentSymbol {
        name,
        detail: None,
        kind,
        tags: None,
        deprecated: None,
        range: document.range(instruction.span),
        selection_range: document.range(instruction.keyword.span),
        children: None,
    };
    let mut all: Vec<DocumentSymbol> = Vec::new();
    for (stage, instruction) in names::staged(document) {
        if let (Command::From(from), Some(number)) = (&instruction.command, stage) {
            let name = from.name.as_ref().map(|name| name.value.clone());
            let name = name.unwrap_or_else(|| format!("stage {number}"));
            all.push(DocumentSymbol {
                detail: Some(from.image.value.clone()),
                ..symbol(instruction, name, SymbolKind::MODULE)
            });
            continue;
        }
        let kind = match instruction.command {
            Command::Arg(_) | Command::Env(_) => SymbolKind::VARIABLE,
            _ => SymbolKind::EVENT,
        };
        let one = symbol(instruction, instruction.original.trim().to_owned(), kind);
        match all.last_mut().filter(|_| stage.is_some()) {
            Some(stage) => {
                stage.range.end = one.range.end;
                stage.children.get_or_insert_default().push(one);
            }
            None => all.push(one),
        }
    }
    all
}

/// Stages, and instructions of several lines.
pub(super) fn folding(document: &Document) -> Vec<FoldingRange> {
    let range = |start: usize, end: usize| FoldingRange {
        start_line: number(start.saturating_sub(1)),
        end_line: number(end.saturating_sub(1)),
        kind: Some(FoldingRangeKind::Region),
        ..FoldingRange::default()
    };
    let instructions = &document.parsed.dockerfile.instructions;
    let mut all = Vec::new();
    let mut begun: Option<usize> = None;
    let mut last = 0;
    for instruction in instructions {
        if matches!(instruction.command, Command::From(_)) {
            all.extend(
                begun
                    .filter(|start| last > *start)
                    .map(|it| range(it, last)),
            );
            begun = Some(instruction.start_line);
        }
        if instruction.end_line > instruction.start_line {
            all.push(range(instruction.start_line, instruction.end_line));
        }
        last = instruction.end_line;
    }
    all.extend(
        begun
            .filter(|start| last > *start)
            .map(|it| range(it, last)),
    );
    all
}

pub(super) fn definition(document: &Document, at: Position) -> Option<Location> {
    let used = names::at(document, document.offset(at))?;
    let declared = names::declaration(document, &used)?;
    let range = document.range(declared.span);
    Some(Location::new(document.uri.clone(), range))
}

pub(super) fn references(document: &Document, at: Position, declaration: bool) -> Vec<Location> {
    let Some(asked) = names::at(document, document.offset(at)) else {
        return Vec::new();
    };
    let declared = names::declared(document).into_iter();
    let declared = declared
        .filter(|one| declaration && one.name == asked.name)
        .map(|one| one.span);
    let used = names::used(document).into_iter();
    let used = used
        .filter(|one| one.name == asked.name)
        .map(|one| one.span);
    let mut spans: Vec<Span> = declared.chain(used).collect();
    spans.sort_by_key(|span| span.start);
    spans
        .into_iter()
        .map(|span| Location::new(document.uri.clone(), document.range(span)))
        .collect()
}

pub(super) fn hover(document: &Document, at: Position) -> Option<Hover> {
    let offset = document.offset(at);
    let instructions = &document.parsed.dockerfile.instructions;
    let on_keyword = instructions
        .iter()
        .map(|instruction| &instruction.keyword)
        .find(|keyword| keyword.span.start <= offset && offset < keyword.span.end);
    if let Some(keyword) = on_keyword {
        let known = Keyword::find(&keyword.value)?;
        return Some(shown(summary(known), document.range(keyword.span)));
    }
    let used = names::at(document, offset)?;
    let declared = names::declaration(document, &used)?;
    let line = document.position(declared.span.start).line + 1;
    let text = format!("```dockerfile\n{}\n```\nline {line}", declared.text);
    Some(shown(&text, document.range(used.span)))
}

fn shown(text: &str, range: Range) -> Hover {
    Hover {
        contents: HoverContents::Markup(MarkupContent {
            kind: MarkupKind::Markdown,
            value: text.to_owned(),
        }),
        range: Some(range),
    }
}

/// What may stand at a place, by what stands before it on its line.
pub(super) fn completion(document: &Document, at: Position) -> Vec<CompletionItem> {
    let before = document.line_before(at);
    let word_start = before.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let (head, word) = before.split_at(word_start);
    let offset = document.offset(at);
    let stage = names::staged(document)
        .take_while(|(_, instruction)| instruction.span.start <= offset)
        .last()
        .and_then(|(stage, _)| stage);
    if let Some(dollar) = word.rfind('$')
        && word[dollar + 1..]
            .trim_start_matches('{')
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return variables(document, offset, stage);
    }
    let first = head.split_whitespace().next();
    let keyword = first.and_then(Keyword::find);
    if word.starts_with("--from=") || word.contains(",from=") || word.starts_with("--mount=from=") {
        return stages(document, offset);
    }
    match keyword {
        None if head.trim().is_empty() && !continues(document, at) => keywords(),
        Some(keyword) if word.starts_with("--") => flags(keyword),
        Some(Keyword::From) if head.split_whitespace().count() == 1 => stages(document, offset),
        Some(Keyword::Onbuild) if head.split_whitespace().count() == 1 => keywords(),
        _ => Vec::new(),
    }
}

/// Whether the line goes on with what the one before began.
fn continues(document: &Document, at: Position) -> bool {
    let Some(line) = at.line.checked_sub(1) else {
        return false;
    };
    let before = document.line_before(Position::new(line, u32::MAX));
    let escape = document.parsed.dockerfile.escape.character();
    let is_comment = before.trim_start().starts_with('#');
    !is_comment && before.trim_end().ends_with(escape)
}

fn item(label: &str, kind: CompletionItemKind, detail: &str) -> CompletionItem {
    CompletionItem {
        kind: Some(kind),
        ..CompletionItem::new_simple(label.to_owned(), detail.to_owned())
    }
}

fn keywords() -> Vec<CompletionItem> {
    let all = Keyword::ALL.into_iter();
    all.map(|keyword| {
        let text = summary(keyword);
        let first = text.lines().next().unwrap_or_default();
        item(keyword.name(), CompletionItemKind::KEYWORD, first)
    })
    .collect()
}

fn flags(keyword: Keyword) -> Vec<CompletionItem> {
    let all = keyword.flags();
    all.map(|(name, takes_value)| {
        let label = format!("--{name}{}", if takes_value { "=" } else { "" });
        item(&label, CompletionItemKind::PROPERTY, "")
    })
    .collect()
}

/// Those above.
fn stages(document: &Document, offset: usize) -> Vec<CompletionItem> {
    let declared = names::declared(document).into_iter();
    let above = declared.filter(|one| one.span.end < offset);
    above
        .filter_map(|one| match &one.name {
            Name::Stage(name) => Some(item(name, CompletionItemKind::MODULE, &one.text)),
            Name::Variable(_) => None,
        })
        .collect()
}

/// Those of this stage and of before the first.
fn variables(document: &Document, offset: usize, stage: Option<usize>) -> Vec<CompletionItem> {
    let mut found: Vec<CompletionItem> = Vec::new();
    for one in names::declared(document) {
        let is_visible = one.span.end < offset && (one.stage.is_none() || one.stage == stage);
        if let Name::Variable(name) = &one.name
            && is_visible
        {
            found.retain(|known| known.label != *name);
            found.push(item(name, CompletionItemKind::VARIABLE, &one.text));
        }
    }
    found
}

fn summary(keyword: Keyword) -> &'static str {
    match keyword {
        Keyword::Add => {
            "`ADD [flags] SOURCE… DESTINATION`\n\nCopies files, and brings what is behind URLs and in git repositories; archives of the context are unpacked."
        }
        Keyword::Arg => {
            "`ARG NAME[=DEFAULT] …`\n\nA variable of the build, set with `--build-arg`; before the first `FROM` it is for `FROM` lines."
        }
        Keyword::Cmd => {
            "`CMD [\"program\", \"argument\"]` or `CMD command`\n\nWhat a container runs, or the arguments of its `ENTRYPOINT`. The last one counts."
        }
        Keyword::Copy => {
            "`COPY [flags] SOURCE… DESTINATION`\n\nCopies files of the context, or of a stage or an image with `--from`."
        }
        Keyword::Entrypoint => {
            "`ENTRYPOINT [\"program\", \"argument\"]` or `ENTRYPOINT command`\n\nWhat a container always runs. The last one counts."
        }
        Keyword::Env => "`ENV NAME=value …`\n\nVariables for what follows and for containers.",
        Keyword::Expose => {
            "`EXPOSE PORT[/tcp|udp] …`\n\nPorts that a container listens on; `run -P` publishes them."
        }
        Keyword::From => {
            "`FROM [--platform=P] IMAGE [AS NAME]`\n\nBegins a stage on an image, an earlier stage or nothing (`scratch`)."
        }
        Keyword::Healthcheck => {
            "`HEALTHCHECK [flags] CMD command` or `HEALTHCHECK NONE`\n\nHow to see that a container works."
        }
        Keyword::Label => "`LABEL name=value …`\n\nMetadata of the image.",
        Keyword::Maintainer => {
            "`MAINTAINER name`\n\nOut of date: use `LABEL org.opencontainers.image.authors=`."
        }
        Keyword::Onbuild => "`ONBUILD INSTRUCTION`\n\nRuns in builds that begin with this image.",
        Keyword::Run => {
            "`RUN [flags] command`, `RUN [\"program\", \"argument\"]` or `RUN <<EOF`\n\nRuns a command; what it leaves is a layer."
        }
        Keyword::Shell => {
            "`SHELL [\"program\", \"argument\"]`\n\nWhat runs commands that are no JSON array."
        }
        Keyword::Stopsignal => "`STOPSIGNAL signal`\n\nWhat `stop` sends first.",
        Keyword::User => "`USER user[:group]`\n\nWho runs what follows, and containers.",
        Keyword::Volume => {
            "`VOLUME [\"/path\"]` or `VOLUME /path …`\n\nDirectories that each container has of its own."
        }
        Keyword::Workdir => {
            "`WORKDIR path`\n\nThe directory for what follows and for containers; it is made where it is missing."
        }
    }
}
