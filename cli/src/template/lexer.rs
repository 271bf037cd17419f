//! Cuts a template into text and the words of its actions.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// `.A.B`; alone, `.` has no parts.
    Field(Vec<String>),
    /// `$x.A`
    Variable(String, Vec<String>),
    Literal(Value),
    /// A function or a keyword.
    Word(String),
    Pipe,
    Comma,
    /// `:=` or `=`
    Assign,
    /// `(`
    Begin,
    /// `)`, and the fields taken of what stands inside.
    End(Vec<String>),
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let trims_left = after
            .strip_prefix('-')
            .filter(|after| after.starts_with(char::is_whitespace));
        let mut literal = if trim { before.trim_start() } else { before };
        if trims_left.is_some() {
            literal = literal.trim_end();
        }
        push_text(&mut tokens, literal);
        let inside = trims_left.unwrap_or(after);
        let (next, trims_right) = match inside.trim_start().strip_prefix("/*") {
            Some(comment) => comment
                .split_once("*/")
                .and_then(|(_, end)| close(end.trim_start()))
                .ok_or("a comment is not closed")?,
            None => {
                tokens.push(Token::Open);
                let end = action(inside, &mut tokens)?;
                tokens.push(Token::Close);
                end
            }
        };
        rest = next;
        trim = trims_right;
    }
    push_text(&mut tokens, if trim { rest.trim_start() } else { rest });
    Ok(tokens)
}

fn push_text(tokens: &mut Vec<Token>, text: &str) {
    if !text.is_empty() {
        tokens.push(Token::Text(text.to_owned()));
    }
}

/// Takes `}}` or `-}}` off; says whether it trims.
fn close(text: &str) -> Option<(&str, bool)> {
    match text.strip_prefix("}}") {
        Some(rest) => Some((rest, false)),
        None => text.strip_prefix("-}}").map(|rest| (rest, true)),
    }
}

/// Reads the words up to `}}`; returns what follows, and whether its white space goes.
fn action<'a>(text: &'a str, tokens: &mut Vec<Token>) -> Result<(&'a str, bool), String> {
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start();
        if let Some(end) = close(trimmed) {
            return Ok(end);
        }
        rest = trimmed;
        let Some(first) = rest.chars().next() else {
            return Err("`{{` is not closed".to_owned());
        };
        let (token, after) = match first {
            '|' => (Token::Pipe, &rest[1..]),
            ',' => (Token::Comma, &rest[1..]),
            '(' => (Token::Begin, &rest[1..]),
            ')' => {
                let (fields, after) = fields(&rest[1..]);
                (Token::End(fields), after)
            }
            ':' if rest.starts_with(":=") => (Token::Assign, &rest[2..]),
            '=' => (Token::Assign, &rest[1..]),
            '.' => {
                let (fields, after) = fields(rest);
                let after = if fields.is_empty() { &rest[1..] } else { after };
                (Token::Field(fields), after)
            }
            '$' => {
                let (name, after) = word(&rest[1..]);
                let (fields, after) = fields(after);
                (Token::Variable(name.to_owned(), fields), after)
            }
            '"' => string(rest)?,
            '`' => {
                let (raw, after) = rest[1..].split_once('`').ok_or("a quote is not closed")?;
                (Token::Literal(raw.into()), after)
            }
            c if c.is_ascii_digit() || c == '-' => {
                let end = rest[1..]
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '.')
                    .map_or(rest.len(), |at| at + 1);
                let (number, after) = rest.split_at(end);
                let value: Value = serde_json::from_str(number)
                    .map_err(|_| format!("`{number}` is not a number"))?;
                (Token::Literal(value), after)
            }
            c if c.is_alphabetic() || c == '_' => {
                let (name, after) = word(rest);
                let token = match name {
                    "true" => Token::Literal(true.into()),
                    "false" => Token::Literal(false.into()),
                    "nil" => Token::Literal(Value::Null),
                    other => Token::Word(other.to_owned()),
                };
                (token, after)
            }
            other => return Err(format!("`{other}` is not expected here")),
        };
        tokens.push(token);
        rest = after;
    }
}

/// `.A.B` → the names; stops where no name follows a point.
fn fields(text: &str) -> (Vec<String>, &str) {
    let mut fields = Vec::new();
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('.') {
        let (name, after) = word(after);
        if name.is_empty() {
            break;
        }
        fields.push(name.to_owned());
        rest = after;
    }
    (fields, rest)
}

fn word(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// A quoted string with Go's simple escapes.
fn string(text: &str) -> Result<(Token, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Token::Literal(value.into()), &text[at + 1..])),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some(c @ ('"' | '\\')) => value.push(c),
                _ => {
                    return Err(
                        "a string holds an escape other than \\n, \\t, \\\" and \\\\".to_owned(),
                    );
                }
            },
            c => value.push(c),
        }
    }
    Err("a quote is not closed".to_owned())
}
