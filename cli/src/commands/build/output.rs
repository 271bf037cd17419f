//! `--output`, `--push` and `--load`.

use std::io::IsTerminal;
use std::path::PathBuf;

use rbuild_engine::request::{CompressionChoice, Output, OutputKind};

use super::args::BuildArgs;
use super::request::tag;
use crate::error::{Error, Result};
use crate::spec::Spec;

const KEYS: [&str; 11] = [
    "type",
    "dest",
    "name",
    "push",
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
        outputs.push(output(text)?);
    }
    if args.push {
        outputs.push(empty(OutputKind::Registry));
    }
    if args.load {
        outputs.push(empty(OutputKind::Image));
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

fn output(text: &str) -> Result<Output> {
    // `-o DIR` and `-o -` stand for what is wanted most.
    if !text.contains('=') && !text.contains(',') {
        return if text == "-" {
            refuse_terminal(empty(OutputKind::Tar))
        } else if text.is_empty() {
            Err(Error::usage("--output: the value is empty"))
        } else {
            Ok(Output {
                destination: Some(PathBuf::from(text)),
                ..empty(OutputKind::Local)
            })
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
    let mut output = empty(match (kind.as_deref(), destination.as_deref()) {
        (Some("oci"), _) => OutputKind::Oci { tar },
        // Docker hands an archive without destination to its daemon: the store is what we have in its place.
        (Some("docker"), None) => OutputKind::Image,
        (Some("docker"), _) => OutputKind::Docker { tar },
        (Some("tar"), _) => OutputKind::Tar,
        (Some("local"), _) => OutputKind::Local,
        (Some("image"), _) if push => OutputKind::Registry,
        (Some("image"), _) => OutputKind::Image,
        (Some("registry"), _) => OutputKind::Registry,
        (Some("cacheonly"), _) => OutputKind::CacheOnly,
        (Some(other), _) => {
            return Err(spec
                .error(format!("`type={other}`: there is no such output"))
                .help(
                    "it is `oci`, `docker`, `tar`, `local`, `image`, `registry` or `cacheonly`",
                ));
        }
        (None, _) => return Err(spec.error("`type=` is missing")),
    });
    output.force_compression = spec.take_bool(&["force-compression"])?.unwrap_or(false);
    output.oci_media_types = spec.take_bool(&["oci-mediatypes"])?;
    output.rewrite_timestamp = spec.take_bool(&["rewrite-timestamp"])?.unwrap_or(false);
    output.annotations = annotations(&mut spec)?;
    output.compression = choice(&spec, compression.as_deref(), level.as_deref())?;
    for name in names.iter().flat_map(|names| names.split(',')) {
        output.names.push(tag("--output name", name.trim())?);
    }
    let takes_file = is_file(output.kind);
    match (output.kind, destination) {
        (
            OutputKind::Local | OutputKind::Oci { tar: false } | OutputKind::Docker { tar: false },
            None,
        ) => {
            return Err(spec.error("`dest=` is missing: the directory to write to"));
        }
        (OutputKind::Image | OutputKind::Registry | OutputKind::CacheOnly, Some(_)) => {
            return Err(spec.error("this output takes no `dest=`"));
        }
        (_, Some(path)) if path.is_empty() => return Err(spec.error("`dest=` is empty")),
        (_, Some(path)) if path == "-" && !takes_file => {
            return Err(spec.error("a directory cannot be written to standard output"));
        }
        (_, destination) => {
            output.destination = destination.filter(|path| path != "-").map(PathBuf::from);
        }
    }
    spec.finish(&KEYS)?;
    refuse_terminal(output)
}

/// `annotation.K=V`, `annotation-manifest.K=V`
fn annotations(spec: &mut Spec) -> Result<Vec<(String, String)>> {
    for level in [
        "annotation-index.",
        "annotation-index-descriptor.",
        "annotation-manifest-descriptor.",
    ] {
        if !spec.take_prefixed(level).is_empty() {
            return Err(Error::unsupported(format!("--output with `{level}KEY`")));
        }
    }
    let mut annotations = spec.take_prefixed("annotation.");
    annotations.extend(spec.take_prefixed("annotation-manifest."));
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

fn empty(kind: OutputKind) -> Output {
    Output {
        kind,
        destination: None,
        names: Vec::new(),
        compression: None,
        force_compression: false,
        oci_media_types: None,
        rewrite_timestamp: false,
        annotations: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_become_outputs() {
        let one = |text: &str| output(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
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
            [("a".into(), "1".into()), ("b".into(), "2".into())]
        );
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
            "type=oci,dest=",
        ] {
            assert!(matches!(output(text), Err(Error::Usage(_))), "{text}");
        }
    }
}
