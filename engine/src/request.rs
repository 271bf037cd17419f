//! What a caller asks of the engine. Everything is already read from flags and environment: inside, no re-parsing.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::Digest;
pub use rbuild_executor::network::{Pattern, Reach};
use rbuild_executor::spec::{Dns, Limits, Users};
pub use rbuild_image::shared::s3;
use rbuild_image::source::Location;
use rbuild_image::{Platform, Reference};

use crate::lower::remote;
use crate::op::GitSource;
use crate::ssh_agent::Agent;

/// One build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    pub context: ContextLocation,
    pub dockerfile: DockerfileLocation,
    /// Empty: the image is kept by its ID.
    pub tags: Vec<Reference>,
    pub target: Option<String>,
    /// Empty: the host's.
    pub platforms: Vec<Platform>,
    /// Already completed from the environment (`--build-arg K` alone).
    pub build_args: BTreeMap<String, String>,
    pub labels: Vec<(String, String)>,
    pub annotations: Vec<(String, String)>,
    pub contexts: Vec<(String, NamedContext)>,
    pub no_cache: NoCache,
    /// Caches of other machines that results are taken from (`--cache-from`).
    pub cache_from: Vec<CacheFrom>,
    /// Caches that results are given to (`--cache-to`).
    pub cache_to: Vec<CacheTo>,
    /// Ask the registry first.
    pub pull: bool,
    pub secrets: Vec<Secret>,
    pub ssh: Vec<Ssh>,
    pub network: NetworkChoice,
    /// `--allow-host`: all that commands, and what the Dockerfile adds from elsewhere, may reach. `None`: everything.
    pub reach: Option<Arc<Reach>>,
    /// Who the users of RUN are on the machine.
    pub users: Users,
    pub hosts: Vec<(String, String)>,
    /// For RUN; in no key, as the machine's own resolv.conf is not.
    pub dns: Dns,
    pub allow: Vec<Entitlement>,
    pub limits: Limits,
    pub outputs: Vec<Output>,
    pub squash: Squash,
    /// How many layers an image may have: what is more is merged. `None`: as many as every tool takes.
    pub max_layers: Option<usize>,
    /// What is said of the result, beside it.
    pub attestations: Attestations,
    /// Steps at once, at least 1. `None`: as many as there are cores, and more while cores are idle or steps only
    /// wait.
    pub jobs: Option<usize>,
    /// Of the environment; a build arg of the name wins.
    pub source_date_epoch: Option<String>,
    /// A step that fails leaves what a shell can be opened on ([`crate::error::StepFailure::shell`]).
    pub keep_failed: bool,
}

impl BuildRequest {
    /// Whether the result is one of several platforms though there may be only one (BUILDKIT_MULTI_PLATFORM).
    pub(crate) fn is_multi_platform(&self) -> bool {
        let setting = self.build_args.get("BUILDKIT_MULTI_PLATFORM");
        setting.is_some_and(|value| is_true(value))
    }

    /// A build of a context as it is without any flag.
    pub fn new(context: ContextLocation, dockerfile: DockerfileLocation) -> Self {
        Self {
            context,
            dockerfile,
            tags: Vec::new(),
            target: None,
            platforms: Vec::new(),
            build_args: BTreeMap::new(),
            labels: Vec::new(),
            annotations: Vec::new(),
            contexts: Vec::new(),
            no_cache: NoCache::No,
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            pull: false,
            secrets: Vec::new(),
            ssh: Vec::new(),
            network: NetworkChoice::Default,
            reach: None,
            users: Users::Own,
            hosts: Vec::new(),
            dns: Dns::default(),
            allow: Vec::new(),
            limits: Limits::default(),
            outputs: Vec::new(),
            squash: Squash::No,
            max_layers: None,
            attestations: Attestations::default(),
            jobs: None,
            source_date_epoch: None,
            keep_failed: false,
        }
    }
}

/// Where the build context is.
#[derive(Debug, Clone)]
pub enum ContextLocation {
    Directory(PathBuf),
    /// No context: a bare Dockerfile on standard input.
    Empty,
    /// A tar, plain or compressed, that is read once.
    Archive(Archive),
    /// An address that gives a bare Dockerfile is one: then there is no context.
    Remote(Remote),
}

/// A stream with a name for messages.
#[derive(Clone)]
pub struct Archive {
    pub name: String,
    stream: Arc<Mutex<Option<Box<dyn Read + Send>>>>,
}

impl Archive {
    /// Of a stream that is read once. `name` is for messages.
    pub fn new(name: impl Into<String>, stream: Box<dyn Read + Send>) -> Self {
        Self {
            name: name.into(),
            stream: Arc::new(Mutex::new(Some(stream))),
        }
    }

    /// The stream, for who asks first.
    pub(crate) fn take(&self) -> Option<Box<dyn Read + Send>> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.take()
    }
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Archive").field(&self.name).finish()
    }
}

/// A context that is elsewhere. Displayed without names and passwords.
#[derive(Clone, PartialEq, Eq)]
pub enum Remote {
    /// Of a tar archive, or of a Dockerfile.
    Http(String),
    Git(GitSource),
}

impl Remote {
    /// Understands `https://….git#ref:subdir`, `git@host:…`, `github.com/…` and addresses of files. `None` for what
    /// can only be a path. The error says what is wrong with a repository's address.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let git = if text.starts_with("github.com/") {
            remote::github(text)?
        } else {
            match remote::classify(text)? {
                remote::Remote::Local => return Ok(None),
                remote::Remote::Http => return Ok(Some(Self::Http(text.to_owned()))),
                remote::Remote::Git(git) => git,
            }
        };
        Ok(Some(Self::Git(GitSource {
            url: git.url,
            reference: git.reference,
            subdirectory: git.subdirectory,
            keep_git_dir: git.keep_git_dir.unwrap_or(false),
            submodules: git.submodules,
            checksum: git.checksum,
        })))
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Http(url) | Self::Git(GitSource { url, .. })) = self;
        f.write_str(&remote::without_userinfo(url))
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({self})")
    }
}

/// Where the Dockerfile is.
#[derive(Debug, Clone)]
pub enum DockerfileLocation {
    Path(PathBuf),
    /// Read from standard input, for instance.
    Text {
        name: String,
        bytes: Arc<[u8]>,
    },
    /// A file of the context, never outside of it; `None` is its `Dockerfile`, or `dockerfile`.
    InContext(Option<PathBuf>),
}

/// What `--build-context NAME=…` stands for.
#[derive(Debug, Clone)]
pub enum NamedContext {
    Directory(PathBuf),
    Image(Location),
    /// `target:STAGE`
    Stage(String),
    Remote(Remote),
}

/// What is run even if its result is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NoCache {
    #[default]
    No,
    All,
    /// Names of stages, lines (`12` or `12-15`), or instructions.
    Filter(Vec<String>),
}

/// One `--cache-from`.
#[derive(Debug, Clone)]
pub struct CacheFrom {
    pub place: CachePlace,
    /// Ids of cache mounts that are filled from it; `None`: all that it has.
    pub mounts: Option<Vec<String>>,
}

/// One `--cache-to`.
#[derive(Debug, Clone)]
pub struct CacheTo {
    /// `None`: the image itself carries its records (`type=inline`).
    pub place: Option<CachePlace>,
    pub mode: CacheMode,
    /// `None`: as the first output's layers.
    pub compression: Option<CompressionChoice>,
    /// Also of layers that are known in another form.
    pub force_compression: bool,
    /// A cache that cannot be written fails no build.
    pub ignore_error: bool,
    /// Ids of cache mounts that go along.
    pub mounts: Vec<String>,
}

/// Where a shared cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    Registry(Reference),
    /// An OCI layout directory.
    Local {
        path: PathBuf,
        tag: Option<String>,
        digest: Option<Digest>,
    },
    S3(Box<s3::Options>),
    Redis {
        /// With user and password, where they are needed.
        url: url::Url,
        prefix: String,
        name: String,
    },
}

/// Whose results are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// Those that the image holds.
    #[default]
    Min,
    /// Those of all steps.
    Max,
}

/// One `--secret`, with its value.
#[derive(Clone)]
pub struct Secret {
    pub id: String,
    pub data: Arc<[u8]>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The value never reaches a log.
        f.debug_struct("Secret")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// One `--ssh`.
#[derive(Debug, Clone)]
pub struct Ssh {
    pub id: String,
    pub agent: SshAgent,
}

/// Who signs for those that have it.
#[derive(Debug, Clone)]
pub enum SshAgent {
    /// One of the machine's, by its socket.
    Socket(PathBuf),
    /// One of this process, for keys that were given.
    Own(Arc<Agent>),
}

/// Whether a setting says yes, in any of the ways that Go's `ParseBool` knows.
pub(crate) fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Which network commands have that ask for none themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum NetworkChoice {
    #[default]
    Default,
    None,
    Host,
}

/// What a Dockerfile may ask for only where it is allowed (`--allow`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entitlement {
    NetworkHost,
    SecurityInsecure,
}

/// `--attest`, `--provenance`, `--sbom`. Nothing is said unless it is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attestations {
    pub provenance: Option<Provenance>,
    pub sbom: bool,
}

impl Attestations {
    /// Whether anything is to be said.
    pub fn is_any(&self) -> bool {
        self.provenance.is_some() || self.sbom
    }
}

/// How much is said of how the result was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// `mode=max`: also arguments, steps and the Dockerfile itself.
    pub complete: bool,
    /// URI of who built it.
    pub builder_id: Option<String>,
    /// Only in images, never as a file beside what a directory or tar gets.
    pub inline_only: bool,
    /// The caller's word that the same inputs give the same result.
    pub reproducible: bool,
}

/// Whether annotations of a type, as in `manifest[linux/amd64]`, have a place in an image.
pub fn is_annotation_type(text: &str) -> bool {
    crate::assemble::split_type(text).is_some()
}

/// Which layers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Squash {
    #[default]
    No,
    /// Those that are not the base image's.
    Own,
    /// All of them.
    All,
    /// Those of the last stage.
    Stage,
    /// Those of the instructions from this line on.
    FromLine(usize),
}

/// One `--output`.
#[derive(Debug, Clone)]
pub struct Output {
    pub kind: OutputKind,
    /// `None`: standard output, where that makes sense.
    pub destination: Option<PathBuf>,
    /// Names given by `name=`, besides the tags.
    pub names: Vec<Reference>,
    pub compression: Option<CompressionChoice>,
    pub force_compression: bool,
    pub oci_media_types: Option<bool>,
    pub rewrite_timestamp: bool,
    /// Keys with their types, as in `index:KEY`.
    pub annotations: Vec<(String, String)>,
    /// What is pushed gets no tag.
    pub by_digest: bool,
    /// Of files in a directory: what else is there goes.
    pub delete: bool,
    /// Of files: those of each platform in a directory of its own. `None`: where there are several.
    pub platform_split: Option<bool>,
}

impl Output {
    /// With nothing said about it.
    pub fn new(kind: OutputKind) -> Self {
        Self {
            kind,
            destination: None,
            names: Vec::new(),
            compression: None,
            force_compression: false,
            oci_media_types: None,
            rewrite_timestamp: false,
            annotations: Vec::new(),
            by_digest: false,
            delete: false,
            platform_split: None,
        }
    }
}

/// `type=` of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// `type=oci`; a layout directory with `tar=false`.
    Oci {
        tar: bool,
    },
    Docker {
        tar: bool,
    },
    Tar,
    Local,
    /// Kept in the store.
    Image,
    Registry,
    CacheOnly,
}

impl OutputKind {
    /// Whether it needs an image put together, and not just its files.
    pub fn is_image(self) -> bool {
        match self {
            Self::Oci { .. } | Self::Docker { .. } | Self::Image | Self::Registry => true,
            Self::Tar | Self::Local | Self::CacheOnly => false,
        }
    }
}

/// What layers are compressed with; `None` leaves the level to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionChoice {
    Gzip { level: Option<u8> },
    Zstd { level: Option<u8> },
    Uncompressed,
}
