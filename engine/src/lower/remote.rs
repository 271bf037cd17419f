//! Which sources of ADD are elsewhere: URLs of files, and repositories of git. Text only; nothing is fetched here.

/// A repository and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GitUrl {
    pub(crate) url: String,
    /// Branch, tag or commit; empty for the default branch.
    pub(crate) reference: String,
    pub(crate) subdirectory: String,
    pub(crate) checksum: Option<String>,
    pub(crate) keep_git_dir: Option<bool>,
    /// Whether submodules come along.
    pub(crate) submodules: bool,
}

/// What a source of ADD or COPY is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remote {
    /// A path.
    Local,
    Http,
    Git(GitUrl),
}

/// Tells by its text what a source is. The error says what is wrong with a repository's URL.
pub(crate) fn classify(source: &str) -> Result<Remote, String> {
    if let Some((scheme, rest)) = source.split_once("://") {
        let scheme = scheme.to_ascii_lowercase();
        return match scheme.as_str() {
            "http" | "https" => {
                let path_end = rest.find(['?', '#']).unwrap_or(rest.len());
                let path = rest.get(..path_end).unwrap_or(rest);
                if path.contains('/') && path.ends_with(".git") {
                    git(source).map(Remote::Git)
                } else {
                    Ok(Remote::Http)
                }
            }
            "git" | "ssh" => git(source).map(Remote::Git),
            _ => Ok(Remote::Local),
        };
    }
    if is_scp_like(source) {
        return git(source).map(Remote::Git);
    }
    Ok(Remote::Local)
}

/// `user@host:path`
fn is_scp_like(source: &str) -> bool {
    let Some((user, rest)) = source.split_once('@') else {
        return false;
    };
    let Some((host, path)) = rest.split_once(':') else {
        return false;
    };
    let plain = |text: &str, extra: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    plain(user, "-_") && plain(host, "-_.") && !path.is_empty() && !path.starts_with("//")
}

/// Which host an address is of, and at which port.
pub(crate) fn host_and_port(address: &str) -> Option<(String, u16)> {
    const SSH: u16 = 22;
    const GIT: u16 = 9418;
    if !address.contains("://") {
        let host = address.split_once(':')?.0;
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        return Some((host.to_owned(), SSH));
    }
    let url = url::Url::parse(address).ok()?;
    let port = url.port_or_known_default();
    let port = port.or(match url.scheme() {
        "ssh" => Some(SSH),
        "git" => Some(GIT),
        _ => None,
    })?;
    Some((url.host_str()?.to_owned(), port))
}

/// `URL[?key=value&…][#reference[:subdirectory]]`
fn git(source: &str) -> Result<GitUrl, String> {
    let (front, fragment) = source.split_once('#').unwrap_or((source, ""));
    let (url, query) = front.split_once('?').unwrap_or((front, ""));
    let (reference, subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
    let mut found = GitUrl {
        url: url.to_owned(),
        reference: reference.to_owned(),
        subdirectory: subdirectory.to_owned(),
        checksum: None,
        keep_git_dir: None,
        submodules: true,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value);
        let is_switch = matches!(key, "keep-git-dir" | "submodules");
        if value.is_empty() && !is_switch {
            return Err(format!("`{key}` of `{source}` has no value"));
        }
        match key {
            "ref" => agree(&mut found.reference, value, source)?,
            "branch" => agree(&mut found.reference, format!("refs/heads/{value}"), source)?,
            "tag" => agree(&mut found.reference, format!("refs/tags/{value}"), source)?,
            "subdir" => agree(&mut found.subdirectory, value, source)?,
            "commit" | "checksum" => {
                agree(found.checksum.get_or_insert_default(), value, source)?;
            }
            "keep-git-dir" => found.keep_git_dir = Some(boolean(key, &value)?),
            "submodules" => found.submodules = boolean(key, &value)?,
            _ => return Err(format!("`{source}` has an unknown option `{key}`")),
        }
    }
    // What starts with a dash would be an option to git.
    if found.url.starts_with('-') || found.reference.starts_with('-') {
        return Err(format!("`{source}` is not a repository"));
    }
    Ok(found)
}

fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("`{key}={value}` is neither true nor false")),
    }
}

/// Keeps what a URL says, which may say it twice, but not in two ways.
fn agree(known: &mut String, value: String, source: &str) -> Result<(), String> {
    if !known.is_empty() && *known != value {
        return Err(format!(
            "`{source}` asks for two things at once: `{known}` and `{value}`"
        ));
    }
    *known = value;
    Ok(())
}

/// A repository on GitHub, named as in `github.com/owner/name`.
pub(crate) fn github(source: &str) -> Result<GitUrl, String> {
    git(&format!("https://{source}"))
}

/// Text without the names and passwords that URLs in it hold. The user of an ssh URL is no secret, but nothing that
/// is shown needs it either.
pub(crate) fn without_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after
            .find(|c: char| matches!(c, '/' | '?' | '#' | '"' | '\'') || c.is_whitespace())
            .unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        out.push_str(
            authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host),
        );
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// What the file behind a URL is called: the last part of its path, also where an encoded slash ends the one before.
pub(crate) fn file_name(url: &str) -> String {
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = path.split(['?', '#']).next().unwrap_or("");
    let path = path.split_once('/').map_or("", |(_, path)| path);
    let path = decode(path);
    let name = super::paths::base_name(&path);
    if name.is_empty() || name == "." || name == ".." || name.contains('\0') {
        return "__unnamed__".to_owned();
    }
    name.to_owned()
}

/// Undoes percent encoding; what is no valid encoding stays as it is.
pub(crate) fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        let hex = rest
            .get(..2)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(value) if *first == b'%' => {
                out.push(value);
                bytes = rest.get(2..).unwrap_or(&[]);
            }
            _ => {
                out.push(*first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        for local in ["f", "a@b", "./x.git", "dir/a:b", "c:\\x", "github.com/a/b"] {
            assert_eq!(classify(local), Ok(Remote::Local), "{local}");
        }
        assert_eq!(
            classify("https://example.com/a.tar?x=.git"),
            Ok(Remote::Http)
        );
        assert_eq!(classify("https://example.com"), Ok(Remote::Http));
        let Ok(Remote::Git(git)) = classify("https://example.com/a.git#v1:sub/dir") else {
            panic!("no repository");
        };
        assert_eq!(
            (
                git.url.as_str(),
                git.reference.as_str(),
                git.subdirectory.as_str()
            ),
            ("https://example.com/a.git", "v1", "sub/dir")
        );
        assert!(matches!(
            classify("git@example.com:a/b"),
            Ok(Remote::Git(_))
        ));
        for bad in [
            "?what=1",
            "?branch=",
            "?subdir",
            "?branch=a&tag=a",
            "?branch=a#b",
            "?subdir=a#b:c",
            "?checksum=1&commit=2",
        ] {
            let source = format!("https://example.com/a.git{bad}");
            assert!(classify(&source).is_err(), "{source}");
        }
        let twice = "https://example.com/a.git?ref=b&subdir=c#b:c";
        assert!(classify(twice).is_ok());
        assert!(classify("https://example.com/a.git#--upload-pack=x").is_err());
    }

    #[test]
    fn nothing_secret_is_shown() {
        for (text, expected) in [
            ("ADD https://me:pw@a.b/c /d", "ADD https://a.b/c /d"),
            ("https://t@a.b?x=https://u:p@c/", "https://a.b?x=https://c/"),
            ("a@b:c no://x/@y", "a@b:c no://x/@y"),
        ] {
            assert_eq!(without_userinfo(text), expected);
        }
    }

    #[test]
    fn hosts_and_ports() {
        for (address, expected) in [
            ("https://u:p@Example.com/a.git", Some(("example.com", 443))),
            ("http://example.com:8080/x", Some(("example.com", 8080))),
            ("http://[::1]/x", Some(("[::1]", 80))),
            ("git@example.com:a/b", Some(("example.com", 22))),
            ("ssh://git@example.com/a", Some(("example.com", 22))),
            ("git://example.com/a", Some(("example.com", 9418))),
            ("https://", None),
        ] {
            let found = host_and_port(address);
            let found = found.as_ref().map(|(host, port)| (host.as_str(), *port));
            assert_eq!(found, expected, "{address}");
        }
    }

    #[test]
    fn names() {
        for (url, expected) in [
            ("https://example.com/a/b.tar.gz?x=/y", "b.tar.gz"),
            ("https://example.com/a%20b", "a b"),
            ("https://example.com/a%2Fb%2f", "b"),
            ("https://example.com/d/", "d"),
            ("https://example.com", "__unnamed__"),
            ("https://example.com/%2e%2e", "__unnamed__"),
        ] {
            assert_eq!(file_name(url), expected);
        }
    }
}
