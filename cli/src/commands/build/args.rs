//! The flags of `build` as typed by a person: strings, not yet understood.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::dns::DnsArgs;
use crate::error::{Error, Result};
use crate::limits::LimitArgs;
use crate::no_effect::{IsolationArgs, TrustArgs};
use crate::values::path;

/// Build an image from a Dockerfile
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BuildArgs {
    /// A directory; a git repository, or the URL of a tar or a Dockerfile; `-` for a tar or a Dockerfile on standard
    /// input
    pub(crate) context: String,
    /// The Dockerfile (default: CONTEXT/Dockerfile; `-` is standard input)
    #[arg(short, long, value_name = "FILE", value_parser = path())]
    pub(crate) file: Option<PathBuf>,
    /// Name of the result in the store; may be repeated
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(crate) tag: Vec<String>,
    /// The stage to build
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Platforms to build for, as in `linux/amd64,linux/arm64`
    #[arg(long, value_name = "P[,P...]")]
    pub(crate) platform: Vec<String>,
    /// A build argument; without a value it is taken from the environment
    #[arg(long, value_name = "K[=V]", allow_hyphen_values = true)]
    pub(crate) build_arg: Vec<String>,
    /// A label of the image
    #[arg(long, value_name = "K=V", allow_hyphen_values = true)]
    pub(crate) label: Vec<String>,
    /// An annotation; TYPE is `manifest`, `manifest-descriptor`, `index` or `index-descriptor`, for one platform as in
    /// `manifest[linux/amd64]`, and several with commas
    #[arg(long, value_name = "[TYPE:]K=V")]
    pub(crate) annotation: Vec<String>,
    /// A named context: a directory, docker-image://, oci-layout://, oci-archive://, target:, a git repository or a URL
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) build_context: Vec<String>,
    /// Use nothing from the cache
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Use nothing from the cache for these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    /// Take results from a shared cache, as in `type=registry,ref=NAME`; may be repeated
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_from: Vec<String>,
    /// Give results to a shared cache, as in `type=registry,ref=NAME,mode=max`, or within
    /// the image (`type=inline`); may be repeated
    #[arg(long, value_name = "SPEC")]
    pub(crate) cache_to: Vec<String>,
    /// Ask the registry for newer base images first
    #[arg(long)]
    pub(crate) pull: bool,
    /// A secret for `RUN --mount=type=secret`
    #[arg(long, value_name = "id=ID[,src=FILE|,env=VAR]")]
    pub(crate) secret: Vec<String>,
    /// An ssh agent, or keys without a passphrase, for `RUN --mount=type=ssh`
    #[arg(long, value_name = "ID[=SOCKET|KEY[,KEY...]]")]
    pub(crate) ssh: Vec<String>,
    /// The network of RUN: default, none or host
    #[arg(long, value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// host: the users of RUN are the machine's, and its root is root (only root has a choice)
    #[arg(long, value_name = "MODE")]
    pub(crate) userns: Option<String>,
    /// A line of /etc/hosts for RUN
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,
    #[command(flatten)]
    pub(crate) dns: DnsArgs,
    /// Allow what the Dockerfile asks for: network.host, security.insecure; or what an output may do:
    /// buildx.local.delete
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub(crate) allow: Vec<String>,
    /// Let RUN and ADD reach only this, and what else is given so: a name, `*.` and a name, an address or a network,
    /// each with `:PORT` or at all ports; may be repeated
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) allow_host: Vec<String>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Where the result goes, as in `type=oci,dest=image.tar`; may be repeated
    #[arg(short, long, value_name = "SPEC", allow_hyphen_values = true)]
    pub(crate) output: Vec<String>,
    /// Short for --output=type=registry
    #[arg(long)]
    pub(crate) push: bool,
    /// Short for --output=type=image
    #[arg(long)]
    pub(crate) load: bool,
    /// Make one layer of several: `own` (those that are not the base image's; also without a value), `stage`, `all`
    /// or `from:LINE`
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "own")]
    pub(crate) squash: Option<String>,
    /// How many layers the image may have; the smallest neighbours of more are merged (default: 125)
    #[arg(long, value_name = "N")]
    pub(crate) max_layers: Option<NonZeroUsize>,
    /// Write the image ID to this file
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write what was built to this file, as JSON
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) metadata_file: Option<PathBuf>,
    /// How to show progress: auto, tty, plain, quiet or rawjson
    #[arg(long, value_name = "MODE", env = "BUILDKIT_PROGRESS", hide_env = true)]
    pub(crate) progress: Option<String>,
    #[command(flatten)]
    _trust: TrustArgs,
    /// Containers of steps are always removed
    #[arg(long, value_name = "BOOL", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = ["true"])]
    rm: Option<String>,
    /// As --rm, also of steps that fail
    #[arg(long, value_name = "BOOL", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = ["true"])]
    force_rm: Option<String>,
    /// The context is sent to no daemon, compressed or not
    #[arg(long, value_name = "BOOL", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = ["true", "false"])]
    compress: Option<String>,
    #[command(flatten)]
    _isolation: IsolationArgs,
    /// Print only the image ID
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Steps at once (default: the cores, and more while cores are idle or steps only wait)
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<usize>,
    /// Say of each step whether it was cached, and if not, what differs from the nearest earlier record
    #[arg(long)]
    pub(crate) explain: bool,
    /// Lint only, build nothing
    #[arg(long)]
    pub(crate) check: bool,
    /// `build`, `check`, `outline` or `targets`, with `,format=json`; `check` also with `,format=sarif`
    #[arg(long, value_name = "METHOD")]
    pub(crate) call: Option<String>,
    /// Say in the image's index how it was made: `true`, `false`, `mode=min` or `mode=max`, and `builder-id=`,
    /// `inline-only=`, `reproducible=`
    #[arg(long, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) provenance: Option<String>,
    /// List in the image's index the packages that are in it (SPDX)
    #[arg(long, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) sbom: Option<String>,
    /// As in `type=provenance,mode=max` or `type=sbom`; may be repeated
    #[arg(long, value_name = "SPEC")]
    pub(crate) attest: Vec<String>,
    /// What to do when a step fails: `fail`, or `shell`, which opens a shell in what it left; nothing that is changed
    /// in there is kept
    #[arg(long, value_name = "MODE")]
    on_error: Option<String>,
    /// Write when each step ran to this file, for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) trace: Option<PathBuf>,
}

/// What `--call` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Build,
    Check(CallFormat),
    Outline(CallFormat),
    Targets(CallFormat),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFormat {
    Text,
    Json,
    /// Of a check only.
    Sarif,
}

/// Allows `mode=delete` outside of the working directory.
pub(super) const DELETE: &str = "buildx.local.delete";

impl BuildArgs {
    /// Without what is empty: a variable that a script did not set is no file, output or cache. As with Docker.
    pub(crate) fn without_empty(&self) -> Self {
        let mut args = self.clone();
        for list in [
            &mut args.annotation,
            &mut args.build_context,
            &mut args.cache_from,
            &mut args.cache_to,
            &mut args.secret,
            &mut args.ssh,
            &mut args.add_host,
            &mut args.allow,
            &mut args.output,
        ] {
            list.retain(|text| !text.is_empty());
        }
        for text in [&mut args.network, &mut args.call] {
            *text = text.take().filter(|text| !text.is_empty());
        }
        for path in [
            &mut args.file,
            &mut args.iidfile,
            &mut args.metadata_file,
            &mut args.trace,
        ] {
            *path = path.take().filter(|path| !path.as_os_str().is_empty());
        }
        args
    }

    pub(crate) fn may_delete(&self) -> bool {
        self.allow.iter().any(|allowed| allowed == DELETE)
    }

    pub(crate) fn call(&self) -> Result<Call> {
        let Some(text) = &self.call else {
            return Ok(if self.check {
                Call::Check(CallFormat::Text)
            } else {
                Call::Build
            });
        };
        let mut fields = text.split(',');
        let method = fields.next().unwrap_or_default();
        let mut format = CallFormat::Text;
        for field in fields {
            format = match field {
                "format=text" => CallFormat::Text,
                "format=json" => CallFormat::Json,
                "format=sarif" if matches!(method, "check" | "lint") => CallFormat::Sarif,
                other => {
                    return Err(Error::usage(format!(
                        "--call `{text}`: `{other}` is not understood"
                    ))
                    .help("it is `format=text` or `format=json`, and `format=sarif` for a check"));
                }
            };
        }
        let call = match method {
            "build" if format == CallFormat::Text => Call::Build,
            "build" => {
                return Err(Error::usage(format!(
                    "--call `{text}`: a build has no format"
                )));
            }
            "check" | "lint" => Call::Check(format),
            "outline" => Call::Outline(format),
            "targets" => Call::Targets(format),
            other => {
                return Err(
                    Error::usage(format!("--call `{other}`: there is no such method"))
                        .help("it is `build`, `check`, `outline` or `targets`"),
                );
            }
        };
        if self.check && !matches!(call, Call::Check(_)) {
            return Err(Error::usage(format!(
                "--check and --call={text} exclude each other"
            )));
        }
        Ok(call)
    }

    /// The first flag given that has no meaning for builds that begin from nothing and leave nothing behind.
    pub(crate) fn writes(&self) -> Option<&'static str> {
        let given = [
            (!self.output.is_empty(), "--output"),
            (self.push, "--push"),
            (self.load, "--load"),
            (self.iidfile.is_some(), "--iidfile"),
            (self.metadata_file.is_some(), "--metadata-file"),
            (!self.cache_from.is_empty(), "--cache-from"),
            (!self.cache_to.is_empty(), "--cache-to"),
            (self.explain, "--explain"),
            (self.trace.is_some(), "--trace"),
            (self.check, "--check"),
            (self.call.is_some(), "--call"),
            (self.on_error.is_some(), "--on-error"),
        ];
        let found = given.into_iter().find(|(given, _)| *given);
        found.map(|(_, flag)| flag)
    }

    /// Whether a shell is opened where a step fails.
    pub(crate) fn opens_shell(&self) -> Result<bool> {
        match self.on_error.as_deref() {
            None | Some("fail") => Ok(false),
            Some("shell") => Ok(true),
            Some(other) => Err(Error::usage(format!(
                "--on-error `{other}`: expected `fail` or `shell`"
            ))),
        }
    }
}
