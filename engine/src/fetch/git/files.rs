//! From a repository to files in a directory: fetching a commit, checking it out with its submodules, and taking a
//! directory of it. Links that the repository holds are followed inside of it or not at all.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::path::Path;

use rbuild_cache::RootDir;
use rbuild_cache::root_dir::{Resolve, is_absence};
use rustix::fs::FileType;

use super::Pin;
use super::program::Git;
use crate::worker::failure::{Failure, Result};

/// Deeper is no source tree.
const DEPTH_MAX: usize = 500;
/// Where a commit is kept that no name of the server leads to.
const OWN_NAME: &str = "refs/rbuild/commit";

/// Fetches the commit into a new repository and checks it out to `files`.
pub(super) async fn fetch(git: &Git<'_>, pin: &Pin, submodules: bool, files: &Path) -> Result<()> {
    // Without templates: those have hooks.
    let is_bare = !git.repository.starts_with(files);
    if is_bare {
        git.run(&["init", "--quiet", "--template=", "--bare"])
            .await?;
    } else {
        git.run_in(files, &["init", "--quiet", "--template="])
            .await?;
    }
    git.run(&["remote", "add", "--", "origin", &git.address.url])
        .await?;
    match &pin.name {
        Some(name) => named(git, pin, name).await?,
        None => unnamed(git, pin).await?,
    }
    git.run_in(
        files,
        &["checkout", "--quiet", "--force", "--detach", &pin.commit],
    )
    .await?;
    let lists = || std::fs::symlink_metadata(files.join(".gitmodules"));
    if submodules && lists().is_ok_and(|it| it.is_file()) {
        if git.held {
            let message = format!(
                "`{}` has submodules, which --allow-host cannot hold to its hosts",
                git.address.shown
            );
            return Err(Failure::new("not-allowed", message)
                .help("leave them out with `?submodules=false` behind the address, and add them by their own addresses"));
        }
        let update = [
            "submodule",
            "--quiet",
            "update",
            "--init",
            "--recursive",
            "--depth=1",
        ];
        git.run_remote(Some(files), &update).await?;
    }
    Ok(())
}

async fn named(git: &Git<'_>, pin: &Pin, name: &str) -> Result<()> {
    let own = if name == "HEAD" { OWN_NAME } else { name };
    let what = format!("+{name}:{own}");
    git.run_remote(None, &one_commit(&what)).await?;
    let came = git
        .run(&[
            "rev-parse",
            "--verify",
            "--quiet",
            &format!("{own}^{{commit}}"),
        ])
        .await?;
    if came.trim() == pin.commit {
        return Ok(());
    }
    // It moved in between. What it meant before may still be had.
    unnamed(git, pin).await
}

/// Fetches what is named without the commits that it stands on.
fn one_commit(what: &str) -> [&str; 7] {
    [
        "fetch",
        "--quiet",
        "--no-tags",
        "--update-head-ok",
        "--depth=1",
        "origin",
        what,
    ]
}

/// A commit by its digits: alone where the server allows that, else with everything that has a name.
async fn unnamed(git: &Git<'_>, pin: &Pin) -> Result<()> {
    let what = format!("+{}:{OWN_NAME}", pin.commit);
    let alone = one_commit(&what);
    let Err(refused) = git.run_remote(None, &alone).await else {
        return Ok(());
    };
    tracing::debug!(%refused, "the server does not give a commit alone");
    let everything = [
        "fetch",
        "--quiet",
        "--update-head-ok",
        "origin",
        "+refs/heads/*:refs/remotes/origin/*",
        "+refs/tags/*:refs/tags/*",
    ];
    git.run_remote(None, &everything).await?;
    let object = format!("{}^{{commit}}", pin.commit);
    if git.run(&["cat-file", "-e", &object]).await.is_err() {
        let message = format!("`{}` has no commit {}", git.address.shown, pin.commit);
        return Err(Failure::new("no-reference", message));
    }
    Ok(())
}

/// Takes away of a repository that is kept what differs from fetch to fetch.
pub(super) async fn tidy(git: &Git<'_>) -> Result<()> {
    git.run(&["reflog", "expire", "--all", "--expire=now"])
        .await?;
    let left = git.repository.join("FETCH_HEAD");
    match std::fs::remove_file(&left) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("tidy", &left)(error))
        }
        _ => Ok(()),
    }
}

/// Removes the `.git` files of submodules, which name directories of this machine. Nothing else can have that name:
/// git refuses it. Blocking.
pub(super) fn without_links_to_repositories(files: &Path) -> Result<()> {
    let root = RootDir::open_ambient(files).map_err(failed("open", files))?;
    if !root
        .exists(Path::new(".gitmodules"), Resolve::Beneath)
        .map_err(failed("read", files))?
    {
        return Ok(());
    }
    remove_links(&root, 0).map_err(failed("tidy", files))
}

fn remove_links(directory: &RootDir, depth: usize) -> std::io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(std::io::Error::other("its directories are too deep"));
    }
    for entry in rbuild_cache::root_dir::read_dir(directory.as_fd())? {
        let path = Path::new(&entry.name);
        if entry.name == OsStr::new(".git") {
            directory.remove_tree(path, Resolve::Beneath)?;
        } else if entry.file_type == FileType::Directory {
            let below = directory.directory(path, Resolve::Beneath)?;
            remove_links(&below, depth + 1)?;
        }
    }
    Ok(())
}

/// Moves what is in a directory of the checkout to `to`. Blocking.
pub(super) fn take(files: &Path, subdirectory: &str, to: &Path, shown: &str) -> Result<()> {
    let root = RootDir::open_ambient(files).map_err(failed("open", files))?;
    let from = root
        .directory(Path::new(subdirectory), Resolve::InRoot)
        .map_err(|error| {
            let message = format!(
                "`{shown}` has no directory `{}`",
                subdirectory.escape_debug()
            );
            if is_absence(&error) {
                Failure::new("no-subdirectory", message)
            } else {
                Failure::caused("no-subdirectory", message, error)
            }
        })?;
    let to = RootDir::open_ambient(to).map_err(failed("open", to))?;
    let entries = rbuild_cache::root_dir::read_dir(from.as_fd()).map_err(failed("read", files))?;
    for entry in entries {
        rustix::fs::renameat(&from, &entry.name, &to, &entry.name)
            .map_err(|error| failed("move", files)(error.into()))?;
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::caused("store", format!("cannot {action} `{path}`"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subdirectories_stay_inside() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["files", "files/real", "outside", "to", "to2", "to3"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        std::fs::write(path("outside/secret"), "").unwrap();
        std::fs::write(path("files/real/file"), "").unwrap();
        for (link, target) in [
            ("up", "../outside"),
            ("absolute", "/etc"),
            ("inside", "/real"),
        ] {
            std::os::unix::fs::symlink(target, path("files").join(link)).unwrap();
        }
        for link in ["up", "absolute", "missing", "../outside"] {
            assert!(
                take(&path("files"), link, &path("to"), "").is_err(),
                "{link}"
            );
        }
        take(&path("files"), "inside", &path("to"), "").unwrap();
        assert!(path("to/file").exists());
        assert!(path("outside/secret").exists());
    }

    #[test]
    fn links_of_submodules_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(path("a/b")).unwrap();
        std::fs::write(path("a/b/.git"), "gitdir: /x").unwrap();
        without_links_to_repositories(directory.path()).unwrap();
        assert!(path("a/b/.git").exists());
        std::fs::write(path(".gitmodules"), "").unwrap();
        without_links_to_repositories(directory.path()).unwrap();
        assert!(!path("a/b/.git").exists());
    }
}
