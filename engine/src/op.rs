//! The operations of a build graph, in the sense of BuildKit's LLB: what lowering writes and the worker executes.
//! Pure data. Inputs are places in the vertex's list of inputs. For `Exec` and `File`, input 0 is the base when
//! `base` is true; otherwise they start from an empty root. How commands and file operations are keyed is in `key`.

mod environment;
mod key;

use std::fmt;
use std::sync::Arc;

use rbuild_cache::{Digest, KeyWriter};
use rbuild_executor::file::{ModeChange, Owner};
use rbuild_executor::network::Reach;
use rbuild_executor::spec::Limits;
use rbuild_image::Platform;
use rbuild_image::source::Location;
use rbuild_solver::Operation;
use rbuild_solver::worker::CachePolicy;

pub use environment::Environment;
use key::flag;

use crate::request::NetworkChoice;

/// What a vertex does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    Image(ImageSource),
    Context(ContextSource),
    Http(HttpSource),
    Git(GitSource),
    Exec(Box<ExecOp>),
    File(FileOp),
    /// Inputs: a base and a snapshot made on nothing; the second stacked on the first (`--link`).
    Merge,
}

/// An image whose manifest is already resolved and in the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageSource {
    /// As the user wrote it, for display; not in the key.
    pub name: String,
    pub location: Location,
    /// Of the manifest; pins the image.
    pub digest: Digest,
    pub platform: Platform,
}

/// A build context: the main one (empty name) or a named directory. Immediate: users are keyed by what they select.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContextSource {
    pub name: String,
}

/// `ADD https://…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpSource {
    pub url: String,
    pub checksum: Option<Digest>,
    /// What the file is called.
    pub filename: String,
}

/// `ADD https://….git#ref:subdir`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GitSource {
    pub url: String,
    pub reference: String,
    pub subdirectory: String,
    pub keep_git_dir: bool,
    /// Whether its submodules come along.
    pub submodules: bool,
    /// `--checksum`: the commit that the reference must have.
    pub checksum: Option<String>,
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecOp {
    pub base: bool,
    pub argv: Vec<String>,
    /// The closed set that the command gets.
    pub env: Environment,
    /// As `env`, but in no key and no record: proxy variables.
    pub env_unkeyed: Vec<String>,
    pub cwd: String,
    /// Raw value of USER; empty for root.
    pub user: String,
    pub mounts: Vec<MountOp>,
    pub network: NetworkOp,
    /// All that it may reach there; `None`: everything.
    pub reach: Option<Arc<Reach>>,
    pub insecure: bool,
    pub hosts: Vec<(String, String)>,
    /// Where it is not the usual one (BUILDKIT_SANDBOX_HOSTNAME).
    pub hostname: Option<String>,
    pub limits: CommandLimits,
    pub platform: Platform,
    /// `--no-cache` and its filters: run even if a result is known. Not in the key.
    pub refresh: bool,
    /// Set with `refresh`: its cache mounts are emptied first. Not in the key.
    pub reset_cache_mounts: bool,
}

/// What a command finds of the build's limits, and may do otherwise because of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CommandLimits {
    /// `--shm-size`.
    pub shm_size: Option<u64>,
    /// `--ulimit`, by name.
    pub ulimits: Vec<(String, u64, u64)>,
}

impl From<&Limits> for CommandLimits {
    fn from(limits: &Limits) -> Self {
        let mut ulimits = limits.ulimits.clone();
        ulimits.sort_unstable();
        Self {
            shm_size: limits.shm_size,
            ulimits,
        }
    }
}

/// `RUN --network`, or what `--network` says for the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NetworkOp {
    /// A private one.
    Default,
    None,
    Host,
}

impl From<NetworkChoice> for NetworkOp {
    fn from(choice: NetworkChoice) -> Self {
        match choice {
            NetworkChoice::Default => Self::Default,
            NetworkChoice::None => Self::None,
            NetworkChoice::Host => Self::Host,
        }
    }
}

/// `RUN --mount`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MountOp {
    /// Absolute.
    pub target: String,
    pub read_only: bool,
    pub kind: MountOpKind,
}

/// What is mounted. An `input` is a place among the vertex's inputs, a `source` a path in that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MountOpKind {
    /// `None` is an empty root.
    Bind {
        input: Option<usize>,
        source: String,
    },
    Cache {
        id: String,
        sharing: SharingOp,
        input: Option<usize>,
        source: String,
        access: CacheAccess,
    },
    Tmpfs {
        size: Option<u64>,
    },
    /// As a file at `target`, unless that is empty; as a variable where `env` is given.
    Secret {
        id: String,
        env: Option<String>,
        required: bool,
        access: Access,
    },
    Ssh {
        id: String,
        required: bool,
        access: Access,
    },
}

/// Whose something is that is mounted, and what they may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Access {
    /// A cache mount's directory that says nothing of its own.
    pub const CACHE: Self = Self {
        mode: 0o755,
        uid: 0,
        gid: 0,
    };
}

/// What a cache mount says of its directory; the rest is as [`Access::CACHE`], or as what its first content is taken
/// from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheAccess {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl CacheAccess {
    /// Of one that begins empty.
    pub fn of_empty(self) -> Access {
        Access {
            mode: self.mode.unwrap_or(Access::CACHE.mode),
            uid: self.uid.unwrap_or(Access::CACHE.uid),
            gid: self.gid.unwrap_or(Access::CACHE.gid),
        }
    }

    /// The name of the directory for an id. One that was made for a mode or an owner is another one, as with BuildKit:
    /// who asks for a directory of their own could not write into that of others.
    pub fn directory(self, id: &str) -> String {
        match self.of_empty() {
            Access::CACHE => id.to_owned(),
            access => format!("{id} ({access})"),
        }
    }

    /// Whether a name is that of one of an id's directories.
    pub fn is_directory_of(name: &str, id: &str) -> bool {
        match name.strip_prefix(id) {
            Some("") => true,
            Some(rest) => rest.starts_with(" (") && rest.ends_with(')'),
            None => false,
        }
    }
}

/// `600 1000:1000`, with `-` for what is not said.
impl fmt::Display for CacheAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        match self.mode {
            Some(mode) => write!(f, "{mode:o}")?,
            None => f.write_str("-")?,
        }
        write!(f, " {}:{}", number(self.uid), number(self.gid))
    }
}

/// `600 1000:1000`
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:o} {}:{}", self.mode, self.uid, self.gid)
    }
}

/// Who may use a cache mount at the same time: [`rbuild_cache::cache_mounts::Sharing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SharingOp {
    Shared,
    Private,
    Locked,
}

/// COPY, ADD and WORKDIR: actions on one root, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileOp {
    pub base: bool,
    pub actions: Vec<FileAction>,
    /// Not in the key.
    pub refresh: bool,
    /// Clamps and sets times (SOURCE_DATE_EPOCH), where given.
    pub epoch: Option<i64>,
}

/// One thing that is done to a root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FileAction {
    /// WORKDIR.
    Mkdir {
        path: String,
        mode: u32,
        owner: Owner,
    },
    /// A heredoc of COPY or ADD.
    Mkfile {
        destination: String,
        name: String,
        data: Vec<u8>,
        owner: Owner,
        mode: Option<ModeChange>,
    },
    Copy(CopyOp),
}

/// COPY, and ADD of everything that is no heredoc.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CopyOp {
    /// A context, the root of a stage or an image, or an http or git source.
    pub input: usize,
    /// Expanded patterns, with their escapes.
    pub sources: Vec<String>,
    /// Absolute.
    pub destination: String,
    pub destination_is_directory: bool,
    pub excludes: Vec<String>,
    pub parents: bool,
    pub owner: Owner,
    pub mode: Option<ModeChange>,
    /// ADD: whether archives are unpacked. `None` for COPY: never.
    pub unpack: Option<Unpack>,
}

/// What ADD does with archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unpack {
    /// ADD of a local archive, and `--unpack=true`.
    Archives,
    /// `--unpack=false`, and files from a URL without `--unpack`.
    Never,
}

impl Operation for Op {
    /// Writes every field that can change what comes out. Left out: an image's name and location (its digest pins
    /// it), values that must leave no trace (`env_unkeyed`), and what only says how a result is come by (`refresh`,
    /// `reset_cache_mounts`).
    fn describe(&self) -> KeyWriter {
        match self {
            Self::Image(image) => KeyWriter::new("image.v2")
                .field("digest", image.digest.to_string())
                .field("platform", image.platform.to_string()),
            Self::Context(context) => KeyWriter::new("context.v2").field("name", &context.name),
            Self::Http(http) => KeyWriter::new("http.v2")
                .field("url", &http.url)
                .field(
                    "checksum",
                    http.checksum
                        .map(|digest| digest.to_string())
                        .unwrap_or_default(),
                )
                .field("filename", &http.filename),
            Self::Git(git) => KeyWriter::new("git.v3")
                .field("url", &git.url)
                .field("reference", &git.reference)
                .field("subdirectory", &git.subdirectory)
                .field("keep git dir", flag(git.keep_git_dir))
                .field("submodules", flag(git.submodules))
                .field("checksum", git.checksum.as_deref().unwrap_or_default()),
            Self::Exec(exec) => exec.describe(),
            Self::File(file) => file.describe(),
            Self::Merge => KeyWriter::new("merge.v2"),
        }
    }

    fn is_immediate(&self) -> bool {
        matches!(self, Self::Context(_) | Self::Http(_) | Self::Git(_))
    }

    fn cache_policy(&self) -> CachePolicy {
        let refresh = |refresh| {
            if refresh {
                CachePolicy::Refresh
            } else {
                CachePolicy::Use
            }
        };
        match self {
            // Layers of images are found by their chain IDs, not by records.
            Self::Image(_) => CachePolicy::Bypass,
            Self::Exec(exec) => refresh(exec.refresh),
            Self::File(file) => refresh(file.refresh),
            // What is not pinned may have changed: it is asked for again, and what follows goes by what came.
            Self::Http(http) => refresh(http.checksum.is_none()),
            Self::Git(git) => refresh(!git.is_pinned()),
            Self::Context(_) | Self::Merge => CachePolicy::Use,
        }
    }
}

impl GitSource {
    /// The commit that says what the repository gives, where one does.
    pub fn commit(&self) -> Option<String> {
        let is_commit =
            |text: &&str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let written = [Some(self.reference.as_str()), self.checksum.as_deref()];
        let commit = written.into_iter().flatten().find(is_commit)?;
        Some(commit.to_ascii_lowercase())
    }

    fn is_pinned(&self) -> bool {
        self.commit().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec() -> ExecOp {
        ExecOp {
            base: true,
            argv: vec!["a".to_owned(), "b".to_owned()],
            env: ["A=1"].into_iter().collect(),
            env_unkeyed: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            mounts: vec![MountOp {
                target: "/m".to_owned(),
                read_only: true,
                kind: MountOpKind::Bind {
                    input: Some(1),
                    source: "/".to_owned(),
                },
            }],
            network: NetworkOp::Default,
            reach: None,
            insecure: false,
            hosts: Vec::new(),
            hostname: None,
            limits: CommandLimits::default(),
            platform: Platform {
                os: "linux".to_owned(),
                architecture: "amd64".to_owned(),
                variant: String::new(),
            },
            refresh: false,
            reset_cache_mounts: false,
        }
    }

    fn key(change: impl FnOnce(&mut ExecOp)) -> rbuild_cache::Key {
        let mut op = exec();
        change(&mut op);
        Op::Exec(Box::new(op)).describe().finish()
    }

    #[test]
    fn what_a_command_gets_is_in_its_key() {
        let changes: [fn(&mut ExecOp); 18] = [
            |op| op.base = false,
            |op| op.argv = vec!["a b".to_owned()],
            |op| op.env = ["A=2"].into_iter().collect(),
            |op| op.argv.push("A=1".to_owned()),
            |op| op.cwd = "/w".to_owned(),
            |op| op.user = "u".to_owned(),
            |op| op.mounts.clear(),
            |op| op.mounts[0].read_only = false,
            |op| op.mounts[0].kind = MountOpKind::Tmpfs { size: None },
            |op| op.network = NetworkOp::None,
            |op| op.reach = Some(Arc::new(Reach::new(Vec::new()))),
            |op| op.reach = "a:1".parse().ok().map(|it| Arc::new(Reach::new(vec![it]))),
            |op| op.insecure = true,
            |op| op.hostname = Some("h".to_owned()),
            |op| op.limits.shm_size = Some(1),
            |op| op.limits.ulimits = vec![("nofile".to_owned(), 1, 2)],
            |op| op.limits.ulimits = vec![("nofile".to_owned(), 2, 2)],
            |op| op.hosts = vec![("h".to_owned(), "1.2.3.4".to_owned())],
        ];
        let mut keys: Vec<_> = changes.into_iter().map(key).collect();
        keys.push(key(|_| {}));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 19);
    }

    #[test]
    fn what_leaves_no_trace_is_in_no_key() {
        let plain = key(|_| {});
        assert_eq!(
            plain,
            key(|op| op.env_unkeyed = vec!["HTTP_PROXY=p".to_owned()])
        );
        assert_eq!(plain, key(|op| op.refresh = true));
        assert_eq!(plain, key(|op| op.reset_cache_mounts = true));
    }

    #[test]
    fn only_what_is_pinned_is_taken_from_the_cache() {
        let http = |checksum| {
            Op::Http(HttpSource {
                url: "https://example.com/f".to_owned(),
                checksum,
                filename: "f".to_owned(),
            })
            .cache_policy()
        };
        assert_eq!(http(None), CachePolicy::Refresh);
        assert_eq!(http(Some(Digest::of(b"f"))), CachePolicy::Use);
        let git = |reference: &str| {
            Op::Git(GitSource {
                url: "https://example.com/r.git".to_owned(),
                reference: reference.to_owned(),
                subdirectory: String::new(),
                keep_git_dir: false,
                submodules: true,
                checksum: None,
            })
            .cache_policy()
        };
        assert_eq!(git("main"), CachePolicy::Refresh);
        assert_eq!(git(&"a1".repeat(20)), CachePolicy::Use);
    }
}
