//! The flags of `run` and `create` as typed by a person.

use std::path::PathBuf;

use super::blocks::BlockArgs;
use super::refused::RefusedArgs;
use crate::dns::DnsArgs;
use crate::limits::LimitArgs;
use crate::no_effect::{IsolationArgs, TrustArgs};

/// Run a command in a container of an image
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
    /// Go on in the background and print the container's ID
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Only these of the container's streams: stdin, stdout, stderr (default: the last two, and with -i all)
    #[arg(short, long, value_name = "STREAM", conflicts_with = "detach")]
    pub(crate) attach: Vec<String>,
    /// Do not hand signals on to the command with --sig-proxy=false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) sig_proxy: Option<bool>,
    /// The keys by which one leaves a container with a terminal (default: ctrl-p,ctrl-q)
    #[arg(long, value_name = "KEYS")]
    pub(crate) detach_keys: Option<String>,
}

/// Make a container of an image, to be started later
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
}

/// What both take.
#[derive(Debug, clap::Args)]
pub(crate) struct ContainerArgs {
    /// A name, an ID or a digest in the store, oci:DIR[:TAG][@DIGEST], oci-archive:FILE, docker-archive:FILE, or a
    /// name to pull; then the command, which replaces the image's CMD
    // One list: whatever follows the image belongs to the command, flags too.
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    pub(crate) command: Vec<String>,
    /// Connect standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Leave nothing of the container when it ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// The container's name (default: a random one)
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Write the container's ID to a file, which must not exist
    #[arg(long, value_name = "FILE", value_parser = crate::values::path())]
    pub(crate) cidfile: Option<PathBuf>,
    /// A label of the container
    #[arg(short, long, value_name = "K=V", allow_hyphen_values = true)]
    pub(crate) label: Vec<String>,
    /// An annotation, which the OCI runtime of --runtime is told
    #[arg(long, value_name = "K=V", allow_hyphen_values = true)]
    pub(crate) annotation: Vec<String>,
    /// A file of labels, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<PathBuf>,
    /// Replace the image's ENTRYPOINT; an empty one takes it away
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub(crate) entrypoint: Option<String>,
    /// An environment variable; without a value it is taken from the environment
    #[arg(short, long, value_name = "K[=V]", allow_hyphen_values = true)]
    pub(crate) env: Vec<String>,
    /// A file of environment variables
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// The user, as `name`, `uid`, `name:group` or `uid:gid`
    #[arg(short, long, value_name = "USER", allow_hyphen_values = true)]
    pub(crate) user: Option<String>,
    /// A further group
    #[arg(long, value_name = "GROUP", allow_hyphen_values = true)]
    pub(crate) group_add: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// The host name
    #[arg(short = 'h', long, value_name = "NAME", allow_hyphen_values = true)]
    pub(crate) hostname: Option<String>,
    /// The host's domain: the NIS domain name, and the full name in /etc/hosts
    #[arg(long, value_name = "NAME")]
    pub(crate) domainname: Option<String>,
    /// A line of /etc/hosts
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,
    #[command(flatten)]
    pub(crate) dns: DnsArgs,
    /// A name by which other containers reach this one, besides its own; in the first of several networks
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub(crate) network_alias: Vec<String>,
    /// Its address in the network, which somebody has made
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<std::net::Ipv4Addr>,
    /// The hardware address of its interface
    #[arg(long, value_name = "MAC")]
    pub(crate) mac_address: Option<String>,
    /// Another container, and what this one is to call it
    #[arg(long, value_name = "CONTAINER[:ALIAS]")]
    pub(crate) link: Vec<String>,
    /// A directory of the host or a volume, SOURCE:TARGET[:OPTIONS], or a volume of the container's own, TARGET;
    /// options: ro, nocopy, and whether later mounts arrive (rslave), are shared (rshared) or neither (rprivate)
    #[arg(short, long, value_name = "VOLUME")]
    pub(crate) volume: Vec<String>,
    /// type=bind|volume|tmpfs|image,src=..,dst=..[,ro][,bind-propagation=rslave|rshared|rprivate]
    /// [,bind-recursive=disabled|writable|readonly][,volume-nocopy][,volume-subpath=..][,volume-opt=KEY=VALUE]
    /// [,image-subpath=..]
    #[arg(long, value_name = "SPEC")]
    pub(crate) mount: Vec<String>,
    /// A file system in memory, TARGET[:size=64m]
    #[arg(long, value_name = "TARGET")]
    pub(crate) tmpfs: Vec<String>,
    /// default, none, host, container:NAME for that of another container, or one that `network create` has made; of
    /// those and the default one also several: NAME, or name=NAME,alias=A,ip=IP,mac-address=MAC
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub(crate) network: Vec<String>,
    /// Whose processes it sees: host, or container:NAME (default: its own alone)
    #[arg(long, value_name = "MODE")]
    pub(crate) pid: Option<String>,
    /// Whose IPC and /dev/shm it has: private (default), shareable (others may have it, too), none (no /dev/shm), host,
    /// or container:NAME
    #[arg(long, value_name = "MODE")]
    pub(crate) ipc: Option<String>,
    /// host: the host name is the machine's
    #[arg(long, value_name = "MODE")]
    pub(crate) uts: Option<String>,
    /// private, which it always is
    #[arg(long, value_name = "MODE")]
    pub(crate) cgroupns: Option<String>,
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
    /// no-new-privileges, seccomp=FILE (a profile in Docker's form), seccomp=unconfined or systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// A parameter of the container's own kernel namespaces, as in `net.ipv4.ip_forward=1`
    #[arg(long, value_name = "K=V")]
    pub(crate) sysctl: Vec<String>,
    /// A device of the machine; root's container then has the machine's users. Permissions: some of r, w and m (to make
    /// nodes of it); fewer than rw are root's to give
    #[arg(long, value_name = "HOST[:CONTAINER][:PERMISSIONS]")]
    pub(crate) device: Vec<String>,
    /// Devices that it may use besides, by number, as in `c 189:* rmw`; only root can give them
    #[arg(long, value_name = "RULE")]
    pub(crate) device_cgroup_rule: Vec<String>,
    /// All capabilities, no system call filter; for root, all of the machine's devices
    #[arg(long)]
    pub(crate) privileged: bool,
    /// host: the container's users are the machine's, and its root is root (only root has a choice)
    #[arg(long, value_name = "MODE")]
    pub(crate) userns: Option<String>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) blocks: BlockArgs,
    /// How willingly the kernel kills it when memory is short: -1000 (never; root only) to 1000
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i16).range(-1000..=1000))]
    pub(crate) oom_score_adj: Option<i16>,
    /// The volumes of another container, CONTAINER[:ro]
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) volumes_from: Vec<String>,
    /// A port of the host for one of the container's, [[HOST-IP:][HOST-PORT]:]PORT[/udp]; ranges too
    #[arg(short, long, value_name = "PORT")]
    pub(crate) publish: Vec<String>,
    /// Free ports of the host for all ports that the image and --expose name
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Tell that the command listens on a port
    #[arg(long, value_name = "PORT")]
    pub(crate) expose: Vec<String>,
    /// Where output is kept: json-file, local (the same, at most 100 MB) or none
    #[arg(long, value_name = "DRIVER")]
    pub(crate) log_driver: Option<String>,
    /// max-size=SIZE of a file of output, and max-file=N, how many of them are kept; labels=NAMES and env=NAMES, what of
    /// the container `logs --details` shows
    #[arg(long, value_name = "K=V", allow_hyphen_values = true)]
    pub(crate) log_opt: Vec<String>,
    /// What becomes of the container when it ends: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY", allow_hyphen_values = true)]
    pub(crate) restart: Option<String>,
    /// What `stop` sends
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// How long `stop` waits before it kills; -1 is for ever
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) stop_timeout: Option<i64>,
    /// Probe the container with this command
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub(crate) health_cmd: Option<String>,
    /// Between two probes
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) health_interval: Option<String>,
    /// A probe that takes longer has failed
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) health_timeout: Option<String>,
    /// In which failures do not count
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) health_start_period: Option<String>,
    /// Between two probes in the start period
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub(crate) health_start_interval: Option<String>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) health_retries: Option<u32>,
    /// Do not probe, whatever the image says
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
    #[command(flatten)]
    _trust: TrustArgs,
    #[command(flatten)]
    _isolation: IsolationArgs,
    #[command(flatten)]
    pub(crate) refused: RefusedArgs,
    /// `local`, the only one there is
    #[arg(long, value_name = "DRIVER", hide = true, value_parser = ["", "local"])]
    volume_driver: Option<String>,
    /// When to ask the registry: always, missing or never
    #[arg(long, value_name = "WHEN")]
    pub(crate) pull: Option<String>,
    /// Of an image for several
    #[arg(long, value_name = "P")]
    pub(crate) platform: Option<String>,
    /// Do not show the progress of a pull
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// An OCI runtime of the machine that makes the container, as `crun`, by name or path (default: embedded)
    #[arg(long, value_name = "PATH")]
    pub(crate) runtime: Option<String>,
}
