//! Why a path is not in a context, for messages.

use std::collections::VecDeque;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;

use rbuild_cache::root_dir::{Resolve, path_of};
use rbuild_cache::tree::Kind;
use rbuild_parser::ignore::Verdict;

use super::Context;
use crate::select::LINK_LIMIT;
use crate::select::names::{hint, nearest};
use crate::select::pattern::{components, join};

/// Why a path cannot be copied. Displayed as the end of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// `path` is in the directory, but the ignore file excludes it (or a directory above it).
    Excluded {
        path: String,
        file: String,
        line: usize,
    },
    /// A link on the way leads out of the context.
    Outside { link: String, target: String },
    /// There is no such thing; these are its neighbours' names that look like it.
    NotThere { path: String, nearest: Vec<String> },
    /// It is a socket, which cannot be copied.
    Socket { path: String },
    /// Nothing speaks against it: it came while the build ran.
    There,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Excluded { path, file, line } => {
                write!(
                    f,
                    "`{path}` is excluded from the build context by line {line} of {file}"
                )
            }
            Self::Outside { link, target } => write!(
                f,
                "`{link}` is a link to `{target}`, which leads out of the build context"
            ),
            Self::NotThere { path, nearest } => {
                write!(f, "`{path}` is not in the build context{}", hint(nearest))
            }
            Self::Socket { path } => write!(f, "`{path}` is a socket and cannot be copied"),
            Self::There => f.write_str("it was not in the build context when the build began"),
        }
    }
}

pub(super) fn why(context: &Context, source: &str) -> Missing {
    let mut todo: VecDeque<Vec<u8>> = components(source.as_bytes())
        .into_iter()
        .map(<[u8]>::to_vec)
        .collect();
    let mut real: Vec<u8> = Vec::new();
    let mut links = 0;
    // The last link that went up past the root or was absolute.
    let mut outside = None;
    while let Some(name) = todo.pop_front() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                let mut names = components(&real);
                names.pop();
                real = names.join(&b'/');
                continue;
            }
            _ => {}
        }
        let here = join(&real, &name);
        let Ok(metadata) = context.root().metadata(path_of(&here), Resolve::Beneath) else {
            return outside.unwrap_or_else(|| Missing::NotThere {
                nearest: neighbours(context, &real, &name),
                path: text(&here),
            });
        };
        if let Some(ignore) = &context.ignore
            && let Verdict::Excluded { line } = ignore.patterns.verdict(&here)
            && (metadata.kind != Kind::Directory || !ignore.patterns.may_reinclude_below(&here))
        {
            return Missing::Excluded {
                path: text(&here),
                file: ignore.file.clone(),
                line,
            };
        }
        match metadata.kind {
            Kind::Symlink if links < LINK_LIMIT => {
                links += 1;
                let Ok(target) = context.root().read_link(path_of(&here), Resolve::Beneath) else {
                    break;
                };
                let target = target.as_os_str().as_bytes();
                if target.starts_with(b"/") || climbs_out(&real, target) {
                    outside = Some(Missing::Outside {
                        link: text(&here),
                        target: text(target),
                    });
                }
                if target.starts_with(b"/") {
                    real.clear();
                }
                for name in target.split(|byte| *byte == b'/').rev() {
                    todo.push_front(name.to_vec());
                }
            }
            Kind::Socket if todo.is_empty() => return Missing::Socket { path: text(&here) },
            _ => real = here,
        }
    }
    // An excluded directory of which nothing is left.
    if let Some(ignore) = &context.ignore
        && let Verdict::Excluded { line } = ignore.patterns.verdict(&real)
    {
        return Missing::Excluded {
            path: text(&real),
            file: ignore.file.clone(),
            line,
        };
    }
    Missing::There
}

fn climbs_out(directory: &[u8], target: &[u8]) -> bool {
    let mut depth = components(directory).len();
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

fn neighbours(context: &Context, directory: &[u8], name: &[u8]) -> Vec<String> {
    let Ok(children) = context
        .root()
        .read_dir(path_of(directory), Resolve::Beneath)
    else {
        return Vec::new();
    };
    let names = children
        .iter()
        .map(|child| child.name.as_bytes())
        .filter(|name| context.is_excluded(&join(directory, name)) == Some(false));
    nearest(name, names)
        .into_iter()
        .map(|name| text(&join(directory, &name)))
        .collect()
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
