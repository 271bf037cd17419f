//! `.dockerignore` and `--exclude` patterns with moby/patternmatcher's rules: `**`, `!`, order, parents.
//! A pattern becomes one of three plain comparisons or a small [`automaton`].

mod automaton;

use automaton::Automaton;

use crate::glob::{self, Glob};

/// A pattern that cannot be compiled, and the line it stands in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}: `{pattern}`")]
pub struct BadPattern {
    pub line: usize,
    pub pattern: String,
    pub message: String,
}

/// A list of patterns; the last that matches decides.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    list: Vec<Pattern>,
}

/// What the patterns say of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No pattern matches.
    Unmatched,
    /// Excluded by the pattern of this line (from 1).
    Excluded { line: usize },
    /// Taken back in by the `!` pattern of this line.
    Reincluded { line: usize },
}

#[derive(Debug, Clone)]
struct Pattern {
    line: usize,
    /// Written with `!`.
    reincludes: bool,
    /// Without the `!`, cleaned.
    text: Vec<u8>,
    matcher: Matcher,
}

#[derive(Debug, Clone)]
enum Matcher {
    Exact,
    /// `dir/**`: everything that begins with what stands before the stars.
    Prefix(Vec<u8>),
    /// `**/name`, `**name`: everything that ends in what follows the stars.
    Suffix(Vec<u8>),
    Automaton(Automaton),
}

impl Patterns {
    /// Reads an ignore file: comments, blank lines, BOM, CRLF and surrounding blanks as Docker does.
    pub fn from_file(bytes: &[u8]) -> Result<Self, BadPattern> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut list = Vec::new();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.starts_with(b"#") {
                continue;
            }
            let line = trim(line);
            if line.is_empty() {
                continue;
            }
            let (bang, path) = line
                .strip_prefix(b"!")
                .map_or((false, line), |path| (true, trim(path)));
            let mut pattern = if bang { b"!".to_vec() } else { Vec::new() };
            if !path.is_empty() {
                let cleaned = clean(path);
                let is_absolute = cleaned.len() > 1 && cleaned.starts_with(b"/");
                pattern.extend_from_slice(if is_absolute { &cleaned[1..] } else { &cleaned });
            }
            list.extend(Pattern::new(&pattern, index + 1)?);
        }
        Ok(Self { list })
    }

    /// From the values of `--exclude`; the line is the place in the list, from 1.
    pub fn from_list(patterns: &[String]) -> Result<Self, BadPattern> {
        let mut list = Vec::new();
        for (index, pattern) in patterns.iter().enumerate() {
            list.extend(Pattern::new(pattern.as_bytes(), index + 1)?);
        }
        Ok(Self { list })
    }

    /// Whether a pattern takes something back in, with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.list.iter().any(|pattern| pattern.reincludes)
    }

    /// Whether there is no pattern, so that nothing is excluded.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The pattern of a line, cleaned, with its `!`.
    pub fn written(&self, line: usize) -> Option<String> {
        let pattern = self.list.iter().find(|pattern| pattern.line == line)?;
        Some(pattern.written())
    }

    /// All patterns in order, cleaned, with their `!`.
    pub fn all(&self) -> impl Iterator<Item = String> {
        self.list.iter().map(Pattern::written)
    }

    /// `path` is relative, with `/`, without a leading `./`; its parents count too, as in `MatchesUsingParentResults`:
    /// what matched a parent matches what is in it. But a pattern is only tried where it would change something, so that
    /// `!dir` takes nothing back of a `dir` that no earlier pattern excludes: `dir/x` and then `!dir` exclude `dir/x`.
    pub fn verdict(&self, path: &[u8]) -> Verdict {
        if !self.has_exceptions() {
            let excluded = self.list.iter().find(|one| one.matches_or_parent(path));
            return excluded.map_or(Verdict::Unmatched, |pattern| Verdict::Excluded {
                line: pattern.line,
            });
        }
        let depth = 1 + parents(path).count();
        // Of each pattern that was tried, which of the path's parents, and whether itself, it matches.
        let mut matches: Vec<Option<Vec<bool>>> = vec![None; self.list.len()];
        let mut matched = vec![false; self.list.len()];
        let mut verdict = Verdict::Unmatched;
        for level in 0..depth {
            verdict = Verdict::Unmatched;
            for (index, pattern) in self.list.iter().enumerate() {
                if pattern.reincludes != matches!(verdict, Verdict::Excluded { .. }) {
                    continue;
                }
                if !matched[index] {
                    let at = matches[index].get_or_insert_with(|| pattern.matches(path));
                    matched[index] = at.get(level) == Some(&true);
                }
                if matched[index] {
                    let line = pattern.line;
                    verdict = if pattern.reincludes {
                        Verdict::Reincluded { line }
                    } else {
                        Verdict::Excluded { line }
                    };
                }
            }
        }
        verdict
    }

    /// Whether something below an excluded directory could be taken back in, so that it must be walked.
    /// May say yes where nothing is.
    pub fn may_reinclude_below(&self, directory: &[u8]) -> bool {
        self.list
            .iter()
            .any(|pattern| pattern.reincludes && pattern.may_match_below(directory))
    }
}

impl Pattern {
    fn written(&self) -> String {
        let bang = if self.reincludes { "!" } else { "" };
        format!("{bang}{}", String::from_utf8_lossy(&self.text))
    }

    fn new(text: &[u8], line: usize) -> Result<Option<Self>, BadPattern> {
        let text = trim(text);
        if text.is_empty() {
            return Ok(None);
        }
        let bad = |message: &str| BadPattern {
            line,
            pattern: String::from_utf8_lossy(text).into_owned(),
            message: message.to_owned(),
        };
        let cleaned = clean(text);
        let (reincludes, body) = cleaned
            .strip_prefix(b"!")
            .map_or((false, cleaned.as_slice()), |body| (true, body));
        if body.is_empty() {
            return Err(bad("a pattern must follow the `!`"));
        }
        if Glob::new(body).is_err() {
            return Err(bad("syntax error in pattern"));
        }
        let matcher = Matcher::new(body).ok_or_else(|| {
            bad("a range or an escape that there is not; a letter stands for itself without `\\`")
        })?;
        Ok(Some(Self {
            line,
            reincludes,
            text: body.to_vec(),
            matcher,
        }))
    }

    fn matches_or_parent(&self, path: &[u8]) -> bool {
        match &self.matcher {
            Matcher::Exact => {
                let rest = path.strip_prefix(self.text.as_slice());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            }
            Matcher::Prefix(prefix) => path.starts_with(prefix),
            // `**/foo` is `foo` as well.
            Matcher::Suffix(suffix) => {
                let name = suffix.strip_prefix(b"/");
                std::iter::once(path)
                    .chain(parents(path))
                    .any(|path| path.ends_with(suffix) || name == Some(path))
            }
            Matcher::Automaton(automaton) => automaton.matches_or_parent(path),
        }
    }

    /// Of each parent of the path, from the top, and then of itself, whether this alone matches it.
    fn matches(&self, path: &[u8]) -> Vec<bool> {
        let levels = || parents(path).chain([path]);
        match &self.matcher {
            Matcher::Exact => levels().map(|path| path == self.text).collect(),
            Matcher::Prefix(prefix) => levels().map(|path| path.starts_with(prefix)).collect(),
            Matcher::Suffix(suffix) => {
                let name = suffix.strip_prefix(b"/");
                levels()
                    .map(|path| path.ends_with(suffix) || name == Some(path))
                    .collect()
            }
            Matcher::Automaton(automaton) => {
                let mut found = Vec::new();
                automaton.walk(path, |matches| {
                    found.push(matches);
                    false
                });
                found
            }
        }
    }

    /// Compares part by part as far as both go.
    fn may_match_below(&self, directory: &[u8]) -> bool {
        let mut names = directory.split(|byte| *byte == b'/');
        for part in self.text.split(|byte| *byte == b'/') {
            if part.windows(2).any(|pair| pair == b"**") {
                return true;
            }
            let Some(name) = names.next() else {
                return true;
            };
            // A part that means something else alone than within the pattern cannot rule anything out; so it is with
            // escapes of letters, which are those of regular expressions.
            let escapes = |pair: &[u8]| pair[0] == b'\\' && pair[1].is_ascii_alphanumeric();
            if part.windows(2).any(escapes) {
                continue;
            }
            if !glob::matches(part, name).unwrap_or(true) {
                return false;
            }
        }
        // The pattern is not longer than the directory's path: it matches the directory or a parent of it.
        true
    }
}

impl Matcher {
    fn new(pattern: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(pattern);
        let (kind, expression) = automaton::translate(&text);
        Some(match kind {
            automaton::Kind::Exact => Self::Exact,
            automaton::Kind::Prefix => {
                Self::Prefix(pattern.strip_suffix(b"**").unwrap_or(pattern).to_vec())
            }
            automaton::Kind::Suffix => Self::Suffix(pattern.get(2..).unwrap_or(b"").to_vec()),
            automaton::Kind::Expression => Self::Automaton(Automaton::new(&expression)?),
        })
    }
}

/// The directories that a path goes through, from the top.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().skip(1).filter(|(_, c)| **c == b'/');
    ends.map(|(at, _)| &path[..at])
}

/// Takes blanks off both ends.
fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

/// Go's `path.Clean`: no empty parts, no `.`, `..` resolved where it can be, no slash at the end.
fn clean(path: &[u8]) -> Vec<u8> {
    let is_absolute = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(last) if *last != b".." => {
                    parts.pop();
                }
                None if is_absolute => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (is_absolute, joined.is_empty()) {
        (true, _) => [b"/", joined.as_slice()].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}
