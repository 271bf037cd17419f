//! Replaces what differs from run to run: paths, digests, times.

use std::path::Path;

pub(super) fn filtered(text: &str, directory: &Path) -> String {
    let text = text.replace(&directory.display().to_string(), "$KIT");
    let mut filtered = String::with_capacity(text.len());
    for line in text.lines() {
        filtered.push_str(&times(&digests(line)));
        filtered.push('\n');
    }
    filtered
}

/// `sha256:<64 digits>` → `sha256:<digest>`
fn digests(line: &str) -> String {
    let mut parts = line.split("sha256:");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_hexdigit).count();
        text.push_str("sha256:");
        text.push_str(if digits == 64 {
            "<digest>"
        } else {
            &part[..digits]
        });
        text.push_str(&part[digits..]);
    }
    text
}

/// `#5 0.123 words` → `#5 <time> words`; `DONE 0.3s` → `DONE <time>`
fn times(line: &str) -> String {
    let is_time = |word: &str| {
        let number = word.strip_suffix('s').unwrap_or(word);
        number.contains('.') && number.parse::<f64>().is_ok()
    };
    let mut words: Vec<&str> = line.split(' ').collect();
    if line.starts_with('#') && words.len() > 1 {
        if is_time(words[1]) {
            words[1] = "<time>";
        } else if words[1] == "DONE" && words.len() > 2 && is_time(words[2]) {
            words[2] = "<time>";
        }
    }
    words.join(" ")
}
