//! `--log-driver` and `--log-opt`.

use rbuild_engine::containers::log::{Driver, Keeping};

use crate::error::{Error, Result};
use crate::values;

/// What Docker's `local` keeps where nothing is said.
const LOCAL_SIZE: u64 = 20 << 20;
const LOCAL_FILES: u32 = 5;

pub(super) fn read(driver: Option<&str>, options: &[String]) -> Result<Keeping> {
    let mut keeping = match driver {
        None | Some("" | "json-file") => Keeping::default(),
        Some("local") => Keeping {
            driver: Driver::Local,
            max_size: Some(LOCAL_SIZE),
            max_file: LOCAL_FILES,
            ..Keeping::default()
        },
        Some("none") => Keeping {
            driver: Driver::None,
            ..Keeping::default()
        },
        Some(other) => {
            return Err(Error::usage(format!(
                "--log-driver `{other}`: expected `json-file`, `local` or `none`"
            ))
            .help("`rbuild logs -f` hands output on to other programs"));
        }
    };
    if keeping.driver == Driver::None && !options.is_empty() {
        return Err(Error::usage(
            "--log-opt and `--log-driver none` contradict each other: nothing is kept",
        ));
    }
    for option in options {
        match option.split_once('=') {
            Some(("max-size", "-1")) => keeping.max_size = None,
            Some(("max-size", text)) => {
                let size = values::size("--log-opt max-size", text)?;
                if size == 0 {
                    return Err(Error::usage("--log-opt max-size: it is above 0"));
                }
                keeping.max_size = Some(size);
            }
            Some(("max-file", text)) => {
                let count = text
                    .parse()
                    .ok()
                    .filter(|count| (1..=MOST_FILES).contains(count));
                keeping.max_file = count.ok_or_else(|| {
                    Error::usage(format!(
                        "--log-opt max-file `{text}`: expected a number from 1 to {MOST_FILES}"
                    ))
                })?;
            }
            // Both are so in any case.
            Some(("mode", "blocking") | ("compress", "false")) => {}
            Some(("labels", names)) => keeping.labels = list(names),
            Some(("env", names)) => keeping.env = list(names),
            _ => {
                return Err(Error::usage(format!(
                    "--log-opt `{option}`: expected `max-size=SIZE`, `max-file=N`, `labels=NAMES` or `env=NAMES`"
                )));
            }
        }
    }
    if keeping.max_size.is_none() && keeping.max_file > 1 {
        return Err(Error::usage(
            "--log-opt max-file counts files of limited size: it needs max-size",
        ));
    }
    Ok(keeping)
}

fn list(names: &str) -> Vec<String> {
    let names = names.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

const MOST_FILES: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(driver: Option<&str>, options: &[&str]) -> Option<Keeping> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        read(driver, &options).ok()
    }

    #[test]
    fn sizes_and_counts() {
        let keeping = of(None, &["max-size=1m", "max-file=3"]).unwrap();
        assert_eq!((keeping.max_size, keeping.max_file), (Some(1 << 20), 3));
        let local = of(Some("local"), &["max-file=2"]).unwrap();
        assert_eq!((local.max_size, local.max_file), (Some(20 << 20), 2));
        let told = of(None, &["labels=a, b", "env=C,"]).unwrap();
        assert_eq!(
            (told.labels.join(" "), told.env.join(" ")),
            ("a b".to_owned(), "C".to_owned())
        );
        for bad in [
            &["max-file=3"][..],
            &["max-size=0"],
            &["max-size=1m", "max-file=0"],
            &["compress=true"],
            &["max-size"],
        ] {
            assert_eq!(of(None, bad), None, "{bad:?}");
        }
        assert_eq!(of(Some("none"), &["max-size=1m"]), None);
        assert_eq!(of(Some("syslog"), &[]), None);
    }
}
