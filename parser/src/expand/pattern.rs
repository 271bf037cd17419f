//! Patterns of `${name#pattern}` and its relatives: `*` and `?`, with a backslash to take them literally. No
//! brackets. As in BuildKit, neither wildcard matches a line end.

/// What a pattern is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    One,
    Many,
}

#[derive(Debug)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
}

/// Matching would take longer than any sensible Dockerfile needs, or give too long a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooExpensive;

/// Steps of matching that one expansion may take, all its modifiers together: about a tenth of a second.
const MOST_STEPS: usize = 1 << 24;

/// Counts the steps of an expansion.
#[derive(Debug, Default)]
pub(super) struct Steps(usize);

impl Steps {
    fn take(&mut self, count: usize) -> Result<(), TooExpensive> {
        self.0 = self.0.saturating_add(count);
        if self.0 > MOST_STEPS {
            Err(TooExpensive)
        } else {
            Ok(())
        }
    }
}

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut characters = text.chars();
        while let Some(c) = characters.next() {
            tokens.push(match c {
                '*' => Token::Many,
                '?' => Token::One,
                '\\' => match characters.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Literal(escaped),
                    Some(other) => {
                        return Err(format!("`\\{other}` is no escape in the pattern `{text}`"));
                    }
                    None => return Err(format!("the pattern `{text}` ends in an escape")),
                },
                other => Token::Literal(other),
            });
        }
        // Neighbouring stars match what one does, and cost more.
        tokens.dedup_by(|next, previous| *next == Token::Many && *previous == Token::Many);
        Ok(Self { tokens })
    }

    pub(super) fn trim_prefix(
        &self,
        value: &str,
        longest: bool,
        steps: &mut Steps,
    ) -> Result<String, TooExpensive> {
        steps.take(value.len() + self.tokens.len())?;
        let characters: Vec<char> = value.chars().collect();
        let end = match_at(&self.tokens, &characters, 0, longest, steps)?;
        Ok(characters[end.unwrap_or(0)..].iter().collect())
    }

    pub(super) fn trim_suffix(
        &self,
        value: &str,
        longest: bool,
        steps: &mut Steps,
    ) -> Result<String, TooExpensive> {
        steps.take(value.len() + self.tokens.len())?;
        let tokens: Vec<Token> = self.tokens.iter().rev().copied().collect();
        let characters: Vec<char> = value.chars().rev().collect();
        let end = match_at(&tokens, &characters, 0, longest, steps)?;
        Ok(characters[end.unwrap_or(0)..].iter().rev().collect())
    }

    pub(super) fn replace(
        &self,
        value: &str,
        with: &str,
        all: bool,
        most: usize,
        steps: &mut Steps,
    ) -> Result<String, TooExpensive> {
        steps.take(value.len() + self.tokens.len())?;
        let characters: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let mut at = 0;
        let mut last_match_end = None;
        while at <= characters.len() {
            let found = match_at(&self.tokens, &characters, at, true, steps)?;
            // An empty match right after another match is none.
            let found = found.filter(|end| *end > at || last_match_end != Some(at));
            if let Some(end) = found {
                if result.len() + with.len() > most {
                    return Err(TooExpensive);
                }
                result.push_str(with);
                if !all {
                    result.extend(&characters[end..]);
                    return Ok(result);
                }
                last_match_end = Some(end);
                if end > at {
                    at = end;
                    continue;
                }
            }
            result.extend(characters.get(at));
            at += 1;
        }
        Ok(result)
    }
}

/// Returns the end of a match that begins at `start`: the shortest or the longest.
fn match_at(
    tokens: &[Token],
    value: &[char],
    start: usize,
    longest: bool,
    steps: &mut Steps,
) -> Result<Option<usize>, TooExpensive> {
    let mut token = 0;
    let mut at = start;
    // Where to go on when a literal does not fit: after the last star, one character later.
    let mut star: Option<(usize, usize)> = None;
    loop {
        steps.take(1)?;
        let Some(wanted) = tokens.get(token) else {
            break;
        };
        let fits = match wanted {
            Token::Many => {
                if longest && token + 1 == tokens.len() {
                    let end = line_end(value, at);
                    steps.take(end - at)?;
                    return Ok(Some(end));
                }
                star = Some((token + 1, at));
                token += 1;
                continue;
            }
            Token::One => value.get(at).is_some_and(|c| *c != '\n'),
            Token::Literal(c) => value.get(at) == Some(c),
        };
        if fits {
            token += 1;
            at += 1;
            continue;
        }
        match star {
            Some((after, from)) if value.get(from).is_some_and(|c| *c != '\n') => {
                star = Some((after, from + 1));
                token = after;
                at = from + 1;
            }
            _ => return Ok(None),
        }
    }
    if longest && star.is_some() {
        let from = star.map_or(at, |(_, from)| from);
        return last_end(tokens, value, from, at, steps).map(Some);
    }
    Ok(Some(at))
}

/// The pattern matches with its last star reaching `from`; returns the latest end when that star reaches further.
fn last_end(
    tokens: &[Token],
    value: &[char],
    from: usize,
    end: usize,
    steps: &mut Steps,
) -> Result<usize, TooExpensive> {
    let after = tokens
        .iter()
        .rposition(|token| *token == Token::Many)
        .map_or(0, |star| star + 1);
    let tail = &tokens[after..];
    for at in (from..=line_end(value, from)).rev() {
        let fitting = tail
            .iter()
            .enumerate()
            .take_while(|(index, token)| match token {
                Token::Literal(c) => value.get(at + index) == Some(c),
                Token::One | Token::Many => value.get(at + index).is_some_and(|c| *c != '\n'),
            });
        let count = fitting.count();
        steps.take(count + 1)?;
        if count == tail.len() {
            return Ok(at + count);
        }
    }
    Ok(end)
}

fn line_end(value: &[char], from: usize) -> usize {
    value[from..]
        .iter()
        .position(|c| *c == '\n')
        .map_or(value.len(), |length| from + length)
}
