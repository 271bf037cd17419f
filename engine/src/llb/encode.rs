//! One operation in BuildKit's words.

use std::collections::{BTreeMap, HashMap};

use rbuild_executor::file::{ModeChange, ModeClause, ModeOperator, Owner};
use rbuild_image::source::Location;

use super::wire::{
    Action, CacheOpt, CacheSharing, Chown, Copy, FileAction, FileOpt, HostIp, Kind, MergeInput,
    MergeOp, Meta, MkDir, MkFile, Mount, MountType, Named, NetMode, Op, OpMetadata, Platform,
    ProxyEnv, SecretEnv, SecurityMode, SourceOp, TmpfsOpt, Ulimit, User, Who, WorkerConstraints,
};
use super::{Made, input, wire};
use crate::lower::StepInfo;
use crate::op::{
    self, Access, CopyOp, ExecOp, FileOp, MountOp, MountOpKind, NetworkOp, SharingOp, Unpack,
};

/// Where a place among inputs is nothing, and where an output is lost.
const NONE: i64 = -1;

/// BuildKit's directory in which a cache mount with owner or mode begins.
const CACHE_DIRECTORY: &str = "/cache";

/// Adds an operation, with what BuildKit needs besides. Returns its digest.
pub(super) fn operation(
    operation: &op::Op,
    inputs: Vec<String>,
    ignored: &HashMap<String, Vec<String>>,
    step: Option<&StepInfo>,
    made: &mut Made,
) -> String {
    let mut metadata = OpMetadata::default();
    if let Some(step) = step {
        let name = ("llb.customname".to_owned(), step.name.clone());
        metadata.description.extend([name]);
    }
    let mut inputs = inputs;
    let mut platform = None;
    let kind = match operation {
        op::Op::Image(image) => {
            platform = Some(&image.platform);
            Kind::Source(image_source(image))
        }
        op::Op::Context(context) => Kind::Source(local(&context.name, ignored)),
        op::Op::Http(http) => {
            let mut attrs = BTreeMap::from([("http.filename".to_owned(), http.filename.clone())]);
            if let Some(checksum) = &http.checksum {
                attrs.insert("http.checksum".to_owned(), checksum.to_string());
            }
            let identifier = http.url.clone();
            Kind::Source(SourceOp { identifier, attrs })
        }
        op::Op::Git(git) => Kind::Source(repository(git)),
        op::Op::Exec(exec) => {
            metadata.ignore_cache = exec.refresh;
            platform = Some(&exec.platform);
            Kind::Exec(Box::new(command(exec, &mut inputs, made)))
        }
        op::Op::File(file) => {
            metadata.ignore_cache = file.refresh;
            Kind::File(files(file, inputs.len()))
        }
        op::Op::Merge => {
            let all = (0..).take(inputs.len()).map(|input| MergeInput { input });
            let inputs = all.collect();
            Kind::Merge(MergeOp { inputs })
        }
    };
    let op = Op {
        inputs: inputs.iter().map(|digest| input(digest)).collect(),
        op: Some(kind),
        platform: platform.map(|platform| Platform {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
        }),
        constraints: Some(WorkerConstraints::default()),
    };
    made.add(&op, metadata, step)
}

fn image_source(image: &op::ImageSource) -> SourceOp {
    let identifier = match &image.location {
        Location::Registry(reference) => {
            let name = reference.canonical();
            let name = name.split_once('@').map_or(name.as_str(), |(name, _)| name);
            format!("docker-image://{name}@{}", image.digest)
        }
        // BuildKit knows layouts by a name that its client gives them.
        Location::OciLayout { .. } | Location::OciArchive { .. } => {
            format!("oci-layout://{}@{}", image.name, image.digest)
        }
        Location::DockerArchive { .. } | Location::Stored(_) => {
            format!("docker-image://{}@{}", image.name, image.digest)
        }
    };
    SourceOp {
        identifier,
        attrs: BTreeMap::new(),
    }
}

/// A directory of the client's.
fn local(name: &str, ignored: &HashMap<String, Vec<String>>) -> SourceOp {
    let shown = if name.is_empty() { "context" } else { name };
    let hint = ("local.sharedkeyhint".to_owned(), shown.to_owned());
    let mut attrs = BTreeMap::from([hint]);
    if let Some(patterns) = ignored.get(name).filter(|patterns| !patterns.is_empty()) {
        let list = serde_json::Value::from(patterns.clone()).to_string();
        attrs.insert("local.excludepatterns".to_owned(), list);
    }
    SourceOp {
        identifier: format!("local://{shown}"),
        attrs,
    }
}

fn repository(git: &op::GitSource) -> SourceOp {
    let mut attrs = BTreeMap::from([("git.fullurl".to_owned(), git.url.clone())]);
    if git.keep_git_dir {
        attrs.insert("git.keepgitdir".to_owned(), "true".to_owned());
    }
    if !git.submodules {
        attrs.insert("git.skipsubmodules".to_owned(), "true".to_owned());
    }
    if let Some(checksum) = &git.checksum {
        attrs.insert("git.checksum".to_owned(), checksum.clone());
    }
    let address = git
        .url
        .split_once("://")
        .map_or(git.url.as_str(), |it| it.1);
    let mut identifier = format!("git://{address}");
    if !git.reference.is_empty() || !git.subdirectory.is_empty() {
        identifier.push_str(&format!("#{}", git.reference));
    }
    if !git.subdirectory.is_empty() {
        identifier.push_str(&format!(":{}", git.subdirectory));
    }
    SourceOp { identifier, attrs }
}

fn place(index: usize) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// -1 is none.
fn limit(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(-1)
}

fn command(exec: &ExecOp, inputs: &mut Vec<String>, made: &mut Made) -> wire::ExecOp {
    let root = Mount {
        input: if exec.base { 0 } else { NONE },
        dest: "/".to_owned(),
        output: 0,
        ..Mount::default()
    };
    let mut mounts = vec![root];
    let mut secretenv = Vec::new();
    for one in &exec.mounts {
        if let MountOpKind::Secret {
            id,
            env: Some(name),
            required,
            ..
        } = &one.kind
        {
            secretenv.push(SecretEnv {
                id: id.clone(),
                name: name.clone(),
                optional: !required,
            });
        }
        mounts.extend(mount(one, inputs, made));
    }
    if let Some(size) = exec.limits.shm_size {
        mounts.push(Mount {
            input: NONE,
            dest: "/dev/shm".to_owned(),
            output: NONE,
            mount_type: MountType::Tmpfs.into(),
            tmpfs_opt: Some(TmpfsOpt { size: signed(size) }),
            ..Mount::default()
        });
    }
    let ulimits = exec.limits.ulimits.iter().map(|(name, soft, hard)| Ulimit {
        name: name.clone(),
        soft: limit(*soft),
        hard: limit(*hard),
    });
    let network = match exec.network {
        NetworkOp::Default => NetMode::Unset,
        NetworkOp::None => NetMode::None,
        NetworkOp::Host => NetMode::Host,
    };
    let security = match exec.insecure {
        true => SecurityMode::Insecure,
        false => SecurityMode::Sandbox,
    };
    let hosts = exec.hosts.iter().map(|(host, ip)| HostIp {
        host: host.clone(),
        ip: ip.clone(),
    });
    wire::ExecOp {
        meta: Some(Meta {
            args: exec.argv.clone(),
            env: exec.env.iter().map(str::to_owned).collect(),
            cwd: exec.cwd.clone(),
            user: exec.user.clone(),
            proxy_env: proxies(&exec.env_unkeyed),
            extra_hosts: hosts.collect(),
            hostname: exec.hostname.clone().unwrap_or_default(),
            ulimit: ulimits.collect(),
            remove_mount_stubs_recursive: true,
        }),
        mounts,
        network: network.into(),
        security: security.into(),
        secretenv,
    }
}

fn proxies(variables: &[String]) -> Option<ProxyEnv> {
    let value = |name: &str| {
        let mut pairs = variables.iter().filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or_else(String::new, |(_, value)| value.to_owned())
    };
    let proxies = ProxyEnv {
        http_proxy: value("http_proxy"),
        https_proxy: value("https_proxy"),
        ftp_proxy: value("ftp_proxy"),
        no_proxy: value("no_proxy"),
        all_proxy: value("all_proxy"),
    };
    (proxies != ProxyEnv::default()).then_some(proxies)
}

/// `None` for a secret that is a variable only.
fn mount(one: &MountOp, inputs: &mut Vec<String>, made: &mut Made) -> Option<Mount> {
    let mut mount = Mount {
        input: NONE,
        dest: one.target.clone(),
        output: NONE,
        readonly: one.read_only,
        ..Mount::default()
    };
    let selected = |source: &str| match source.trim_matches('/') {
        "" => String::new(),
        inner => format!("/{inner}"),
    };
    match &one.kind {
        MountOpKind::Bind { input, source } => {
            mount.input = input.map_or(NONE, place);
            mount.selector = selected(source);
        }
        MountOpKind::Cache {
            id,
            sharing,
            input,
            source,
            access,
        } => {
            mount.mount_type = MountType::Cache.into();
            mount.input = input.map_or(NONE, place);
            mount.selector = selected(source);
            let sharing = match sharing {
                SharingOp::Shared => CacheSharing::Shared,
                SharingOp::Private => CacheSharing::Private,
                SharingOp::Locked => CacheSharing::Locked,
            };
            mount.cache_opt = Some(CacheOpt {
                id: id.clone(),
                sharing: sharing.into(),
            });
            if input.is_none() && *access != Access::CACHE {
                let directory = cache_directory(*access);
                inputs.push(made.add(&directory, OpMetadata::default(), None));
                mount.input = place(inputs.len() - 1);
                CACHE_DIRECTORY.clone_into(&mut mount.selector);
            }
        }
        MountOpKind::Tmpfs { size } => {
            mount.mount_type = MountType::Tmpfs.into();
            mount.tmpfs_opt = Some(TmpfsOpt {
                size: signed(size.unwrap_or(0)),
            });
        }
        MountOpKind::Secret { .. } if one.target.is_empty() => return None,
        MountOpKind::Secret {
            id,
            required,
            access,
            ..
        } => {
            mount.mount_type = MountType::Secret.into();
            mount.secret_opt = Some(handed(id, *required, *access));
        }
        MountOpKind::Ssh {
            id,
            required,
            access,
        } => {
            mount.mount_type = MountType::Ssh.into();
            mount.ssh_opt = Some(handed(id, *required, *access));
        }
    }
    Some(mount)
}

fn handed(id: &str, required: bool, access: Access) -> FileOpt {
    let Access { mode, uid, gid } = access;
    FileOpt {
        id: id.to_owned(),
        uid,
        gid,
        mode,
        optional: !required,
    }
}

fn cache_directory(access: Access) -> Op {
    let Access { mode, uid, gid } = access;
    let by_id = |id| User {
        user: Some(Who::ById(id)),
    };
    let directory = MkDir {
        path: CACHE_DIRECTORY.to_owned(),
        mode: bits(mode),
        make_parents: false,
        owner: Some(Chown {
            user: Some(by_id(uid)),
            group: Some(by_id(gid)),
        }),
        timestamp: NONE,
    };
    let action = FileAction {
        input: NONE,
        secondary_input: NONE,
        output: 0,
        action: Some(Action::MkDir(directory)),
    };
    Op {
        op: Some(Kind::File(wire::FileOp {
            actions: vec![action],
        })),
        constraints: Some(WorkerConstraints::default()),
        ..Op::default()
    }
}

fn bits(mode: u32) -> i32 {
    i32::try_from(mode).unwrap_or(0o7777)
}

/// Each action works on what the one before it left.
fn files(file: &FileOp, inputs: usize) -> wire::FileOp {
    let timestamp = file
        .epoch
        .map_or(NONE, |epoch| epoch.saturating_mul(1_000_000_000));
    let base = if file.base { 0 } else { NONE };
    let mut actions: Vec<FileAction> = Vec::new();
    let mut add = |secondary_input, action| {
        let input = match actions.len() {
            0 => base,
            earlier => place(inputs + earlier - 1),
        };
        actions.push(FileAction {
            input,
            secondary_input,
            output: NONE,
            action: Some(action),
        });
    };
    for action in &file.actions {
        match action {
            op::FileAction::Mkdir { path, mode, owner } => {
                let directory = MkDir {
                    path: path.clone(),
                    mode: bits(*mode),
                    make_parents: true,
                    owner: chown(owner, base),
                    timestamp,
                };
                add(NONE, Action::MkDir(directory));
            }
            op::FileAction::Mkfile {
                destination,
                name,
                data,
                owner,
                mode,
            } => {
                let path = match destination.strip_suffix('/') {
                    Some(directory) => format!("{directory}/{name}"),
                    None => destination.clone(),
                };
                let mode = match mode {
                    Some(ModeChange::Set(mode)) => *mode,
                    // A new file has no mode that could be changed.
                    Some(ModeChange::Symbolic(_)) | None => 0o644,
                };
                let file = MkFile {
                    path,
                    mode: bits(mode),
                    data: data.clone(),
                    owner: chown(owner, base),
                    timestamp,
                };
                add(NONE, Action::MkFile(file));
            }
            op::FileAction::Copy(copy) => {
                for source in &copy.sources {
                    let secondary = place(copy.input);
                    add(
                        secondary,
                        Action::Copy(copied(copy, source, base, timestamp)),
                    );
                }
            }
        }
    }
    if let Some(last) = actions.last_mut() {
        last.output = 0;
    }
    wire::FileOp { actions }
}

fn copied(copy: &CopyOp, source: &str, base: i64, timestamp: i64) -> Copy {
    let (mut src, mut include_patterns) = (rooted(source), Vec::new());
    if copy.parents {
        // What stands before the pivot is not kept.
        let (pivot, kept) = source.split_once("/./").unwrap_or(("", source));
        src = rooted(pivot);
        include_patterns.push(kept.trim_start_matches('/').to_owned());
    }
    let slash = if copy.destination_is_directory && !copy.destination.ends_with('/') {
        "/"
    } else {
        ""
    };
    let (mode, mode_str) = match &copy.mode {
        Some(ModeChange::Set(mode)) => (bits(*mode), String::new()),
        Some(ModeChange::Symbolic(clauses)) => (-1, symbolic(clauses)),
        None => (-1, String::new()),
    };
    Copy {
        src,
        dest: format!("{}{slash}", copy.destination),
        owner: chown(&copy.owner, base),
        mode,
        follow_symlink: true,
        dir_copy_contents: true,
        attempt_unpack: copy.unpack == Some(Unpack::Archives),
        create_dest_path: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        timestamp,
        include_patterns,
        exclude_patterns: copy.excludes.clone(),
        mode_str,
    }
}

fn rooted(path: &str) -> String {
    format!("/{}", path.trim_start_matches('/'))
}

fn chown(owner: &Owner, base: i64) -> Option<Chown> {
    let text = match owner {
        Owner::Default => return None,
        Owner::Chown(text) if text.is_empty() => return None,
        Owner::Chown(text) => text,
    };
    let who = |text: &str| {
        let id = match text {
            "" | "root" => Some(0),
            text => text.parse().ok(),
        };
        let user = id.map_or_else(
            || {
                Who::ByName(Named {
                    name: text.to_owned(),
                    input: base,
                })
            },
            Who::ById,
        );
        User { user: Some(user) }
    };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text.as_str(), None),
    };
    Some(Chown {
        user: Some(who(user)),
        group: group.map(who),
    })
}

/// `u=rwX,go-w`, as it may have been written.
fn symbolic(clauses: &[ModeClause]) -> String {
    let clauses: Vec<String> = clauses.iter().map(clause).collect();
    clauses.join(",")
}

fn clause(clause: &ModeClause) -> String {
    const CLASSES: [(u32, char); 3] = [(0o700, 'u'), (0o070, 'g'), (0o007, 'o')];
    let classes = |mask: u32| {
        let named = CLASSES.iter().filter(move |(bits, _)| mask & bits != 0);
        named.map(|(_, name)| *name).collect::<String>()
    };
    let operator = match clause.operator {
        ModeOperator::Add => '+',
        ModeOperator::Remove => '-',
        ModeOperator::Set => '=',
    };
    let mut text = format!("{}{operator}", classes(clause.who));
    if let Some(mask) = clause.copy_from {
        text.push_str(&classes(mask));
    }
    for (bit, name) in [(4, 'r'), (2, 'w'), (1, 'x')] {
        if clause.permissions & bit != 0 {
            text.push(name);
        }
    }
    for (given, name) in [
        (clause.conditional_execute, 'X'),
        (clause.setid, 's'),
        (clause.sticky, 't'),
    ] {
        if given {
            text.push(name);
        }
    }
    text
}
