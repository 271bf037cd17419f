//! `rbuild info`.

use rbuild_engine::Engine;
use rbuild_engine::containers::{Catalog, Status};
use rbuild_engine::executor::host::Privilege;
use rbuild_engine::image::Platform;
use serde_json::{Value, json};

use crate::commands::container::stats::memory_of_machine;
use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::template::Template;
use crate::{machine, stdio};

/// Show what rbuild found on this machine
#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    /// `json`, or a template such as `{{.Root}}`
    #[arg(short, long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
}

pub(crate) fn execute(args: &InfoArgs, global: &GlobalArgs) -> Result<Exit> {
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let options = global.options()?;
    let store = options.root.clone();
    let root = store.display().to_string();
    let host = machine::enter()?;
    let privilege = match host.privilege() {
        Privilege::Root => "root",
        Privilege::Subordinate => "rootless, with subordinate ids",
        Privilege::SingleId => "rootless, with one id",
        Privilege::Without => "without namespaces",
    };
    let reason = host.reason().to_owned();
    let engine = machine::open(host, options)?;
    let kernel = rustix::system::uname();
    let mut value = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Root": root,
        "Privilege": privilege,
        "PrivilegeReason": reason,
        "Images": images(&engine)?,
        "Platform": Platform::host().to_string(),
        "CPUs": rbuild_engine::cores(),
        "KernelVersion": kernel.release().to_string_lossy(),
    });
    for (name, feature) in engine.features() {
        value[name] = match feature {
            Ok(found) => found.into(),
            Err(why) => format!("none: {why}").into(),
        };
    }
    if args.format.is_some() {
        add_dockers_names(&mut value, &Catalog::at(&store))?;
    }
    let text = match template {
        Some(template) => format!("{}\n", template.render(&value)?),
        None if args.format.is_some() => format!("{value}\n"),
        None => {
            let lines = value.as_object().into_iter().flatten();
            lines
                .map(|(name, value)| match value.as_str() {
                    Some(text) => format!("{name}: {text}\n"),
                    None => format!("{name}: {value}\n"),
                })
                .collect()
        }
    };
    stdio::out(text);
    Ok(Exit::Success)
}

/// What Docker calls what both know: scripts ask for it.
fn add_dockers_names(value: &mut Value, catalog: &Catalog) -> Result<()> {
    let containers = catalog.readable()?.0;
    let count = |is: fn(Status) -> bool| {
        let states = containers.iter().map(|entry| entry.state.status);
        states.filter(|status| is(*status)).count()
    };
    let kernel = rustix::system::uname();
    let is_root = value["Privilege"] == "root";
    let mut security = vec!["name=seccomp,profile=builtin"];
    if !is_root {
        security.push("name=rootless");
    }
    let more = json!({
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Name": kernel.nodename().to_string_lossy(),
        "OSType": std::env::consts::OS,
        "Architecture": kernel.machine().to_string_lossy(),
        "DockerRootDir": value["Root"],
        "Driver": "overlay2",
        "LoggingDriver": "json-file",
        "DefaultRuntime": "embedded",
        "NCPU": value["CPUs"],
        "MemTotal": memory_of_machine(),
        "Containers": containers.len(),
        "ContainersRunning": count(|status| status.is_alive() && status != Status::Paused),
        "ContainersPaused": count(|status| status == Status::Paused),
        "ContainersStopped": count(|status| !status.is_alive()),
        "SecurityOptions": security,
        "Swarm": {"LocalNodeState": "inactive"},
        "Warnings": null,
    });
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
    Ok(())
}

/// How many there are, whatever they are called.
fn images(engine: &Engine) -> Result<usize> {
    let mut ids: Vec<_> = engine
        .images(&[])?
        .into_iter()
        .map(|image| image.id)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids.len())
}
