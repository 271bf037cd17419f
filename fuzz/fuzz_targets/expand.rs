//! Expands words, matches patterns and reads values. The first line is a pattern or value, the rest a word.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_parser::ast::Escape;
use rbuild_parser::expand::{self, Variables};
use rbuild_parser::ignore::Patterns;
use rbuild_parser::source::Span;
use rbuild_parser::{glob, mount, values};

struct Some1;

impl Variables for Some1 {
    fn get(&self, name: &str) -> Option<String> {
        match name.len() {
            1 => Some("a value\nof b.c.d/e".to_owned()),
            2 => Some(String::new()),
            3 => Some(name.repeat(40)),
            _ => None,
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let (head, word) = text.split_once('\n').unwrap_or((&text, &text));
    for escape in [Escape::Backslash, Escape::Backtick] {
        for error in [expand::word(word, escape, &Some1).err(), expand::text(word, escape, &Some1).err()] {
            assert!(error.is_none_or(|error| error.offset <= word.len()));
        }
        let _ = expand::words(word, escape, &Some1);
        let _ = expand::check(word, escape);
    }
    let _ = glob::matches(head.as_bytes(), word.as_bytes());
    if let Ok(patterns) = Patterns::from_file(bytes) {
        patterns.verdict(word.as_bytes());
        patterns.may_reinclude_below(word.as_bytes());
    }
    let _ = Patterns::from_list(&[head.to_owned()]).map(|patterns| patterns.verdict(word.as_bytes()));
    let _ = mount::parse(head, Span::default());
    let _ = values::parse_check_interval(head);
    let _ = values::parse_port_spec(head);
    let _ = values::validate_signal(head);
    let _ = values::parse_bytes(head);
});
