//! Go's `path/filepath.Match`, which `COPY` and `ADD` wildcards follow: `*` and `?` (neither matches a `/`),
//! `[a-z]`, `[^a]` and backslash escapes. Works on bytes: file names need not be UTF-8.

/// One character of a name: its code, and how many bytes it takes. A byte that is no UTF-8 counts as U+FFFD.
pub(crate) fn decode(text: &[u8]) -> Option<(char, usize)> {
    let first = *text.first()?;
    if first < 0x80 {
        return Some((char::from(first), 1));
    }
    let longest = text.get(..4).unwrap_or(text);
    let valid = match std::str::from_utf8(longest) {
        Ok(valid) => valid,
        Err(error) => std::str::from_utf8(&longest[..error.valid_up_to()]).unwrap_or(""),
    };
    Some(
        valid
            .chars()
            .next()
            .map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, c.len_utf8())),
    )
}

/// A class without an end, or a `\` with nothing behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// A pattern made ready for many names.
#[derive(Debug, Clone)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone)]
enum Token {
    Byte(u8),
    /// Any character but `/`.
    One,
    /// Any number of characters but `/`.
    Many,
    /// One character, a slash too where the class has it.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Reads a pattern of Go's `filepath.Match`.
    pub fn new(pattern: &[u8]) -> Result<Self, BadPattern> {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some((first, tail)) = rest.split_first() {
            rest = tail;
            match first {
                b'*' => tokens.push(Token::Many),
                b'?' => tokens.push(Token::One),
                b'[' => tokens.push(class(&mut rest)?),
                b'\\' => {
                    let (escaped, tail) = rest.split_first().ok_or(BadPattern)?;
                    tokens.push(Token::Byte(*escaped));
                    rest = tail;
                }
                byte => tokens.push(Token::Byte(*byte)),
            }
        }
        tokens.dedup_by(|next, previous| matches!((next, previous), (Token::Many, Token::Many)));
        Ok(Self { tokens })
    }

    /// Returns whether `name` as a whole matches.
    pub fn is_match(&self, name: &[u8]) -> bool {
        let mut token = 0;
        let mut at = 0;
        // Where to try again: after the last star, one byte further on. Earlier stars need no second try.
        let mut star: Option<(usize, usize)> = None;
        loop {
            let step = match self.tokens.get(token) {
                Some(Token::Many) => {
                    star = Some((token + 1, at));
                    token += 1;
                    continue;
                }
                Some(single) => single.matches(&name[at..]),
                None if at == name.len() => return true,
                None => None,
            };
            if let Some(length) = step {
                token += 1;
                at += length;
                continue;
            }
            match star {
                Some((after, from)) if name.get(from).is_some_and(|byte| *byte != b'/') => {
                    star = Some((after, from + 1));
                    token = after;
                    at = from + 1;
                }
                _ => return false,
            }
        }
    }
}

impl Token {
    /// How many bytes at the start of `name` the token takes, if it fits.
    fn matches(&self, name: &[u8]) -> Option<usize> {
        match self {
            Self::Byte(byte) => (name.first()? == byte).then_some(1),
            Self::One => decode(name)
                .filter(|(c, _)| *c != '/')
                .map(|(_, length)| length),
            Self::Many => None,
            Self::Class { negated, ranges } => {
                let (c, length) = decode(name)?;
                let is_in = ranges.iter().any(|(low, high)| *low <= c && c <= *high);
                (is_in != *negated).then_some(length)
            }
        }
    }
}

/// Reads a class from behind its `[`.
fn class(rest: &mut &[u8]) -> Result<Token, BadPattern> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.first() == Some(&b']') {
            *rest = &rest[1..];
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_character(rest)?;
        let mut high = low;
        if rest.first() == Some(&b'-') {
            *rest = &rest[1..];
            high = class_character(rest)?;
        }
        ranges.push((low, high));
    }
}

fn class_character(rest: &mut &[u8]) -> Result<char, BadPattern> {
    match rest.first() {
        None | Some(b'-' | b']') => return Err(BadPattern),
        Some(b'\\') => *rest = &rest[1..],
        Some(_) => {}
    }
    let (c, length) = decode(rest).ok_or(BadPattern)?;
    if c == char::REPLACEMENT_CHARACTER && length == 1 {
        return Err(BadPattern);
    }
    *rest = &rest[length..];
    // A class ends by its `]`, so something must follow.
    if rest.is_empty() {
        Err(BadPattern)
    } else {
        Ok(c)
    }
}

/// Returns whether `name` as a whole matches.
pub fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    Ok(Glob::new(pattern)?.is_match(name))
}

/// Whether a pattern has wildcards at all.
pub fn has_wildcards(pattern: &[u8]) -> bool {
    let mut bytes = pattern.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    false
}
