//! The steps of a build as an LLB definition in JSON, the way BuildKit writes it into provenance
//! (`internalParameters.buildConfig`), and where in the Dockerfile each of them stands.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use rbuild_cache::Digest;
use rbuild_executor::file::Owner;
use rbuild_image::{Descriptor, Platform};
use rbuild_parser::Source;
use rbuild_solver::VertexId;
use serde_json::{Map, Value, json};

use super::Capture;
use super::scrub::Scrub;
use crate::lower::StepInfo;
use crate::op::{
    Access, CopyOp, ExecOp, FileAction, FileOp, ImageSource, MountOp, MountOpKind, NetworkOp, Op,
    SharingOp, Unpack,
};

/// A build's steps, numbered: inputs before what uses them.
pub(super) struct Definition<'a> {
    capture: &'a Capture,
    needed: &'a [VertexId],
    numbers: HashMap<VertexId, usize>,
}

impl<'a> Definition<'a> {
    pub(super) fn new(capture: &'a Capture, needed: &'a [VertexId]) -> Self {
        Self {
            capture,
            needed,
            numbers: needed.iter().copied().zip(0..).collect(),
        }
    }

    /// `step3`
    pub(super) fn id(&self, vertex: VertexId) -> String {
        let number = self.numbers.get(&vertex).copied().unwrap_or_default();
        format!("step{number}")
    }

    /// `llbDefinition` and `digestMapping`.
    pub(super) fn build_config(&self, scrub: &Scrub) -> Value {
        let mut steps = Vec::with_capacity(self.needed.len());
        let mut digests = Map::new();
        for &vertex in self.needed {
            let inputs = self.capture.graph.inputs(vertex);
            let inputs: Vec<String> = inputs
                .into_iter()
                .map(|input| format!("{}:0", self.id(input)))
                .collect();
            let mut step = json!({ "op": op(self.capture.graph.operation(vertex)) });
            if !inputs.is_empty() {
                step["inputs"] = json!(inputs);
            }
            scrub.document(&mut step);
            // The digest is of what is told, so that nothing else can be guessed from it.
            let digest = Digest::of(step.to_string().as_bytes());
            digests.insert(digest.to_string(), json!(self.id(vertex)));
            let mut named = Map::from_iter([("id".to_owned(), json!(self.id(vertex)))]);
            if let Value::Object(fields) = step {
                named.extend(fields);
            }
            steps.push(Value::Object(named));
        }
        json!({ "llbDefinition": steps, "digestMapping": digests })
    }

    /// The files that steps stand in, and where.
    pub(super) fn source(&self, scrub: &Scrub) -> Value {
        let mut files: Vec<&Arc<Source>> = vec![&self.capture.dockerfile];
        let mut locations = Map::new();
        let placed = self.capture.steps.iter();
        for info in placed.filter(|info| self.numbers.contains_key(&info.vertex)) {
            let known = files
                .iter()
                .position(|file| Arc::ptr_eq(file, &info.source));
            let place = known.unwrap_or_else(|| {
                files.push(&info.source);
                files.len() - 1
            });
            locations.insert(self.id(info.vertex), location(info, place));
        }
        let infos: Vec<Value> = files
            .iter()
            .map(|file| {
                let text = scrub.text(file.text());
                json!({
                    "filename": base_name(file.name()),
                    "language": "Dockerfile",
                    "data": base64::engine::general_purpose::STANDARD.encode(text),
                })
            })
            .collect();
        json!({ "locations": locations, "infos": infos })
    }

    /// Layers by the step that gave them.
    pub(super) fn layers(&self, top: Option<VertexId>, of_top: &[Descriptor]) -> Value {
        let mut layers = Map::new();
        for &vertex in self.needed {
            if let Op::Image(image) = self.capture.graph.operation(vertex)
                && let Some(resolved) = self.capture.images.get(&image.digest)
            {
                let of_image = json!([resolved.manifest.layers]);
                layers.insert(format!("{}:0", self.id(vertex)), of_image);
            }
        }
        if let Some(top) = top {
            layers.insert(format!("{}:0", self.id(top)), json!([of_top]));
        }
        Value::Object(layers)
    }
}

/// The last part of a path: the rest of it is of the machine.
pub(super) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn location(info: &StepInfo, file: usize) -> Value {
    let mut location = json!({
        "ranges": [{ "start": { "line": info.start_line }, "end": { "line": info.end_line } }],
    });
    if file > 0 {
        location["sourceIndex"] = json!(file);
    }
    json!({ "locations": [location] })
}

fn op(op: &Op) -> Value {
    match op {
        Op::Image(image) => json!({
            "Op": { "source": { "identifier": identifier(image) } },
            "platform": platform(&image.platform),
        }),
        Op::Context(context) => {
            let name = match context.name.as_str() {
                "" => "context",
                name => name,
            };
            json!({ "Op": { "source": { "identifier": format!("local://{name}") } } })
        }
        Op::Http(http) => {
            let mut attributes = Map::from_iter([(
                "http.filename".to_owned(),
                Value::from(http.filename.clone()),
            )]);
            if let Some(checksum) = http.checksum {
                attributes.insert("http.checksum".to_owned(), json!(checksum));
            }
            json!({ "Op": { "source": { "identifier": http.url, "attrs": attributes } } })
        }
        Op::Git(git) => {
            let place = git
                .url
                .split_once("://")
                .map_or(&*git.url, |(_, rest)| rest);
            let mut identifier = format!("git://{place}");
            if !git.reference.is_empty() || !git.subdirectory.is_empty() {
                identifier.push_str(&format!("#{}", git.reference));
            }
            if !git.subdirectory.is_empty() {
                identifier.push_str(&format!(":{}", git.subdirectory));
            }
            let mut attributes =
                Map::from_iter([("git.fullurl".to_owned(), Value::from(git.url.clone()))]);
            if git.keep_git_dir {
                attributes.insert("git.keepgitdir".to_owned(), json!("true"));
            }
            if !git.submodules {
                attributes.insert("git.skipsubmodules".to_owned(), json!("true"));
            }
            if let Some(checksum) = &git.checksum {
                attributes.insert("git.checksum".to_owned(), json!(checksum));
            }
            json!({ "Op": { "source": { "identifier": identifier, "attrs": attributes } } })
        }
        Op::Exec(exec) => self::exec(exec),
        Op::File(file) => self::file(file),
        Op::Merge => json!({ "Op": { "merge": { "inputs": [{ "input": 0 }, { "input": 1 }] } } }),
    }
}

fn identifier(image: &ImageSource) -> String {
    let (kind, name) = match &image.location {
        rbuild_image::source::Location::Registry(reference) => {
            ("docker-image", reference.canonical())
        }
        rbuild_image::source::Location::Stored(_) => {
            let reference = image.name.parse::<rbuild_image::Reference>();
            let name = reference.map_or(image.name.clone(), |it| it.canonical());
            ("docker-image", name)
        }
        // Its directory on this machine is not told.
        _ => ("oci-layout", format!("layout/{}", image.name)),
    };
    let pinned = name.contains('@');
    let digest = if pinned {
        String::new()
    } else {
        format!("@{}", image.digest)
    };
    format!("{kind}://{name}{digest}")
}

fn platform(platform: &Platform) -> Value {
    let mut fields = json!({ "Architecture": platform.architecture, "OS": platform.os });
    if !platform.variant.is_empty() {
        fields["Variant"] = json!(platform.variant);
    }
    fields
}

fn exec(exec: &ExecOp) -> Value {
    let env: Vec<&str> = exec.env.iter().collect();
    let mut meta = json!({ "args": exec.argv, "env": env, "cwd": exec.cwd });
    if !exec.user.is_empty() {
        meta["user"] = json!(exec.user);
    }
    if let Some(hostname) = &exec.hostname {
        meta["hostname"] = json!(hostname);
    }
    if !exec.hosts.is_empty() {
        let hosts = exec.hosts.iter();
        let hosts: Vec<Value> = hosts
            .map(|(host, address)| json!({ "Host": host, "IP": address }))
            .collect();
        meta["extraHosts"] = json!(hosts);
    }
    let root = json!({ "input": if exec.base { 0 } else { -1 }, "dest": "/", "output": 0 });
    let mounts: Vec<Value> = std::iter::once(root)
        .chain(exec.mounts.iter().map(mount))
        .collect();
    let mut fields = json!({ "meta": meta, "mounts": mounts });
    match exec.network {
        NetworkOp::Default => {}
        NetworkOp::None => fields["network"] = json!("NONE"),
        NetworkOp::Host => fields["network"] = json!("HOST"),
    }
    if exec.insecure {
        fields["security"] = json!("INSECURE");
    }
    json!({ "Op": { "exec": fields }, "platform": platform(&exec.platform) })
}

fn mount(mount: &MountOp) -> Value {
    let input = |input: &Option<usize>| input.map_or(json!(-1), |input| json!(input));
    let mut fields = match &mount.kind {
        MountOpKind::Bind {
            input: from,
            source,
        } => {
            json!({ "input": input(from), "selector": source })
        }
        MountOpKind::Cache {
            id,
            sharing,
            input: from,
            source,
            ..
        } => {
            let sharing = match sharing {
                SharingOp::Shared => "SHARED",
                SharingOp::Private => "PRIVATE",
                SharingOp::Locked => "LOCKED",
            };
            json!({
                "input": input(from),
                "selector": source,
                "mountType": "CACHE",
                "cacheOpt": { "ID": id, "sharing": sharing },
            })
        }
        MountOpKind::Tmpfs { size } => json!({
            "input": -1,
            "mountType": "TMPFS",
            "TmpfsOpt": { "size": size.unwrap_or_default() },
        }),
        MountOpKind::Secret {
            id,
            required,
            access,
            ..
        } => json!({
            "input": -1,
            "mountType": "SECRET",
            "secretOpt": handed(id, *required, *access),
        }),
        MountOpKind::Ssh {
            id,
            required,
            access,
        } => json!({
            "input": -1,
            "mountType": "SSH",
            "SSHOpt": handed(id, *required, *access),
        }),
    };
    fields["dest"] = json!(mount.target);
    fields["output"] = json!(-1);
    if mount.read_only {
        fields["readonly"] = json!(true);
    }
    fields
}

/// A secret, or an agent's socket.
fn handed(id: &str, required: bool, access: Access) -> Value {
    let Access { mode, uid, gid } = access;
    json!({ "ID": id, "uid": uid, "gid": gid, "mode": mode, "optional": !required })
}

fn file(file: &FileOp) -> Value {
    let mut actions = Vec::with_capacity(file.actions.len());
    for (place, action) in file.actions.iter().enumerate() {
        // Each action stands on what the one before made.
        let base = match (place, file.base) {
            (0, true) => json!(0),
            (0, false) => json!(-1),
            (place, _) => json!(input_count(file) + place - 1),
        };
        let (secondary, action) = match action {
            FileAction::Mkdir { path, mode, owner } => (
                json!(-1),
                json!({ "mkdir": {
                    "path": path, "mode": mode, "makeParents": true, "owner": self::owner(owner),
                } }),
            ),
            FileAction::Mkfile {
                destination,
                name,
                data,
                owner,
                ..
            } => {
                let path = match destination.strip_suffix('/') {
                    Some(directory) => format!("{directory}/{name}"),
                    None => destination.clone(),
                };
                // As text, so that secrets are found in it and taken out.
                let data = String::from_utf8_lossy(data);
                (
                    json!(-1),
                    json!({ "mkfile": { "path": path, "text": data, "owner": self::owner(owner) } }),
                )
            }
            FileAction::Copy(copy) => (json!(copy.input), self::copy(copy)),
        };
        actions.push(json!({
            "input": base,
            "secondaryInput": secondary,
            "output": if place + 1 == file.actions.len() { 0 } else { -1 },
            "Action": action,
        }));
    }
    json!({ "Op": { "file": { "actions": actions } } })
}

/// How many inputs a vertex has: the base and those that are copied from.
fn input_count(file: &FileOp) -> usize {
    let copied = file.actions.iter().filter_map(|action| match action {
        FileAction::Copy(copy) => Some(copy.input + 1),
        FileAction::Mkdir { .. } | FileAction::Mkfile { .. } => None,
    });
    copied.max().unwrap_or_default().max(usize::from(file.base))
}

fn copy(copy: &CopyOp) -> Value {
    let mut fields = json!({
        "src": copy.sources,
        "dest": copy.destination,
        "followSymlink": true,
        "dirCopyContents": true,
        "createDestPath": true,
        "allowWildcard": true,
        "owner": owner(&copy.owner),
    });
    if !copy.excludes.is_empty() {
        fields["excludePatterns"] = json!(copy.excludes);
    }
    if copy.unpack == Some(Unpack::Archives) {
        fields["attemptUnpackDockerCompatibility"] = json!(true);
    }
    json!({ "copy": fields })
}

fn owner(owner: &Owner) -> Value {
    match owner {
        Owner::Default => Value::Null,
        Owner::Chown(name) => json!({ "user": { "byName": { "name": name } } }),
    }
}
