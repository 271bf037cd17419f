//! The reference matcher turns a pattern into a regular expression, part of the pattern verbatim; so what a bracket,
//! a caret or an escape does in it is what regular expressions say. This does the same: [`translate`] writes the
//! expression, [`Automaton`] reads that small language (RE2's) and matches in time linear in the path.

use crate::glob::decode;

/// How a pattern is to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Exact,
    Prefix,
    Suffix,
    Expression,
}

/// Returns the kind of a pattern and, for [`Kind::Expression`], the expression.
pub(super) fn translate(pattern: &str) -> (Kind, String) {
    let mut expression = String::from("^");
    let mut kind = Kind::Exact;
    let mut characters = pattern.chars().peekable();
    let mut is_first = true;
    while let Some(c) = characters.next() {
        match c {
            '*' if characters.peek() == Some(&'*') => {
                characters.next();
                // `**/` is the same as `**`.
                characters.next_if_eq(&'/');
                if characters.peek().is_none() {
                    if kind == Kind::Exact {
                        kind = Kind::Prefix;
                    } else {
                        expression.push_str(".*");
                        kind = Kind::Expression;
                    }
                } else {
                    expression.push_str("(.*/)?");
                    kind = Kind::Expression;
                }
                if is_first {
                    kind = Kind::Suffix;
                }
            }
            '*' => {
                expression.push_str("[^/]*");
                kind = Kind::Expression;
            }
            '?' => {
                expression.push_str("[^/]");
                kind = Kind::Expression;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                expression.push('\\');
                expression.push(c);
            }
            '\\' => {
                expression.push('\\');
                if let Some(escaped) = characters.next() {
                    expression.push(escaped);
                    kind = Kind::Expression;
                }
            }
            '[' | ']' => {
                expression.push(c);
                kind = Kind::Expression;
            }
            _ => expression.push(c),
        }
        is_first = false;
    }
    expression.push('$');
    (kind, expression)
}

/// One step of an expression.
#[derive(Debug, Clone)]
enum Step {
    /// One character of a set.
    One(Set),
    /// Any number of characters of a set.
    Many(Set),
    /// `(.*/)?`: nothing, or anything that ends in a slash.
    Directories,
    /// `^`, `\A`: only at the start.
    Start,
    /// `\z`: only at the end.
    End,
    /// `\b`, and with `false` `\B`: whether a word of ASCII begins or ends.
    Edge(bool),
}

#[derive(Debug, Clone)]
struct Set {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Set {
    fn any_but(c: char) -> Self {
        Self {
            negated: true,
            ranges: vec![(c, c)],
        }
    }

    fn has(&self, c: char) -> bool {
        self.ranges
            .iter()
            .any(|(low, high)| *low <= c && c <= *high)
            != self.negated
    }
}

#[derive(Debug, Clone)]
pub(super) struct Automaton {
    steps: Vec<Step>,
}

impl Automaton {
    /// Reads an expression of [`translate`]; `None` where RE2 would refuse it.
    pub(super) fn new(expression: &str) -> Option<Self> {
        let body = expression.strip_prefix('^')?.strip_suffix('$')?;
        let mut steps = Vec::new();
        let mut rest = body;
        while let Some(c) = rest.chars().next() {
            if let Some(tail) = rest.strip_prefix("(.*/)?") {
                steps.push(Step::Directories);
                rest = tail;
                continue;
            }
            rest = &rest[c.len_utf8()..];
            let set = match c {
                '^' => {
                    steps.push(Step::Start);
                    continue;
                }
                '[' => class(&mut rest)?,
                '.' => Set::any_but('\n'),
                '\\' => match assertion(&mut rest) {
                    Some(step) => {
                        steps.push(step);
                        continue;
                    }
                    None => escape(&mut rest)?,
                },
                other => Set {
                    negated: false,
                    ranges: vec![(other, other)],
                },
            };
            match rest.strip_prefix('*') {
                Some(tail) => {
                    rest = tail;
                    steps.push(Step::Many(set));
                }
                None => steps.push(Step::One(set)),
            }
        }
        Some(Self { steps })
    }

    /// Whether the path or a parent of it matches.
    pub(super) fn matches_or_parent(&self, path: &[u8]) -> bool {
        let mut found = false;
        self.walk(path, |matches| {
            found |= matches;
            found
        });
        found
    }

    /// Says of each parent of the path, from the top, and then of itself, whether it matches, until `done` says so. One
    /// pass: where a name ends, the states tell of the parent.
    pub(super) fn walk(&self, path: &[u8], mut done: impl FnMut(bool) -> bool) {
        // A state is a step yet to be taken; a second row is for being inside a `(.*/)?`.
        let count = self.steps.len() + 1;
        let mut current = vec![false; count * 2];
        let mut next = vec![false; count * 2];
        let mut ended = vec![false; count * 2];
        current[0] = true;
        let mut before = None;
        let mut rest = path;
        while let Some((c, length)) = decode(rest) {
            if c == '/' && rest.len() < path.len() {
                ended.copy_from_slice(&current);
                self.reach(&mut ended, before, None);
                if done(ended[count - 1]) {
                    return;
                }
            }
            self.reach(&mut current, before, Some(c));
            rest = &rest[length..];
            next.fill(false);
            for (index, step) in self.steps.iter().enumerate() {
                if current[index] {
                    match step {
                        Step::One(set) if set.has(c) => next[index + 1] = true,
                        Step::Many(set) if set.has(c) => next[index] = true,
                        _ => {}
                    }
                }
                if current[count + index] {
                    if c == '/' {
                        next[index + 1] = true;
                    }
                    if c != '\n' {
                        next[count + index] = true;
                    }
                }
            }
            std::mem::swap(&mut current, &mut next);
            before = Some(c);
        }
        self.reach(&mut current, before, None);
        done(current[count - 1]);
    }

    /// Marks what follows the marked states without a character, between the two that are there. Steps only lead on:
    /// one pass does.
    fn reach(&self, states: &mut [bool], before: Option<char>, after: Option<char>) {
        let count = self.steps.len() + 1;
        for (index, step) in self.steps.iter().enumerate() {
            if !states[index] {
                continue;
            }
            let passes = match step {
                Step::One(_) => false,
                Step::Many(_) => true,
                Step::Directories => {
                    states[count + index] = true;
                    true
                }
                Step::Start => before.is_none(),
                Step::End => after.is_none(),
                Step::Edge(is_one) => (is_word(before) != is_word(after)) == *is_one,
            };
            if passes {
                states[index + 1] = true;
            }
        }
    }
}

fn is_word(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Reads what follows a backslash, where that is about a place and no character.
fn assertion(rest: &mut &str) -> Option<Step> {
    let step = match rest.chars().next()? {
        'A' => Step::Start,
        'z' => Step::End,
        'b' => Step::Edge(true),
        'B' => Step::Edge(false),
        _ => return None,
    };
    *rest = &rest[1..];
    Some(step)
}

/// Reads a class from behind its `[`.
fn class(rest: &mut &str) -> Option<Set> {
    let mut set = Set {
        negated: false,
        ranges: Vec::new(),
    };
    if let Some(tail) = rest.strip_prefix('^') {
        set.negated = true;
        *rest = tail;
    }
    let mut is_first = true;
    loop {
        // A closing bracket right at the start is a character.
        if !is_first && let Some(tail) = rest.strip_prefix(']') {
            *rest = tail;
            return Some(set);
        }
        is_first = false;
        if rest.starts_with("[:") && rest.contains(":]") {
            set.ranges.extend(named_class(rest)?);
            continue;
        }
        let low = match class_character(rest)? {
            ClassItem::Ranges(ranges) => {
                set.ranges.extend(ranges);
                continue;
            }
            ClassItem::One(c) => c,
        };
        let is_range = rest.starts_with('-') && !rest.starts_with("-]");
        let high = if is_range {
            *rest = &rest[1..];
            match class_character(rest)? {
                ClassItem::One(high) if high >= low => high,
                _ => return None,
            }
        } else {
            low
        };
        set.ranges.push((low, high));
    }
}

enum ClassItem {
    One(char),
    Ranges(Vec<(char, char)>),
}

fn class_character(rest: &mut &str) -> Option<ClassItem> {
    let c = rest.chars().next()?;
    *rest = &rest[c.len_utf8()..];
    if c != '\\' {
        return Some(ClassItem::One(c));
    }
    let set = escape(rest)?;
    match (set.negated, set.ranges.as_slice()) {
        (false, [(low, high)]) if low == high => Some(ClassItem::One(*low)),
        (false, ranges) => Some(ClassItem::Ranges(ranges.to_vec())),
        (true, ranges) => Some(ClassItem::Ranges(complement(ranges))),
    }
}

/// Reads what follows a backslash: punctuation stands for itself, some letters for sets or control characters.
fn escape(rest: &mut &str) -> Option<Set> {
    let c = rest.chars().next()?;
    *rest = &rest[c.len_utf8()..];
    let one = |c: char| {
        Some(Set {
            negated: false,
            ranges: vec![(c, c)],
        })
    };
    let set = |negated: bool, ranges: &[(char, char)]| {
        Some(Set {
            negated,
            ranges: ranges.to_vec(),
        })
    };
    const DIGITS: [(char, char); 1] = [('0', '9')];
    const WORD: [(char, char); 4] = [('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
    const SPACE: [(char, char); 4] = [('\t', '\n'), ('\u{c}', '\r'), (' ', ' '), (' ', ' ')];
    match c {
        'd' => set(false, &DIGITS),
        'D' => set(true, &DIGITS),
        'w' => set(false, &WORD),
        'W' => set(true, &WORD),
        's' => set(false, &SPACE),
        'S' => set(true, &SPACE),
        'a' => one('\u{7}'),
        'f' => one('\u{c}'),
        'n' => one('\n'),
        'r' => one('\r'),
        't' => one('\t'),
        'v' => one('\u{b}'),
        _ if c.is_ascii() && !c.is_ascii_alphanumeric() => one(c),
        _ => None,
    }
}

fn complement(ranges: &[(char, char)]) -> Vec<(char, char)> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut gaps = Vec::new();
    let mut next = Some('\0');
    for (low, high) in sorted {
        if let Some(start) = next
            && start < low
            && let Some(end) = char::from_u32(u32::from(low) - 1)
        {
            gaps.push((start, end));
        }
        next = char::from_u32(u32::from(high) + 1);
    }
    gaps.extend(next.map(|start| (start, char::MAX)));
    gaps
}

/// Reads `[:name:]`.
fn named_class(rest: &mut &str) -> Option<Vec<(char, char)>> {
    let (name, tail) = rest.strip_prefix("[:")?.split_once(":]")?;
    let (negated, name) = name
        .strip_prefix('^')
        .map_or((false, name), |name| (true, name));
    let ranges: &[(char, char)] = match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\u{7f}')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\u{1f}'), ('\u{7f}', '\u{7f}')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    };
    *rest = tail;
    Some(if negated {
        complement(ranges)
    } else {
        ranges.to_vec()
    })
}
