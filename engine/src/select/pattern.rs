//! A source as written, taken apart.

use rbuild_parser::glob;

/// A source of COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// Segments of the path that is copied; with `--parents`, of the directory that kept paths start in.
    pub(crate) base: Vec<Segment>,
    /// With `--parents`: what is selected below the base, as an ignore-file pattern without a leading slash.
    /// Empty: everything.
    pub(crate) kept: Option<String>,
}

/// One name of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Literal(Vec<u8>),
    /// Everything from the first wildcard on is matched, also names without one.
    Wildcard(Vec<u8>),
}

impl Pattern {
    pub(crate) fn parse(written: &str, parents: bool, wildcards: bool) -> Self {
        if !parents {
            return Self {
                base: segments(written, wildcards),
                kept: None,
            };
        }
        let (base, kept) = written.split_once("/./").unwrap_or(("", written));
        Self {
            base: segments(base, wildcards),
            kept: Some(clean(kept.as_bytes()).join("/")),
        }
    }

    /// Whether the base can be any number of paths.
    pub(crate) fn has_wildcard_base(&self) -> bool {
        matches!(self.base.last(), Some(Segment::Wildcard(_)))
    }
}

fn segments(path: &str, wildcards: bool) -> Vec<Segment> {
    let mut matched = false;
    components(path.as_bytes())
        .into_iter()
        .map(|name| {
            matched |= wildcards && glob::has_wildcards(name);
            if matched {
                Segment::Wildcard(name.to_vec())
            } else {
                Segment::Literal(name.to_vec())
            }
        })
        .collect()
}

/// The names of a path, `.` and empty ones left out and `..` applied as text; `..` of the root is the root.
pub(crate) fn components(path: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names
}

/// As [`components`], of text.
fn clean(path: &[u8]) -> Vec<String> {
    components(path)
        .into_iter()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

impl Segment {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Literal(name) | Self::Wildcard(name) => name,
        }
    }
}

/// `directory/name`, or just the name in the root.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
