//! What a container runs, and with what: program and arguments, variables, directory; of what is asked and of the image.

use rbuild_image::config::ContainerConfig;

use super::request::RunRequest;
use crate::{Error, Result};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The given directory, or the image's.
pub(super) fn working_dir(config: &ContainerConfig, request: &RunRequest) -> Result<String> {
    match request.workdir.as_deref() {
        None | Some("") => Ok(config.working_dir.clone()),
        Some(given) if given.starts_with('/') => Ok(given.to_owned()),
        Some(given) => Err(Error::Usage(format!(
            "the working directory `{given}` is not an absolute path"
        ))),
    }
}

/// ENTRYPOINT and CMD, and what replaces them: a given entrypoint also takes the image's CMD away.
pub(super) fn arguments(config: &ContainerConfig, request: &RunRequest) -> Result<Vec<String>> {
    let mut command = request.command.clone();
    let mut argv = match request.entrypoint.as_deref() {
        Some("") => Vec::new(),
        Some(program) => vec![program.to_owned()],
        None => {
            if command.is_empty() {
                command = config.cmd.clone().unwrap_or_default();
            }
            config.entrypoint.clone().unwrap_or_default()
        }
    };
    argv.append(&mut command);
    if argv.is_empty() {
        return Err(Error::Other(format!(
            "`{}` has no command, and none was given: add one after the image's name",
            request.image
        )));
    }
    Ok(argv)
}

/// What every container has, then the request's variables, then those of the image that it does not name, in the
/// order that Docker has. A name alone takes a variable away: the command line found no value for it.
pub(super) fn environment(
    config: &ContainerConfig,
    request: &RunRequest,
    hostname: &str,
) -> Vec<String> {
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if request.terminal {
        env.push("TERM=xterm".to_owned());
    }
    merge_given(&mut env, config, request);
    env
}

/// Adds what the request and the image say.
pub(super) fn merge_given(env: &mut Vec<String>, config: &ContainerConfig, request: &RunRequest) {
    let is_left = |image: &&String| {
        let same = |own: &String| variable_name(own) == variable_name(image);
        image.contains('=') && !request.env.iter().any(same)
    };
    let of_image = config.env.iter().flatten().filter(is_left);
    merge_environment(env, request.env.iter().chain(of_image));
}

fn variable_name(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

/// Replaces and adds variables, and takes those away of which only the name is given.
pub(super) fn merge_environment<'v>(
    env: &mut Vec<String>,
    given: impl Iterator<Item = &'v String>,
) {
    for variable in given {
        let name = variable_name(variable);
        let place = env.iter().position(|other| variable_name(other) == name);
        match (variable.contains('='), place.and_then(|at| env.get_mut(at))) {
            (true, Some(other)) => other.clone_from(variable),
            (true, None) => env.push(variable.clone()),
            (false, _) => env.retain(|other| variable_name(other) != name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(entrypoint: Option<&str>, command: &[&str]) -> RunRequest {
        RunRequest {
            image: "it".to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            entrypoint: entrypoint.map(str::to_owned),
            env: vec!["A=mine".to_owned(), "B=2".to_owned()],
            ..RunRequest::default()
        }
    }

    fn config(entrypoint: &[&str], cmd: &[&str]) -> ContainerConfig {
        let words = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            (!words.is_empty()).then_some(words)
        };
        ContainerConfig {
            entrypoint: words(entrypoint),
            cmd: words(cmd),
            env: Some(vec![
                "A=image".to_owned(),
                "BROKEN".to_owned(),
                "PATH=/x".to_owned(),
            ]),
            ..ContainerConfig::default()
        }
    }

    #[test]
    fn what_runs_is_entrypoint_and_command() {
        type Words = &'static [&'static str];
        let table: [(Words, Words, Option<&str>, Words, &str); 8] = [
            (&[], &["c"], None, &[], "c"),
            (&["e"], &["c"], None, &[], "e c"),
            (&["e"], &["c"], None, &["x"], "e x"),
            (&[], &["c"], None, &["x", "y"], "x y"),
            (&["e"], &["c"], Some("n"), &[], "n"),
            (&["e"], &["c"], Some("n"), &["x"], "n x"),
            (&["e"], &["c"], Some(""), &["x"], "x"),
            (&["e"], &[], None, &[], "e"),
        ];
        for (entrypoint, cmd, given, command, expected) in table {
            let argv = arguments(&config(entrypoint, cmd), &request(given, command));
            assert_eq!(argv.expect("a command").join(" "), expected);
        }
        assert!(arguments(&config(&["e"], &["c"]), &request(Some(""), &[])).is_err());
        assert!(arguments(&config(&[], &[]), &request(None, &[])).is_err());
    }

    #[test]
    fn variables_are_replaced_by_name_and_need_a_value() {
        let env = environment(&config(&[], &[]), &request(None, &[]), "h");
        assert_eq!(env, ["PATH=/x", "HOSTNAME=h", "A=mine", "B=2"]);
    }
}
