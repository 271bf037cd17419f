//! Where a repository is, without what is secret of it, and by what right it is asked for.

use base64::Engine as _;
use url::Url;

use crate::fetch::Access;
use crate::lower::remote::{decode, without_userinfo};
use crate::worker::failure::{Failure, Result};

#[derive(Debug)]
pub(super) struct Address {
    /// As git gets it: without names and passwords, those of ssh users excepted.
    pub(super) url: String,
    pub(super) shown: String,
    /// Addresses that begin so get this value of `Authorization`.
    pub(super) header: Option<(String, String)>,
    scheme: Scheme,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Https,
    Http,
    Ssh,
    Git,
}

impl Address {
    pub(super) fn new(text: &str, access: &Access) -> Result<Self> {
        let shown = without_userinfo(text);
        let refused = |reason: &str| Failure::new("bad-repository", format!("`{shown}` {reason}"));
        // Dashes would be options, control characters end up where nobody expects them.
        if text.starts_with('-') || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(refused("is no address of a repository"));
        }
        if !text.contains("://") {
            return Ok(Self {
                url: text.to_owned(),
                shown,
                header: None,
                scheme: Scheme::Ssh,
            });
        }
        let mut url = Url::parse(text)
            .map_err(|error| refused(&format!("is no address of a repository: {error}")))?;
        let scheme = match url.scheme() {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            "ssh" => Scheme::Ssh,
            "git" => Scheme::Git,
            _ => return Err(refused("is not reached by https, http, ssh or git")),
        };
        let host = url.host_str().unwrap_or_default().to_owned();
        if host.is_empty() || host.starts_with('-') {
            return Err(refused("has no host"));
        }
        let (user, password) = (decode(url.username()), url.password().map(decode));
        let cannot = |()| refused("is no address of a repository");
        url.set_password(None).map_err(cannot)?;
        if scheme != Scheme::Ssh {
            url.set_username("").map_err(cannot)?;
        } else if user.starts_with('-') {
            return Err(refused("has no user that ssh could take"));
        }
        let header = match scheme {
            Scheme::Ssh | Scheme::Git => None,
            Scheme::Https | Scheme::Http if user.is_empty() && password.is_none() => {
                authorization(access, &host)
            }
            Scheme::Https | Scheme::Http => {
                Some(basic(&user, password.as_deref().unwrap_or_default()))
            }
        };
        let url = url.to_string();
        // Other repositories of GitHub take the same token; submodules need it.
        let scope = if host == "github.com" && scheme == Scheme::Https {
            "https://github.com/".to_owned()
        } else {
            url.clone()
        };
        Ok(Self {
            url,
            shown,
            header: header.map(|header| (scope, header)),
            scheme,
        })
    }

    /// What git may use, for submodules and redirects too: nothing on this machine, and without TLS only what was
    /// named without.
    pub(super) fn protocols(&self) -> &'static str {
        match self.scheme {
            Scheme::Https | Scheme::Ssh => "https:ssh",
            Scheme::Http => "https:ssh:http",
            Scheme::Git => "https:ssh:git",
        }
    }
}

/// By BuildKit's names of secrets: `GIT_AUTH_HEADER` is the whole value, `GIT_AUTH_TOKEN` a token; with `.HOST`, for
/// that host.
fn authorization(access: &Access, host: &str) -> Option<String> {
    let secret = |name: &str| access.secret(name);
    secret(&format!("GIT_AUTH_HEADER.{host}"))
        .or_else(|| {
            Some(basic(
                "x-access-token",
                &secret(&format!("GIT_AUTH_TOKEN.{host}"))?,
            ))
        })
        .or_else(|| secret("GIT_AUTH_HEADER"))
        .or_else(|| Some(basic("x-access-token", &secret("GIT_AUTH_TOKEN")?)))
}

fn basic(user: &str, password: &str) -> String {
    let both = format!("{user}:{password}");
    let encoded = base64::engine::general_purpose::STANDARD.encode(both);
    format!("Basic {encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_leave_the_address() {
        let address = Address::new("https://me:p%40w@example.com/a.git", &Access::default());
        let address = address.unwrap();
        assert_eq!(address.url, "https://example.com/a.git");
        assert_eq!(address.shown, "https://example.com/a.git");
        assert_eq!(
            address.header,
            Some((address.url.clone(), basic("me", "p@w")))
        );
        let ssh = Address::new("ssh://git@example.com/a.git", &Access::default()).unwrap();
        assert_eq!(ssh.url, "ssh://git@example.com/a.git");
        assert_eq!(ssh.shown, "ssh://example.com/a.git");
    }

    #[test]
    fn tokens_go_to_their_hosts() {
        let mut access = Access::default();
        for (id, value) in [("GIT_AUTH_TOKEN.a.b", "one\n"), ("GIT_AUTH_HEADER", "two")] {
            access
                .secrets
                .insert(id.to_owned(), value.as_bytes().into());
        }
        let header = |url: &str| Address::new(url, &access).unwrap().header.unwrap().1;
        assert_eq!(header("https://a.b/c.git"), basic("x-access-token", "one"));
        assert_eq!(header("https://c.d/c.git"), "two");
    }

    #[test]
    fn what_git_could_mistake_is_refused() {
        for bad in [
            "--upload-pack=x",
            "file:///etc",
            "ext::sh -c x",
            "https://a/b\n.git",
            "ssh://-oProxyCommand=x/a.git",
            "ssh://-oProxyCommand=x@host/a.git",
        ] {
            assert!(Address::new(bad, &Access::default()).is_err(), "{bad}");
        }
    }
}
