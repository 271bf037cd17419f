//! A directory of a repository as it is at one commit, as a snapshot.
//!
//! What a branch or tag means is asked for each time; the commit then says whether its files are here already. They
//! are fetched without history where the server can do that. Rules of names are BuildKit's: a branch wins over a tag
//! of the same name, 40 hexadecimal digits are a commit. [`address`]: where and by what right; [`program`]: calling
//! git; [`silence`]: servers that say nothing; [`files`]: from a repository to a snapshot's directory.

mod address;
mod files;
mod program;
mod silence;

use std::path::Path;
use std::sync::Arc;

use rbuild_cache::{KeyWriter, Snapshot, Store};

use super::{Access, note, recall, remember};
use crate::op::GitSource;
use crate::worker::failure::{Failure, Result};
use crate::worker::{blocking, now};
use address::Address;
use program::Git;

const COMMIT_DIGITS: usize = 40;
/// Git's own shortest abbreviation that BuildKit takes for a checksum.
const CHECKSUM_DIGITS_MIN: usize = 7;

/// What a reference means now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pin {
    commit: String,
    /// Where it is found in the repository; `None` where the commit itself was asked for.
    name: Option<String>,
    /// Of an annotated tag.
    tag_object: Option<String>,
}

/// Brings what `source` names, unless it is here. Returns the commit, too.
pub(crate) async fn checkout(
    store: &Arc<Store>,
    source: &GitSource,
    access: &Access,
) -> Result<(Snapshot, String)> {
    let address = Address::new(&source.url, access)?;
    check(source)?;
    let temporary = {
        let store = Arc::clone(store);
        blocking(move || store.temporary_directory()).await?
    };
    let git = Git {
        address: &address,
        home: temporary.path().to_owned(),
        repository: temporary.path().join("repository"),
        ssh_socket: access.ssh.get("default").map(|path| &**path),
        patience: program::PATIENCE,
        held: access.reach.is_some(),
    };
    let pin = if is_commit(&source.reference) {
        Pin {
            commit: source.reference.to_ascii_lowercase(),
            name: None,
            tag_object: None,
        }
    } else {
        resolve(&git, &source.reference).await?
    };
    if let Some(checksum) = &source.checksum {
        pin.verify(&checksum.to_ascii_lowercase(), &address.shown)?;
    }
    let keeps = source.keep_git_dir && is_whole(&source.subdirectory);
    let mut key = KeyWriter::new("git-checkout.v1")
        .field("url", &address.url)
        .field("commit", &pin.commit)
        .field("subdirectory", &source.subdirectory);
    if keeps {
        key.add("git dir of", pin.name.as_deref().unwrap_or_default());
    }
    if !source.submodules {
        key.add("submodules", "none");
    }
    if git.held {
        // What came from other hosts is not passed off as what this one gives.
        key.add("allow-host", "given");
    }
    let key = key.finish();
    if let Some(known) = recall(store, key).await? {
        return Ok((known.snapshot, pin.commit));
    }

    let active = {
        let store = Arc::clone(store);
        blocking(move || store.prepare()).await?
    };
    if keeps {
        let git = Git {
            repository: active.upper().join(".git"),
            home: git.home,
            ..git
        };
        files::fetch(&git, &pin, source.submodules, active.upper()).await?;
        files::tidy(&git).await?;
    } else if is_whole(&source.subdirectory) {
        files::fetch(&git, &pin, source.submodules, active.upper()).await?;
        let upper = active.upper().to_owned();
        blocking(move || files::without_links_to_repositories(&upper)).await?;
    } else {
        let whole = temporary.path().join("files");
        std::fs::create_dir(&whole)
            .map_err(|error| Failure::caused("store", "cannot make a directory", error))?;
        files::fetch(&git, &pin, source.submodules, &whole).await?;
        let (upper, subdirectory) = (active.upper().to_owned(), source.subdirectory.clone());
        let shown = address.shown.clone();
        blocking(move || {
            files::without_links_to_repositories(&whole)?;
            files::take(&whole, &subdirectory, &upper, &shown)
        })
        .await?;
    }
    let notes = vec![note("commit", &*pin.commit)];
    let step = format!("git/{}", address.shown);
    let store = Arc::clone(store);
    blocking(move || {
        let snapshot = active.commit(None, now())?;
        remember(&store, key, &snapshot, step, notes)?;
        Ok((snapshot, pin.commit))
    })
    .await
}

/// Refuses what git would take for something else than a name.
fn check(source: &GitSource) -> Result<()> {
    let reference = &source.reference;
    let strange = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    if reference.starts_with('-') || reference.contains("..") || reference.contains(strange) {
        let message = format!(
            "`{}` is not the name of a branch, a tag or a commit",
            reference.escape_debug()
        );
        return Err(Failure::new("bad-reference", message));
    }
    if let Some(checksum) = &source.checksum
        && (checksum.len() < CHECKSUM_DIGITS_MIN
            || checksum.len() > COMMIT_DIGITS
            || !checksum.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        let message = format!(
            "`{}` is not the beginning of a commit",
            checksum.escape_debug()
        );
        return Err(Failure::new("bad-checksum", message)
            .help("give 7 to 40 hexadecimal digits of the commit"));
    }
    Ok(())
}

fn is_commit(text: &str) -> bool {
    text.len() == COMMIT_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_whole(subdirectory: &str) -> bool {
    Path::new(subdirectory)
        .components()
        .all(|part| !matches!(part, std::path::Component::Normal(_)))
}

/// Asks the repository what a reference means.
async fn resolve(git: &Git<'_>, reference: &str) -> Result<Pin> {
    let wanted = if reference.is_empty() {
        "HEAD"
    } else {
        reference
    };
    let peeled = format!("{wanted}^{{}}");
    let url = &*git.address.url;
    let listed = git
        .run_remote(None, &["ls-remote", "--", url, wanted, &peeled])
        .await?;
    choose(&listed, wanted).ok_or_else(|| {
        let message = if reference.is_empty() {
            format!("`{}` is empty: it has no commit", git.address.shown)
        } else {
            format!("`{}` has no branch or tag `{reference}`", git.address.shown)
        };
        let failure = Failure::new("no-reference", message);
        if reference.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return failure.help("a commit must be given with all of its 40 digits");
        }
        failure
    })
}

/// Picks what `reference` means of the lines of `ls-remote`, which match by the ends of names.
fn choose(listed: &str, reference: &str) -> Option<Pin> {
    let find = |name: &str| {
        listed.lines().find_map(|line| {
            let (object, found) = line.split_once('\t')?;
            (found == name && is_commit(object)).then(|| object.to_owned())
        })
    };
    let short = reference.strip_prefix("refs/").unwrap_or(reference);
    let names = [
        reference.to_owned(),
        format!("refs/{short}"),
        format!("refs/heads/{reference}"),
        format!("refs/tags/{reference}"),
    ];
    names
        .into_iter()
        // Of the bare name, only HEAD and whole names are meant.
        .filter(|name| name == "HEAD" || name.starts_with("refs/"))
        .find_map(|name| {
            let object = find(&name)?;
            let peeled = find(&format!("{name}^{{}}"));
            Some(Pin {
                tag_object: peeled.is_some().then(|| object.clone()),
                commit: peeled.unwrap_or(object),
                name: Some(name),
            })
        })
}

impl Pin {
    fn verify(&self, checksum: &str, shown: &str) -> Result<()> {
        let is = |object: &str| object.starts_with(checksum);
        if is(&self.commit) || self.tag_object.as_deref().is_some_and(is) {
            return Ok(());
        }
        let message = format!(
            "`{shown}` is at commit {}, which does not begin with {checksum}",
            self.commit
        );
        Err(Failure::new("wrong-checksum", message)
            .help("the branch or tag moved, or the checksum is of another commit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn source(reference: &str, checksum: Option<&str>) -> GitSource {
        GitSource {
            url: "https://example.com/a.git".to_owned(),
            reference: reference.to_owned(),
            subdirectory: String::new(),
            keep_git_dir: false,
            submodules: true,
            checksum: checksum.map(str::to_owned),
        }
    }

    #[test]
    fn branches_win_over_tags_and_ends_of_names_do_not_count() {
        let listed = format!("{ONE}\trefs/heads/x/v1\n{ONE}\trefs/heads/v1\n{TWO}\trefs/tags/v1\n");
        let pin = choose(&listed, "v1").unwrap();
        assert_eq!(
            (&*pin.commit, pin.name.as_deref()),
            (ONE, Some("refs/heads/v1"))
        );
        let pin = choose(&listed, "refs/tags/v1").unwrap();
        assert_eq!(pin.commit, TWO);
        assert_eq!(choose(&listed, "x"), None);
    }

    #[test]
    fn annotated_tags_lead_to_their_commit() {
        let listed = format!("{ONE}\trefs/tags/v1\n{TWO}\trefs/tags/v1^{{}}\n");
        let pin = choose(&listed, "v1").unwrap();
        assert_eq!(pin.commit, TWO);
        assert!(pin.verify("1111111", "").is_ok());
        assert!(pin.verify("2222222", "").is_ok());
        assert!(pin.verify("3333333", "").is_err());
    }

    #[test]
    fn strange_references_are_refused() {
        for good in ["", "main", "feature/x-1", ONE, "refs/pull/1/head"] {
            assert!(check(&source(good, None)).is_ok(), "{good}");
        }
        for bad in ["--upload-pack=x", "a:b", "a..b", "a b", "a\nb", "*", "a^{}"] {
            assert!(check(&source(bad, None)).is_err(), "{bad}");
        }
        assert!(check(&source("", Some("abc1234"))).is_ok());
        for bad in ["abc", "abc123x", &format!("{ONE}1")] {
            assert!(check(&source("", Some(bad))).is_err(), "{bad}");
        }
    }

    #[test]
    fn roots_are_whole() {
        for whole in ["", ".", "/", "./", ".."] {
            assert!(is_whole(whole), "{whole}");
        }
        assert!(!is_whole("a/.."));
    }
}
