//! Splits what an expansion gives into words, and remembers where in the raw text each came from.

/// A word of several, and the bytes of the raw text that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Collects words while the result is built.
#[derive(Default)]
pub(super) struct Splitter {
    pub(super) words: Vec<Word>,
    text: String,
    in_word: bool,
    start: usize,
}

impl Splitter {
    /// Adds text in which blanks split words.
    pub(super) fn add_split(&mut self, text: &str, start: usize, end: usize) {
        for c in text.chars() {
            if !c.is_whitespace() {
                self.begin(start);
                self.text.push(c);
            } else if self.in_word && !self.text.is_empty() {
                self.end_word(if text.len() == c.len_utf8() {
                    start
                } else {
                    end
                });
            }
        }
    }

    /// Adds text in which blanks do not split.
    pub(super) fn add_raw(&mut self, text: &str, start: usize) {
        self.begin(start);
        self.text.push_str(text);
    }

    fn begin(&mut self, start: usize) {
        if !self.in_word {
            self.in_word = true;
            self.start = start;
        }
    }

    pub(super) fn end_word(&mut self, end: usize) {
        if !self.text.is_empty() {
            self.words.push(Word {
                text: std::mem::take(&mut self.text),
                start: self.start,
                end,
            });
        }
        self.in_word = false;
    }
}
