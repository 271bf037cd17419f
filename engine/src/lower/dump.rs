//! A lowered build as text: one line a vertex, then each image with its config and history. For tests, and for
//! whoever wants to see what a Dockerfile comes to.

use std::fmt::Write as _;

use rbuild_solver::VertexId;

use super::{HistoryEntry, Lowered, LoweredImage};
use crate::op::{CopyOp, ExecOp, FileAction, FileOp, MountOp, MountOpKind, NetworkOp, Op, Unpack};

/// Writes a build down. Vertices are numbered in the order of the steps, inputs first.
pub fn dump(lowered: &Lowered) -> String {
    let mut out = String::new();
    let order = lowered.needed();
    let number = |vertex: VertexId| {
        order
            .iter()
            .position(|known| *known == vertex)
            .map_or_else(|| "?".to_owned(), |position| position.to_string())
    };
    for vertex in &order {
        let inputs: Vec<String> = lowered
            .graph
            .inputs(*vertex)
            .into_iter()
            .map(number)
            .collect();
        let name = lowered
            .steps
            .iter()
            .find(|step| step.vertex == *vertex)
            .map_or("", |step| step.name.as_str());
        line(
            &mut out,
            format_args!("{}({}) {name}", number(*vertex), inputs.join(" ")),
        );
        operation(&mut out, lowered.graph.operation(*vertex));
    }
    for lowered in &lowered.images {
        image(&mut out, lowered, &number);
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

fn operation(out: &mut String, op: &Op) {
    match op {
        Op::Image(image) => line(
            out,
            format_args!("  image {} {}", image.name, image.platform),
        ),
        Op::Context(context) => line(out, format_args!("  context {:?}", context.name)),
        Op::Http(http) => {
            let checksum = http.checksum.map(|digest| format!(" {digest}"));
            line(
                out,
                format_args!(
                    "  http {} as {}{}",
                    http.url,
                    http.filename,
                    checksum.unwrap_or_default()
                ),
            );
        }
        Op::Git(git) => line(
            out,
            format_args!(
                "  git {} {:?} {:?} keep={} {}",
                git.url,
                git.reference,
                git.subdirectory,
                git.keep_git_dir,
                git.checksum.as_deref().unwrap_or_default()
            ),
        ),
        Op::Exec(exec) => command(out, exec),
        Op::File(file) => files(out, file),
        Op::Merge => line(out, format_args!("  merge")),
    }
}

fn command(out: &mut String, exec: &ExecOp) {
    let base = if exec.base { "" } else { " on nothing" };
    line(out, format_args!("  exec{base} {:?}", exec.argv));
    let env: Vec<&str> = exec.env.iter().collect();
    line(out, format_args!("    env {}", env.join(" ")));
    if !exec.env_unkeyed.is_empty() {
        line(
            out,
            format_args!("    env, in no key {}", exec.env_unkeyed.join(" ")),
        );
    }
    let mut rest = format!("    cwd {}", exec.cwd);
    if !exec.user.is_empty() {
        rest.push_str(&format!(" user {}", exec.user));
    }
    if let Some(hostname) = &exec.hostname {
        rest.push_str(&format!(" hostname {hostname}"));
    }
    if let Some(size) = exec.limits.shm_size {
        rest.push_str(&format!(" shm-size {size}"));
    }
    for (name, soft, hard) in &exec.limits.ulimits {
        rest.push_str(&format!(" ulimit {name}={soft}:{hard}"));
    }
    match exec.network {
        NetworkOp::Default => {}
        NetworkOp::None => rest.push_str(" network none"),
        NetworkOp::Host => rest.push_str(" network host"),
    }
    if let Some(reach) = &exec.reach {
        rest.push_str(&format!(" allow-host {reach}"));
    }
    for (word, set) in [
        (" insecure", exec.insecure),
        (" refresh", exec.refresh),
        (" reset-cache-mounts", exec.reset_cache_mounts),
    ] {
        if set {
            rest.push_str(word);
        }
    }
    for (host, address) in &exec.hosts {
        rest.push_str(&format!(" host {host}={address}"));
    }
    line(out, format_args!("{rest} on {}", exec.platform));
    for one in &exec.mounts {
        mount(out, one);
    }
}

fn mount(out: &mut String, mount: &MountOp) {
    let input = |input: &Option<usize>| {
        input.map_or_else(|| "nothing".to_owned(), |input| format!("#{input}"))
    };
    let kind = match &mount.kind {
        MountOpKind::Bind {
            input: from,
            source,
        } => format!("bind {}:{source}", input(from)),
        MountOpKind::Cache {
            id,
            sharing,
            input: from,
            source,
            access,
        } => format!("cache {id:?} {sharing:?} {}:{source} {access}", input(from)),
        MountOpKind::Tmpfs { size } => format!("tmpfs {size:?}"),
        MountOpKind::Secret {
            id,
            env,
            required,
            access,
        } => format!("secret {id} env={env:?} required={required} {access}"),
        MountOpKind::Ssh {
            id,
            required,
            access,
        } => format!("ssh {id} required={required} {access}"),
    };
    let access = if mount.read_only { "ro" } else { "rw" };
    line(
        out,
        format_args!("    mount {:?} {access} {kind}", mount.target),
    );
}

fn files(out: &mut String, file: &FileOp) {
    let base = if file.base { "" } else { " on nothing" };
    let epoch = file.epoch.map(|epoch| format!(" at {epoch}"));
    let refresh = if file.refresh { " refresh" } else { "" };
    line(
        out,
        format_args!("  file{base}{}{refresh}", epoch.unwrap_or_default()),
    );
    for action in &file.actions {
        match action {
            FileAction::Mkdir { path, mode, owner } => {
                line(out, format_args!("    mkdir {path} {mode:o} {owner:?}"));
            }
            FileAction::Mkfile {
                destination,
                name,
                data,
                owner,
                mode,
            } => line(
                out,
                format_args!(
                    "    mkfile {destination} {name} {owner:?} {mode:?} {:?}",
                    String::from_utf8_lossy(data)
                ),
            ),
            FileAction::Copy(one) => copy(out, one),
        }
    }
}

fn copy(out: &mut String, copy: &CopyOp) {
    let mut text = format!(
        "    copy #{} {:?} {}",
        copy.input, copy.sources, copy.destination
    );
    if copy.destination_is_directory {
        text.push_str(" (directory)");
    }
    text.push_str(&format!(" {:?}", copy.owner));
    if let Some(mode) = &copy.mode {
        text.push_str(&format!(" {mode:?}"));
    }
    if !copy.excludes.is_empty() {
        text.push_str(&format!(" without {:?}", copy.excludes));
    }
    if copy.parents {
        text.push_str(" parents");
    }
    match copy.unpack {
        None => {}
        Some(Unpack::Archives) => text.push_str(" unpack"),
        Some(Unpack::Never) => text.push_str(" never-unpack"),
    }
    line(out, format_args!("{text}"));
}

fn image(out: &mut String, image: &LoweredImage, number: &dyn Fn(VertexId) -> String) {
    let root = image.vertex.map_or_else(|| "nothing".to_owned(), number);
    let epoch = image.epoch.map(|epoch| format!(" at {epoch}"));
    line(
        out,
        format_args!(
            "image {} = {root}{}",
            image.platform,
            epoch.unwrap_or_default()
        ),
    );
    let config = &image.config;
    if let Some(author) = &config.author {
        line(out, format_args!("  author {author}"));
    }
    // A config always has a JSON form.
    let json = serde_json::to_string(&config.config).unwrap_or_default();
    line(out, format_args!("  {json}"));
    for entry in &image.history {
        match entry {
            HistoryEntry::Inherited(history) => {
                let created_by = history.created_by.as_deref().unwrap_or_default();
                line(out, format_args!("  ^ {created_by}"));
            }
            HistoryEntry::Own {
                created_by, layer, ..
            } => {
                let mark = if *layer { 'L' } else { 'e' };
                line(out, format_args!("  {mark} {created_by}"));
            }
        }
    }
}
