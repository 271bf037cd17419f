//! The flags of `run` as typed by a person.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::values::LimitArgs;

/// Run a command in a container of an image
///
/// The container runs in the foreground, and nothing is left of it when its command ends.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArgs {
    /// A name, an ID or a digest in the store, oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, or a name to
    /// pull; then the command, which replaces the image's CMD
    // One list: whatever follows the image belongs to the command, flags too.
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    pub(crate) command: Vec<String>,
    /// Connect standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// As Docker's; a foreground container never leaves anything
    #[arg(long)]
    rm: bool,
    /// Replace the image's ENTRYPOINT; an empty one takes it away
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// An environment variable; without a value it is taken from the environment
    #[arg(short, long, value_name = "K[=V]")]
    pub(crate) env: Vec<String>,
    /// A file of environment variables
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// The user, as `name`, `uid`, `name:group` or `uid:gid`
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// A further group
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The host name
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// A line of /etc/hosts
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,
    /// A name server
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<String>,
    /// A directory of the host, SOURCE:TARGET[:ro], or an empty volume, TARGET
    #[arg(short, long, value_name = "VOLUME")]
    pub(crate) volume: Vec<String>,
    /// type=bind|volume|tmpfs,src=..,dst=..[,ro]
    #[arg(long, value_name = "SPEC")]
    pub(crate) mount: Vec<String>,
    /// A file system in memory, TARGET[:size=64m]
    #[arg(long, value_name = "TARGET")]
    pub(crate) tmpfs: Vec<String>,
    /// default, none or host
    #[arg(long, visible_alias = "net", value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// The root file system cannot be written to
    #[arg(long)]
    pub(crate) read_only: bool,
    /// A tiny init as PID 1 that forwards signals and reaps
    #[arg(long)]
    pub(crate) init: bool,
    /// Add a capability
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_drop: Vec<String>,
    /// All capabilities, no system call filter
    #[arg(long)]
    pub(crate) privileged: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Memory and swap together; -1 is no limit
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Relative weight of processor time
    #[arg(long, value_name = "N")]
    pub(crate) cpu_shares: Option<u64>,
    /// When to ask the registry: always or missing
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    pull: Option<String>,
    #[arg(long, value_name = "P")]
    pub(crate) platform: Option<String>,
    /// Do not show the progress of a pull
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    // Known to the contract, not yet to this version: told so in `refuse_unsupported`.
    #[arg(short, long, hide = true)]
    detach: bool,
    #[arg(long, hide = true, value_name = "NAME")]
    name: Option<String>,
    #[arg(long, hide = true, value_name = "FILE")]
    cidfile: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    #[arg(short, long, hide = true, value_name = "PORT")]
    publish: Vec<String>,
    #[arg(short = 'P', long, hide = true)]
    publish_all: bool,
    #[arg(long, hide = true, value_name = "PORT")]
    expose: Vec<String>,
    #[arg(long, hide = true, value_name = "OPTION")]
    security_opt: Vec<String>,
    #[arg(long, hide = true, value_name = "DEVICE")]
    device: Vec<String>,
    #[arg(long, hide = true, value_name = "K=V")]
    sysctl: Vec<String>,
    #[arg(long, hide = true, value_name = "POLICY")]
    restart: Option<String>,
    #[arg(long, hide = true, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    #[arg(long, hide = true, value_name = "SECONDS")]
    stop_timeout: Option<u32>,
    #[arg(long, hide = true, value_name = "COMMAND")]
    health_cmd: Option<String>,
    #[arg(long, hide = true, value_name = "DURATION")]
    health_interval: Option<String>,
    #[arg(long, hide = true, value_name = "DURATION")]
    health_timeout: Option<String>,
    #[arg(long, hide = true, value_name = "DURATION")]
    health_start_period: Option<String>,
    #[arg(long, hide = true, value_name = "N")]
    health_retries: Option<u32>,
    /// As Docker's; a foreground container is not probed
    #[arg(long)]
    no_healthcheck: bool,
    #[arg(short, long, hide = true, value_name = "K=V")]
    label: Vec<String>,
    #[arg(long, hide = true, value_name = "PATH")]
    runtime: Option<String>,
}

impl RunArgs {
    /// Nothing is accepted and ignored.
    pub(crate) fn refuse_unsupported(&self) -> Result<()> {
        for (given, flag) in [
            (self.detach, "--detach"),
            (self.name.is_some(), "--name"),
            (self.cidfile.is_some(), "--cidfile"),
            (!self.volumes_from.is_empty(), "--volumes-from"),
            (!self.publish.is_empty(), "--publish"),
            (self.publish_all, "--publish-all"),
            (!self.expose.is_empty(), "--expose"),
            (!self.security_opt.is_empty(), "--security-opt"),
            (!self.device.is_empty(), "--device"),
            (!self.sysctl.is_empty(), "--sysctl"),
            (
                self.restart.as_deref().is_some_and(|policy| policy != "no"),
                "--restart",
            ),
            (self.stop_signal.is_some(), "--stop-signal"),
            (self.stop_timeout.is_some(), "--stop-timeout"),
            (self.health_cmd.is_some(), "--health-cmd"),
            (self.health_interval.is_some(), "--health-interval"),
            (self.health_timeout.is_some(), "--health-timeout"),
            (self.health_start_period.is_some(), "--health-start-period"),
            (self.health_retries.is_some(), "--health-retries"),
            (!self.label.is_empty(), "--label"),
            (
                self.runtime
                    .as_deref()
                    .is_some_and(|runtime| runtime != "embedded"),
                "--runtime",
            ),
        ] {
            if given {
                return Err(Error::unsupported(format!("run {flag}")));
            }
        }
        Ok(())
    }

    pub(crate) fn always_pulls(&self) -> Result<bool> {
        match self.pull.as_deref() {
            None | Some("missing") => Ok(false),
            Some("always") => Ok(true),
            Some("never") => Err(Error::unsupported("run --pull=never")),
            Some(other) => Err(Error::usage(format!(
                "--pull `{other}`: expected `always` or `missing`"
            ))),
        }
    }
}
