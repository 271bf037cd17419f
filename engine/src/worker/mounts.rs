//! RUN --mount: from what the instruction says to what the sandbox mounts, with cache mounts taken and parts of
//! contexts copied into snapshots.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rbuild_cache::cache_mounts::{CacheMount, Sharing};
use rbuild_cache::tree::{Entry, Tree, is_at_or_below};
use rbuild_cache::{Key, KeyWriter, Snapshot};
use rbuild_executor::spec::{Below, Mount, MountSource, Tmpfs};
use rbuild_solver::VertexId;

use super::failure::{Failure, Result};
use super::{Output, View, Worker, blocking, content, now};
use crate::event::StepId;
use crate::op::{ExecOp, MountOp, MountOpKind, SharingOp};

/// What mounts add to the command's variables and mounts.
#[derive(Default)]
pub(super) struct Mounted {
    pub(super) mounts: Vec<Mount>,
    pub(super) env: Vec<Vec<u8>>,
    /// What to say of secrets and agents that the command can do without and that nobody gave, should it fail.
    pub(super) absent: Vec<String>,
}

impl Worker {
    /// Opens and takes all that a command mounts.
    pub(super) async fn mounts(
        &self,
        vertex: VertexId,
        op: &ExecOp,
        inputs: &[Output],
    ) -> Result<Mounted> {
        let mut mounted = Mounted::default();
        let mut caches = self.cache_mounts(self.step(vertex), op).await?;
        for (place, mount) in op.mounts.iter().enumerate() {
            let cache = caches.iter().position(|(of, _)| *of == place);
            let cache = cache.map(|at| caches.swap_remove(at).1);
            self.mount(mount, inputs, cache, &mut mounted).await?;
        }
        Ok(mounted)
    }

    async fn mount(
        &self,
        mount: &MountOp,
        inputs: &[Output],
        cache: Option<CacheMount>,
        mounted: &mut Mounted,
    ) -> Result<()> {
        let source = match &mount.kind {
            MountOpKind::Bind { input, source } => {
                let (snapshot, path) = self.part(*input, source, inputs).await?;
                MountSource::Snapshot {
                    snapshot: snapshot.map(|snapshot| snapshot.id),
                    path,
                }
            }
            MountOpKind::Cache {
                input,
                source,
                access,
                ..
            } => {
                let Some(cache) = cache else {
                    return Err(Failure::new("internal", "a cache mount was not taken"));
                };
                let (from, path) = match input {
                    Some(_) => {
                        let (snapshot, path) = self.part(*input, source, inputs).await?;
                        let from = (snapshot.map(|snapshot| snapshot.id), path);
                        (Some(from), PathBuf::from("/"))
                    }
                    None => (
                        None,
                        PathBuf::from("/").join(source.trim_start_matches('/')),
                    ),
                };
                MountSource::Cache {
                    mount: cache,
                    from,
                    path,
                    mode: access.mode,
                    uid: access.uid,
                    gid: access.gid,
                    throw_away: false,
                }
            }
            MountOpKind::Tmpfs { size } => MountSource::Tmpfs(Tmpfs {
                size: *size,
                mode: None,
                uid: None,
                gid: None,
                inodes: None,
                no_exec: false,
            }),
            MountOpKind::Secret {
                id,
                env,
                required,
                access,
            } => {
                let data = self.secret(id, *required, mounted)?;
                if let Some(name) = env {
                    let mut variable = format!("{name}=").into_bytes();
                    variable.extend_from_slice(data.map_or(&[][..], |data| data));
                    mounted.env.push(variable);
                }
                match data {
                    Some(data) if !mount.target.is_empty() => MountSource::Secret {
                        data: Arc::clone(data),
                        mode: access.mode,
                        uid: access.uid,
                        gid: access.gid,
                    },
                    _ => return Ok(()),
                }
            }
            MountOpKind::Ssh {
                id,
                required,
                access,
            } => match self.agent(id, *required, mounted)? {
                Some(path) => MountSource::Socket {
                    path: path.clone(),
                    mode: access.mode,
                    uid: access.uid,
                    gid: access.gid,
                },
                None => return Ok(()),
            },
        };
        mounted.mounts.push(Mount {
            target: PathBuf::from(&mount.target),
            read_only: mount.read_only,
            below: Below::Included,
            source,
        });
        Ok(())
    }

    /// A secret's value; one that is not there, and need not be, is noted.
    fn secret(
        &self,
        id: &str,
        required: bool,
        mounted: &mut Mounted,
    ) -> Result<Option<&Arc<[u8]>>> {
        let data = self.settings.secrets.get(id);
        if data.is_none() {
            let missing = format!("the secret `{id}` was not given");
            let way_out = format!("give it with `--secret id={id},src=FILE`");
            if required {
                return Err(Failure::new("missing-secret", missing).help(way_out));
            }
            mounted.absent.push(format!("{missing}; {way_out}"));
        }
        Ok(data)
    }

    /// An agent's socket; one that is not there, and need not be, is noted.
    fn agent(&self, id: &str, required: bool, mounted: &mut Mounted) -> Result<Option<&PathBuf>> {
        let path = self.settings.ssh.get(id);
        if path.is_none() {
            let missing = format!("the ssh agent `{id}` was not given");
            if required {
                return Err(Failure::new("missing-ssh", missing)
                    .help(format!("give it with `--ssh {id}=SOCKET`")));
            }
            let place = if id == "default" { "" } else { "=SOCKET" };
            mounted
                .absent
                .push(format!("{missing}; give it with `--ssh {id}{place}`"));
        }
        Ok(path)
    }

    /// The snapshot that holds `source` of an input, and the path in it.
    async fn part(
        &self,
        input: Option<usize>,
        source: &str,
        inputs: &[Output],
    ) -> Result<(Option<Snapshot>, PathBuf)> {
        let at_root = PathBuf::from("/").join(source.trim_start_matches('/'));
        let Some(input) = input.and_then(|input| inputs.get(input)) else {
            return Ok((None, at_root));
        };
        match input {
            Output::Snapshot(snapshot) => Ok((snapshot.clone(), at_root)),
            Output::There(there) => Ok((there.known_snapshot().cloned(), at_root)),
            Output::Context(view) => self.materialise(view, source, input).await,
        }
    }

    /// Copies what a mount shows of a context into a snapshot: commands write where they can, and a context is
    /// never written to.
    async fn materialise(
        &self,
        view: &Arc<View>,
        source: &str,
        input: &Output,
    ) -> Result<(Option<Snapshot>, PathBuf)> {
        let selection = content::mount_selection(&view.tree, source, input)?;
        let top = selection.sources.first().map(|source| source.path.clone());
        let Some(top) = top else {
            return Ok((None, PathBuf::from("/")));
        };
        let path = PathBuf::from("/").join(rbuild_cache::root_dir::path_of(&top));
        let key = materialised_key(view, &top);
        let memory = || {
            let memory = self.materialised.lock();
            memory.unwrap_or_else(PoisonError::into_inner)
        };
        let known = memory().get(&key).map(|(_, snapshot)| snapshot.clone());
        if known.is_some() {
            return Ok((known, path));
        }
        let part = part_of(&view.tree, &top);
        let (executor, of) = (Arc::clone(&self.executor), Arc::clone(view));
        let snapshot = blocking(move || {
            let input = of.context.input(Arc::new(part));
            executor.materialise(&input, now())
        })
        .await
        .map_err(|error| Failure::of("build-context", error))?;
        memory().insert(key, (Arc::clone(view), snapshot.clone()));
        Ok((Some(snapshot), path))
    }

    /// Takes the cache mounts of a command, by their places. Always in the order of their ids: two commands that
    /// want the same two would else wait for each other for ever. What has the same id, mode and owner is the same
    /// directory, as with BuildKit, shared with others as the strictest of its mounts says.
    async fn cache_mounts(
        &self,
        step: Option<StepId>,
        op: &ExecOp,
    ) -> Result<Vec<(usize, CacheMount)>> {
        let mut wanted: BTreeMap<String, (Sharing, Vec<usize>)> = BTreeMap::new();
        for (place, mount) in op.mounts.iter().enumerate() {
            if let MountOpKind::Cache {
                id,
                sharing,
                input,
                access,
                ..
            } = &mount.kind
            {
                let sharing = match sharing {
                    // A cache is in one place at a time.
                    _ if !self.executor.has_namespaces() => Sharing::Locked,
                    SharingOp::Shared => Sharing::Shared,
                    SharingOp::Private => Sharing::Private,
                    SharingOp::Locked => Sharing::Locked,
                };
                // What has its first content from elsewhere has its owner from there, too.
                let directory = match input {
                    Some(_) => id.clone(),
                    None => access.directory(id),
                };
                let entry = wanted.entry(directory);
                let (strictest, places) = entry.or_insert((sharing, Vec::new()));
                *strictest = sharing.max(*strictest);
                places.push(place);
            }
        }
        let mut taken = Vec::new();
        for (id, (sharing, places)) in &wanted {
            let sharing = *sharing;
            if places.len() > 1 && !self.executor.has_namespaces() {
                return Err(Failure::new(
                    "cache-mount-twice",
                    format!(
                        "this RUN mounts the cache `{id}` in {} places: where nothing can be mounted, a cache is in one \
                         place at a time",
                        places.len()
                    ),
                ));
            }
            if op.reset_cache_mounts {
                // Once a build: what its own steps put in is not of earlier ones. Held while it is emptied, so
                // that no other step gets what is about to go.
                let mut emptied = self.emptied.lock().unwrap_or_else(PoisonError::into_inner);
                if emptied.insert(id.clone()) {
                    self.store().reset_cache_mount(id)?;
                }
            } else if let Some(imports) = &self.imports {
                imports.fill_mount(id, &self.progress(step)).await;
            }
            let mut pause = Duration::from_millis(1);
            let mount = loop {
                if let Some(mount) = self.store().try_cache_mount(id, sharing)? {
                    break mount;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(50));
            };
            if let Some((first, further)) = places.split_first() {
                for place in further {
                    taken.push((*place, mount.again()?));
                }
                taken.push((*first, mount));
            }
        }
        Ok(taken)
    }
}

/// The same part of the same view.
fn materialised_key(view: &Arc<View>, top: &[u8]) -> Key {
    KeyWriter::new("materialised.v1")
        .field("view", (Arc::as_ptr(view) as usize).to_le_bytes())
        .field("path", top)
        .finish()
}

/// The entries at and below `top`, and the directories that lead there.
fn part_of(tree: &Tree, top: &[u8]) -> Tree {
    let leads_there =
        |entry: &&Entry| is_at_or_below(&entry.path, top) || is_at_or_below(top, &entry.path);
    Tree {
        entries: tree.entries.iter().filter(leads_there).cloned().collect(),
    }
}
