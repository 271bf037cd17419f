//! `run --attach`

use rbuild_engine::containers::{RunRequest, Shown};

use crate::error::{Error, Result};

/// Which output of the container is shown.
pub(super) fn read(texts: &[String], request: &RunRequest) -> Result<Shown> {
    if texts.is_empty() {
        return Ok(Shown::default());
    }
    let (mut stdin, mut shown) = (
        false,
        Shown {
            stdout: false,
            stderr: false,
        },
    );
    for text in texts {
        match text.to_ascii_lowercase().as_str() {
            "stdin" => stdin = true,
            "stdout" => shown.stdout = true,
            "stderr" => shown.stderr = true,
            _ => {
                return Err(
                    Error::usage(format!("--attach `{text}`: there is no such stream"))
                        .help("it is `stdin`, `stdout` or `stderr`"),
                );
            }
        }
    }
    if stdin != request.interactive {
        return Err(Error::usage(if stdin {
            "--attach stdin: standard input is connected with --interactive, too"
        } else {
            "--interactive and --attach contradict each other: add `--attach stdin`, or leave out --interactive"
        }));
    }
    if !shown.stdout && !shown.stderr {
        return Err(Error::unsupported("--attach without any output"));
    }
    if request.terminal && !shown.stdout {
        return Err(Error::usage(
            "--tty and --attach contradict each other: a terminal is standard output; add `--attach stdout`",
        ));
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_read() {
        let of = |texts: &[&str], interactive, terminal| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            let request = RunRequest {
                interactive,
                terminal,
                ..RunRequest::default()
            };
            read(&texts, &request)
                .map(|shown| (shown.stdout, shown.stderr))
                .ok()
        };
        assert_eq!(of(&[], true, false), Some((true, true)));
        assert_eq!(of(&["STDOUT"], false, false), Some((true, false)));
        assert_eq!(of(&["stdin", "stderr"], true, false), Some((false, true)));
        for (bad, interactive, terminal) in [
            (&["what"][..], false, false),
            (&["stdin", "stdout"], false, false),
            (&["stdout"], true, false),
            (&["stdin"], true, false),
            (&["stderr"], false, true),
        ] {
            assert_eq!(of(bad, interactive, terminal), None, "{bad:?}");
        }
    }
}
