//! Cuts the pieces of a command's output into lines.

/// A line that grows beyond this is handed out in parts.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Holds the beginning of a line until its end comes.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Hands out every line that `bytes` completes, without its line end.
    pub(super) fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) if self.partial.is_empty() => line(end),
                Some(end) => {
                    self.partial.extend_from_slice(end);
                    line(&self.partial);
                    self.partial.clear();
                }
                None => {
                    self.partial.extend_from_slice(piece);
                    if self.partial.len() >= MAX_LINE_BYTES {
                        line(&self.partial);
                        self.partial.clear();
                    }
                }
            }
        }
    }

    /// Returns what came after the last line end.
    pub(super) fn take_rest(&mut self) -> Option<Vec<u8>> {
        (!self.partial.is_empty()).then(|| std::mem::take(&mut self.partial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_whatever_the_pieces() {
        let text = b"one\n\ntwo\nthree";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for piece in text.chunks(size) {
                lines.feed(piece, |line| {
                    seen.push(String::from_utf8_lossy(line).into_owned());
                });
            }
            assert_eq!(seen, ["one", "", "two"]);
            assert_eq!(lines.take_rest().as_deref(), Some(&b"three"[..]));
            assert_eq!(lines.take_rest(), None);
        }
    }

    #[test]
    fn endless_lines_are_handed_out_in_parts() {
        let mut lines = Lines::default();
        let mut parts = 0;
        for _ in 0..40 {
            lines.feed(&[b'x'; 10_000], |_| parts += 1);
        }
        assert!(parts >= 5);
    }
}
