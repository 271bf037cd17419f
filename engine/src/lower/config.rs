//! Instructions that change variables and the image's config, and no file.

use rbuild_image::config::Healthcheck as HealthcheckConfig;
use rbuild_parser::ast::{ArgDeclaration, CommandLine, Healthcheck, Pair, Text};
use rbuild_parser::expand;
use rbuild_parser::{Diagnostic, values};
use serde_json::{Map, Value};

use super::gofmt;
use super::lowering::{Lowering, Outcome, Site};
use super::scans::is_setting;
use super::state::{Declared, State};
use super::words::expansion_mistake;

impl Lowering<'_> {
    pub(crate) fn arg(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        declarations: &[ArgDeclaration],
    ) -> Outcome<()> {
        let mut text = "ARG".to_owned();
        for declaration in declarations {
            let name = &declaration.name.value;
            self.declared.insert(name.clone());
            let own = Some(state.line);
            let (value, line) = match (self.build_args.get(name), &declaration.default) {
                (Some(given), _) => (Some(given.clone()), own),
                (None, Some(default)) => (Some(self.word(state, site, default)?), own),
                (None, None) => match self.target.globals.value(name) {
                    Some(value) => (Some(value.to_owned()), None),
                    None => (None, own),
                },
            };
            text.push(' ');
            text.push_str(name);
            if let Some(value) = &value {
                text.push('=');
                text.push_str(value);
                if !is_setting(name) {
                    state.scope.set(name, value.clone());
                }
            }
            state.args.push(Declared {
                name: name.clone(),
                value,
                line,
            });
        }
        state.record(text, false);
        Ok(())
    }

    pub(crate) fn env(&mut self, state: &mut State, site: Site<'_>, pairs: &[Pair]) -> Outcome<()> {
        let pairs = self.pairs(state, site, pairs)?;
        let mut text = "ENV".to_owned();
        for (name, value) in &pairs {
            text.push_str(&format!(" {name}={value}"));
            // What is not in scope is not in the config either: all of that came through here, or with the base.
            let is_new = state.scope.value(name).is_none();
            state.scope.set(name, value.clone());
            let env = state.config.config.env.get_or_insert_default();
            let written = format!("{name}={value}");
            let mut known = env.iter_mut().filter(|_| !is_new);
            match known.find(|known| {
                known
                    .split_once('=')
                    .is_some_and(|(known, _)| known == name)
            }) {
                Some(known) => *known = written,
                None => env.push(written),
            }
        }
        state.record(text, false);
        Ok(())
    }

    pub(crate) fn label(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        pairs: &[Pair],
    ) -> Outcome<()> {
        let pairs = self.pairs(state, site, pairs)?;
        let mut text = "LABEL".to_owned();
        let labels = state.config.config.labels.get_or_insert_default();
        for (name, value) in pairs {
            text.push_str(&format!(" {name}={value}"));
            labels.insert(name, value);
        }
        state.record(text, false);
        Ok(())
    }

    /// Names and values, all expanded with what held before the instruction.
    fn pairs(
        &mut self,
        state: &State,
        site: Site<'_>,
        pairs: &[Pair],
    ) -> Outcome<Vec<(String, String)>> {
        let mut expanded = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let name = self.word(state, site, &pair.key)?;
            if name.is_empty() {
                let keyword = site.instruction.keyword.value.to_ascii_uppercase();
                return Err(Box::new(Diagnostic::error(
                    "blank-name",
                    format!("a name of {keyword} is blank"),
                    pair.key.span,
                )));
            }
            expanded.push((name, self.word(state, site, &pair.value)?));
        }
        Ok(expanded)
    }

    pub(crate) fn cmd(&mut self, state: &mut State, command: &CommandLine) {
        let argv = with_shell(state, command);
        state.record(format!("CMD {}", gofmt::quoted_list(&argv)), false);
        state.config.config.cmd = Some(argv);
        state.config.config.args_escaped = true;
        state.own_cmd = true;
    }

    /// Drops a CMD that was inherited: it was meant for another entrypoint.
    pub(crate) fn entrypoint(&mut self, state: &mut State, command: &CommandLine) {
        let argv = with_shell(state, command);
        state.record(format!("ENTRYPOINT {}", gofmt::quoted_list(&argv)), false);
        state.config.config.entrypoint = Some(argv);
        if !state.own_cmd {
            state.config.config.cmd = None;
        }
    }

    pub(crate) fn shell(&mut self, state: &mut State, shell: &[Text]) {
        let shell: Vec<String> = shell.iter().map(|word| word.value.clone()).collect();
        state.record(format!("SHELL {}", gofmt::list(&shell)), false);
        state.config.config.shell = Some(shell);
    }

    pub(crate) fn user(&mut self, state: &mut State, site: Site<'_>, user: &Text) -> Outcome<()> {
        let user = self.word(state, site, user)?;
        state.record(format!("USER {user}"), false);
        state.config.config.user = user;
        Ok(())
    }

    pub(crate) fn expose(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        ports: &[Text],
    ) -> Outcome<()> {
        let mut found = Vec::new();
        // The history has them as BuildKit has them: sorted as they are written, before variables mean anything.
        let mut sorted: Vec<&Text> = ports.iter().collect();
        sorted.sort_by(|one, other| one.value.cmp(&other.value));
        for port in sorted {
            let words = expand::words(&port.value, self.file.escape, &state.scope)
                .map_err(|error| Box::new(expansion_mistake(port, &error)))?;
            for word in words {
                self.warn_of_port(site, port, &word);
                found.extend(values::parse_port_spec(&word).map_err(|error| {
                    let mistake =
                        Diagnostic::error("bad-port", format!("EXPOSE: {error}"), port.span);
                    Box::new(if word.contains(',') {
                        let ports: Vec<&str> = word.split(',').map(str::trim).collect();
                        mistake.help(format!("write `EXPOSE {}`", ports.join(" ").trim()))
                    } else {
                        mistake
                    })
                })?);
            }
        }
        let exposed = state.config.config.exposed_ports.get_or_insert_default();
        for port in &found {
            exposed.insert(port.clone(), Value::Object(Map::new()));
        }
        state.record(format!("EXPOSE {}", gofmt::list(&found)), false);
        Ok(())
    }

    /// EXPOSE names a port of the container; where it is published is said to `run`.
    fn warn_of_port(&mut self, site: Site<'_>, text: &Text, port: &str) {
        let protocol = port.split_once('/').map_or("", |(_, protocol)| protocol);
        if protocol.chars().any(|c| c.is_ascii_uppercase()) {
            let message =
                format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
            self.warning_at(
                site,
                Diagnostic::warning("ExposeProtoCasing", message, text.span)
                    .help(format!("write `{}`", port.to_ascii_lowercase())),
            );
        }
        let mut parts = port.rsplitn(3, ':');
        let container = parts.next().unwrap_or_default();
        // `:80` maps nothing.
        if parts.any(|part| !part.is_empty()) {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            );
            self.warning_at(
                site,
                Diagnostic::warning("ExposeInvalidFormat", message, text.span).help(format!(
                    "write `EXPOSE {container}`, and publish the port with `run -p {port}`"
                )),
            );
        }
    }

    pub(crate) fn volume(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        volumes: &[Text],
    ) -> Outcome<()> {
        let mut found = Vec::new();
        for volume in volumes {
            let name = self.word(state, site, volume)?;
            if name.is_empty() {
                return Err(Box::new(Diagnostic::error(
                    "blank-volume",
                    "VOLUME cannot be an empty name",
                    volume.span,
                )));
            }
            found.push(name);
        }
        let volumes = state.config.config.volumes.get_or_insert_default();
        for name in &found {
            volumes.insert(name.clone(), Value::Object(Map::new()));
        }
        state.record(format!("VOLUME {}", gofmt::list(&found)), false);
        Ok(())
    }

    pub(crate) fn stop_signal(
        &mut self,
        state: &mut State,
        site: Site<'_>,
        text: &Text,
    ) -> Outcome<()> {
        let name = self.word(state, site, text)?;
        if values::validate_signal(&name).is_err() {
            let help = match values::nearest_signal(&name) {
                Some(near) => format!("did you mean `SIG{near}`?"),
                None => "write a name such as SIGTERM, or a number".to_owned(),
            };
            return Err(Box::new(
                Diagnostic::error("bad-signal", format!("`{name}` is not a signal"), text.span)
                    .help(help),
            ));
        }
        state.record(format!("STOPSIGNAL {name}"), false);
        state.config.config.stop_signal = Some(name);
        Ok(())
    }

    pub(crate) fn healthcheck(&mut self, state: &mut State, check: &Healthcheck) -> Outcome<()> {
        let config = match check {
            Healthcheck::None => HealthcheckConfig {
                test: vec!["NONE".to_owned()],
                ..HealthcheckConfig::default()
            },
            Healthcheck::Check {
                command,
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
            } => HealthcheckConfig {
                test: match command {
                    CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.value.clone()],
                    CommandLine::Exec(words) => std::iter::once("CMD".to_owned())
                        .chain(words.iter().map(|word| word.value.clone()))
                        .collect(),
                },
                interval: duration("interval", interval.as_ref())?,
                timeout: duration("timeout", timeout.as_ref())?,
                start_period: duration("start-period", start_period.as_ref())?,
                start_interval: duration("start-interval", start_interval.as_ref())?,
                retries: count(retries.as_ref())?,
            },
        };
        state.record(
            format!(
                "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
                gofmt::list(&config.test),
                gofmt::duration(config.interval),
                gofmt::duration(config.timeout),
                gofmt::duration(config.start_period),
                gofmt::duration(config.start_interval),
                config.retries
            ),
            false,
        );
        state.config.config.healthcheck = Some(config);
        Ok(())
    }
}

fn duration(name: &str, text: Option<&Text>) -> Outcome<i64> {
    let Some(text) = text.filter(|text| !text.value.is_empty()) else {
        return Ok(0);
    };
    match values::parse_check_interval(&text.value) {
        Ok(interval) => Ok(i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX)),
        Err(error) => Err(Box::new(Diagnostic::error(
            "bad-duration",
            format!("--{name} of HEALTHCHECK: {error}"),
            text.span,
        ))),
    }
}

fn count(text: Option<&Text>) -> Outcome<i64> {
    let Some(text) = text.filter(|text| !text.value.is_empty()) else {
        return Ok(0);
    };
    match text.value.parse::<i32>() {
        Ok(count) if count >= 0 => Ok(count.into()),
        _ => Err(Box::new(Diagnostic::error(
            "bad-retries",
            format!(
                "--retries of HEALTHCHECK is `{}`, which is no number from 0 on",
                text.value
            ),
            text.span,
        ))),
    }
}

/// The argument vector of a command line; the shell form runs in the SHELL in force.
pub(crate) fn with_shell(state: &State, command: &CommandLine) -> Vec<String> {
    match command {
        CommandLine::Exec(words) => words.iter().map(|word| word.value.clone()).collect(),
        CommandLine::Shell(text) => shell_argv(state, text.value.clone()),
    }
}

pub(crate) fn shell_argv(state: &State, script: String) -> Vec<String> {
    let mut argv = match &state.config.config.shell {
        Some(shell) if !shell.is_empty() => shell.clone(),
        _ if state.config.os == "windows" => {
            vec!["cmd".to_owned(), "/S".to_owned(), "/C".to_owned()]
        }
        _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
    };
    argv.push(script);
    argv
}
