//! RUN --mount: from the parser's reading to what the worker mounts, with targets below WORKDIR and `from` found.

use rbuild_parser::ast::Text;
use rbuild_parser::mount::{Mount, MountKind, Sharing, parse_expanding};
use rbuild_parser::{Diagnostic, Spanned, expand};
use rbuild_solver::VertexId;

use super::input::Input;
use super::lowering::{Lowering, Outcome, Site};
use super::paths;
use super::state::State;
use crate::op::{Access, CacheAccess, MountOp, MountOpKind, SharingOp};

impl Lowering<'_> {
    /// Reads one `--mount`; what it takes from elsewhere is added to `inputs`.
    pub(crate) fn mount(
        &mut self,
        state: &State,
        site: Site<'_>,
        raw: &Text,
        inputs: &mut Vec<VertexId>,
    ) -> Outcome<MountOp> {
        let escape = self.file.escape;
        for from in raw
            .value
            .split(',')
            .filter_map(|it| it.strip_prefix("from="))
        {
            let undefined = expand::word(from, escape, &state.scope).map(|it| it.undefined);
            if let Ok(unset) = undefined
                && self.file.extended
                && !unset.is_empty()
            {
                return Err(Box::new(self.unset_in_from(state, site, &unset, raw.span)));
            }
        }
        let mut words = Vec::new();
        let mount = parse_expanding(&raw.value, raw.span, self.file.extended, &mut |text| {
            let expanded = expand::word(text, escape, &state.scope)?;
            let text = expanded.text.clone();
            words.push(expanded);
            Ok(text)
        });
        for word in &words {
            self.warn_of_undefined(state, site, raw, word);
        }
        let Mount { kind, target } = mount?;
        let written = target.as_deref().unwrap_or_default();
        match kind {
            MountKind::Bind {
                from,
                source,
                writable,
            } => Ok(MountOp {
                target: place(state, written, raw)?,
                read_only: !writable,
                kind: MountOpKind::Bind {
                    input: self.mount_input(state, site, raw, from.as_deref(), inputs)?,
                    source: paths::resolve("/", &source),
                },
            }),
            MountKind::Cache {
                id,
                from,
                source,
                sharing,
                readonly,
                mode,
                uid,
                gid,
            } => Ok(MountOp {
                target: place(state, written, raw)?,
                read_only: readonly,
                kind: MountOpKind::Cache {
                    id: self.cache_id(id, written),
                    sharing: match sharing {
                        Sharing::Shared => SharingOp::Shared,
                        Sharing::Private => SharingOp::Private,
                        Sharing::Locked => SharingOp::Locked,
                    },
                    input: match &from {
                        Some(from) => self.mount_input(state, site, raw, Some(from), inputs)?,
                        None => None,
                    },
                    source: paths::resolve("/", &source),
                    access: CacheAccess { mode, uid, gid },
                },
            }),
            MountKind::Tmpfs { size } => Ok(MountOp {
                target: place(state, written, raw)?,
                read_only: false,
                // 0 is what no size is, not the kernel's "without end".
                kind: MountOpKind::Tmpfs {
                    size: size.filter(|size| *size > 0),
                },
            }),
            MountKind::Secret {
                id,
                env,
                required,
                mode,
                uid,
                gid,
            } => {
                let target = match (&target, &env) {
                    (Some(target), _) => place(state, target, raw)?,
                    (None, Some(_)) => String::new(),
                    (None, None) => format!("/run/secrets/{}", paths::base_name(&id)),
                };
                Ok(MountOp {
                    target,
                    read_only: true,
                    kind: MountOpKind::Secret {
                        id,
                        env,
                        required,
                        access: Access { mode, uid, gid },
                    },
                })
            }
            MountKind::Ssh {
                id,
                required,
                mode,
                uid,
                gid,
            } => {
                let target = match &target {
                    Some(target) => place(state, target, raw)?,
                    None => format!("/run/buildkit/ssh_agent.{}", ssh_number(site, raw)),
                };
                Ok(MountOp {
                    target,
                    read_only: true,
                    kind: MountOpKind::Ssh {
                        id: id.unwrap_or_else(|| "default".to_owned()),
                        required,
                        access: Access { mode, uid, gid },
                    },
                })
            }
        }
    }

    /// The build context where `from` is missing. `None` is an empty root.
    fn mount_input(
        &mut self,
        state: &State,
        site: Site<'_>,
        raw: &Text,
        from: Option<&str>,
        inputs: &mut Vec<VertexId>,
    ) -> Outcome<Option<usize>> {
        let vertex = match from {
            None => self.context("", site.shown()),
            Some(from) => {
                match self.input(state, site, &Spanned::new(from.to_owned(), raw.span))? {
                    Input::Empty | Input::Unknown => return Ok(None),
                    Input::Vertex(vertex) | Input::Context(vertex) => vertex,
                }
            }
        };
        inputs.push(vertex);
        Ok(Some(inputs.len() - 1))
    }

    /// The cleaned target where no ID is given, within the namespace that BUILDKIT_CACHE_MOUNT_NS sets.
    fn cache_id(&self, id: Option<String>, target: &str) -> String {
        let id = id
            .filter(|id| !id.is_empty())
            .unwrap_or_else(|| paths::clean(target));
        match self.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
            Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
            _ => id,
        }
    }
}

/// A mount point: absolute, and not the root itself; WORKDIR where none is written.
fn place(state: &State, target: &str, raw: &Text) -> Outcome<String> {
    let place = paths::resolve(&state.cwd(), target);
    if place != "/" {
        return Ok(place);
    }
    let (message, help) = if target.is_empty() {
        (
            "a mount without a target is at WORKDIR, which is the root here",
            "give `target=/path`, or set WORKDIR before",
        )
    } else {
        (
            "the root is no target for a mount",
            "give a directory below it as `target`",
        )
    };
    Err(Box::new(
        Diagnostic::error("bad-mount", message, raw.span).help(help),
    ))
}

/// Sockets without a place of their own are numbered in the order of the flags.
fn ssh_number(site: Site<'_>, raw: &Text) -> usize {
    let rbuild_parser::ast::Command::Run(run) = &site.instruction.command else {
        return 0;
    };
    run.mounts
        .iter()
        .take_while(|mount| mount.span != raw.span)
        .filter(|mount| mount.value.split(',').any(|option| option == "type=ssh"))
        .count()
}
