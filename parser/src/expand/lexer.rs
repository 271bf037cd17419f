//! Reads a word character by character: one method for each thing that can stand in it. The shape follows the
//! reference builder's shell lexer, whose oddities are the language: what quotes do inside `${}`, which escapes
//! survive, that a lone `$` stays.

use std::collections::HashSet;

use super::error::{ExpandError, excerpt};
use super::pattern::{self, Pattern, Steps};
use super::splitter::{Splitter, Word};
use super::{DEEPEST, Expanded, LONGEST, Variables};
use crate::ast::Escape;

/// What one expansion may produce in all, also text that a modifier throws away again.
const MOST_WORK: usize = 32 * LONGEST;

/// How much of the word stays as written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Quotes are no quotes, as in heredoc bodies.
    pub(crate) keep_quotes_as_text: bool,
    /// Quotes work, and stay.
    pub(crate) raw_quotes: bool,
    pub(crate) raw_escapes: bool,
    /// `$name` stays when it is not set.
    pub(crate) keep_unset: bool,
}

pub(crate) struct Lexer<'a> {
    pub(crate) options: Options,
    raw: &'a str,
    at: usize,
    escape: char,
    variables: &'a dyn Variables,
    undefined: Vec<String>,
    used: Vec<String>,
    seen: HashSet<&'a str>,
    depth: usize,
    work: usize,
    steps: Steps,
}

type Lexed = Result<String, ExpandError>;

impl<'a> Lexer<'a> {
    pub(crate) fn new(raw: &'a str, escape: Escape, variables: &'a dyn Variables) -> Self {
        Self {
            options: Options::default(),
            raw,
            at: 0,
            escape: escape.character(),
            variables,
            undefined: Vec::new(),
            used: Vec::new(),
            seen: HashSet::new(),
            depth: 0,
            work: 0,
            steps: Steps::default(),
        }
    }

    pub(crate) fn whole(mut self) -> Result<Expanded, ExpandError> {
        let text = self.until(None, self.options.raw_escapes, None)?;
        Ok(Expanded {
            text,
            undefined: self.undefined,
            used: self.used,
        })
    }

    pub(crate) fn words(mut self) -> Result<Vec<Word>, ExpandError> {
        let mut splitter = Splitter::default();
        self.until(None, self.options.raw_escapes, Some(&mut splitter))?;
        splitter.end_word(self.raw.len());
        Ok(splitter.words)
    }

    /// Reads up to `stop` and past it, or to the end of the text.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
        mut splitter: Option<&mut Splitter>,
    ) -> Lexed {
        let opened = self.at;
        let outer_raw_escapes = std::mem::replace(&mut self.options.raw_escapes, raw_escapes);
        let mut result = String::new();
        while let Some(c) = self.peek() {
            let start = self.at;
            if Some(c) == stop {
                self.next();
                self.options.raw_escapes = outer_raw_escapes;
                return Ok(result);
            }
            let is_quote = matches!(c, '\'' | '"') && !self.options.keep_quotes_as_text;
            if c == '$' {
                let value = self.dollar()?;
                if let Some(splitter) = splitter.as_deref_mut() {
                    splitter.add_split(&value, start, self.at);
                }
                self.push(&mut result, &value, start)?;
            } else if is_quote {
                let value = if c == '"' {
                    self.double_quote()?
                } else {
                    self.single_quote()?
                };
                if let Some(splitter) = splitter.as_deref_mut() {
                    splitter.add_raw(&value, start);
                }
                self.push(&mut result, &value, start)?;
            } else if c == '<' && splitter.is_some() {
                let value = self.possible_heredoc();
                if let Some(splitter) = splitter.as_deref_mut() {
                    splitter.add_raw(value, start);
                }
                result.push_str(value);
            } else {
                self.next();
                let mut text = c;
                let escaped = c == self.escape;
                if escaped {
                    if raw_escapes {
                        result.push(c);
                        if let Some(splitter) = splitter.as_deref_mut() {
                            splitter.add_raw(c.encode_utf8(&mut [0; 4]), start);
                        }
                    }
                    // The escape character as the very last one is dropped.
                    let Some(next) = self.next() else { break };
                    text = next;
                }
                result.push(text);
                if let Some(splitter) = splitter.as_deref_mut() {
                    let mut buffer = [0; 4];
                    let text = &*text.encode_utf8(&mut buffer);
                    if escaped {
                        splitter.add_raw(text, start);
                    } else {
                        splitter.add_split(text, start, self.at);
                    }
                }
            }
        }
        self.options.raw_escapes = outer_raw_escapes;
        match stop {
            None => Ok(result),
            Some(stop) => self.fail(opened, &format!("no `{stop}` until the end")),
        }
    }

    /// Everything up to the next single quote, as it is.
    fn single_quote(&mut self) -> Lexed {
        let start = self.at;
        self.next();
        let body = &self.raw[self.at..];
        let Some(length) = body.find('\'') else {
            return Err(ExpandError::quote("single", start));
        };
        self.at += length + 1;
        Ok(if self.options.raw_quotes {
            self.raw[start..self.at].to_owned()
        } else {
            body[..length].to_owned()
        })
    }

    /// Up to the next double quote; `$` works, the escape character only before `"`, `$` and itself.
    fn double_quote(&mut self) -> Lexed {
        let start = self.at;
        self.next();
        let mut result = String::new();
        if self.options.raw_quotes {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(ExpandError::quote("double", start)),
                Some('"') => {
                    self.next();
                    if self.options.raw_quotes {
                        result.push('"');
                    }
                    return Ok(result);
                }
                Some('$') => {
                    let at = self.at;
                    let value = self.dollar()?;
                    self.push(&mut result, &value, at)?;
                }
                Some(mut c) => {
                    self.next();
                    if c == self.escape {
                        if self.options.raw_escapes {
                            result.push(c);
                        }
                        match self.peek() {
                            None => continue,
                            Some(next) if next == '"' || next == '$' || next == self.escape => {
                                self.next();
                                c = next;
                            }
                            Some(_) => {}
                        }
                    }
                    result.push(c);
                }
            }
        }
    }

    /// `$name`, `${…}`, or a dollar that is only a dollar.
    fn dollar(&mut self) -> Lexed {
        let start = self.at;
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.lookup(name)? {
                None if self.options.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        if self.depth == DEEPEST {
            return self.fail(start, &format!("`${{` is nested more than {DEEPEST} deep"));
        }
        self.depth += 1;
        let value = self.braces(start);
        self.depth -= 1;
        value
    }

    /// `${name}` and `${name<modifier>…}`.
    fn braces(&mut self, start: usize) -> Lexed {
        self.next();
        match self.peek() {
            None => return self.unclosed(start),
            Some('{' | '}' | ':') => {
                let written = excerpt(&self.raw[start..]);
                let message =
                    format!("bad substitution `{written}`: a variable name must follow `${{`");
                return self.fail(start, &message);
            }
            Some(_) => {}
        }
        let name = self.name();
        let modifier_at = self.at;
        match self.next() {
            None => self.unclosed(start),
            Some('}') => Ok(match self.lookup(name)? {
                None if self.options.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => match self.next() {
                None => self.unclosed(start),
                Some(kind) => self.modifier(start, modifier_at, name, kind, true),
            },
            Some('/') => self.replace(start, name),
            // The quote, the word or the line around it ends before the braces do.
            Some('"' | '\'') => self.unclosed(start),
            Some(c) if c.is_whitespace() && !self.closes(modifier_at) => self.unclosed(start),
            Some(kind) => self.modifier(start, modifier_at, name, kind, false),
        }
    }

    /// `-`, `+`, `?`, each also after a colon, which lets empty count as unset; `#` and `%`, single and double.
    fn modifier(
        &mut self,
        start: usize,
        at: usize,
        name: &'a str,
        kind: char,
        colon: bool,
    ) -> Lexed {
        let is_known = match kind {
            '-' | '+' | '?' => true,
            '#' | '%' => !colon,
            _ => false,
        };
        if !is_known {
            let written = &self.raw[at..self.at];
            return Err(ExpandError::modifier(written, name, at));
        }
        let written = &self.raw[at..self.at];
        let word = match self.until(Some('}'), matches!(kind, '#' | '%'), None) {
            Ok(word) => word,
            Err(_) if self.peek().is_none() && !self.has_open_quote(start) => {
                return self.unclosed(start);
            }
            Err(error) => return Err(error),
        };
        let value = self.lookup(name)?;
        if value.is_none() && self.options.keep_unset {
            return Ok(format!("${{{name}{written}{word}}}"));
        }
        let is_missing = value.as_ref().is_none_or(|value| colon && value.is_empty());
        match kind {
            '-' => Ok(if is_missing {
                word
            } else {
                value.unwrap_or_default()
            }),
            '+' => Ok(if is_missing { String::new() } else { word }),
            '?' if is_missing => {
                let state = if value.is_some() { "empty" } else { "unset" };
                Err(ExpandError::missing(name, state, &word, start))
            }
            '?' => Ok(value.unwrap_or_default()),
            _ => self.trim(at, &word, kind, &value.unwrap_or_default()),
        }
    }

    /// `#` `##` take a prefix off, `%` `%%` a suffix; the double ones the longest.
    fn trim(&mut self, at: usize, word: &str, kind: char, value: &str) -> Lexed {
        let (longest, word) = word
            .strip_prefix(kind)
            .map_or((false, word), |word| (true, word));
        let pattern = Pattern::new(word).map_err(|message| ExpandError::new(message, at))?;
        let trimmed = if kind == '#' {
            pattern.trim_prefix(value, longest, &mut self.steps)
        } else {
            pattern.trim_suffix(value, longest, &mut self.steps)
        };
        trimmed.map_err(|pattern::TooExpensive| ExpandError::too_expensive(at))
    }

    /// `${name/pattern/replacement}`; a second slash at the start replaces all.
    fn replace(&mut self, start: usize, name: &'a str) -> Lexed {
        let at = self.at;
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = match self.until(Some('/'), true, None) {
            Ok(pattern) => pattern,
            Err(_) if self.peek().is_none() && !self.has_open_quote(start) => {
                let written = excerpt(&self.raw[start..]);
                return self.fail(
                    start,
                    &format!("`{written}` lacks the `/` between pattern and replacement"),
                );
            }
            Err(error) => return Err(error),
        };
        let replacement = match self.until(Some('}'), true, None) {
            Ok(replacement) => replacement,
            Err(_) if self.peek().is_none() && !self.has_open_quote(start) => {
                return self.unclosed(start);
            }
            Err(error) => return Err(error),
        };
        let value = self.lookup(name)?;
        if value.is_none() && self.options.keep_unset {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let pattern = Pattern::new(&pattern).map_err(|message| ExpandError::new(message, at))?;
        let replaced = pattern.replace(
            &value.unwrap_or_default(),
            &replacement,
            all,
            LONGEST,
            &mut self.steps,
        );
        replaced.map_err(|pattern::TooExpensive| ExpandError::too_expensive(at))
    }

    /// Letters, digits and underscores; or digits alone; or one of the shell's special parameters.
    fn name(&mut self) -> &'a str {
        let start = self.at;
        match self.peek() {
            Some(c) if c.is_ascii_digit() => {
                while self.peek().is_some_and(|c| c.is_ascii_digit()) {
                    self.next();
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                self.next();
            }
            _ => {
                while self.peek().is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    self.next();
                }
            }
        }
        &self.raw[start..self.at]
    }

    /// `<<` and the blanks after it hold together, so that `<< EOF` is one word.
    fn possible_heredoc(&mut self) -> &'a str {
        let start = self.at;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            while self.peek().is_some_and(char::is_whitespace) {
                self.next();
            }
        }
        &self.raw[start..self.at]
    }

    fn lookup(&mut self, name: &'a str) -> Result<Option<String>, ExpandError> {
        let value = self.variables.get(name);
        self.spend(value.as_ref().map_or(0, String::len))?;
        if self.seen.insert(name) {
            let list = if value.is_some() {
                &mut self.used
            } else {
                &mut self.undefined
            };
            list.push(name.to_owned());
        }
        Ok(value)
    }

    /// Counts what is copied, so that a short text cannot keep the expansion busy for long.
    fn spend(&mut self, bytes: usize) -> Result<(), ExpandError> {
        self.work += bytes;
        if self.work > MOST_WORK {
            return Err(ExpandError::too_much(self.at));
        }
        Ok(())
    }

    fn peek(&self) -> Option<char> {
        self.raw[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn push(&mut self, result: &mut String, value: &str, at: usize) -> Result<(), ExpandError> {
        self.spend(value.len())?;
        if result.len() + value.len() > LONGEST {
            return Err(ExpandError::too_much(at));
        }
        result.push_str(value);
        Ok(())
    }

    fn fail(&self, offset: usize, message: &str) -> Lexed {
        Err(ExpandError::new(message, offset))
    }

    fn unclosed(&self, start: usize) -> Lexed {
        Err(ExpandError::unclosed(self.raw, start))
    }

    /// Whether a `}` follows in the same line and quotes.
    fn closes(&self, at: usize) -> bool {
        let rest = &self.raw[at..];
        rest.find(['}', '"', '\'', '\n'])
            .is_some_and(|end| rest[end..].starts_with('}'))
    }

    /// Whether what stands after `start` ends inside a quote: then the quote is the mistake, not the brace.
    fn has_open_quote(&self, start: usize) -> bool {
        let mut quote = None;
        for c in self.raw[start..].chars() {
            match quote {
                None if c == '"' || c == '\'' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ => {}
            }
        }
        quote.is_some()
    }
}
