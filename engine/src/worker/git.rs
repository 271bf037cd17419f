//! ADD of a git repository: the `git` program fetches one commit into a directory of the store, and what is wanted
//! of it becomes a snapshot. Only http, https, ssh and git are spoken; nothing of the repository is executed.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use rbuild_cache::record::Record;
use rbuild_cache::root_dir::Resolve;
use rbuild_cache::tree::Tree;
use rbuild_cache::{KeyWriter, RootDir, Snapshot};
use rbuild_executor::file::Input;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::failure::{Failure, Result};
use super::{Output, Worker, blocking, now};
use crate::op::GitSource;

/// Of git's own words in an error.
const STDERR_BYTES_MAX: usize = 4096;

impl Worker {
    pub(super) async fn git(
        &self,
        source: &GitSource,
        cancel: CancellationToken,
    ) -> Result<Output> {
        tokio::select! {
            biased;
            // The running git is killed with the future that waits for it.
            () = cancel.cancelled() => Err(Failure::cancelled()),
            snapshot = self.repository(source) => Ok(Output::Snapshot(Some(snapshot?))),
        }
    }

    async fn repository(&self, source: &GitSource) -> Result<Snapshot> {
        for text in [&source.url, &source.reference] {
            if text.starts_with('-') {
                return Err(Failure::new(
                    "git",
                    format!(
                        "`{text}` begins like an option of git, which no URL or reference does"
                    ),
                ));
            }
        }
        let commit = commit_of(source).await?;
        if let Some(expected) = &source.checksum
            && !commit.starts_with(expected.as_str())
        {
            return Err(Failure::new(
                "git-checksum",
                format!(
                    "`{}` is at commit {commit}, and --checksum asks for {expected}",
                    source.reference
                ),
            ));
        }
        let key = KeyWriter::new("git-source.v1")
            .field("url", &source.url)
            .field("commit", &commit)
            .field("subdirectory", &source.subdirectory)
            .field("keep git dir", [u8::from(source.keep_git_dir)])
            .finish();
        if let Some(id) = self.store().lookup(key)?.and_then(|record| record.snapshot) {
            return Ok(self.store().snapshot(&id)?);
        }
        let holder = self.store().temporary_directory()?;
        let checkout = holder.path().join("checkout");
        fetch(source, &commit, &checkout).await?;
        let executor = Arc::clone(&self.executor);
        let source = source.clone();
        let made = blocking(move || {
            let snapshot = snapshot_of(&executor, &source, &checkout);
            drop(holder);
            snapshot
        });
        let snapshot = made.await?;
        let record = Record {
            key,
            snapshot: Some(snapshot.id.clone()),
            extra: Vec::new(),
            step: "git".to_owned(),
            ingredients: Vec::new(),
            created: now(),
            duration_ms: 0,
        };
        self.store().save(&[key], &record)?;
        Ok(snapshot)
    }
}

/// The commit that the reference is at now. A commit is at itself.
async fn commit_of(source: &GitSource) -> Result<String> {
    let reference = source.reference.as_str();
    if reference.len() == 40 && reference.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(reference.to_ascii_lowercase());
    }
    let wanted = if reference.is_empty() {
        "HEAD"
    } else {
        reference
    };
    let peeled = format!("{wanted}^{{}}");
    let listing = git(
        Path::new("/"),
        &["ls-remote", "--", &source.url, wanted, &peeled],
    )
    .await?;
    let rows: Vec<(&str, &str)> = listing
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .collect();
    // A tag's commit rather than the tag; a branch before a tag of the same name, as BuildKit has it.
    let names = [
        wanted.to_owned(),
        format!("refs/heads/{wanted}"),
        format!("refs/tags/{peeled}"),
        format!("refs/tags/{wanted}"),
    ];
    names
        .iter()
        .find_map(|name| rows.iter().find(|(_, of)| of == name))
        .map(|(commit, _)| (*commit).to_owned())
        .ok_or_else(|| {
            Failure::new(
                "git",
                format!("`{}` has no branch or tag `{wanted}`", source.url),
            )
        })
}

async fn fetch(source: &GitSource, commit: &str, checkout: &Path) -> Result<()> {
    let path = checkout.display().to_string();
    git(Path::new("/"), &["init", "--quiet", "--", &path]).await?;
    git(checkout, &["remote", "add", "--", "origin", &source.url]).await?;
    let fetch = [
        "fetch",
        "--quiet",
        "--depth=1",
        "--no-tags",
        "--",
        "origin",
        commit,
    ];
    if git(checkout, &fetch).await.is_err() {
        // Not every server hands out single commits.
        let all = "+refs/heads/*:refs/remotes/origin/*";
        git(
            checkout,
            &["fetch", "--quiet", "--tags", "--", "origin", all],
        )
        .await?;
    }
    git(checkout, &["checkout", "--quiet", "--detach", commit]).await?;
    let submodules = [
        "submodule",
        "update",
        "--quiet",
        "--init",
        "--recursive",
        "--depth=1",
    ];
    if checkout.join(".gitmodules").exists() {
        git(checkout, &submodules).await?;
    }
    Ok(())
}

/// Runs git with as little of a repository's and a machine's say in it as there can be.
async fn git(directory: &Path, arguments: &[&str]) -> Result<String> {
    let failed = |reason: String| {
        let action = arguments.first().copied().unwrap_or_default();
        Failure::new("git", format!("`git {action}` failed: {reason}"))
    };
    let output = Command::new("git")
        .args(["-c", "core.hooksPath=/dev/null"])
        .args(["-c", "core.fsmonitor=false"])
        .args(["-c", "core.symlinks=true"])
        .args(["-c", "advice.detachedHead=false"])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ALLOW_PROTOCOL", "http:https:ssh:git")
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                failed("there is no `git` on this machine".to_owned()).help("install git")
            } else {
                failed(error.to_string())
            }
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = &output.stderr;
    let said = &said[said.len().saturating_sub(STDERR_BYTES_MAX)..];
    Err(failed(String::from_utf8_lossy(said).trim().to_owned()))
}

/// What is wanted of a checkout. The sub-directory is resolved inside of it, links included.
fn snapshot_of(
    executor: &rbuild_executor::Executor,
    source: &GitSource,
    checkout: &Path,
) -> Result<Snapshot> {
    let failed = |error: std::io::Error| {
        Failure::of("git", error).help(format!(
            "`{}` must be a directory of the repository",
            source.subdirectory
        ))
    };
    let whole = RootDir::open_ambient(checkout).map_err(failed)?;
    if !source.keep_git_dir {
        whole
            .remove_tree(Path::new(".git"), Resolve::Beneath)
            .map_err(failed)?;
    }
    let subdirectory = source.subdirectory.trim_matches('/');
    let root = if subdirectory.is_empty() {
        whole
    } else {
        whole
            .directory(Path::new(subdirectory), Resolve::InRoot)
            .map_err(failed)?
    };
    let mut tree = Tree::scan(root.as_fd())?;
    for entry in &mut tree.entries {
        (entry.uid, entry.gid) = (0, 0);
    }
    let input = Input {
        root: Arc::new(root),
        tree: Arc::new(tree),
        mutable: false,
    };
    executor
        .materialise(&input, now())
        .map_err(|error| Failure::of("git", error))
}
