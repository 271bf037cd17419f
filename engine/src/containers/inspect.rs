//! A container as `docker inspect` shows it.

mod network;
mod resources;
mod shapes;

use rbuild_cache::Volumes;
use rbuild_executor::spec::{SecurityOptions, Tmpfs, Users};
use serde_json::{Value, json};

use self::network::bindings;
use self::shapes::{add_present, capabilities, filled, listed};
use super::catalog::Entry;
use super::definition::{MountKind, MountPoint};
use super::log::Keeping;
use super::request::{Ipc, Restart, Space};
use super::state::Status;
use crate::Result;

/// Go's zero time: it never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl Entry {
    /// The whole of it, with the field names of Docker's API.
    pub fn inspect(&self) -> Result<Value> {
        let definition = &self.definition;
        let (path, args) = match definition.argv.split_first() {
            Some((path, args)) => (path.clone(), args.to_vec()),
            None => (String::new(), Vec::new()),
        };
        let directory = self.path("")?;
        let mounts = definition
            .mounts
            .iter()
            .filter(|mount| !matches!(mount.kind, MountKind::Tmpfs(_)))
            .map(|mount| self.mount(mount))
            .collect::<Result<Vec<Value>>>()?;
        Ok(json!({
            "Id": definition.id,
            "Created": definition.created,
            "Path": path,
            "Args": args,
            "State": self.state_value(),
            "Image": definition.image_id.as_deref().unwrap_or_default(),
            "ResolvConfPath": "",
            "HostnamePath": "",
            "HostsPath": "",
            "LogPath": self.log()?,
            "Name": format!("/{}", self.name),
            "RestartCount": self.state.restarts,
            "Driver": "overlay2",
            "Platform": "linux",
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": "",
            "ExecIDs": null,
            "HostConfig": self.host_config(),
            "GraphDriver": {
                "Name": "overlay2",
                "Data": {
                    "UpperDir": directory.join("fs"),
                    "WorkDir": directory.join("work"),
                },
            },
            "Mounts": mounts,
            "Config": self.config_value(),
            "NetworkSettings": self.network_settings(),
        }))
    }

    fn config_value(&self) -> Value {
        let definition = &self.definition;
        let request = &definition.request;
        let mut value = json!({
            "Hostname": definition.hostname,
            "Domainname": request.domainname,
            "User": definition.user,
            "AttachStdin": request.interactive,
            "AttachStdout": request.shown.stdout,
            "AttachStderr": request.shown.stderr,
            "Tty": request.terminal,
            "OpenStdin": request.interactive,
            "StdinOnce": request.interactive,
            "Env": listed(&definition.given_env()),
            "Cmd": self.cmd(),
            "Image": request.image,
            "Volumes": self.declared_volumes(),
            "WorkingDir": definition.working_dir,
            "Entrypoint": self.entrypoint(),
            "OnBuild": null,
            "Labels": definition.labels(),
        });
        let signal = request.stop_signal.as_ref();
        let signal = signal.or(definition.config.stop_signal.as_ref());
        // Where there is nothing to say of them, they are not there.
        let more = [
            ("ExposedPorts", filled(self.exposed())),
            ("Healthcheck", json!(definition.health())),
            ("StopSignal", json!(signal)),
            ("StopTimeout", json!(request.stop_timeout)),
        ];
        add_present(&mut value, more);
        value
    }

    fn state_value(&self) -> Value {
        let state = &self.state;
        let moment = |text: &str| if text.is_empty() { NEVER } else { text }.to_owned();
        let mut value = json!({
            "Status": state.status.name(),
            "Running": state.status.is_alive(),
            "Paused": state.status == Status::Paused,
            "Restarting": state.status == Status::Restarting,
            "OOMKilled": state.out_of_memory,
            "Dead": state.status == Status::Dead,
            "Pid": state.pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": moment(&state.started),
            "FinishedAt": moment(&state.finished),
        });
        if let (Some(health), Some(fields)) = (&state.health, value.as_object_mut()) {
            fields.insert(
                "Health".to_owned(),
                json!({
                    "Status": health.status,
                    "FailingStreak": health.failing_streak,
                    "Log": health.log,
                }),
            );
        }
        value
    }

    fn host_config(&self) -> Value {
        let request = &self.definition.request;
        let binds: Vec<String> = self
            .definition
            .mounts
            .iter()
            .filter_map(|mount| {
                let source = match &mount.kind {
                    MountKind::Bind(path) => path.display().to_string(),
                    MountKind::Volume {
                        name,
                        anonymous: false,
                    } => name.clone(),
                    _ => return None,
                };
                let mode = if mount.read_only { ":ro" } else { "" };
                Some(format!("{source}:{}{mode}", mount.target))
            })
            .collect();
        let (policy, most) = match request.restart {
            Restart::No => ("no", 0),
            Restart::OnFailure(most) => ("on-failure", most.unwrap_or(0)),
            Restart::Always => ("always", 0),
            Restart::UnlessStopped => ("unless-stopped", 0),
        };
        let mut value = json!({
            "Binds": listed(&binds),
            "ContainerIDFile": "",
            "LogConfig": {"Type": request.log.driver.name(), "Config": log_options(&request.log)},
            "NetworkMode": self.network_mode(),
            "PortBindings": bindings(request.publish.iter().map(|port| {
                let outside = match port.host_ports {
                    None => String::new(),
                    Some((first, last)) if first == last => first.to_string(),
                    Some((first, last)) => format!("{first}-{last}"),
                };
                let host = port.host.map(|host| host.to_string()).unwrap_or_default();
                (port.inside(), host, outside)
            })),
            "Links": (!request.links.is_empty()).then(|| {
                let links = request.links.iter();
                links.map(|(other, alias)| format!("/{other}:/{}/{alias}", self.name)).collect::<Vec<_>>()
            }),
            "PublishAllPorts": request.publish_all,
            "RestartPolicy": {"Name": policy, "MaximumRetryCount": most},
            "AutoRemove": request.remove,
            "VolumeDriver": "",
            "VolumesFrom": listed(&request.volumes_from.iter().map(|(name, _)| name).collect::<Vec<_>>()),
            "ConsoleSize": [0, 0],
            "Annotations": (!request.annotations.is_empty()).then_some(&request.annotations),
            "CapAdd": listed(&capabilities(&request.capabilities_add)),
            "CapDrop": listed(&capabilities(&request.capabilities_drop)),
            "Dns": request.dns.servers,
            "DnsSearch": request.dns.search,
            "DnsOptions": request.dns.options,
            "ExtraHosts": listed(&request.hosts.iter().map(|(host, ip)| format!("{host}:{ip}")).collect::<Vec<_>>()),
            "GroupAdd": listed(&request.groups),
            "SecurityOpt": listed(&security_options(&request.security)),
            "Devices": request.security.devices.iter().map(|device| json!({
                "PathOnHost": device.path,
                "PathInContainer": std::path::Path::new("/dev").join(&device.name),
                "CgroupPermissions": device.access.to_string(),
            })).collect::<Vec<_>>(),
            "DeviceCgroupRules": listed(&request.security.device_rules.iter().map(ToString::to_string).collect::<Vec<_>>()),
            "DeviceRequests": null,
            "Privileged": request.privileged,
            "ReadonlyRootfs": request.read_only,
            "ShmSize": request.limits.shm_size.unwrap_or(64 << 20),
            "Runtime": request.runtime.as_deref().map_or_else(|| "embedded".into(), |path| path.to_string_lossy()),
            "Isolation": "",
            "Cgroup": "",
            "PidMode": match &request.spaces.processes {
                Space::Own => String::new(),
                Space::Host => "host".to_owned(),
                Space::Container(other) => format!("container:{other}"),
            },
            "IpcMode": match &request.spaces.ipc {
                Ipc::Private => "private".to_owned(),
                Ipc::Shareable => "shareable".to_owned(),
                Ipc::None => "none".to_owned(),
                Ipc::Host => "host".to_owned(),
                Ipc::Container(other) => format!("container:{other}"),
            },
            "UTSMode": if request.spaces.machines_names { "host" } else { "" },
            "CgroupnsMode": "private",
            "UsernsMode": match request.users {
                Users::Own => "",
                Users::Host => "host",
            },
        });
        if let Some(fields) = value.as_object_mut() {
            fields.extend(resources::of(&request.limits));
            let images = self.image_mounts();
            if !images.is_empty() {
                fields.insert("Mounts".to_owned(), Value::Array(images));
            }
        }
        let sysctls = request.security.sysctls.iter().cloned();
        let sysctls: serde_json::Map<_, _> =
            sysctls.map(|(name, value)| (name, value.into())).collect();
        let tmpfs = self.definition.mounts.iter();
        let tmpfs: serde_json::Map<_, _> = tmpfs
            .filter_map(|mount| match &mount.kind {
                MountKind::Tmpfs(tmpfs) => Some((mount.target.clone(), options_of(tmpfs))),
                _ => None,
            })
            .collect();
        let more = [
            ("Init", json!(request.init.then_some(true))),
            ("Sysctls", filled(Value::Object(sysctls))),
            ("Tmpfs", filled(Value::Object(tmpfs))),
        ];
        add_present(&mut value, more);
        value
    }

    /// As they were asked for: no bind says it.
    fn image_mounts(&self) -> Vec<Value> {
        let mounts = self.definition.mounts.iter();
        mounts
            .filter_map(|mount| {
                let MountKind::Image { name, .. } = &mount.kind else {
                    return None;
                };
                let mut value = json!({"Type": "image", "Source": name, "Target": mount.target});
                if let Some(subpath) = &mount.subpath {
                    value["ImageOptions"] = json!({"Subpath": subpath});
                }
                Some(value)
            })
            .collect()
    }

    fn mount(&self, mount: &MountPoint) -> Result<Value> {
        let (kind, name, source) = match &mount.kind {
            MountKind::Bind(path) => ("bind", None, path.clone()),
            MountKind::Volume { name, .. } => (
                "volume",
                Some(name),
                Volumes::at(&self.catalog.root).data(name)?,
            ),
            MountKind::Tmpfs(_) => ("tmpfs", None, std::path::PathBuf::new()),
            // It is nowhere on the host.
            MountKind::Image { name, id, .. } => {
                let id = id.as_deref().unwrap_or_default();
                ("image", Some(name), std::path::PathBuf::from(id))
            }
        };
        // Docker marks a volume that is given by name as one that containers share.
        let mode = match &mount.kind {
            MountKind::Image { .. } => "",
            _ if mount.read_only => "ro",
            MountKind::Volume {
                anonymous: false, ..
            } => "z",
            _ => "",
        };
        let mut value = json!({"Type": kind});
        add_present(&mut value, [("Name", json!(name))]);
        let driver = (kind == "volume").then_some("local");
        let more = [
            ("Source", json!(source)),
            ("Destination", json!(mount.target)),
            ("Driver", json!(driver)),
            ("Mode", json!(mode)),
            ("RW", json!(!mount.read_only)),
            (
                "Propagation",
                json!(if kind == "bind" && mount.propagation.is_empty() {
                    "rprivate"
                } else {
                    &mount.propagation
                }),
            ),
        ];
        add_present(&mut value, more);
        Ok(value)
    }

    fn declared_volumes(&self) -> Value {
        json!(self.definition.config.volumes)
    }

    fn cmd(&self) -> Value {
        let request = &self.definition.request;
        if !request.command.is_empty() {
            json!(request.command)
        } else if request.entrypoint.is_some() {
            Value::Null
        } else {
            json!(self.definition.config.cmd)
        }
    }

    fn entrypoint(&self) -> Value {
        match self.definition.request.entrypoint.as_deref() {
            Some("") => Value::Null,
            Some(program) => json!([program]),
            None => json!(self.definition.config.entrypoint),
        }
    }
}

/// As they are typed.
fn log_options(keeping: &Keeping) -> Value {
    let mut options = serde_json::Map::new();
    if let Some(bytes) = keeping.max_size {
        options.insert("max-size".to_owned(), json!(bytes.to_string()));
        options.insert("max-file".to_owned(), json!(keeping.max_file.to_string()));
    }
    for (name, names) in [("labels", &keeping.labels), ("env", &keeping.env)] {
        if !names.is_empty() {
            options.insert(name.to_owned(), json!(names.join(",")));
        }
    }
    Value::Object(options)
}

fn security_options(options: &SecurityOptions) -> Vec<String> {
    let given = [
        (options.no_new_privileges, "no-new-privileges"),
        (options.no_filter, "seccomp=unconfined"),
        (options.unmasked, "systempaths=unconfined"),
    ]
    .into_iter()
    .filter(|(given, _)| *given)
    .map(|(_, text)| text.to_owned());
    let profile = options.profile.iter();
    // A profile is kept as it was read; its file may be another by now.
    let profile = profile.filter_map(|profile| serde_json::to_string(&profile.profile).ok());
    given
        .chain(profile.map(|profile| format!("seccomp={profile}")))
        .collect()
}

/// As `--tmpfs` takes them.
fn options_of(tmpfs: &Tmpfs) -> Value {
    let options = [
        tmpfs.size.map(|size| format!("size={size}")),
        tmpfs.mode.map(|mode| format!("mode={mode:o}")),
        tmpfs.uid.map(|uid| format!("uid={uid}")),
        tmpfs.gid.map(|gid| format!("gid={gid}")),
        tmpfs.inodes.map(|most| format!("nr_inodes={most}")),
        (!tmpfs.no_exec).then(|| "exec".to_owned()),
    ];
    let options: Vec<String> = options.into_iter().flatten().collect();
    Value::String(options.join(","))
}
