//! A command and its mounts as BuildKit's.

use super::{NONE, bits, place};
use crate::llb::Made;
use crate::llb::wire::{
    self, Action, CacheOpt, CacheSharing, Chown, FileAction, FileOpt, HostIp, Kind, Meta, MkDir,
    Mount, MountType, NetMode, Op, OpMetadata, ProxyEnv, SecretEnv, SecurityMode, TmpfsOpt, Ulimit,
    User, Who, WorkerConstraints,
};
use crate::op::{Access, ExecOp, MountOp, MountOpKind, NetworkOp, SharingOp};

/// BuildKit's directory in which a cache mount with owner or mode begins.
const CACHE_DIRECTORY: &str = "/cache";

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// -1 is none.
fn limit(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(-1)
}

pub(super) fn command(exec: &ExecOp, inputs: &mut Vec<String>, made: &mut Made) -> wire::ExecOp {
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
            if input.is_none() && access.of_empty() != Access::CACHE {
                let directory = cache_directory(access.of_empty());
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
