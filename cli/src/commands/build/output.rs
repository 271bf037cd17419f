//! `--output`, `--push` and `--load`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use rbuild_engine::request::{CompressionChoice, Output, OutputKind};

use super::args::BuildArgs;
use super::request::tag;
use crate::error::{Error, Result};
use crate::spec::Spec;

const KEYS: [&str; 17] = [
    "type",
    "dest",
    "name",
    "push",
    "push-by-digest",
    "name-canonical",
    "store",
    "unpack",
    "mode",
    "platform-split",
    "tar",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "rewrite-timestamp",
    "annotation.KEY",
];

/// Returns all outputs. None at all means that the image stays in the store.
pub(crate) fn outputs(args: &BuildArgs) -> Result<Vec<Output>> {
    let mut outputs = Vec::new();
    for text in &args.output {
        outputs.extend(output(text, args.may_delete())?);
    }
    if args.push {
        outputs.push(Output::new(OutputKind::Registry));
    }
    if args.load {
        outputs.push(Output::new(OutputKind::Image));
    }
    let streams = outputs
        .iter()
        .filter(|output| is_file(output.kind) && output.destination.is_none());
    if streams.count() > 1 {
        return Err(Error::usage(
            "--output: only one output can go to standard output",
        ));
    }
    Ok(outputs)
}

/// One, or two where an image is pushed and stays here, too: then in the same form.
fn output(text: &str, may_delete: bool) -> Result<Vec<Output>> {
    // `-o DIR` and `-o -` stand for what is wanted most.
    if !text.contains('=') && !text.contains(',') {
        return if text == "-" {
            refuse_terminal(Output::new(OutputKind::Tar)).map(|output| vec![output])
        } else if text.is_empty() {
            Err(Error::usage("--output: the value is empty"))
        } else {
            Ok(vec![Output {
                destination: Some(PathBuf::from(text)),
                ..Output::new(OutputKind::Local)
            }])
        };
    }
    let mut spec = Spec::parse("--output", text)?;
    let kind = spec.take(&["type"])?;
    let destination = spec.take(&["dest"])?;
    let tar = spec.take_bool(&["tar"])?.unwrap_or(true);
    let push = spec.take_bool(&["push"])?.unwrap_or(false);
    let names = spec.take(&["name"])?;
    let compression = spec.take(&["compression"])?;
    let level = spec.take(&["compression-level"])?;
    // Names are canonical in any case, and what is kept is unpacked already.
    spec.take_bool(&["name-canonical"])?;
    spec.take_bool(&["unpack"])?;
    let store = spec.take_bool(&["store"])?.unwrap_or(true);
    let mode = spec.take(&["mode"])?;
    let split = spec.take_bool(&["platform-split"])?;
    let by_digest = spec.take_bool(&["push-by-digest"])?.unwrap_or(false);
    let has_destination = destination.is_some();
    let made = kind_of(&spec, kind.as_deref(), has_destination, tar, push)?;
    let mut output = Output::new(made);
    output.force_compression = spec.take_bool(&["force-compression"])?.unwrap_or(false);
    output.oci_media_types = spec.take_bool(&["oci-mediatypes"])?;
    output.rewrite_timestamp = spec.take_bool(&["rewrite-timestamp"])?.unwrap_or(false);
    output.annotations = annotations(&mut spec)?;
    output.compression = choice(&spec, compression.as_deref(), level.as_deref())?;
    for name in names.iter().flat_map(|names| names.split(',')) {
        output.names.push(tag("--output name", name.trim())?);
    }
    output.by_digest = by_digest;
    if by_digest && output.kind != OutputKind::Registry {
        return Err(spec.error("`push-by-digest` needs `push=true`, or `type=registry`"));
    }
    if mode.is_some() && output.kind != OutputKind::Local {
        return Err(spec.error("`mode` is for `type=local`"));
    }
    if split.is_some() && !matches!(output.kind, OutputKind::Local | OutputKind::Tar) {
        return Err(spec.error("`platform-split` is for `type=local` and `type=tar`"));
    }
    output.platform_split = split;
    output.delete = match mode.as_deref() {
        None | Some("copy") => false,
        Some("delete") => true,
        Some(other) => {
            return Err(spec.error(format!("`mode={other}`: expected `copy` or `delete`")));
        }
    };
    if let (true, false, Some(path)) = (output.delete, may_delete, &destination)
        && !is_below_here(Path::new(path))?
    {
        return Err(spec
            .error(format!("`mode=delete` would empty `{path}`"))
            .help("it is no directory below this one: allow it with --allow=buildx.local.delete"));
    }
    output.destination = destination_of(&spec, output.kind, destination)?;
    spec.finish(&KEYS)?;
    let output = refuse_terminal(output)?;
    let is_kept_too = kind.as_deref() == Some("image") && push && store && !by_digest;
    let kept = is_kept_too.then(|| Output {
        kind: OutputKind::Image,
        compression: output
            .compression
            .or(Some(CompressionChoice::Gzip { level: None })),
        ..output.clone()
    });
    Ok(std::iter::once(output).chain(kept).collect())
}

/// What `type=` asks for, with `tar=` and `push=`.
fn kind_of(
    spec: &Spec,
    kind: Option<&str>,
    has_destination: bool,
    tar: bool,
    push: bool,
) -> Result<OutputKind> {
    match kind {
        Some("oci") => Ok(OutputKind::Oci { tar }),
        // Docker hands an archive without destination to its daemon: the store is what we have in its place.
        Some("docker") if !has_destination => Ok(OutputKind::Image),
        Some("docker") => Ok(OutputKind::Docker { tar }),
        Some("tar") => Ok(OutputKind::Tar),
        Some("local") => Ok(OutputKind::Local),
        Some("image") if push => Ok(OutputKind::Registry),
        Some("image") => Ok(OutputKind::Image),
        Some("registry") => Ok(OutputKind::Registry),
        Some("cacheonly") => Ok(OutputKind::CacheOnly),
        Some(other) => Err(spec
            .error(format!("`type={other}`: there is no such output"))
            .help("it is `oci`, `docker`, `tar`, `local`, `image`, `registry` or `cacheonly`")),
        None => Err(spec.error("`type=` is missing")),
    }
}

/// Where an output goes by `dest=`; `None` is standard output, or nowhere on this machine's file systems.
fn destination_of(spec: &Spec, kind: OutputKind, given: Option<String>) -> Result<Option<PathBuf>> {
    match (kind, given) {
        (
            OutputKind::Local | OutputKind::Oci { tar: false } | OutputKind::Docker { tar: false },
            None,
        ) => Err(spec.error("`dest=` is missing: the directory to write to")),
        (OutputKind::Image | OutputKind::Registry | OutputKind::CacheOnly, Some(_)) => {
            Err(spec.error("this output takes no `dest=`"))
        }
        (_, Some(path)) if path.is_empty() => Err(spec.error("`dest=` is empty")),
        (_, Some(path)) if path == "-" && !is_file(kind) => {
            Err(spec.error("a directory cannot be written to standard output"))
        }
        (_, given) => Ok(given.filter(|path| path != "-").map(PathBuf::from)),
    }
}

/// Whether a path leads to a directory below the working directory, links followed as far as it is there.
fn is_below_here(path: &Path) -> Result<bool> {
    let here = std::env::current_dir()
        .and_then(std::fs::canonicalize)
        .map_err(|error| Error::io("find", ".", error))?;
    let mut existing = here.join(path);
    let mut rest = Vec::new();
    loop {
        match std::fs::canonicalize(&existing) {
            Ok(found) => {
                let clean = rest.iter().all(|part| *part != "..");
                let goes_down = found != here || !rest.is_empty();
                return Ok(clean && goes_down && found.starts_with(&here));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let Some(name) = existing.components().next_back() else {
                    return Ok(false);
                };
                rest.push(name.as_os_str().to_owned());
                if !existing.pop() {
                    return Ok(false);
                }
            }
            Err(error) => return Err(Error::io("find", &existing, error)),
        }
    }
}

/// `annotation.K=V`, `annotation-index.K=V`, `annotation-manifest[linux/amd64].K=V`, written as `--annotation` has them.
fn annotations(spec: &mut Spec) -> Result<Vec<(String, String)>> {
    let mut annotations = Vec::new();
    for (written, value) in spec.take_prefixed("annotation") {
        // The bracket ends at `].`, for no platform has a dot.
        let split = match written.strip_prefix('[') {
            Some(_) => written
                .split_once("].")
                .map(|(kind, key)| (format!("{kind}]"), key)),
            None => written.split_once('.').map(|(kind, key)| {
                let whole = kind.contains('[') && !kind.contains(']');
                match whole.then(|| written.split_once("].")).flatten() {
                    Some((kind, key)) => (format!("{kind}]"), key),
                    None => (kind.to_owned(), key),
                }
            }),
        };
        let Some((kind, key)) = split.filter(|(_, key)| !key.is_empty()) else {
            return Err(spec.error(format!("`annotation{written}`: expected `annotation.KEY`")));
        };
        let kind = match kind.strip_prefix('-') {
            Some(kind) => kind.to_owned(),
            // `annotation[linux/amd64].K`
            None => format!("manifest{kind}"),
        };
        if !rbuild_engine::request::is_annotation_type(&kind) {
            return Err(spec
                .error(format!("`annotation-{kind}`: there is no such place"))
                .help("it is `manifest`, `manifest-descriptor`, `index` or `index-descriptor`"));
        }
        annotations.push((format!("{kind}:{key}"), value));
    }
    Ok(annotations)
}

pub(super) fn choice(
    spec: &Spec,
    name: Option<&str>,
    level: Option<&str>,
) -> Result<Option<CompressionChoice>> {
    let level = level
        .map(|text| {
            text.parse::<u8>()
                .ok()
                .filter(|level| *level <= 22)
                .ok_or_else(|| spec.error(format!("`compression-level={text}`: expected 0 to 22")))
        })
        .transpose()?;
    match name {
        Some("gzip") => Ok(Some(CompressionChoice::Gzip { level })),
        Some("zstd") => Ok(Some(CompressionChoice::Zstd { level })),
        Some("uncompressed") => Ok(Some(CompressionChoice::Uncompressed)),
        None => Ok(level.map(|level| CompressionChoice::Gzip { level: Some(level) })),
        Some("estargz") => Err(Error::unsupported("--output with `compression=estargz`")),
        Some(other) => Err(spec
            .error(format!(
                "`compression={other}`: there is no such compression"
            ))
            .help("it is `gzip`, `zstd` or `uncompressed`")),
    }
}

fn refuse_terminal(output: Output) -> Result<Output> {
    if is_file(output.kind) && output.destination.is_none() && std::io::stdout().is_terminal() {
        return Err(
            Error::failed("the archive will not be written to a terminal")
                .help("name a file with `dest=FILE`, or redirect standard output"),
        );
    }
    Ok(output)
}

/// Whether an output is one stream of bytes.
fn is_file(kind: OutputKind) -> bool {
    match kind {
        OutputKind::Oci { tar } | OutputKind::Docker { tar } => tar,
        OutputKind::Tar => true,
        OutputKind::Local | OutputKind::Image | OutputKind::Registry | OutputKind::CacheOnly => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_become_outputs() {
        let all =
            |text: &str| output(text, false).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        let one = |text: &str| all(text).swap_remove(0);
        let archive = one("type=oci,dest=a.tar,compression=zstd,compression-level=3");
        assert_eq!(archive.kind, OutputKind::Oci { tar: true });
        assert_eq!(archive.destination, Some("a.tar".into()));
        assert_eq!(
            archive.compression,
            Some(CompressionChoice::Zstd { level: Some(3) })
        );
        assert_eq!(
            one("type=oci,dest=d,tar=false").kind,
            OutputKind::Oci { tar: false }
        );
        assert_eq!(one("type=docker").kind, OutputKind::Image);
        assert_eq!(one("type=image,push=true").kind, OutputKind::Registry);
        let bare = one("out/dir");
        assert_eq!(
            (bare.kind, bare.destination),
            (OutputKind::Local, Some("out/dir".into()))
        );
        let annotated = one("type=image,annotation.a=1,annotation-manifest.b=2");
        assert_eq!(
            annotated.annotations,
            [
                ("manifest:a".into(), "1".into()),
                ("manifest:b".into(), "2".into())
            ]
        );
        let everywhere = one(
            "type=oci,dest=x,annotation-index.a.b=1,annotation-manifest[linux/arm64].c=2,annotation-manifest-descriptor.d=3",
        );
        let keys: Vec<&str> = everywhere
            .annotations
            .iter()
            .map(|(key, _)| key.as_str())
            .collect();
        assert_eq!(
            keys,
            [
                "index:a.b",
                "manifest[linux/arm64]:c",
                "manifest-descriptor:d"
            ]
        );
        // What is pushed and kept is the same.
        let both = all("type=image,push=true");
        assert_eq!(both.len(), 2);
        assert_eq!(both[1].kind, OutputKind::Image);
        assert_eq!(all("type=image,push=true,store=false").len(), 1);
        assert!(
            one("type=image,name=x/y,push=true,push-by-digest=true,name-canonical=true").by_digest
        );
        assert!(one("type=local,dest=out,mode=delete").delete);
        assert!(output("type=local,dest=/,mode=delete", false).is_err());
        assert!(output("type=local,dest=.,mode=delete", false).is_err());
        assert!(output("type=local,dest=../x,mode=delete", false).is_err());
        assert!(output("type=local,dest=/,mode=delete", true).is_ok());
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for text in [
            "",
            "dest=x",
            "type=what",
            "type=local",
            "type=local,dest=-",
            "type=image,dest=x",
            "type=oci,dest=x,tar=maybe",
            "type=oci,dest=x,compression=lzma",
            "type=oci,dest=x,compression-level=fast",
            "type=oci,dest=x,whatever=1",
            "type=oci,dest=x,mode=delete",
            "type=oci,dest=x,annotation-layer.a=1",
            "type=image,push-by-digest=true",
            "type=oci,dest=",
        ] {
            assert!(
                matches!(output(text, false), Err(Error::Usage(_))),
                "{text}"
            );
        }
    }
}
