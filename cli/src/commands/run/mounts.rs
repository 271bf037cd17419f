//! `--volume`, `--mount` and `--tmpfs`.

use std::path::PathBuf;

use rbuild_engine::Volume;

use crate::error::{Error, Result};
use crate::spec::Spec;
use crate::values;

#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) volumes: Vec<Volume>,
    /// (target, size in bytes)
    pub(super) tmpfs: Vec<(String, Option<u64>)>,
}

pub(super) fn read(volumes: &[String], mounts: &[String], tmpfs: &[String]) -> Result<Mounts> {
    let mut all = Mounts::default();
    for text in volumes {
        all.volumes.push(volume(text)?);
    }
    for text in mounts {
        mount(text, &mut all)?;
    }
    for text in tmpfs {
        all.tmpfs.push(memory(text)?);
    }
    let mut targets: Vec<&str> = all
        .volumes
        .iter()
        .map(|volume| volume.target.as_str())
        .chain(all.tmpfs.iter().map(|(target, _)| target.as_str()))
        .map(|target| target.trim_end_matches('/'))
        .collect();
    targets.sort_unstable();
    if let Some([twice, _]) = targets.windows(2).find(|pair| pair.first() == pair.last()) {
        return Err(Error::usage(format!("`{twice}` is mounted on twice")));
    }
    Ok(all)
}

/// `[SOURCE:]TARGET[:OPTIONS]`. A source that does not exist is made, as Docker does.
fn volume(text: &str) -> Result<Volume> {
    let bad = |reason: &str| {
        Error::usage(format!("--volume `{text}`: {reason}"))
            .help("it looks like `/host/dir:/target:ro`")
    };
    let (source, target, options) = match text.split(':').collect::<Vec<_>>().as_slice() {
        [target] => (None, *target, ""),
        [target, options] if !options.starts_with('/') => (None, *target, *options),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(bad("it has too many parts")),
    };
    let target = target_path(target).map_err(|reason| bad(&reason))?;
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => read_only = true,
            // Labels, consistency and private propagation change nothing here: they are what is done anyway.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "private" | "rprivate" => {}
            "nocopy" | "shared" | "rshared" | "slave" | "rslave" | "U" => {
                return Err(Error::unsupported(format!("--volume option `{option}`")));
            }
            other => return Err(bad(&format!("there is no option `{other}`"))),
        }
    }
    let source = match source {
        None => None,
        Some("") => return Err(bad("the source is empty")),
        Some(source) if !source.starts_with(['/', '.']) => {
            return Err(Error::unsupported(format!("the named volume `{source}`"))
                .help(format!("for a directory of the host, write `./{source}`")));
        }
        Some(source) => {
            let path = absolute(source)?;
            if std::fs::symlink_metadata(&path).is_err() {
                std::fs::create_dir_all(&path)
                    .map_err(|error| Error::io("create", &path, error))?;
            }
            Some(path)
        }
    };
    Ok(Volume {
        source,
        target,
        read_only,
    })
}

/// `type=bind|volume|tmpfs,source=..,target=..,readonly`
fn mount(text: &str, all: &mut Mounts) -> Result<()> {
    const KEYS: [&str; 6] = [
        "type",
        "source",
        "target",
        "readonly",
        "tmpfs-size",
        "bind-propagation",
    ];
    let mut spec = Spec::parse("--mount", text)?;
    let kind = spec.take(&["type"])?.unwrap_or_else(|| "volume".to_owned());
    let source = spec.take(&["source", "src"])?;
    let target = spec
        .take(&["target", "destination", "dst"])?
        .ok_or_else(|| spec.error("`target=` is missing"))?;
    let target = target_path(&target).map_err(|reason| spec.error(reason))?;
    let read_only = spec.take_bool(&["readonly", "ro"])?.unwrap_or(false);
    let size = spec.take(&["tmpfs-size"])?;
    if let Some(propagation) = spec.take(&["bind-propagation"])?
        && !["private", "rprivate"].contains(&propagation.as_str())
    {
        return Err(Error::unsupported(format!(
            "--mount with `bind-propagation={propagation}`"
        )));
    }
    for known in [
        "tmpfs-mode",
        "volume-driver",
        "volume-nocopy",
        "volume-opt",
        "volume-subpath",
        "bind-recursive",
    ] {
        if spec.take_field_named(known) {
            return Err(Error::unsupported(format!("--mount with `{known}`")));
        }
    }
    if size.is_some() && kind != "tmpfs" {
        return Err(spec.error("`tmpfs-size=` belongs to `type=tmpfs`"));
    }
    match (kind.as_str(), source) {
        ("bind", Some(source)) => {
            let path = absolute(&source)?;
            if let Err(error) = std::fs::metadata(&path) {
                return Err(Error::io("mount", &path, error)
                    .help("make it first, or use --volume, which makes it"));
            }
            all.volumes.push(Volume {
                source: Some(path),
                target,
                read_only,
            });
        }
        ("bind", None) => return Err(spec.error("`source=` is missing")),
        ("volume", None) => all.volumes.push(Volume {
            source: None,
            target,
            read_only,
        }),
        ("volume", Some(name)) => {
            return Err(Error::unsupported(format!("the named volume `{name}`")));
        }
        ("tmpfs", None) if read_only => {
            return Err(Error::unsupported("--mount type=tmpfs,readonly"));
        }
        ("tmpfs", None) => {
            let size = size
                .map(|text| values::size("--mount tmpfs-size", &text))
                .transpose()?;
            all.tmpfs.push((target, size));
        }
        ("tmpfs", Some(_)) => return Err(spec.error("`type=tmpfs` takes no source")),
        ("image" | "npipe" | "cluster", _) => {
            return Err(Error::unsupported(format!("--mount type={kind}")));
        }
        (other, _) => {
            return Err(spec
                .error(format!("`type={other}`: there is no such mount"))
                .help("it is `bind`, `volume` or `tmpfs`"));
        }
    }
    spec.finish(&KEYS)
}

/// `TARGET[:size=64m,..]`
fn memory(text: &str) -> Result<(String, Option<u64>)> {
    let bad = |reason: &str| {
        Error::usage(format!("--tmpfs `{text}`: {reason}")).help("it looks like `/run:size=64m`")
    };
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = target_path(target).map_err(|reason| bad(&reason))?;
    let mut size = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(values::size("--tmpfs size", value)?),
            // How it is mounted anyway.
            None if ["rw", "nosuid", "nodev"].contains(&option) => {}
            _ => return Err(Error::unsupported(format!("--tmpfs option `{option}`"))),
        }
    }
    Ok((target, size))
}

fn target_path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("the target `{text}` is not an absolute path"));
    }
    if text.trim_matches('/').is_empty() {
        return Err("the root of the container cannot be mounted on".to_owned());
    }
    Ok(text.to_owned())
}

fn absolute(text: &str) -> Result<PathBuf> {
    std::path::absolute(text).map_err(|error| Error::io("find", text, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("made/here");
        let bound = volume(&format!("{}:/x:ro", source.display())).unwrap();
        assert_eq!(
            (
                bound.source.as_deref(),
                bound.target.as_str(),
                bound.read_only
            ),
            (Some(&*source), "/x", true)
        );
        assert!(source.is_dir());
        let anonymous = volume("/data").unwrap();
        assert_eq!(
            (anonymous.source, anonymous.target.as_str()),
            (None, "/data")
        );
        for text in [
            "",
            "data",
            "/a:b/c",
            "/a:/b:ro:x",
            "/a:/b:what",
            ":/x",
            "/tmp:/",
        ] {
            assert!(matches!(volume(text), Err(Error::Usage(_))), "{text}");
        }
        assert!(matches!(volume("name:/x"), Err(Error::Failed(_))));
    }

    #[test]
    fn mounts_and_tmpfs() {
        let all = read(
            &[],
            &[
                "type=bind,src=/tmp,dst=/a,ro".into(),
                "type=tmpfs,target=/b,tmpfs-size=1m".into(),
                "dst=/c".into(),
            ],
            &["/d:size=2k,rw".into()],
        )
        .unwrap();
        assert_eq!(all.volumes.len(), 2);
        assert_eq!(
            all.tmpfs,
            [("/b".into(), Some(1 << 20)), ("/d".into(), Some(2048))]
        );
        for text in [
            "type=bind,dst=/x",
            "type=bind,src=/tmp",
            "type=x,dst=/x",
            "type=bind,src=/tmp,dst=/x,what=1",
        ] {
            assert!(
                matches!(read(&[], &[text.into()], &[]), Err(Error::Usage(_))),
                "{text}"
            );
        }
        assert!(read(&["/a".into(), "/a/".into()], &[], &[]).is_err());
        assert!(read(&[], &["type=bind,src=/nonexistent,dst=/x".into()], &[]).is_err());
    }
}
