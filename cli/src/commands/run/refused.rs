//! Flags of Docker's that cannot be had: each is refused by its name, with the reason and what can be done.

use crate::error::{Error, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct RefusedArgs {
    #[arg(long, value_name = "DEVICES", hide = true)]
    gpus: Option<String>,
    #[arg(long, value_name = "K=V", hide = true)]
    storage_opt: Vec<String>,
    #[arg(long, value_name = "SIZE", hide = true)]
    kernel_memory: Option<String>,
    #[arg(long, value_name = "MICROSECONDS", hide = true)]
    cpu_rt_period: Option<String>,
    #[arg(long, value_name = "MICROSECONDS", hide = true)]
    cpu_rt_runtime: Option<String>,
    #[arg(long, value_name = "IP", hide = true)]
    ip6: Option<String>,
    #[arg(long, value_name = "IP", hide = true)]
    link_local_ip: Vec<String>,
}

impl RefusedArgs {
    pub(crate) fn check(&self) -> Result<()> {
        let given = |flag: &Option<String>| flag.is_some();
        let all: [(bool, &str, &str); 5] = [
            (
                given(&self.gpus),
                "--gpus",
                "no driver is put into containers; give the devices with `--device` and the driver's libraries with `-v`",
            ),
            (
                !self.storage_opt.is_empty(),
                "--storage-opt",
                "what a container writes is a directory of the store, which has no size of its own; put the store on a file \
                 system of that size, or give a `--tmpfs` with `size=`",
            ),
            (
                given(&self.kernel_memory),
                "--kernel-memory",
                "the kernel has no such limit any more; `--memory` counts the kernel's memory, too",
            ),
            (
                given(&self.cpu_rt_period) || given(&self.cpu_rt_runtime),
                "--cpu-rt-period and --cpu-rt-runtime",
                "cgroups of version 2 share out no real time; `--cpus` limits a container, `--cpu-shares` weighs it",
            ),
            (
                given(&self.ip6) || !self.link_local_ip.is_empty(),
                "--ip6 and --link-local-ip",
                "networks are of IPv4; `--ip` chooses an address",
            ),
        ];
        match all.into_iter().find(|(given, ..)| *given) {
            Some((_, flag, why)) => Err(Error::usage(format!("{flag} cannot be had: {why}"))),
            None => Ok(()),
        }
    }
}
