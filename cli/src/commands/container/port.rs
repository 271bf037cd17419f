//! `rbuild port`.

use std::net::{IpAddr, SocketAddr};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::stdio;

/// Show where the ports of a container are published
#[derive(Debug, clap::Args)]
pub(crate) struct PortArgs {
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// `80` or `53/udp`
    #[arg(value_name = "PORT")]
    port: Option<String>,
}

pub(crate) fn execute(args: &PortArgs, global: &GlobalArgs) -> Result<Exit> {
    let entry = super::catalog(global)?.find(&args.container)?;
    let published = entry.inspect()?;
    let ports = published.pointer("/NetworkSettings/Ports");
    let wanted = args.port.as_deref().map(|port| {
        if port.contains('/') {
            port.to_owned()
        } else {
            format!("{port}/tcp")
        }
    });
    let mut lines = Vec::new();
    for (port, bindings) in ports
        .and_then(serde_json::Value::as_object)
        .into_iter()
        .flatten()
    {
        if wanted.as_ref().is_some_and(|wanted| wanted != port) {
            continue;
        }
        for binding in bindings.as_array().into_iter().flatten() {
            let text = |field: &str| binding.get(field).and_then(serde_json::Value::as_str);
            let host = text("HostIp").and_then(|host| host.parse::<IpAddr>().ok());
            let number = text("HostPort").and_then(|number| number.parse::<u16>().ok());
            let (Some(host), Some(number)) = (host, number) else {
                continue;
            };
            let inside = port.split_once('/').and_then(|it| it.0.parse::<u16>().ok());
            lines.push((inside, port, SocketAddr::new(host, number)));
        }
    }
    lines.sort();
    for (_, port, address) in &lines {
        let prefix = if wanted.is_some() {
            String::new()
        } else {
            format!("{port} -> ")
        };
        stdio::out(format!("{prefix}{address}\n"));
    }
    match wanted {
        Some(wanted) if lines.is_empty() => Err(Error::failed(format!(
            "the port {wanted} of `{}` is not published",
            entry.name
        ))),
        _ => Ok(Exit::Success),
    }
}
