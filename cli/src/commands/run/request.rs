//! What the flags of `run` and `create` ask for, read once.

use rbuild_engine::containers::{Pull, Restart, RunRequest, Shown};
use rbuild_engine::image::config::Healthcheck;
use rbuild_engine::request::NetworkChoice;

use super::args::ContainerArgs;
use super::{environment, labels, logs, mounts, networks, ports, runtime, security, spaces};
use crate::error::{Error, Result};
use crate::{render, stdio, values};

pub(crate) fn read(args: &ContainerArgs) -> Result<RunRequest> {
    args.refused.check()?;
    let mut command = args.command.iter().cloned();
    let image = command.next().unwrap_or_default();
    let mounts = mounts::read(&args.volume, &args.mount, &args.tmpfs)?;
    let mut limits = args.limits.limits()?;
    limits.oom_score_adj = args.oom_score_adj;
    args.blocks.add_to(&mut limits)?;
    let restart = restart(args.restart.as_deref())?;
    if args.rm && restart != Restart::No {
        return Err(Error::usage(
            "--rm and --restart contradict each other: leave one out",
        ));
    }
    let stop_signal = args.stop_signal.clone().filter(|signal| !signal.is_empty());
    if let Some(signal) = &stop_signal {
        signal_number("--stop-signal", signal)?;
    }
    let networks::Networks {
        choice: network,
        of: network_of,
        attachments,
        aliases,
    } = networks::read(args)?;
    let links = networks::links(&args.link)?;
    let has_own = network == NetworkChoice::Default && network_of.is_none();
    if !links.is_empty() && !has_own {
        return Err(Error::usage(
            "--link is for containers with a network of their own, and --network chooses another",
        ));
    }
    if network_of.is_some() {
        check_shared_network(args)?;
    }
    let mut publish = Vec::new();
    for text in &args.publish {
        publish.extend(ports::published(text)?);
    }
    let on_host = network == NetworkChoice::Host;
    if args.publish_all || !publish.is_empty() {
        check_publish(args, !publish.is_empty(), &network, network_of.is_some())?;
    }
    Ok(RunRequest {
        image,
        name: container_name(args.name.as_deref()),
        labels: labels::read(&args.label, &args.label_file)?,
        remove: args.rm,
        starts_at_once: false,
        shown: Shown::default(),
        command: command.collect(),
        entrypoint: args.entrypoint.clone(),
        env: environment::read(&args.env_file, &args.env)?,
        user: args.user.clone().filter(|user| !user.is_empty()),
        workdir: args.workdir.clone(),
        hostname: args.hostname.clone().filter(|name| !name.is_empty()),
        domainname: args.domainname.clone().unwrap_or_default(),
        hosts: values::hosts(&args.add_host)?,
        dns: args.dns.dns()?,
        aliases,
        volumes: mounts.volumes,
        volumes_from: args
            .volumes_from
            .iter()
            .map(|text| volumes_from(text))
            .collect::<Result<_>>()?,
        tmpfs: mounts.tmpfs,
        network,
        networks: attachments,
        links,
        users: values::users(args.userns.as_deref())?,
        network_of,
        spaces: spaces::read(args)?,
        expose: args
            .expose
            .iter()
            .map(|text| port(text))
            .collect::<Result<_>>()?,
        publish: if on_host { Vec::new() } else { publish },
        publish_all: args.publish_all && !on_host,
        limits,
        log: logs::read(args.log_driver.as_deref(), &args.log_opt)?,
        read_only: args.read_only,
        init: args.init,
        runtime: args
            .runtime
            .as_deref()
            .filter(|text| !text.is_empty())
            .map_or(Ok(None), runtime::find)?,
        annotations: labels::annotations(&args.annotation)?,
        privileged: args.privileged,
        security: security::options(
            &args.security_opt,
            &args.sysctl,
            &args.device,
            &args.device_cgroup_rule,
        )?,
        capabilities_add: security::capabilities("--cap-add", &args.cap_add)?,
        capabilities_drop: security::capabilities("--cap-drop", &args.cap_drop)?,
        groups: values::words("--group-add", &args.group_add)?,
        stop_signal,
        stop_timeout: args.stop_timeout,
        restart,
        health: health(args)?,
        interactive: args.interactive,
        terminal: args.tty,
        pull: pull(args.pull.as_deref())?,
        platform: args
            .platform
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(values::platform)
            .transpose()?,
    })
}

/// What belongs to a network is the other container's, and cannot be said anew.
fn check_shared_network(args: &ContainerArgs) -> Result<()> {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let mut all = [
        given(&args.hostname).then_some("--hostname"),
        given(&args.domainname).then_some("--domainname"),
        (!args.add_host.is_empty()).then_some("--add-host"),
        args.dns.given(),
    ]
    .into_iter()
    .flatten();
    match all.next() {
        None => Ok(()),
        Some(flag) => {
            let shown = args.network.last().map_or("", String::as_str);
            Err(Error::usage(format!(
                "{flag} and --network {shown} contradict each other: give it to the container whose network it is"
            )))
        }
    }
}

/// Ports can be published by networks of the container's own.
fn check_publish(
    args: &ContainerArgs,
    by_number: bool,
    network: &NetworkChoice,
    is_anothers: bool,
) -> Result<()> {
    let flag = if by_number {
        "--publish"
    } else {
        "--publish-all"
    };
    match network {
        NetworkChoice::Default => Ok(()),
        NetworkChoice::Host => {
            stdio::err(render::warning(
                &format!(
                    "{flag} has no effect: with --network host the container's ports are the host's"
                ),
                stdio::err_is_coloured(),
            ));
            Ok(())
        }
        NetworkChoice::None => {
            let shown = args.network.last().map_or("", String::as_str);
            Err(Error::usage(format!(
                "{flag} and --network {shown} contradict each other: {}",
                if is_anothers {
                    "publish the ports of the container whose network it is"
                } else {
                    "there is nothing to reach it by"
                }
            )))
        }
    }
}

/// As `inspect` shows it, with a slash, or without; an empty one is none.
fn container_name(text: Option<&str>) -> Option<String> {
    let text = text?;
    let name = text.strip_prefix('/').unwrap_or(text);
    (!name.is_empty()).then(|| name.to_owned())
}

fn pull(text: Option<&str>) -> Result<Pull> {
    match text {
        None | Some("" | "missing") => Ok(Pull::Missing),
        Some("always") => Ok(Pull::Always),
        Some("never") => Ok(Pull::Never),
        Some(other) => Err(Error::usage(format!(
            "--pull `{other}`: expected `always`, `missing` or `never`"
        ))),
    }
}

/// `no`, `on-failure[:N]`, `always`, `unless-stopped`
pub(crate) fn restart(text: Option<&str>) -> Result<Restart> {
    let text = text.unwrap_or("no");
    let bad = || {
        Error::usage(format!("--restart `{text}`: there is no such policy"))
            .help("it is `no`, `on-failure[:N]`, `always` or `unless-stopped`")
    };
    match text.split_once(':') {
        None => match text {
            "no" | "" => Ok(Restart::No),
            "on-failure" => Ok(Restart::OnFailure(None)),
            "always" => Ok(Restart::Always),
            "unless-stopped" => Ok(Restart::UnlessStopped),
            _ => Err(bad()),
        },
        Some(("on-failure", most)) => {
            let most = most.parse().map_err(|_| bad())?;
            Ok(Restart::OnFailure((most > 0).then_some(most)))
        }
        Some(_) => Err(bad()),
    }
}

/// `CONTAINER[:ro|rw]`
fn volumes_from(text: &str) -> Result<(String, bool)> {
    let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
    let read_only = match mode {
        "ro" => true,
        "rw" | "z" | "Z" => false,
        _ => {
            return Err(Error::usage(format!(
                "--volumes-from `{text}`: the mode is `ro` or `rw`"
            )));
        }
    };
    Ok((name.to_owned(), read_only))
}

/// `PORT[/PROTOCOL]`
fn port(text: &str) -> Result<String> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let known = ["tcp", "udp", "sctp"].contains(&protocol);
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number > 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if known && first <= last => Ok(format!("{numbers}/{protocol}")),
        _ => Err(Error::usage(format!(
            "--expose `{text}`: it looks like `80`, `80-90` or `53/udp`"
        ))),
    }
}

pub(crate) fn signal_number(flag: &str, text: &str) -> Result<i32> {
    rbuild_engine::containers::signal_number(text)
        .ok_or_else(|| Error::usage(format!("{flag} `{text}`: there is no such signal")))
}

/// The flags of probes, where any is given.
fn health(args: &ContainerArgs) -> Result<Option<Healthcheck>> {
    let duration = |flag: &str, text: Option<&str>| -> Result<i64> {
        let Some(text) = text else {
            return Ok(0);
        };
        rbuild_engine::parser::values::parse_check_interval(text)
            .ok()
            .and_then(|duration| i64::try_from(duration.as_nanos()).ok())
            .filter(|nanoseconds| *nanoseconds == 0 || *nanoseconds >= 1_000_000)
            .ok_or_else(|| {
                Error::usage(format!(
                    "{flag} `{text}`: expected a duration of 1ms or more"
                ))
                .help("durations look like `30s`, `1m30s` or `500ms`")
            })
    };
    let health = Healthcheck {
        test: match args.health_cmd.as_deref() {
            None | Some("") => Vec::new(),
            Some("none") => vec!["NONE".to_owned()],
            Some(command) => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        interval: duration("--health-interval", args.health_interval.as_deref())?,
        timeout: duration("--health-timeout", args.health_timeout.as_deref())?,
        start_period: duration("--health-start-period", args.health_start_period.as_deref())?,
        start_interval: duration(
            "--health-start-interval",
            args.health_start_interval.as_deref(),
        )?,
        retries: i64::from(args.health_retries.unwrap_or(0)),
    };
    let any = health != Healthcheck::default();
    if args.no_healthcheck {
        if any {
            return Err(Error::usage(
                "--no-healthcheck and the --health flags contradict each other",
            ));
        }
        return Ok(Some(Healthcheck {
            test: vec!["NONE".to_owned()],
            ..Healthcheck::default()
        }));
    }
    Ok(any.then_some(health))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_ports_and_sources_are_read() {
        assert_eq!(
            restart(Some("on-failure:3")).unwrap(),
            Restart::OnFailure(Some(3))
        );
        assert_eq!(
            restart(Some("on-failure:0")).unwrap(),
            Restart::OnFailure(None)
        );
        assert_eq!(restart(None).unwrap(), Restart::No);
        assert!(restart(Some("always:3")).is_err());
        assert_eq!(port("80").unwrap(), "80/tcp");
        assert_eq!(port("53/udp").unwrap(), "53/udp");
        assert!(port("0").is_err() && port("80/x").is_err() && port("9-8").is_err());
        assert_eq!(volumes_from("a:ro").unwrap(), ("a".to_owned(), true));
        assert!(volumes_from("a:x").is_err());
    }
}
