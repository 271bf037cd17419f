//! Flags for /etc/resolv.conf.

use std::net::IpAddr;

use rbuild_engine::executor::spec::Dns;

use crate::error::{Error, Result};
use crate::values::words;

/// What `build` and `run` take.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DnsArgs {
    /// A name server
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// A domain in which names are looked for; `.` is none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// An option of resolv.conf, as in `ndots:2`
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
}

impl DnsArgs {
    pub(crate) fn dns(&self) -> Result<Dns> {
        let servers = self.dns.iter().map(|text| {
            let address: IpAddr = text
                .parse()
                .map_err(|_| Error::usage(format!("--dns `{text}` is not an IP address")))?;
            Ok(address.to_string())
        });
        Ok(Dns {
            servers: servers.collect::<Result<_>>()?,
            search: words("--dns-search", &self.dns_search)?,
            options: words("--dns-option", &self.dns_option)?,
        })
    }

    /// The first of them that is given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let all = [
            (&self.dns, "--dns"),
            (&self.dns_search, "--dns-search"),
            (&self.dns_option, "--dns-option"),
        ];
        all.into_iter()
            .find_map(|(texts, flag)| (!texts.is_empty()).then_some(flag))
    }
}
