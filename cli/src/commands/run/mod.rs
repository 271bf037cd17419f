//! `rbuild run`: a container in the foreground. Nothing is left of it when its command ends, with `--rm` or without:
//! its changes go to a layer that is thrown away.

mod args;
mod environment;
mod mounts;

use std::io::IsTerminal;
use std::sync::Arc;

use rbuild_engine::executor::sandbox::ExecError;
use rbuild_engine::request::NetworkChoice;
use rbuild_engine::{self as engine, RunRequest};

pub(crate) use args::RunArgs;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::machine::{self, Signals};
use crate::progress::{Mode, Renderer};
use crate::values;

/// rbuild itself failed.
const FAILED: u8 = 125;
/// The command is there and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The command is not there.
const NOT_FOUND: u8 = 127;

pub(crate) fn execute(args: &RunArgs, global: &GlobalArgs) -> Result<Exit> {
    start(args, global).map_err(|error| match error {
        Error::Usage(_) => error,
        Error::Engine(engine::Error::Exec(ExecError::NotExecutable { not_found, .. })) => {
            Error::Run(
                if not_found { NOT_FOUND } else { NOT_EXECUTABLE },
                Box::new(error),
            )
        }
        other => Error::Run(FAILED, Box::new(other)),
    })
}

fn start(args: &RunArgs, global: &GlobalArgs) -> Result<Exit> {
    args.refuse_unsupported()?;
    let request = request(args)?;
    if request.terminal && !std::io::stdin().is_terminal() {
        return Err(Error::failed("--tty: standard input is not a terminal").help("leave out -t"));
    }
    let mode = if args.quiet { Mode::Quiet } else { Mode::Plain };
    let engine = machine::engine(global.options()?)?;
    let renderer = Arc::new(Renderer::new(mode));
    // The executor forwards signals to the command: they do not cancel.
    let exit = machine::block_on(Signals::Forwarded, async |cancel| {
        Ok(engine.run(request, renderer.clone(), cancel).await?)
    })?;
    Ok(Exit::of_command(exit))
}

fn request(args: &RunArgs) -> Result<RunRequest> {
    let mut command = args.command.iter().cloned();
    let image = command.next().unwrap_or_default();
    let mounts = mounts::read(&args.volume, &args.mount, &args.tmpfs)?;
    let mut limits = args.limits.limits()?;
    limits.memory_swap = match args.memory_swap.as_deref() {
        None => None,
        Some("-1") => Some(u64::MAX),
        Some(text) => Some(values::size("--memory-swap", text)?),
    };
    limits.cpu_shares = args.cpu_shares;
    let mut dns = Vec::new();
    for text in &args.dns {
        let address: std::net::IpAddr = text
            .parse()
            .map_err(|_| Error::usage(format!("--dns `{text}` is not an IP address")))?;
        dns.push(address.to_string());
    }
    Ok(RunRequest {
        image,
        command: command.collect(),
        entrypoint: args.entrypoint.clone(),
        env: environment::read(&args.env_file, &args.env)?,
        user: args.user.clone(),
        workdir: args.workdir.clone(),
        hostname: args.hostname.clone(),
        hosts: values::hosts(&args.add_host)?,
        dns,
        volumes: mounts.volumes,
        tmpfs: mounts.tmpfs,
        network: args
            .network
            .as_deref()
            .map_or(Ok(NetworkChoice::Default), values::network)?,
        limits,
        read_only: args.read_only,
        init: args.init,
        privileged: args.privileged,
        capabilities_add: args.cap_add.clone(),
        capabilities_drop: args.cap_drop.clone(),
        groups: args.group_add.clone(),
        interactive: args.interactive,
        terminal: args.tty,
        pull: args.always_pulls()?,
        platform: args.platform.as_deref().map(values::platform).transpose()?,
    })
}
