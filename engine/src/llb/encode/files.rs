//! File operations as BuildKit's: what is made and copied, whose, and in which mode.

use rbuild_executor::file::{ModeChange, ModeClause, ModeOperator, Owner};

use super::{NONE, bits, place};
use crate::llb::wire::{self, Action, Chown, Copy, FileAction, MkDir, MkFile, Named, User, Who};
use crate::op::{self, CopyOp, FileOp, Unpack};

/// Each action works on what the one before it left.
pub(super) fn files(file: &FileOp, inputs: usize) -> wire::FileOp {
    let timestamp = file
        .epoch
        .map_or(NONE, |epoch| epoch.saturating_mul(1_000_000_000));
    let base = if file.base { 0 } else { NONE };
    let mut actions: Vec<FileAction> = Vec::new();
    let mut add = |secondary_input, action| {
        let input = match actions.len() {
            0 => base,
            earlier => place(inputs + earlier - 1),
        };
        actions.push(FileAction {
            input,
            secondary_input,
            output: NONE,
            action: Some(action),
        });
    };
    for action in &file.actions {
        match action {
            op::FileAction::Mkdir { path, mode, owner } => {
                let directory = MkDir {
                    path: path.clone(),
                    mode: bits(*mode),
                    make_parents: true,
                    owner: chown(owner, base),
                    timestamp,
                };
                add(NONE, Action::MkDir(directory));
            }
            op::FileAction::Mkfile {
                destination,
                name,
                data,
                owner,
                mode,
            } => {
                let path = match destination.strip_suffix('/') {
                    Some(directory) => format!("{directory}/{name}"),
                    None => destination.clone(),
                };
                let mode = match mode {
                    Some(ModeChange::Set(mode)) => *mode,
                    // A new file has no mode that could be changed.
                    Some(ModeChange::Symbolic(_)) | None => 0o644,
                };
                let file = MkFile {
                    path,
                    mode: bits(mode),
                    data: data.clone(),
                    owner: chown(owner, base),
                    timestamp,
                };
                add(NONE, Action::MkFile(file));
            }
            op::FileAction::Copy(copy) => {
                for source in &copy.sources {
                    let secondary = place(copy.input);
                    add(
                        secondary,
                        Action::Copy(copied(copy, source, base, timestamp)),
                    );
                }
            }
        }
    }
    if let Some(last) = actions.last_mut() {
        last.output = 0;
    }
    wire::FileOp { actions }
}

fn copied(copy: &CopyOp, source: &str, base: i64, timestamp: i64) -> Copy {
    let (mut src, mut include_patterns) = (rooted(source), Vec::new());
    if copy.parents {
        // What stands before the pivot is not kept.
        let (pivot, kept) = source.split_once("/./").unwrap_or(("", source));
        src = rooted(pivot);
        include_patterns.push(kept.trim_start_matches('/').to_owned());
    }
    let slash = if copy.destination_is_directory && !copy.destination.ends_with('/') {
        "/"
    } else {
        ""
    };
    let (mode, mode_str) = match &copy.mode {
        Some(ModeChange::Set(mode)) => (bits(*mode), String::new()),
        Some(ModeChange::Symbolic(clauses)) => (-1, symbolic(clauses)),
        None => (-1, String::new()),
    };
    Copy {
        src,
        dest: format!("{}{slash}", copy.destination),
        owner: chown(&copy.owner, base),
        mode,
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: copy.unpack == Some(Unpack::Archives),
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        timestamp,
        include_patterns,
        exclude_patterns: copy.excludes.clone(),
        mode_str,
    }
}

fn rooted(path: &str) -> String {
    format!("/{}", path.trim_start_matches('/'))
}

fn chown(owner: &Owner, base: i64) -> Option<Chown> {
    let text = match owner {
        Owner::Default => return None,
        Owner::Chown(text) if text.is_empty() => return None,
        Owner::Chown(text) => text,
    };
    let who = |text: &str| {
        let id = match text {
            "" | "root" => Some(0),
            text => text.parse().ok(),
        };
        let user = id.map_or_else(
            || {
                Who::ByName(Named {
                    name: text.to_owned(),
                    input: base,
                })
            },
            Who::ById,
        );
        User { user: Some(user) }
    };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text.as_str(), None),
    };
    Some(Chown {
        user: Some(who(user)),
        group: group.map(who),
    })
}

/// `u=rwX,go-w`, as it may have been written.
fn symbolic(clauses: &[ModeClause]) -> String {
    let clauses: Vec<String> = clauses.iter().map(clause).collect();
    clauses.join(",")
}

fn clause(clause: &ModeClause) -> String {
    const CLASSES: [(u32, char); 3] = [(0o700, 'u'), (0o070, 'g'), (0o007, 'o')];
    let classes = |mask: u32| {
        let named = CLASSES.iter().filter(move |(bits, _)| mask & bits != 0);
        named.map(|(_, name)| *name).collect::<String>()
    };
    let operator = match clause.operator {
        ModeOperator::Add => '+',
        ModeOperator::Remove => '-',
        ModeOperator::Set => '=',
    };
    let mut text = format!("{}{operator}", classes(clause.who));
    if let Some(mask) = clause.copy_from {
        text.push_str(&classes(mask));
    }
    for (bit, name) in [(4, 'r'), (2, 'w'), (1, 'x')] {
        if clause.permissions & bit != 0 {
            text.push(name);
        }
    }
    for (given, name) in [
        (clause.conditional_execute, 'X'),
        (clause.setid, 's'),
        (clause.sticky, 't'),
    ] {
        if given {
            text.push(name);
        }
    }
    text
}
