//! What a variable's name stands for: the values in force at a place of the Dockerfile, and the ones that are there
//! without being declared. Expanding words with them is `rbuild_parser::expand`'s business.

use std::collections::{BTreeMap, HashMap};

use rbuild_image::Platform;
use rbuild_parser::expand::Variables;

use crate::op::Environment;

/// Names and values; commands get them in the order in which they were first set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope {
    variables: Environment,
    /// Of each name its place in `variables`: files with thousands of variables are looked up in no longer than others.
    places: HashMap<String, usize>,
}

impl Scope {
    /// Sets a value; one that is set already keeps its place.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        let variable = format!("{name}={}", value.into());
        match self.places.get(name) {
            Some(place) => self.variables.replace(*place, &variable),
            None => {
                self.places.insert(name.to_owned(), self.variables.len());
                self.variables.push(&variable);
            }
        }
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let place = self.places.get(name)?;
        let variable = self.variables.get(*place)?;
        variable.get(name.len() + 1..)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables
            .iter()
            .filter_map(|variable| Some(variable.split_once('=')?.0))
    }

    /// As a command gets them.
    pub(crate) fn environment(&self) -> Environment {
        self.variables.clone()
    }
}

impl Variables for Scope {
    fn get(&self, name: &str) -> Option<String> {
        self.value(name).map(str::to_owned)
    }
}

/// The scope of FROM lines before any ARG: platforms and the target. A build arg of the name wins.
pub(crate) fn predefined(
    build: &Platform,
    target: &Platform,
    target_stage: &str,
    build_args: &BTreeMap<String, String>,
) -> Scope {
    let mut scope = Scope::default();
    for (prefix, platform) in [("BUILD", build), ("TARGET", target)] {
        for (name, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("OSVERSION", String::new()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone()),
        ] {
            scope.set(&format!("{prefix}{name}"), value);
        }
    }
    scope.set("TARGETSTAGE", target_stage);
    let given: Vec<(String, String)> = scope
        .names()
        .filter_map(|name| Some((name.to_owned(), build_args.get(name)?.clone())))
        .collect();
    for (name, value) in given {
        scope.set(&name, value);
    }
    scope
}

/// Proxy variables among the build args, in both cases of letters, as commands get them without any ARG.
pub(crate) fn proxies(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in PROXIES {
        let given = build_args
            .iter()
            .rfind(|(given, _)| given.eq_ignore_ascii_case(name));
        if let Some((_, value)) = given {
            found.push((name.to_ascii_uppercase(), value.clone()));
            found.push((name.to_owned(), value.clone()));
        }
    }
    found
}

/// Whether a build arg has a meaning without being declared.
pub(crate) fn is_predefined(name: &str) -> bool {
    SETTINGS.contains(&name)
        || name == "SOURCE_DATE_EPOCH"
        || PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
        || name == "TARGETSTAGE"
        || ["BUILD", "TARGET"].iter().any(|prefix| {
            name.strip_prefix(prefix).is_some_and(|rest| {
                ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT"].contains(&rest)
            })
        })
}

/// Build args that say how to build. `BUILDKIT_SYNTAX` names a frontend as `# syntax` does: there is one, and that knows
/// all of it.
const SETTINGS: [&str; 9] = [
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
    "BUILDKIT_SYNTAX",
];

/// Arguments that every build knows; they hold what is of the host, and may hold credentials.
pub(crate) const PROXIES: [&str; 5] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_keeps_its_place() {
        let mut scope = Scope::default();
        scope.set("A", "1");
        scope.set("B", "2");
        scope.set("A", "3");
        let environment = scope.environment();
        assert_eq!(environment.iter().collect::<Vec<_>>(), ["A=3", "B=2"]);
    }

    #[test]
    fn proxies_come_in_both_cases() {
        let args = BTreeMap::from([("HTTP_PROXY".to_owned(), "p".to_owned())]);
        assert_eq!(
            proxies(&args),
            [
                ("HTTP_PROXY".to_owned(), "p".to_owned()),
                ("http_proxy".to_owned(), "p".to_owned())
            ]
        );
    }
}
