//! `--volume`, `--mount` and `--tmpfs`.

use std::path::PathBuf;

use rbuild_engine::containers::request::{Tmpfs, Volume};
use rbuild_engine::containers::{NewVolume, VolumeSource};
use rbuild_engine::executor::spec::{Below, Tmpfs as FileSystem};

use crate::error::{Error, Result};
use crate::spec::Spec;
use crate::values;

#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) volumes: Vec<Volume>,
    pub(super) tmpfs: Vec<Tmpfs>,
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
        .chain(all.tmpfs.iter().map(|tmpfs| tmpfs.target.as_str()))
        .map(|target| target.trim_end_matches('/'))
        .collect();
    targets.sort_unstable();
    if let Some([twice, _]) = targets.windows(2).find(|pair| pair.first() == pair.last()) {
        return Err(Error::usage(format!("`{twice}` is mounted on twice")));
    }
    Ok(all)
}

/// `[SOURCE:]TARGET[:OPTIONS]`. A directory of the host that does not exist is made, as Docker does.
fn volume(text: &str) -> Result<Volume> {
    let bad = |reason: &str| {
        Error::usage(format!("--volume `{text}`: {reason}"))
            .help("it looks like `/host/dir:/target:ro` or `name:/target`")
    };
    let (source, target, options) = match text.split(':').collect::<Vec<_>>().as_slice() {
        [target] => (None, *target, ""),
        [target, options] if !options.starts_with('/') => (None, *target, *options),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(bad("it has too many parts")),
    };
    if text.ends_with(':') {
        return Err(bad("nothing follows the last colon"));
    }
    let target = target_path(target).map_err(|reason| bad(&reason))?;
    let mut volume = Volume {
        source: VolumeSource::Anonymous,
        target,
        read_only: false,
        no_copy: false,
        subpath: None,
        propagation: None,
        below: Below::Included,
        new: NewVolume::default(),
    };
    let options: Vec<&str> = options
        .split(',')
        .filter(|option| !option.is_empty())
        .collect();
    if options.contains(&"rw") && (options.contains(&"ro") || options.contains(&"readonly")) {
        return Err(bad("`ro` and `rw` contradict each other"));
    }
    for option in options {
        match option {
            "ro" | "readonly" => volume.read_only = true,
            "nocopy" => volume.no_copy = true,
            // What is so anyway: kinds of consistency are for other systems.
            "rw" | "cached" | "delegated" | "consistent" => {}
            "z" | "Z" => refuse_labels(option)?,
            other if PROPAGATIONS.contains(&other) => {
                if volume.propagation.replace(other.to_owned()).is_some() {
                    return Err(bad("only one propagation can be given"));
                }
            }
            "U" => return Err(Error::unsupported(format!("--volume option `{option}`"))),
            // `/host:relative` looks the same.
            other if source.is_none() && text.starts_with('/') => {
                return Err(bad(&format!(
                    "`{other}` is neither an absolute path in the container nor an option"
                )));
            }
            other => return Err(bad(&format!("there is no option `{other}`"))),
        }
    }
    volume.source = match source {
        None => VolumeSource::Anonymous,
        Some("") => return Err(bad("the source is empty")),
        Some(source) if !source.starts_with(['/', '.', '~']) => {
            if source.contains('/') {
                return Err(bad(&format!(
                    "`{source}` is neither a path, which begins with `/` or `./`, nor a volume's name"
                )));
            }
            VolumeSource::Named(source.to_owned())
        }
        Some(source) => {
            let path = absolute(source)?;
            if std::fs::symlink_metadata(&path).is_err() {
                std::fs::create_dir_all(&path)
                    .map_err(|error| Error::io("create", &path, error))?;
            }
            VolumeSource::Host(path)
        }
    };
    match &volume.source {
        VolumeSource::Host(_) if volume.no_copy => Err(bad("`nocopy` belongs to volumes")),
        VolumeSource::Named(_) | VolumeSource::Anonymous if volume.propagation.is_some() => {
            Err(bad("propagation belongs to directories of the host"))
        }
        _ => Ok(volume),
    }
}

const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// Where SELinux is off a label is nothing to give; where it is on, none can be given yet.
fn refuse_labels(option: &str) -> Result<()> {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        Err(Error::unsupported(format!(
            "--volume option `{option}` on a machine with SELinux"
        )))
    } else {
        Ok(())
    }
}

/// `type=bind|volume|tmpfs|image,source=..,target=..,readonly`
fn mount(text: &str, all: &mut Mounts) -> Result<()> {
    const KEYS: [&str; 14] = [
        "type",
        "source",
        "target",
        "readonly",
        "bind-propagation",
        "bind-recursive",
        "bind-nonrecursive",
        "volume-nocopy",
        "volume-subpath",
        "volume-opt",
        "volume-label",
        "tmpfs-size",
        "tmpfs-mode",
        "image-subpath",
    ];
    let mut spec = Spec::parse("--mount", text)?;
    spec.lower_names();
    let kind = spec.take(&["type"])?.unwrap_or_else(|| "volume".to_owned());
    let kind = kind.to_ascii_lowercase();
    let source = spec.take(&["source", "src"])?;
    let target = spec
        .take(&["target", "destination", "dst"])?
        .ok_or_else(|| spec.error("`target=` is missing"))?;
    let target = target_path(&target).map_err(|reason| spec.error(reason))?;
    let read_only = spec.take_bool(&["readonly", "ro"])?.unwrap_or(false);
    let mut belongs = Vec::new();
    let mut take = |spec: &mut Spec, owner: &'static str, name: &'static str| -> Result<_> {
        let value = spec.take(&[name])?;
        if value.is_some() {
            belongs.push((owner, name));
        }
        Ok(value)
    };
    let size = take(&mut spec, "tmpfs", "tmpfs-size")?;
    let mode = take(&mut spec, "tmpfs", "tmpfs-mode")?;
    let travels = take(&mut spec, "bind", "bind-propagation")?;
    let subpath = take(&mut spec, "volume", "volume-subpath")?;
    let in_image = take(&mut spec, "image", "image-subpath")?;
    let no_copy = spec.take_bool(&["volume-nocopy"])?;
    // As with --volume, there is one kind.
    spec.take(&["consistency"])?;
    let non_recursive = spec.take_bool(&["bind-nonrecursive"])?;
    belongs.extend(no_copy.map(|_| ("volume", "volume-nocopy")));
    belongs.extend(non_recursive.map(|_| ("bind", "bind-nonrecursive")));
    let driver = spec.take(&["volume-driver"])?;
    if driver.is_some_and(|driver| driver != "local") {
        return Err(Error::unsupported(
            "--mount with another `volume-driver` than `local`",
        ));
    }
    let recursive = spec.take(&["bind-recursive"])?;
    belongs.extend(recursive.as_ref().map(|_| ("bind", "bind-recursive")));
    let below = match (recursive.as_deref(), non_recursive) {
        (Some(_), Some(_)) => {
            return Err(spec.error("`bind-nonrecursive` is `bind-recursive=disabled`: give one"));
        }
        (None, Some(true)) => Below::Excluded,
        (None, None | Some(false)) => Below::Included,
        (Some(asked), None) => {
            let is_private = travels.as_deref() == Some("rprivate");
            recursion(asked, read_only, is_private).map_err(|reason| spec.error(reason))?
        }
    };
    let options = spec.take_each("volume-opt");
    let labels = spec.take_each("volume-label");
    belongs.extend((!options.is_empty()).then_some(("volume", "volume-opt")));
    belongs.extend((!labels.is_empty()).then_some(("volume", "volume-label")));
    if let Some((owner, name)) = belongs.iter().find(|(owner, _)| *owner != kind) {
        return Err(spec.error(format!("`{name}=` belongs to `type={owner}`")));
    }
    let mut volume = Volume {
        source: VolumeSource::Anonymous,
        target: target.clone(),
        read_only,
        no_copy: no_copy.unwrap_or(false),
        subpath: subpath.or(in_image),
        propagation: match travels {
            Some(name) if !PROPAGATIONS.contains(&name.as_str()) => {
                return Err(spec.error(format!("there is no propagation `{name}`")));
            }
            travels => travels,
        },
        below,
        new: crate::commands::volume::described("--mount volume-opt", &labels, &options)?,
    };
    match (kind.as_str(), source) {
        ("bind", Some(source)) => {
            let path = absolute(&source)?;
            if let Err(error) = std::fs::metadata(&path) {
                return Err(Error::io("mount", &path, error)
                    .help("make it first, or use --volume, which makes it"));
            }
            volume.source = VolumeSource::Host(path);
            all.volumes.push(volume);
        }
        ("bind", None) => return Err(spec.error("`source=` is missing")),
        ("volume", source) => {
            if let Some(name) = source.filter(|name| !name.is_empty()) {
                volume.source = VolumeSource::Named(name);
            }
            all.volumes.push(volume);
        }
        ("tmpfs", None) => {
            let size = size
                .map(|text| values::size("--mount tmpfs-size", &text))
                .transpose()?;
            all.tmpfs.push(Tmpfs {
                target,
                read_only,
                file_system: FileSystem {
                    size,
                    mode: mode.as_deref().map(octal).transpose()?,
                    ..PLAIN
                },
            });
        }
        ("tmpfs", Some(_)) => return Err(spec.error("`type=tmpfs` takes no source")),
        ("image", None) => {
            return Err(spec.error("`source=` is missing: the image whose files are to be seen"));
        }
        ("image", Some(image)) => {
            volume.source = VolumeSource::Image(image);
            // There is nothing to write to.
            volume.read_only = true;
            all.volumes.push(volume);
        }
        ("npipe" | "cluster", _) => {
            return Err(Error::unsupported(format!("--mount type={kind}")));
        }
        (other, _) => {
            return Err(spec
                .error(format!("`type={other}`: there is no such mount"))
                .help("it is `bind`, `volume`, `tmpfs` or `image`"));
        }
    }
    spec.finish(&KEYS)
}

/// `bind-recursive=`: what becomes of what is mounted below a directory.
fn recursion(asked: &str, read_only: bool, is_private: bool) -> std::result::Result<Below, String> {
    match asked {
        "enabled" => Ok(Below::Included),
        "disabled" => Ok(Below::Excluded),
        "writable" if read_only => Ok(Below::Writable),
        "readonly" if read_only && is_private => Ok(Below::Included),
        "writable" => Err("`bind-recursive=writable` is of mounts that are `readonly`".to_owned()),
        "readonly" => Err(
            "`bind-recursive=readonly` is of mounts that are `readonly` and `bind-propagation=rprivate`"
                .to_owned(),
        ),
        other => Err(format!("there is no `bind-recursive={other}`")),
    }
}

/// A tmpfs of which nothing is said.
const PLAIN: FileSystem = FileSystem {
    size: None,
    mode: None,
    uid: None,
    gid: None,
    inodes: None,
    no_exec: true,
};

fn octal(text: &str) -> Result<u32> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| Error::usage(format!("`{text}` is not a mode, as in 1777")))
}

/// `TARGET[:OPTIONS]`
fn memory(text: &str) -> Result<Tmpfs> {
    let bad = |reason: &str| {
        Error::usage(format!("--tmpfs `{text}`: {reason}"))
            .help("it looks like `/run:size=64m,mode=755`")
    };
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = target_path(target).map_err(|reason| bad(&reason))?;
    let (file_system, read_only) = memory_options("--tmpfs", options)?;
    Ok(Tmpfs {
        target,
        read_only,
        file_system,
    })
}

/// Options of a file system in memory, and whether it is read-only.
pub(crate) fn memory_options(flag: &str, options: &str) -> Result<(FileSystem, bool)> {
    let (mut file_system, mut read_only) = (PLAIN, false);
    let number = |name: &str, value: &str| {
        let number = value.parse::<u32>().ok();
        number.ok_or_else(|| Error::usage(format!("{flag}: `{name}={value}` is not a number")))
    };
    let size = |name: &str, value: &str| values::size(&format!("{flag} {name}"), value);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => file_system.size = Some(size("size", value)?),
            Some(("mode", value)) => file_system.mode = Some(octal(value)?),
            Some(("uid", value)) => file_system.uid = Some(number("uid", value)?),
            Some(("gid", value)) => file_system.gid = Some(number("gid", value)?),
            Some(("nr_inodes", value)) => file_system.inodes = Some(size("nr_inodes", value)?),
            None => match option {
                "ro" => read_only = true,
                "rw" => read_only = false,
                "exec" => file_system.no_exec = false,
                "noexec" => file_system.no_exec = true,
                // Both hold for every tmpfs.
                "nosuid" | "nodev" => {}
                _ => return Err(Error::unsupported(format!("{flag} option `{option}`"))),
            },
            _ => return Err(Error::unsupported(format!("{flag} option `{option}`"))),
        }
    }
    Ok((file_system, read_only))
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
            (bound.source, bound.target.as_str(), bound.read_only),
            (VolumeSource::Host(source.clone()), "/x", true)
        );
        assert!(source.is_dir());
        let anonymous = volume("/data").unwrap();
        assert_eq!(
            (anonymous.source, anonymous.target.as_str()),
            (VolumeSource::Anonymous, "/data")
        );
        for text in [
            "",
            "data",
            "/a:b/c",
            "/a:/b:ro:x",
            "/a:/b:what",
            ":/x",
            "/tmp:/",
            "/x:",
            "name:",
            "/tmp:/y:",
        ] {
            assert!(matches!(volume(text), Err(Error::Usage(_))), "{text}");
        }
        assert_eq!(
            volume("name:/x").unwrap().source,
            VolumeSource::Named("name".into())
        );
        let travelling = volume("/tmp:/x:ro,rshared").unwrap();
        assert_eq!(
            (travelling.propagation.as_deref(), travelling.read_only),
            (Some("rshared"), true)
        );
        for text in ["name:/x:rslave", "/x:slave", "/tmp:/x:slave,rslave"] {
            assert!(matches!(volume(text), Err(Error::Usage(_))), "{text}");
        }
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
        let sizes: Vec<_> = all
            .tmpfs
            .iter()
            .map(|tmpfs| (&*tmpfs.target, tmpfs.file_system.size))
            .collect();
        assert_eq!(sizes, [("/b", Some(1 << 20)), ("/d", Some(2048))]);
        let image = "type=image,src=busybox,dst=/i,image-subpath=bin".to_owned();
        let image = read(&[], &[image], &[]).unwrap().volumes.remove(0);
        assert_eq!(image.source, VolumeSource::Image("busybox".to_owned()));
        assert_eq!(
            (image.subpath.as_deref(), image.read_only),
            (Some("bin"), true)
        );
        for text in [
            "type=image,dst=/x",
            "type=image,src=a,dst=/x,volume-subpath=b",
            "type=volume,src=a,dst=/x,image-subpath=b",
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
