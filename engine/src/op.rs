//! The operations of a build graph, in the sense of BuildKit's LLB: what lowering writes and the worker executes.
//! Pure data. Inputs are places in the vertex's list of inputs. For `Exec` and `File`, input 0 is the base when
//! `base` is true; otherwise they start from an empty root.

use rbuild_cache::Digest;
use rbuild_executor::file::{ModeChange, Owner};
use rbuild_image::Platform;
use rbuild_image::source::Location;

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
    /// `--checksum`: the commit that the reference must have.
    pub checksum: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecOp {
    pub base: bool,
    pub argv: Vec<String>,
    /// `NAME=value` in order; the closed set that the command gets.
    pub env: Vec<String>,
    /// As `env`, but in no key and no record: proxy variables.
    pub env_unkeyed: Vec<String>,
    pub cwd: String,
    /// Raw value of USER; empty for root.
    pub user: String,
    pub mounts: Vec<MountOp>,
    pub network: NetworkOp,
    pub insecure: bool,
    pub hosts: Vec<(String, String)>,
    pub platform: Platform,
    /// `--no-cache` and its filters: run even if a result is known. Not in the key.
    pub refresh: bool,
    /// Set with `refresh`: its cache mounts are emptied first. Not in the key.
    pub reset_cache_mounts: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NetworkOp {
    /// What `--network` says for the build.
    Default,
    None,
    Host,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MountOp {
    /// Absolute.
    pub target: String,
    pub read_only: bool,
    pub kind: MountOpKind,
}

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
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Tmpfs {
        size: Option<u64>,
    },
    /// As a file at `target`, unless that is empty; as a variable where `env` is given.
    Secret {
        id: String,
        env: Option<String>,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Ssh {
        id: String,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SharingOp {
    Shared,
    Private,
    Locked,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileOp {
    pub base: bool,
    pub actions: Vec<FileAction>,
    /// Not in the key.
    pub refresh: bool,
    /// Clamps and sets times (SOURCE_DATE_EPOCH), where given.
    pub epoch: Option<i64>,
}

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unpack {
    /// ADD of a local archive, and `--unpack=true`.
    Archives,
    /// `--unpack=false`, and files from a URL without `--unpack`.
    Never,
}
