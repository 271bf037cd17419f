//! "Did you mean": the nearest of a closed list of words.

/// Longer words are never near anything that this crate knows, and comparing them costs the square of their length.
const LONGEST_WORD: usize = 40;

/// Returns the candidate that `word` most likely is a slip of, ignoring case; `None` where nothing is near.
pub fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.is_empty() || word.len() > LONGEST_WORD {
        return None;
    }
    let word: Vec<char> = word.to_lowercase().chars().collect();
    // One slip in a short word, two in a middling one, three in a long one.
    let allowed = match word.len() {
        0..=3 => 1,
        4..=7 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .filter(|candidate| candidate.chars().count().abs_diff(word.len()) <= allowed)
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= allowed && *distance < candidate.chars().count()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns the name that BuildKit suggests for a variable: the first of the nearest, less than three edits away, the
/// case of letters and the length of the word of no account. For messages that are BuildKit's word by word.
pub fn nearest_variable<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let mut best = (3, None);
    for candidate in candidates {
        let is_comparable = name.len().max(candidate.len()) <= LONGEST_WORD
            && name.len().abs_diff(candidate.len()) < best.0;
        if is_comparable {
            let distance = edits(name.as_bytes(), candidate.as_bytes());
            if distance < best.0 {
                best = (distance, Some(candidate));
            }
        }
    }
    best.1
}

/// Insertions, deletions and replacements between two names.
fn edits(from: &[u8], to: &[u8]) -> usize {
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, a) in from.iter().enumerate() {
        let mut diagonal = row;
        last[0] = row + 1;
        for (column, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = last[column + 1];
            last[column + 1] = replaced.min(diagonal + 1).min(last[column] + 1);
        }
    }
    last.last().copied().unwrap_or(0)
}

/// Edit distance in which swapping two neighbours counts once.
fn distance(word: &[char], candidate: &str) -> usize {
    let candidate: Vec<char> = candidate.to_lowercase().chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=candidate.len()).collect();
    for (row, from) in word.iter().enumerate() {
        let mut current = Vec::with_capacity(last.len());
        current.push(row + 1);
        for (column, to) in candidate.iter().enumerate() {
            let replaced = last[column] + usize::from(from != to);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped =
                row > 0 && column > 0 && word[row - 1] == *to && candidate[column - 1] == *from;
            if swapped {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips() {
        let words = [
            "EXPOSE",
            "VOLUME",
            "ENV",
            "ENTRYPOINT",
            "RUN",
            "COPY",
            "FROM",
            "CMD",
        ];
        for (word, expected) in [
            ("EXPOST", Some("EXPOSE")),
            ("volumn", Some("VOLUME")),
            ("RNU", Some("RUN")),
            ("COPPY", Some("COPY")),
            ("FORM", Some("FROM")),
            ("ENTYPOINT", Some("ENTRYPOINT")),
            ("INSTALL", None),
            ("", None),
            ("X", None),
        ] {
            assert_eq!(nearest(word, words), expected, "{word}");
        }
    }

    #[test]
    fn variables_as_buildkit_finds_them() {
        for (word, expected) in [
            ("PAHT", Some("PATH")),
            ("DIR_ASSET", Some("DIR_ASSETS")),
            ("path", None),
            ("foo", Some("fo")),
            ("nothing", None),
            ("", Some("fo")),
        ] {
            let names = ["PATH", "DIR_ASSETS", "fo"];
            assert_eq!(nearest_variable(word, names), expected, "{word}");
        }
    }
}
