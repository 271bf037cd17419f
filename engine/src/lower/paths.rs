//! Paths as Dockerfiles know them: with slashes, cleaned as text, never looked up anywhere.

/// Joins `path` to `base` unless it is absolute, and cleans: no `.`, no `..`, no double or trailing slashes.
/// The result is absolute.
pub(crate) fn resolve(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { base };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Cleans without making absolute, as Go's `path.Clean` does.
pub(crate) fn clean(path: &str) -> String {
    if path.starts_with('/') {
        return resolve("", path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return ".".to_owned();
    }
    parts.join("/")
}

/// Whether a destination as written can only mean a directory.
pub(crate) fn names_directory(path: &str) -> bool {
    matches!(path, "" | "." | "..")
        || path.ends_with('/')
        || path.ends_with("/.")
        || path.ends_with("/..")
}

/// The last part of a path, ignoring trailing slashes.
pub(crate) fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves() {
        for (base, path, expected) in [
            ("/", "app", "/app"),
            ("", "app", "/app"),
            ("/a/b", "../c//d/", "/a/c/d"),
            ("/a", "/x/../../y", "/y"),
            ("/a", "", "/a"),
            ("/a", ".", "/a"),
            ("/", "/", "/"),
        ] {
            assert_eq!(resolve(base, path), expected, "{base} + {path}");
        }
    }

    #[test]
    fn cleans() {
        for (path, expected) in [
            ("/c1/", "/c1"),
            ("a/./b", "a/b"),
            ("../x", "../x"),
            ("", "."),
        ] {
            assert_eq!(clean(path), expected);
        }
    }
}
