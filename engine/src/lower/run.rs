//! RUN: what the command is, with which variables and in what surroundings.

use std::collections::HashMap;

use rbuild_executor::file::{ModeChange, Owner};
use rbuild_parser::Diagnostic;
use rbuild_parser::ast::{CommandLine, Heredoc, Instruction, Run};
use rbuild_solver::VertexId;

use super::config::{shell_argv, with_shell};
use super::lowering::{Lowering, Outcome, Site};
use super::scope;
use super::stage::depends_on_base;
use super::state::{Declared, State};
use crate::op::{ExecOp, FileAction, FileOp, MountOp, MountOpKind, NetworkOp, Op};
use crate::request::{Entitlement, NetworkChoice, NoCache};

/// Where a script with an interpreter of its own is shown to the command.
const SCRIPTS: &str = "/dev/pipes";

impl Lowering<'_> {
    pub(crate) fn run_command(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        run: &Run,
    ) -> Outcome<()> {
        let mut inputs: Vec<VertexId> = state.vertex.into_iter().collect();
        let mut mounts = Vec::new();
        let mut shown = shown(site.instruction);
        let argv = self.argv(state, site, run, &mut shown, (&mut inputs, &mut mounts));
        if let (CommandLine::Shell(_), [shell, .., script]) = (&run.command, argv.as_slice())
            && !is_windows_shell(shell)
        {
            self.warn_of_globals(state, site, script);
        }
        let network = network(run, self.options.network)?;
        let insecure = security(run)?;
        self.check_entitlements(run, network, insecure)?;
        if let Some(device) = run.devices.first() {
            return Err(Box::new(
                Diagnostic::error("no-devices", "RUN --device is not supported", device.span)
                    .help("take the flag away, or run the command in a container of its own"),
            ));
        }
        let mut env = state.scope.environment();
        let mut ok = true;
        for raw in &run.mounts {
            // Each mount's mistake is told, not only the first one's.
            match self.mount(state, site, raw, &mut inputs) {
                Ok(mount) => mounts.push(mount),
                Err(mistake) => {
                    ok = false;
                    self.mistake_at(site, *mistake, depends_on_base(state, site));
                }
            }
        }
        let socket = mounts
            .iter()
            .find(|mount| matches!(mount.kind, MountOpKind::Ssh { .. }));
        if let Some(socket) = socket
            && state.scope.value("SSH_AUTH_SOCK").is_none()
        {
            env.push(&format!("SSH_AUTH_SOCK={}", socket.target));
        }
        // In whatever order they are written, one below another is mounted after it.
        mounts.sort_by(|one, other| one.target.cmp(&other.target));
        let env_unkeyed = scope::proxies(&self.build_args)
            .into_iter()
            .filter(|(name, _)| state.scope.value(name).is_none())
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let refresh = self.is_refreshed(site);
        let created_by = format!("RUN {} # buildkit", created_by(state, &argv));
        let op = Op::Exec(Box::new(ExecOp {
            base: state.vertex.is_some(),
            argv,
            env,
            env_unkeyed,
            cwd: state.cwd(),
            user: state.config.config.user.clone(),
            mounts,
            network,
            reach: self
                .options
                .reach
                .clone()
                .filter(|_| network == NetworkOp::Default),
            insecure,
            hosts: self.options.hosts.clone(),
            hostname: self
                .build_args
                .get("BUILDKIT_SANDBOX_HOSTNAME")
                .filter(|name| !name.is_empty())
                .cloned(),
            limits: self.options.limits.clone(),
            platform: state.platform.clone(),
            refresh,
            reset_cache_mounts: refresh,
        }));
        let (name, record) = self.next_step(state, site, &shown);
        if ok {
            let vertex = self.graph.add(op, &inputs);
            self.name_step(
                vertex,
                (site.stage, site.ordinal),
                name,
                record,
                site.shown(),
            );
            state.vertex = Some(vertex);
        }
        state.record(created_by, true);
        Ok(())
    }

    /// What is executed. A script with an interpreter of its own is mounted; heredocs of others reach the shell.
    fn argv(
        &mut self,
        state: &State,
        site: Site<'_>,
        run: &Run,
        shown: &mut String,
        (inputs, mounts): (&mut Vec<VertexId>, &mut Vec<MountOp>),
    ) -> Vec<String> {
        match (&run.command, site.instruction.heredocs.first()) {
            (CommandLine::Shell(_), Some(first)) if run.script => {
                shown.push_str(&format!(" ({})", summary(&first.content)));
                if state.config.os != "windows" && first.content.starts_with("#!") {
                    let script = self.script(first, site);
                    mounts.push(MountOp {
                        target: SCRIPTS.to_owned(),
                        read_only: true,
                        kind: MountOpKind::Bind {
                            input: Some(inputs.len()),
                            source: "/".to_owned(),
                        },
                    });
                    inputs.push(script);
                    shell_argv(state, format!("{SCRIPTS}/{}", first.name))
                } else {
                    shell_argv(state, first.content.clone())
                }
            }
            (CommandLine::Shell(text), Some(_)) => {
                // The shell gets to see the heredocs as they were written, and takes tabs away itself.
                let mut script = text.value.clone();
                for heredoc in &site.instruction.heredocs {
                    script.push('\n');
                    script.push_str(&heredoc.written);
                    script.push_str(&heredoc.name);
                }
                shell_argv(state, script)
            }
            (command, _) => with_shell(state, command),
        }
    }

    /// A root that holds nothing but the script.
    fn script(&mut self, heredoc: &Heredoc, site: Site<'_>) -> VertexId {
        let vertex = self.graph.add(
            Op::File(FileOp {
                base: false,
                actions: vec![FileAction::Mkfile {
                    destination: "/".to_owned(),
                    name: heredoc.name.clone(),
                    data: heredoc.content.clone().into_bytes(),
                    owner: Owner::Default,
                    mode: Some(ModeChange::Set(0o755)),
                }],
                refresh: false,
                epoch: None,
            }),
            &[],
        );
        let name = "[internal] preparing inline document".to_owned();
        let place = (site.stage, site.ordinal);
        self.name_step(
            vertex,
            place,
            name,
            "inline document".to_owned(),
            site.shown(),
        );
        vertex
    }

    fn check_entitlements(&self, run: &Run, network: NetworkOp, insecure: bool) -> Outcome<()> {
        let refused = |what: &str, allow: &str, span| {
            Err(Box::new(
                Diagnostic::error(
                    "not-allowed",
                    format!("RUN {what} is not allowed in this build"),
                    span,
                )
                .help(format!(
                    "allow it on the command line with `--allow {allow}`"
                )),
            ))
        };
        if let Some(flag) = &run.network
            && network == NetworkOp::Host
            && !self.options.allow.contains(&Entitlement::NetworkHost)
        {
            return refused("--network=host", "network.host", flag.span);
        }
        if let Some(flag) = &run.security
            && insecure
            && !self.options.allow.contains(&Entitlement::SecurityInsecure)
        {
            return refused("--security=insecure", "security.insecure", flag.span);
        }
        // What cannot be held to it.
        let unheld = [
            (
                run.network.as_ref(),
                network == NetworkOp::Host,
                "--network=host",
                "has the machine's network",
            ),
            (
                run.security.as_ref(),
                insecure,
                "--security=insecure",
                "can leave its network",
            ),
        ];
        for (flag, is_asked, shown, why) in unheld {
            if self.options.reach.is_some()
                && let Some(flag) = flag.filter(|_| is_asked)
            {
                return Err(Box::new(
                    Diagnostic::error(
                        "not-allowed",
                        format!("RUN {shown} is not allowed with --allow-host: the command {why}, which cannot be held to a list"),
                        flag.span,
                    )
                    .help(format!("leave `{shown}` out, or build without --allow-host")),
                ));
            }
        }
        Ok(())
    }

    /// Whether `--no-cache` or its filter means this instruction.
    pub(crate) fn is_refreshed(&self, site: Site<'_>) -> bool {
        let filters = match &self.options.no_cache {
            NoCache::No => return false,
            NoCache::All => return true,
            NoCache::Filter(filters) => filters,
        };
        let stage = self.file.stages[site.stage].name();
        let at = site.shown();
        filters.iter().any(|filter| {
            stage.is_some_and(|stage| stage.eq_ignore_ascii_case(filter))
                || filter.eq_ignore_ascii_case(&site.instruction.keyword.value)
                || lines(filter)
                    .is_some_and(|(first, last)| first <= at.end_line && at.start_line <= last)
        })
    }
}

/// `12` or `12-15`
fn lines(filter: &str) -> Option<(usize, usize)> {
    let (first, last) = filter.split_once('-').unwrap_or((filter, filter));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// The network of a command; `usual` is the build's.
fn network(run: &Run, usual: NetworkChoice) -> Outcome<NetworkOp> {
    let Some(text) = &run.network else {
        return Ok(usual.into());
    };
    match text.value.as_str() {
        "default" => Ok(usual.into()),
        "none" => Ok(NetworkOp::None),
        "host" => Ok(NetworkOp::Host),
        other => Err(Box::new(
            Diagnostic::error(
                "bad-network",
                format!("`{other}` is not a network mode"),
                text.span,
            )
            .help("RUN --network takes default, none or host"),
        )),
    }
}

fn security(run: &Run) -> Outcome<bool> {
    let Some(text) = &run.security else {
        return Ok(false);
    };
    match text.value.as_str() {
        "sandbox" => Ok(false),
        "insecure" => Ok(true),
        other => Err(Box::new(
            Diagnostic::error(
                "bad-security",
                format!("`{other}` is not a security mode"),
                text.span,
            )
            .help("RUN --security takes sandbox or insecure"),
        )),
    }
}

/// ARGs declared so far with their number and the values in force, then the command.
fn created_by(state: &State, argv: &[String]) -> String {
    let mut args: Vec<(&str, &str)> = Vec::with_capacity(state.args.len());
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(state.args.len());
    for Declared { name, value, .. } in &state.args {
        let value = state
            .scope
            .value(name)
            .or(value.as_deref())
            .unwrap_or_default();
        let place = *places.entry(name).or_insert(args.len());
        match args.get_mut(place) {
            Some(known) => known.1 = value,
            None => args.push((name, value)),
        }
    }
    let mut words = Vec::with_capacity(args.len() + argv.len() + 1);
    if !args.is_empty() {
        words.push(format!("|{}", args.len()));
        words.extend(args.iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(argv.iter().cloned());
    words.join(" ")
}

/// An instruction as steps are called: the keyword in capitals, the rest as written, on one line.
pub(crate) fn shown(instruction: &Instruction) -> String {
    let line = instruction.original.trim();
    let rest = line
        .get(instruction.keyword.value.len()..)
        .unwrap_or_default();
    format!("{}{rest}", instruction.keyword.value.to_ascii_uppercase())
}

/// The first line of a document.
fn summary(document: &str) -> String {
    let document = document.trim();
    match document.split_once('\n') {
        Some((first, _)) => format!("{}...", first.trim_end()),
        None => document.to_owned(),
    }
}

/// `$NAME` is a variable of the script's own to PowerShell, and nothing to cmd.
fn is_windows_shell(program: &str) -> bool {
    let name = program.rsplit(['/', '\\']).next().unwrap_or(program);
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix(".exe").unwrap_or(&name);
    ["powershell", "pwsh", "cmd"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_lines() {
        assert_eq!(lines("12"), Some((12, 12)));
        assert_eq!(lines("12-15"), Some((12, 15)));
        assert_eq!(lines("build-2"), None);
    }
}
