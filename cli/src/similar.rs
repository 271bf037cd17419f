//! "Did you mean": the names nearest to one that does not exist.

use std::path::Path;

/// Returns the candidates that look most like `name`, best first, at most three.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Vec<&'a str> {
    let wanted = name.to_lowercase();
    let mut found: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            let distance = distance(&wanted, &lower);
            let allowed = match wanted.chars().count() {
                0..=2 => 1,
                3..=6 => 2,
                length => length / 3,
            };
            let related = distance <= allowed
                || (wanted.len() >= 3 && (lower.starts_with(&wanted) || lower.ends_with(&wanted)));
            related.then_some((distance, candidate))
        })
        .collect();
    found.sort_unstable();
    found.truncate(3);
    found.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Returns the names in `directory` that look most like `name`.
pub(crate) fn nearest_in(directory: &Path, name: &str) -> Vec<String> {
    // A hint only: where the directory cannot be read there is none. Large directories are not searched whole.
    let names: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .take(2000)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    nearest(name, names.iter().map(String::as_str))
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// Levenshtein's distance, in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(256).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(256).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let best = (diagonal + usize::from(x != *y))
                .min(left + 1)
                .min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("flaw", "lawn"), 2);
    }

    #[test]
    fn near_names_are_offered_best_first() {
        let names = [
            "Dockerfile.dev",
            "dockerfile",
            "README.md",
            "prod.Dockerfile",
        ];
        assert_eq!(
            nearest("Dockerfile", names),
            ["dockerfile", "Dockerfile.dev", "prod.Dockerfile"]
        );
        assert!(nearest("zzz", names).is_empty());
    }
}
