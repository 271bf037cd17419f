//! The keys of commands and file operations, field by field. Names of fields are shown to people where a step ran
//! because of one (`env.PATH`, `mount[/c].sharing`), so each names one thing.

use rbuild_cache::KeyWriter;
use rbuild_executor::file::{ModeChange, ModeOperator, Owner};

use super::{
    Access, ExecOp, FileAction, FileOp, MountOp, MountOpKind, NetworkOp, SharingOp, Unpack,
};

impl ExecOp {
    pub(super) fn describe(&self) -> KeyWriter {
        let mut key = KeyWriter::new("exec.v2").field("base", flag(self.base));
        add_list(&mut key, "argv", &self.argv);
        for variable in self.env.iter() {
            match variable.split_once('=') {
                Some((name, value)) => key.add(&format!("env.{name}"), value),
                None => key.add("env", variable),
            }
        }
        key.add("cwd", &self.cwd);
        key.add("user", &self.user);
        for mount in &self.mounts {
            mount.describe(&mut key);
        }
        key.add(
            "network",
            match self.network {
                NetworkOp::Default => "default",
                NetworkOp::None => "none",
                NetworkOp::Host => "host",
            },
        );
        if let Some(reach) = &self.reach {
            key.add("allow-host", reach.to_string());
        }
        key.add("insecure", flag(self.insecure));
        for (host, address) in &self.hosts {
            key.add(&format!("host[{host}]"), address);
        }
        if let Some(hostname) = &self.hostname {
            key.add("hostname", hostname);
        }
        if let Some(size) = self.limits.shm_size {
            key.add("shm-size", size.to_string());
        }
        for (name, soft, hard) in &self.limits.ulimits {
            let value = format!("{}:{}", limit(*soft), limit(*hard));
            key.add(&format!("ulimit[{name}]"), value);
        }
        key.field("platform", self.platform.to_string())
    }
}

/// As it is written on the command line.
fn limit(value: u64) -> String {
    match value {
        u64::MAX => "unlimited".to_owned(),
        value => value.to_string(),
    }
}

impl MountOp {
    fn describe(&self, key: &mut KeyWriter) {
        let label = match &self.kind {
            MountOpKind::Secret { id, .. } if self.target.is_empty() => id,
            _ => &self.target,
        };
        let mut add = |field: &str, value: &str| key.add(&format!("mount[{label}].{field}"), value);
        add("target", &self.target);
        add("readonly", flag(self.read_only));
        match &self.kind {
            MountOpKind::Bind { input, source } => {
                add("type", "bind");
                add("input", &number(*input));
                add("source", source);
            }
            MountOpKind::Cache {
                id,
                sharing,
                input,
                source,
                access,
            } => {
                add("type", "cache");
                add("id", id);
                add(
                    "sharing",
                    match sharing {
                        SharingOp::Shared => "shared",
                        SharingOp::Private => "private",
                        SharingOp::Locked => "locked",
                    },
                );
                add("input", &number(*input));
                add("source", source);
                match input {
                    // The rest is its content's.
                    Some(_) => add("access", &access.to_string()),
                    None => access.of_empty().describe(add),
                }
            }
            MountOpKind::Tmpfs { size } => {
                add("type", "tmpfs");
                add(
                    "size",
                    &size.map(|size| size.to_string()).unwrap_or_default(),
                );
            }
            MountOpKind::Secret {
                id,
                env,
                required,
                access,
            } => {
                add("type", "secret");
                add("id", id);
                add("env", env.as_deref().unwrap_or_default());
                add("required", flag(*required));
                access.describe(add);
            }
            MountOpKind::Ssh {
                id,
                required,
                access,
            } => {
                add("type", "ssh");
                add("id", id);
                add("required", flag(*required));
                access.describe(add);
            }
        }
    }
}

impl Access {
    fn describe(self, mut add: impl FnMut(&str, &str)) {
        add("mode", &format!("{:o}", self.mode));
        add("owner", &format!("{}:{}", self.uid, self.gid));
    }
}

impl FileOp {
    pub(super) fn describe(&self) -> KeyWriter {
        let mut key = KeyWriter::new("file.v4")
            .field("base", flag(self.base))
            .field(
                "epoch",
                self.epoch
                    .map(|epoch| epoch.to_string())
                    .unwrap_or_default(),
            );
        for (place, action) in self.actions.iter().enumerate() {
            let prefix = match self.actions.len() {
                1 => String::new(),
                _ => format!("action[{place}]."),
            };
            let mut fields = Fields {
                key: &mut key,
                prefix,
            };
            action.describe(&mut fields);
        }
        key
    }
}

/// Fields of one of several actions.
struct Fields<'a> {
    key: &'a mut KeyWriter,
    prefix: String,
}

impl Fields<'_> {
    fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.key.add(&format!("{}{name}", self.prefix), value);
    }

    fn owner(&mut self, owner: &Owner) {
        match owner {
            Owner::Default => self.add("owner", "default"),
            Owner::Chown(name) => self.add("chown", name),
        }
    }

    fn mode(&mut self, mode: Option<&ModeChange>) {
        match mode {
            None => self.add("chmod", ""),
            Some(ModeChange::Set(mode)) => self.add("chmod", format!("{mode:o}")),
            Some(ModeChange::Symbolic(clauses)) => {
                for clause in clauses {
                    let operator = match clause.operator {
                        ModeOperator::Add => '+',
                        ModeOperator::Remove => '-',
                        ModeOperator::Set => '=',
                    };
                    self.add(
                        "chmod clause",
                        format!(
                            "{:o}{operator}{:o} X={} s={} t={} copy={}",
                            clause.who,
                            clause.permissions,
                            flag(clause.conditional_execute),
                            flag(clause.setid),
                            flag(clause.sticky),
                            clause
                                .copy_from
                                .map(|from| format!("{from:o}"))
                                .unwrap_or_default(),
                        ),
                    );
                }
            }
        }
    }
}

impl FileAction {
    fn describe(&self, key: &mut Fields<'_>) {
        match self {
            Self::Mkdir { path, mode, owner } => {
                key.add("action", "mkdir");
                key.add("path", path);
                key.add("mode", format!("{mode:o}"));
                key.owner(owner);
            }
            Self::Mkfile {
                destination,
                name,
                data,
                owner,
                mode,
            } => {
                key.add("action", "mkfile");
                key.add("destination", destination);
                key.add("name", name);
                key.add("data", data);
                key.owner(owner);
                key.mode(mode.as_ref());
            }
            Self::Copy(copy) => {
                key.add("action", "copy");
                key.add("input", copy.input.to_string());
                for (place, source) in copy.sources.iter().enumerate() {
                    key.add(&format!("source[{place}]"), source);
                }
                key.add("destination", &copy.destination);
                key.add(
                    "destination is a directory",
                    flag(copy.destination_is_directory),
                );
                for (place, exclude) in copy.excludes.iter().enumerate() {
                    key.add(&format!("exclude[{place}]"), exclude);
                }
                key.add("parents", flag(copy.parents));
                key.owner(&copy.owner);
                key.mode(copy.mode.as_ref());
                key.add(
                    "unpack",
                    match copy.unpack {
                        None => "",
                        Some(Unpack::Archives) => "archives",
                        Some(Unpack::Never) => "never",
                    },
                );
            }
        }
    }
}

fn add_list(key: &mut KeyWriter, name: &str, values: &[String]) {
    for (place, value) in values.iter().enumerate() {
        key.add(&format!("{name}[{place}]"), value);
    }
}

pub(super) fn flag(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

fn number(input: Option<usize>) -> String {
    input.map(|input| input.to_string()).unwrap_or_default()
}
