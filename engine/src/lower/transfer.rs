//! COPY, ADD and WORKDIR: the instructions that change files without running anything.

use rbuild_executor::file::{ModeChange, Owner};
use rbuild_executor::network::Reach;
use rbuild_parser::ast::{Escape, Text, Transfer, TransferSource};
use rbuild_parser::{Diagnostic, Span, expand};
use rbuild_solver::VertexId;

use super::input::Input;
use super::lowering::{Lowering, Outcome, Site};
use super::remote::{self, Remote};
use super::run::shown;
use super::state::State;
use super::words::expansion_mistake;
use super::{chmod, paths};
use crate::op::{CopyOp, FileAction, FileOp, Op, Unpack};

/// A COPY or ADD with its words expanded.
struct Words {
    sources: Vec<String>,
    /// Name and content.
    documents: Vec<(String, Vec<u8>)>,
    /// As written.
    destination: String,
    chown: String,
    chmod: String,
    checksum: String,
}

/// What all actions of the instruction share.
struct Shared {
    destination: String,
    destination_is_directory: bool,
    excludes: Vec<String>,
    parents: bool,
    owner: Owner,
    mode: Option<ModeChange>,
}

impl Lowering<'_> {
    pub(crate) fn transfer(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        transfer: &Transfer,
        add: bool,
    ) -> Outcome<()> {
        let words = self.transfer_words(state, site, transfer, add)?;
        let mode = match (words.chmod.as_str(), &transfer.chmod) {
            ("", _) | (_, None) => None,
            (value, Some(text)) => Some(chmod::parse(value).map_err(|message| {
                Box::new(Diagnostic::error(
                    "bad-chmod",
                    format!("--chmod: {message}"),
                    text.span,
                ))
            })?),
        };
        let shared = Shared {
            destination: paths::resolve(&state.cwd(), &words.destination),
            destination_is_directory: paths::names_directory(&words.destination),
            // As BuildKit has them: no variables.
            excludes: transfer
                .exclude
                .iter()
                .map(|pattern| pattern.value.clone())
                .collect(),
            parents: switch(transfer.parents.as_ref()),
            owner: if words.chown.is_empty() {
                Owner::Default
            } else {
                Owner::Chown(words.chown.clone())
            },
            mode,
        };
        let from = match &transfer.from {
            Some(from) if add => {
                return Err(Box::new(
                    Diagnostic::error("add-from", "ADD has no --from", from.span)
                        .help("use COPY --from"),
                ));
            }
            Some(from) => Some(self.input(state, site, from)?),
            None => None,
        };
        // As BuildKit does: with --chmod there is nothing to link.
        let linked = switch(transfer.link.as_ref()) && words.chmod.is_empty();
        let mut inputs: Vec<VertexId> = state.vertex.into_iter().filter(|_| !linked).collect();
        let based = !inputs.is_empty();
        let actions = self.actions(site, transfer, &words, &shared, from, add, &mut inputs)?;
        let op = Op::File(FileOp {
            base: based,
            actions,
            refresh: self.is_refreshed(site),
            epoch: None,
        });
        let created_by = remote::without_userinfo(&created_by(&words, &shared, add));
        let text = expand::word(&shown(site.instruction), self.file.escape, &state.scope)
            .map_or_else(|_| shown(site.instruction), |expanded| expanded.text);
        let text = remote::without_userinfo(&text);
        let (name, record) = self.next_step(state, site, &text);
        let place = (site.stage, site.ordinal);
        let mut vertex = self.graph.add(op, &inputs);
        self.name_step(vertex, place, name.clone(), record.clone(), site.shown());
        if let Some(base) = state.vertex
            && linked
        {
            vertex = self.graph.add(Op::Merge, &[base, vertex]);
            let name = match name.split_once("] ") {
                Some((prefix, text)) => format!("{prefix}] LINK {text}"),
                None => name,
            };
            self.name_step(vertex, place, name, record, site.shown());
        }
        state.vertex = Some(vertex);
        state.record(created_by, true);
        Ok(())
    }

    fn transfer_words(
        &mut self,
        state: &State,
        site: Site<'_>,
        transfer: &Transfer,
        add: bool,
    ) -> Outcome<Words> {
        let mut words = Words {
            sources: Vec::new(),
            documents: Vec::new(),
            destination: self.word(state, site, &transfer.destination)?,
            chown: self.optional_word(state, site, transfer.chown.as_ref())?,
            chmod: self.optional_word(state, site, transfer.chmod.as_ref())?,
            checksum: self.optional_word(state, site, transfer.checksum.as_ref())?,
        };
        for source in &transfer.sources {
            match source {
                TransferSource::Path(path) => {
                    let source = self.word(state, site, path)?;
                    if transfer.from.is_none() && site.blame.is_none() {
                        self.note_source(&source, path.span, add);
                    }
                    words.sources.push(source);
                }
                TransferSource::Heredoc(index) => {
                    let Some(heredoc) = site.instruction.heredocs.get(*index) else {
                        continue;
                    };
                    let content = if heredoc.expand {
                        let text = Text::new(heredoc.content.clone(), heredoc.body_span);
                        let expanded =
                            expand::text(&heredoc.content, Escape::Backslash, &state.scope)
                                .map_err(|error| Box::new(expansion_mistake(&text, &error)))?;
                        self.warn_of_undefined(state, site, &text, &expanded);
                        expanded.text
                    } else {
                        heredoc.content.clone()
                    };
                    words
                        .documents
                        .push((heredoc.name.clone(), content.into_bytes()));
                }
            }
        }
        Ok(words)
    }

    fn optional_word(
        &mut self,
        state: &State,
        site: Site<'_>,
        text: Option<&Text>,
    ) -> Outcome<String> {
        match text {
            Some(text) => self.word(state, site, text),
            None => Ok(String::new()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one instruction")]
    fn actions(
        &mut self,
        site: Site<'_>,
        transfer: &Transfer,
        words: &Words,
        shared: &Shared,
        from: Option<Input>,
        add: bool,
        inputs: &mut Vec<VertexId>,
    ) -> Outcome<Vec<FileAction>> {
        // The base is no source, even where it happens to be the same vertex.
        let based = !inputs.is_empty();
        let mut actions: Vec<FileAction> = Vec::new();
        let mut paths_of_source = transfer.sources.iter().filter_map(|source| match source {
            TransferSource::Path(path) => Some(path),
            TransferSource::Heredoc(_) => None,
        });
        let checksum = transfer
            .checksum
            .as_ref()
            .filter(|_| !words.checksum.is_empty());
        if let Some(checksum) = checksum
            && words.sources.len() != 1
        {
            return Err(Box::new(Diagnostic::error(
                "checksum-of-several",
                "--checksum is for one URL or git repository",
                checksum.span,
            )));
        }
        for source in &words.sources {
            let span = paths_of_source
                .next()
                .map_or(site.instruction.span, |path| path.span);
            let remote = remote::classify(source)
                .map_err(|message| Box::new(Diagnostic::error("bad-repository", message, span)))?;
            check_kind(&remote, add, checksum, span)?;
            if let Some(reach) = &self.options.reach {
                check_reach(reach, source, &remote, span)?;
            }
            let (vertex, patterns, unpack) = match remote {
                Remote::Http => {
                    let name = remote::file_name(source);
                    let pattern = literal(&name);
                    let vertex = self.http(source, name, checksum, &words.checksum, site)?;
                    let unpack = match switch(transfer.unpack.as_ref()) {
                        true => Unpack::Archives,
                        false => Unpack::Never,
                    };
                    (vertex, pattern, Some(unpack))
                }
                Remote::Git(git) => {
                    let vertex = self.git(git, transfer, &words.checksum, span, site)?;
                    (vertex, "/".to_owned(), Some(Unpack::Never))
                }
                Remote::Local => {
                    if from.is_none() && crate::select::climbs_out(source) {
                        self.warn_of_outside(site, source, span);
                    }
                    let vertex = match from {
                        Some(input) => self.vertex_of(input, site),
                        None => self.context("", site.shown()),
                    };
                    let unpack = match (&transfer.unpack, add) {
                        (Some(unpack), true) if !unpack.value => Some(Unpack::Never),
                        (_, true) => Some(Unpack::Archives),
                        (_, false) => None,
                    };
                    (vertex, source.clone(), unpack)
                }
            };
            let skipped = usize::from(based);
            let known = inputs
                .iter()
                .skip(skipped)
                .position(|known| *known == vertex);
            let input = known.map_or(inputs.len(), |known| known + skipped);
            if known.is_none() {
                inputs.push(vertex);
            }
            if let Some(FileAction::Copy(last)) = actions.last_mut()
                && last.input == input
                && last.unpack == unpack
            {
                last.sources.push(patterns);
                continue;
            }
            actions.push(FileAction::Copy(CopyOp {
                input,
                sources: vec![patterns],
                destination: shared.destination.clone(),
                destination_is_directory: shared.destination_is_directory,
                excludes: shared.excludes.clone(),
                parents: shared.parents,
                owner: shared.owner.clone(),
                mode: shared.mode.clone(),
                unpack,
            }));
        }
        for (name, data) in &words.documents {
            let slash = if shared.destination_is_directory && shared.destination != "/" {
                "/"
            } else {
                ""
            };
            actions.push(FileAction::Mkfile {
                destination: format!("{}{slash}", shared.destination),
                name: name.clone(),
                data: data.clone(),
                owner: shared.owner.clone(),
                mode: shared.mode.clone(),
            });
        }
        Ok(actions)
    }

    /// A path that climbs out is read as if the context were the root.
    fn warn_of_outside(&mut self, site: Site<'_>, source: &str, span: Span) {
        let inside = paths::clean(&format!("/{source}"));
        let inside = inside.trim_start_matches('/');
        let message =
            format!("`{source}` does not lead out of the build context: it is `{inside}` of it");
        self.warning_at(
            site,
            Diagnostic::warning("CopyOutsideContext", message, span).help(
                "to copy from elsewhere, name that directory with `--build-context NAME=DIR` and write `COPY --from=NAME`",
            ),
        );
    }

    /// Makes the directory, owned by the USER in force, and goes there. `/` is always there.
    pub(crate) fn workdir(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        path: &Text,
    ) -> Outcome<()> {
        let text = path;
        let path = self.word(state, site, text)?;
        // The base may change its own; once one is set here, the rest hangs on that.
        if !state.own_workdir && !path.starts_with('/') && site.blame.is_none() {
            let message = format!(
                "Relative workdir {path:?} can have unexpected results if the base image changes"
            );
            self.warning_at(
                site,
                Diagnostic::warning("WorkdirRelativePath", message, text.span)
                    .help(format!("write `WORKDIR {}`", paths::resolve("/", &path))),
            );
        }
        state.own_workdir = true;
        // One that is absolute is kept as it is written, with its trailing slash.
        let written = match path.starts_with('/') {
            true => path,
            false => paths::resolve(&state.cwd(), &path),
        };
        let text = format!("WORKDIR {written}");
        let path = paths::resolve("/", &written);
        state.config.config.working_dir = written;
        if state.config.config.working_dir == "/" {
            state.record(text, false);
            return Ok(());
        }
        let user = state.config.config.user.clone();
        let op = Op::File(FileOp {
            base: state.vertex.is_some(),
            actions: vec![FileAction::Mkdir {
                path,
                mode: 0o755,
                owner: if user.is_empty() {
                    Owner::Default
                } else {
                    Owner::Chown(user)
                },
            }],
            refresh: self.is_refreshed(site),
            epoch: self.epoch,
        });
        let inputs: Vec<VertexId> = state.vertex.into_iter().collect();
        let vertex = self.graph.add(op, &inputs);
        let (name, record) = self.next_step(state, site, &text);
        self.name_step(
            vertex,
            (site.stage, site.ordinal),
            name,
            record,
            site.shown(),
        );
        state.vertex = Some(vertex);
        state.record(text, true);
        Ok(())
    }
}

/// Whether a flag says yes.
pub(super) fn switch(flag: Option<&rbuild_parser::ast::Switch>) -> bool {
    flag.is_some_and(|flag| flag.value)
}

/// Whether what is elsewhere may be reached. Redirects are looked at when they come.
fn check_reach(reach: &Reach, source: &str, remote: &Remote, span: Span) -> Outcome<()> {
    let url = match remote {
        Remote::Local => return Ok(()),
        Remote::Http => source,
        Remote::Git(git) => &git.url,
    };
    // What has no host fails by itself.
    let Some((host, port)) = remote::host_and_port(url) else {
        return Ok(());
    };
    if reach.has_host(&host, port) {
        return Ok(());
    }
    let shown = remote::without_userinfo(url);
    Err(Box::new(
        Diagnostic::error(
            "not-allowed",
            format!(
                "`{shown}` may not be reached in this build: no --allow-host has {host}:{port}"
            ),
            span,
        )
        .help(format!(
            "allow it on the command line with `--allow-host {host}:{port}`"
        )),
    ))
}

/// Whether the instruction, and the checksum where there is one, can have such a source.
fn check_kind(remote: &Remote, add: bool, checksum: Option<&Text>, span: Span) -> Outcome<()> {
    let what = match remote {
        Remote::Local => None,
        Remote::Http => Some("a URL"),
        Remote::Git(_) => Some("a git repository"),
    };
    match (what, checksum) {
        (Some(what), _) if !add => Err(Box::new(
            Diagnostic::error(
                "copy-of-url",
                format!("COPY cannot take {what} as its source"),
                span,
            )
            .help("use ADD"),
        )),
        (None, Some(checksum)) => Err(Box::new(
            Diagnostic::error(
                "checksum-of-local",
                "--checksum is for URLs and git repositories only",
                checksum.span,
            )
            .secondary(span, "this is a file of the build context"),
        )),
        _ => Ok(()),
    }
}

/// A pattern that matches a name and nothing else.
fn literal(name: &str) -> String {
    if !name.contains(['*', '?', '[']) {
        return name.to_owned();
    }
    let mut pattern = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '*' | '?' | '[' => pattern.extend(['[', c, ']']),
            '\\' => pattern.push_str("\\\\"),
            c => pattern.push(c),
        }
    }
    pattern
}

fn created_by(words: &Words, shared: &Shared, add: bool) -> String {
    let mut text = if add { "ADD" } else { "COPY" }.to_owned();
    if shared.parents {
        text.push_str(" --parents");
    }
    if !words.chown.is_empty() {
        text.push_str(&format!(" --chown={}", words.chown));
    }
    if !words.chmod.is_empty() {
        text.push_str(&format!(" --chmod={}", words.chmod));
    }
    for source in &words.sources {
        text.push_str(&format!(" {source}"));
    }
    for (name, _) in &words.documents {
        text.push_str(&format!(" <<{name}"));
    }
    format!("{text} {} # buildkit", words.destination)
}
