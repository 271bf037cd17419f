//! COPY and ADD.

use super::flags::Flags;
use super::{Builder, Line};
use crate::ast::{Heredoc, Text, Transfer, TransferSource};
use crate::diagnostic::Diagnostic;
use crate::grammar::Arguments;
use crate::heredoc;
use crate::keyword::Keyword;
use crate::mount;

impl Builder<'_, '_> {
    pub(super) fn transfer(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        arguments: &Arguments,
        flags: &Flags,
        heredocs: &[Heredoc],
    ) -> Option<Transfer> {
        let name = keyword.name();
        let mut paths = match arguments {
            Arguments::Exec(strings) => self.checked_strings(line, strings),
            Arguments::None | Arguments::Text(_) => Vec::new(),
            Arguments::Words(_) => self.words_or_array(keyword, line, arguments.clone())?,
        };
        let destination = paths.pop();
        let Some(destination) = destination.clone().filter(|_| !paths.is_empty()) else {
            let message =
                format!("{name} requires at least two arguments, sources and a destination");
            self.report(
                Diagnostic::error(
                    "missing-destination",
                    message,
                    line.span(0..line.text.len()),
                )
                .help(match paths.first().or(destination.as_ref()) {
                    Some(source) if !source.value.is_empty() => format!(
                        "write `{name} {} DESTINATION`, for instance `{name} {0} .`",
                        source.value
                    ),
                    _ => format!("write `{name} source destination`"),
                }),
            );
            return None;
        };
        let is_shell_form = matches!(arguments, Arguments::Words(_));
        if is_shell_form && heredoc::opening(&destination.value).is_some() {
            let message = format!("a heredoc cannot be the destination of {name}");
            self.report(
                Diagnostic::error("heredoc-as-destination", message, destination.span).help(
                    format!(
                        "the destination comes last: `{name} {} /path`",
                        destination.value
                    ),
                ),
            );
            return None;
        }
        let sources = paths
            .into_iter()
            .map(|path| self.source(path, is_shell_form, heredocs))
            .collect::<Option<_>>()?;
        let from = flags.text("from");
        if let Some(from) = &from
            && !line.is_trigger
            && !self.reader.is_extended()
            && mount::has_variable(&from.value)
        {
            self.report(mount::variable_in_from("`--from`", from.span));
        }
        Some(Transfer {
            sources,
            destination,
            from,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.switch("link"),
            parents: flags.switch("parents"),
            exclude: flags.texts("exclude"),
            checksum: flags.text("checksum"),
            keep_git_dir: flags.switch("keep-git-dir"),
            unpack: flags.switch("unpack"),
        })
    }

    fn source(
        &mut self,
        path: Text,
        may_be_heredoc: bool,
        heredocs: &[Heredoc],
    ) -> Option<TransferSource> {
        let opening = if may_be_heredoc {
            heredoc::opening(&path.value)
        } else {
            None
        };
        let Some(opening) = opening else {
            return Some(TransferSource::Path(path));
        };
        // Of two heredocs with one name both sources get the last, as in BuildKit.
        let index = heredocs
            .iter()
            .rposition(|heredoc| heredoc.name == opening.name);
        let heredoc = index.map(TransferSource::Heredoc);
        // Where there is none it was not terminated, which has been said, or a quote kept the line from being split.
        if heredoc.is_none() && !self.has_reported_since(path.span.start) {
            let message = "this heredoc is not opened: a quote in the line does not end";
            self.report(Diagnostic::error("unopened-heredoc", message, path.span));
        }
        heredoc
    }
}
