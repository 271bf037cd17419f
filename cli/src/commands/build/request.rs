//! From the flags of `build` to [`BuildRequest`]: every string is understood here, and only here.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_engine::BuildRequest;
use rbuild_engine::image::Reference;
use rbuild_engine::request::{
    Entitlement, NetworkChoice, NoCache, Pattern, Reach, Secret, Squash, Ssh, SshAgent,
};
use rbuild_engine::ssh_agent::{Agent, Key, KeyError};

use super::args::{BuildArgs, DELETE};
use super::{attest, caches, output, sources};
use crate::error::{Error, Result};
use crate::spec::{Spec, parse_bool};
use crate::values;

/// As Docker limits it.
const MAX_SECRET_BYTES: u64 = 500 * 1024;

pub(crate) fn build_request(args: &BuildArgs) -> Result<BuildRequest> {
    let args = &args.without_empty();
    let mut secrets = Vec::new();
    for text in &args.secret {
        secrets.push(secret(text)?);
    }
    let mut ssh = Vec::new();
    for text in &args.ssh {
        ssh.push(agent(text)?);
    }
    let mut contexts = Vec::new();
    for text in &args.build_context {
        contexts.push(sources::named_context(text)?);
    }
    let mut tags = Vec::new();
    for text in &args.tag {
        tags.push(tag("--tag", text)?);
    }
    let allow = args
        .allow
        .iter()
        .filter(|text| *text != DELETE)
        .map(|text| entitlement(text))
        .collect::<Result<_>>()?;
    let network = args
        .network
        .as_deref()
        .map_or(Ok(NetworkChoice::Default), values::network)?;
    let reach = reach(&args.allow_host)?;
    if reach.is_some() && network == NetworkChoice::Host {
        return Err(Error::usage(
            "--allow-host and --network host contradict each other: the machine's network cannot be held to a list",
        ));
    }
    if args.jobs == Some(0) {
        return Err(Error::usage(
            "--jobs `0`: at least one step must run at once",
        ));
    }
    let platforms = values::platforms(&args.platform)?;
    let build_args = build_args(&args.build_arg)?;
    let labels = pairs("--label", &args.label)?;
    let annotations = pairs("--annotation", &args.annotation)?;
    check_types(&annotations)?;
    let limits = args.limits.limits()?;
    let outputs = output::outputs(args)?;
    let attestations = attest::attestations(args)?;
    let cache_from = caches::from(&args.cache_from)?;
    let mut cache_to = caches::to(&args.cache_to)?;
    // As BuildKit's clients say it that know no `type=inline`.
    let setting = build_args.get("BUILDKIT_INLINE_CACHE");
    if setting.and_then(|value| parse_bool(value)) == Some(true)
        && (outputs.is_empty() || outputs.iter().any(|output| output.kind.is_image()))
        && cache_to.iter().all(|to| to.place.is_some())
    {
        cache_to.push(caches::inline(false));
    }
    // Last: standard input is read only when everything else makes sense.
    let (context, dockerfile) = sources::locate(&args.context, args.file.as_deref())?;
    Ok(BuildRequest {
        context,
        dockerfile,
        tags,
        target: args.target.clone().filter(|target| !target.is_empty()),
        platforms,
        build_args,
        labels,
        annotations,
        contexts,
        no_cache: no_cache(args),
        cache_from,
        cache_to,
        pull: args.pull,
        secrets,
        ssh,
        network,
        reach: reach.map(Arc::new),
        users: values::users(args.userns.as_deref())?,
        hosts: values::hosts(&args.add_host)?,
        dns: args.dns.dns()?,
        allow,
        limits,
        outputs,
        attestations,
        squash: squash(args.squash.as_deref())?,
        max_layers: args.max_layers.map(NonZeroUsize::get),
        jobs: args.jobs,
        source_date_epoch: std::env::var("SOURCE_DATE_EPOCH")
            .ok()
            .filter(|epoch| !epoch.is_empty()),
        keep_failed: args.opens_shell()?,
    })
}

/// `None`: everything may be reached. An empty pattern is a mistake, and not as if it were not there.
fn reach(texts: &[String]) -> Result<Option<Reach>> {
    let pattern = |text: &String| {
        text.parse::<Pattern>().map_err(|why| {
            Error::usage(format!("--allow-host `{text}`: {why}")).help(
                "it is a host as in `example.org`, `*.example.org`, `192.0.2.1` or `10.0.0.0/8`, each with a port \
                 behind it or without: `example.org:443`, `[2001:db8::1]:443`",
            )
        })
    };
    let patterns: Vec<Pattern> = texts.iter().map(pattern).collect::<Result<_>>()?;
    Ok((!patterns.is_empty()).then(|| Reach::new(patterns)))
}

/// A name for an image; a digest has no place in it.
pub(crate) fn tag(flag: &str, text: &str) -> Result<Reference> {
    let reference: Reference = text
        .parse()
        .map_err(|error| Error::usage(format!("{flag}: {error}")))?;
    if reference.digest.is_some() {
        return Err(Error::usage(format!(
            "{flag} `{text}`: a name to give cannot hold a digest"
        )));
    }
    Ok(reference)
}

fn no_cache(args: &BuildArgs) -> NoCache {
    if args.no_cache {
        NoCache::All
    } else if args.no_cache_filter.is_empty() {
        NoCache::No
    } else {
        NoCache::Filter(args.no_cache_filter.clone())
    }
}

/// `K=V`, or `K` from the environment; an unset variable leaves the argument alone, as Docker does.
pub(crate) fn build_args(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let mut arguments = BTreeMap::new();
    for text in texts {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text.as_str(), environment(text)?),
        };
        if key.is_empty() {
            return Err(Error::usage(format!(
                "--build-arg `{text}`: the name before `=` is empty"
            )));
        }
        if let Some(value) = value {
            arguments.insert(key.to_owned(), value);
        }
    }
    Ok(arguments)
}

/// Returns a variable of the environment; one that is no UTF-8 is an error.
pub(crate) fn environment(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::failed(format!(
            "the environment variable `{name}` is not valid UTF-8"
        ))),
    }
}

fn pairs(flag: &str, texts: &[String]) -> Result<Vec<(String, String)>> {
    texts.iter().map(|text| values::pair(flag, text)).collect()
}

/// `from:LINE`, `own`, `stage`, `all`; or yes or no, as Docker has it.
fn squash(text: Option<&str>) -> Result<Squash> {
    let unknown = |text: &str| {
        Error::usage(format!("--squash `{text}`: there is no such way"))
            .help("it is `own` (what is not the base image's), `stage`, `all` or `from:LINE`")
    };
    match text {
        None => Ok(Squash::No),
        Some("own") => Ok(Squash::Own),
        Some("all") => Ok(Squash::All),
        Some("stage") => Ok(Squash::Stage),
        Some(text) => match (text.strip_prefix("from:"), parse_bool(text)) {
            (Some(line), _) => line
                .parse()
                .map(Squash::FromLine)
                .map_err(|_| unknown(text)),
            (None, Some(true)) => Ok(Squash::Own),
            (None, Some(false)) => Ok(Squash::No),
            (None, None) => Err(unknown(text)),
        },
    }
}

fn entitlement(text: &str) -> Result<Entitlement> {
    match text {
        "network.host" => Ok(Entitlement::NetworkHost),
        "security.insecure" => Ok(Entitlement::SecurityInsecure),
        "device" | "network" => Err(Error::unsupported(format!("--allow {text}"))),
        other => Err(
            Error::usage(format!("--allow `{other}`: there is no such entitlement"))
                .help("it is `network.host` or `security.insecure`"),
        ),
    }
}

/// `id=ID[,src=FILE|,env=VAR]`; with neither, the variable of that name, else the file of that name.
fn secret(text: &str) -> Result<Secret> {
    const KEYS: [&str; 5] = ["id", "src", "source", "env", "type"];
    let mut spec = Spec::parse("--secret", text)?;
    let kind = spec.take(&["type"])?;
    let id = spec.take(&["id"])?;
    let mut file = spec.take(&["src", "source"])?;
    let mut variable = spec.take(&["env"])?;
    match kind.as_deref() {
        None | Some("file") => {}
        Some("env") if variable.is_none() => variable = file.take(),
        Some("env") => {}
        Some(other) => return Err(spec.error(format!("`type={other}`: expected `file` or `env`"))),
    }
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Err(spec.error("`id=` is missing"));
    };
    if file.is_some() && variable.is_some() {
        return Err(spec.error("`src=` and `env=` exclude each other"));
    }
    spec.finish(&KEYS)?;
    if file.is_none() && variable.is_none() {
        match std::env::var_os(&id) {
            Some(_) => variable = Some(id.clone()),
            None => file = Some(id.clone()),
        }
    }
    let data = match (variable, file) {
        (Some(name), _) => std::env::var_os(&name)
            .map(std::os::unix::ffi::OsStringExt::into_vec)
            .ok_or_else(|| {
                Error::failed(format!(
                    "secret `{id}`: the environment variable `{name}` is not set"
                ))
            })?,
        (None, file) => read_secret(&id, Path::new(&file.unwrap_or_default()))?,
    };
    Ok(Secret {
        id,
        data: Arc::from(data),
    })
}

fn read_secret(id: &str, path: &Path) -> Result<Vec<u8>> {
    let failed =
        |error| Error::io("read", path, error).help(format!("it was given as secret `{id}`"));
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(failed)?
        .take(MAX_SECRET_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        return Err(Error::failed(format!(
            "secret `{id}`: `{}` is larger than {MAX_SECRET_BYTES} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

/// `ID[=SOCKET|KEY[,KEY]]`; without one, the socket of `SSH_AUTH_SOCK`. Files are keys: those are served by an
/// agent of this process, which starts when somebody needs it.
fn agent(text: &str) -> Result<Ssh> {
    let (id, paths) = match text.split_once('=') {
        Some((id, paths)) => (id, paths.split(',').map(PathBuf::from).collect::<Vec<_>>()),
        None => match std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()) {
            Some(path) => (text, vec![path.into()]),
            None => {
                return Err(
                    Error::failed(format!("--ssh `{text}`: there is no ssh agent"))
                        .help("start one, or name its socket or a key: --ssh default=SOCKET"),
                );
            }
        },
    };
    if id.is_empty() {
        return Err(Error::usage(format!("--ssh `{text}`: the ID is empty")));
    }
    let is_socket = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).map_err(|error| Error::io("find", path, error))?;
        Ok(metadata.file_type().is_socket())
    };
    let are_sockets = paths.iter().map(is_socket).collect::<Result<Vec<_>>>()?;
    let agent = match (&*paths, &*are_sockets) {
        ([path], [true]) => {
            let path = std::path::absolute(path).map_err(|error| Error::io("find", path, error))?;
            SshAgent::Socket(path)
        }
        (paths, sockets) if sockets.iter().all(|is_socket| !is_socket) => {
            let keys = paths.iter().map(|path| key(path)).collect::<Result<_>>()?;
            SshAgent::Own(Arc::new(Agent::new(keys)))
        }
        _ => {
            return Err(
                Error::usage(format!("--ssh `{text}`: an agent's socket stands alone"))
                    .help("give several keys as --ssh ID=KEY,KEY, another agent under another ID"),
            );
        }
    };
    Ok(Ssh {
        id: id.to_owned(),
        agent,
    })
}

fn key(path: &Path) -> Result<Key> {
    let failed = |error| Error::io("read the key", path, error);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut part = file.take(MAX_SECRET_BYTES);
    part.read_to_end(&mut bytes).map_err(failed)?;
    Key::parse(&bytes).map_err(|error| {
        let is_encrypted = matches!(error, KeyError::Encrypted);
        let error = Error::failed(format!("cannot use the key `{}`: {error}", path.display()));
        match is_encrypted {
            true => error.help("add it to an agent with ssh-add, and pass the agent"),
            false => error,
        }
    })
}

/// What stands before a colon looks like a type (`mainfest:K`), and is none: part of a key has a dot or the like.
fn check_types(annotations: &[(String, String)]) -> Result<()> {
    for (written, _) in annotations {
        let Some((types, _)) = written.split_once(':') else {
            continue;
        };
        for one in types.split(',') {
            let name = one.split('[').next().unwrap_or(one);
            let looks_so =
                !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            if looks_so && !rbuild_engine::request::is_annotation_type(one) {
                return Err(Error::usage(format!(
                    "--annotation `{written}`: there is no type `{one}`"
                ))
                .help("it is `manifest`, `manifest-descriptor`, `index` or `index-descriptor`"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_and_variables() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "s3cret").unwrap();
        for text in [
            format!("id=a,src={}", file.display()),
            format!("type=file,id=a,source={}", file.display()),
        ] {
            let secret = secret(&text).unwrap();
            assert_eq!((secret.id.as_str(), &*secret.data), ("a", &b"s3cret"[..]));
        }
        assert_eq!(
            &*secret("id=a,env=CARGO_PKG_NAME").unwrap().data,
            b"rbuild-cli"
        );
        assert_eq!(
            &*secret("type=env,id=a,src=CARGO_PKG_NAME").unwrap().data,
            b"rbuild-cli"
        );
        assert_eq!(&*secret("id=CARGO_PKG_NAME").unwrap().data, b"rbuild-cli");
        for text in [
            "",
            "src=x",
            "id=a,env=B,src=c",
            "id=a,what=1",
            "id=,src=x",
            "id=a,type=x",
        ] {
            assert!(matches!(secret(text), Err(Error::Usage(_))), "{text}");
        }
        for text in [
            "id=a,src=/nonexistent",
            "id=a,env=RBUILD_SURELY_UNSET",
            "id=a,src=/dev/zero",
        ] {
            assert!(matches!(secret(text), Err(Error::Failed(_))), "{text}");
        }
    }

    #[test]
    fn build_args_without_value_come_from_the_environment() {
        let texts = [
            "A=1",
            "A=2=3",
            "CARGO_PKG_NAME",
            "RBUILD_SURELY_UNSET",
            "E=",
        ]
        .map(String::from);
        let arguments = build_args(&texts).unwrap();
        let expected = [("A", "2=3"), ("CARGO_PKG_NAME", "rbuild-cli"), ("E", "")];
        assert!(
            arguments
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .eq(expected)
        );
        assert!(build_args(&["=x".into()]).is_err());
    }

    #[test]
    fn nothing_is_held_only_where_nothing_is_given() {
        assert!(reach(&[]).unwrap().is_none());
        let two = ["b".to_owned(), "10.0.0.0/8:1".to_owned()];
        assert_eq!(reach(&two).unwrap().unwrap().to_string(), "b,10.0.0.0/8:1");
        assert!(reach(&[String::new()]).is_err());
    }

    #[test]
    fn layers_to_squash() {
        assert_eq!(squash(Some("true")).unwrap(), Squash::Own);
        assert_eq!(squash(Some("from:12")).unwrap(), Squash::FromLine(12));
        assert_eq!(squash(Some("false")).unwrap(), Squash::No);
        assert!(squash(Some("from:x")).is_err() && squash(Some("most")).is_err());
    }
}
