//! What comes out is held against the protocol: digests, places of inputs and outputs.

use std::collections::HashMap;

use prost::Message;
use rbuild_cache::Digest;

use super::definition;
use super::wire::{Action, Definition, Kind, MountType, Op, Who};
use crate::lower::tests::{kit, layout};

/// Encodes and reads again; holds what every definition must be.
fn read(definition: &Definition) -> Vec<Op> {
    let bytes = definition.encode_to_vec();
    assert_eq!(&Definition::decode(bytes.as_slice()).unwrap(), definition);
    let mut known: Vec<String> = Vec::new();
    let mut ops = Vec::new();
    for bytes in &definition.def {
        let op = Op::decode(bytes.as_slice()).unwrap();
        for input in &op.inputs {
            assert!(known.contains(&input.digest), "inputs come first");
        }
        let digest = Digest::of(bytes).to_string();
        assert!(definition.metadata.contains_key(&digest));
        known.push(digest);
        ops.push(op);
    }
    // The last one names the result.
    let last = ops.pop().unwrap();
    assert_eq!((last.inputs.len(), last.op), (1, None));
    assert_eq!(last.inputs[0].digest, known[known.len() - 2]);
    ops
}

fn graph(dockerfile: &str) -> Vec<Op> {
    let ignored = HashMap::from([(String::new(), vec!["*.log".to_owned(), "!a.log".to_owned()])]);
    read(&definition(&kit(dockerfile).ok(), &ignored))
}

fn source(op: &Op) -> &str {
    match &op.op {
        Some(Kind::Source(source)) => &source.identifier,
        other => panic!("no source: {other:?}"),
    }
}

#[test]
fn an_empty_root_is_an_empty_definition() {
    let lowered = kit("FROM scratch\nLABEL a=1\n").ok();
    let definition = definition(&lowered, &HashMap::new());
    assert!(definition.encode_to_vec().is_empty());
}

#[test]
fn a_command_has_its_root_its_mounts_and_its_surroundings() {
    let ops = graph(
        "FROM busybox\nENV A=1\nUSER u\nRUN --network=none --mount=type=cache,target=/c,uid=5,sharing=locked \
         --mount=type=secret,id=s,env=S --mount=type=tmpfs,target=/t,size=1m --mount=type=ssh \
         --mount=target=/src,source=sub true\n",
    );
    let identifier = format!(
        "docker-image://docker.io/library/busybox:latest@{}",
        Digest::of(b"busybox:latest")
    );
    assert_eq!(source(&ops[0]), identifier);
    assert_eq!(source(&ops[1]), "local://context");
    let Some(Kind::Exec(exec)) = &ops[3].op else {
        panic!("{ops:?}")
    };
    let meta = exec.meta.as_ref().unwrap();
    assert_eq!(meta.args, ["/bin/sh", "-c", "true"]);
    assert!(meta.env.contains(&"A=1".to_owned()));
    assert_eq!((meta.cwd.as_str(), meta.user.as_str()), ("/", "u"));
    assert_eq!((exec.network, exec.security), (2, 0));
    assert_eq!(exec.secretenv[0].name, "S");
    let kinds: Vec<(i32, &str, i64, &str)> = exec
        .mounts
        .iter()
        .map(|it| {
            (
                it.mount_type,
                it.dest.as_str(),
                it.input,
                it.selector.as_str(),
            )
        })
        .collect();
    let [bind, cache, tmpfs, ssh] = [
        MountType::Bind,
        MountType::Cache,
        MountType::Tmpfs,
        MountType::Ssh,
    ]
    .map(i32::from);
    assert_eq!(kinds[0], (bind, "/", 0, ""));
    // Its owner is that of a directory which is made for it, the last input.
    assert_eq!(kinds[1], (cache, "/c", 2, "/cache"));
    assert_eq!(exec.mounts[1].cache_opt.as_ref().unwrap().sharing, 2);
    assert_eq!((kinds[2].0, kinds[3]), (ssh, (bind, "/src", 1, "/sub")));
    assert_eq!(kinds[4], (tmpfs, "/t", -1, ""));
    assert_eq!(exec.mounts[4].tmpfs_opt.as_ref().unwrap().size, 1 << 20);
    assert_eq!(ops[3].inputs.len(), 3);
    let outputs: Vec<i64> = exec.mounts.iter().map(|mount| mount.output).collect();
    assert_eq!(outputs, [0, -1, -1, -1, -1]);
}

#[test]
fn a_command_has_the_limits_of_the_build() {
    let mut kit = kit("FROM busybox\nRUN true\n");
    kit.options.limits.shm_size = Some(1 << 20);
    kit.options.limits.ulimits = vec![("core".to_owned(), 0, u64::MAX)];
    let ops = read(&definition(&kit.ok(), &HashMap::new()));
    let Some(Kind::Exec(exec)) = &ops[1].op else {
        panic!("{ops:?}")
    };
    let limit = &exec.meta.as_ref().unwrap().ulimit[0];
    assert_eq!(
        (limit.name.as_str(), limit.soft, limit.hard),
        ("core", 0, -1)
    );
    let shm = &exec.mounts[1];
    assert_eq!(
        (shm.dest.as_str(), shm.input, shm.output),
        ("/dev/shm", -1, -1)
    );
    assert_eq!(shm.tmpfs_opt.as_ref().unwrap().size, 1 << 20);
}

#[test]
fn files_are_copied_one_after_the_other() {
    let ops = graph(
        "FROM busybox\nCOPY --chown=u:7 --chmod=u=rwX,go-w --exclude=*.o a b* /d/\nCOPY --parents x/./y/z /p/\n\
         COPY <<EOF /f\nhi\nEOF\nWORKDIR /w\n",
    );
    let files: Vec<_> = ops
        .iter()
        .filter_map(|op| match &op.op {
            Some(Kind::File(file)) => Some(&file.actions),
            _ => None,
        })
        .collect();
    let (first, second) = (&files[0][0], &files[0][1]);
    assert_eq!(
        (first.input, first.secondary_input, first.output),
        (0, 1, -1)
    );
    // The first action's result stands behind the two inputs.
    assert_eq!(
        (second.input, second.secondary_input, second.output),
        (2, 1, 0)
    );
    let (Some(Action::Copy(one)), Some(Action::Copy(other))) = (&first.action, &second.action)
    else {
        panic!("{files:?}")
    };
    assert_eq!((one.src.as_str(), one.dest.as_str()), ("/a", "/d/"));
    assert_eq!(
        (other.src.as_str(), other.mode, other.mode_str.as_str()),
        ("/b*", -1, "u=rwX,go-w")
    );
    assert_eq!(one.exclude_patterns, ["*.o"]);
    let owner = one.owner.as_ref().unwrap();
    let who = |user: &Option<super::wire::User>| user.clone().unwrap().user.unwrap();
    assert!(
        matches!(who(&owner.user), Who::ByName(named) if named.name == "u" && named.input == 0)
    );
    assert_eq!(who(&owner.group), Who::ById(7));
    let Some(Action::Copy(kept)) = &files[1][0].action else {
        panic!("{files:?}")
    };
    assert_eq!(
        (kept.src.as_str(), kept.include_patterns.as_slice()),
        ("/x", &["y/z".to_owned()][..])
    );
    let Some(Action::MkFile(file)) = &files[2][0].action else {
        panic!("{files:?}")
    };
    assert_eq!(
        (file.path.as_str(), file.mode, file.data.as_slice()),
        ("/f", 0o644, &b"hi\n"[..])
    );
    assert!(
        matches!(&files[3][0].action, Some(Action::MkDir(made)) if made.path == "/w" && made.make_parents)
    );
}

#[test]
fn sources_say_where_they_are_and_steps_where_they_stand() {
    let dockerfile = "FROM busybox AS a\nRUN true\nFROM scratch\nADD --checksum=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa http://h/f /\n\
        ADD https://h/r.git#main:sub /r\nCOPY --link --from=a / /a\nCOPY --from=layout / /l\nCOPY . /\n";
    let lowered = kit(dockerfile)
        .image("l", serde_json::json!({}))
        .context("layout", layout("l"))
        .ok();
    let ignored = HashMap::from([(String::new(), vec!["*.log".to_owned(), "!a.log".to_owned()])]);
    let definition = definition(&lowered, &ignored);
    let ops = read(&definition);
    let sources: Vec<(&str, String)> = ops
        .iter()
        .filter_map(|op| match &op.op {
            Some(Kind::Source(source)) => {
                Some((source.identifier.as_str(), format!("{:?}", source.attrs)))
            }
            _ => None,
        })
        .collect();
    let attrs = |wanted: &str| {
        let found = sources
            .iter()
            .find(|(identifier, _)| identifier.starts_with(wanted));
        found
            .unwrap_or_else(|| panic!("no {wanted} in {sources:?}"))
            .1
            .clone()
    };
    assert!(attrs("http://h/f").contains("\"http.checksum\": \"sha256:aaaa"));
    assert!(attrs("git://h/r.git#main:sub").contains("\"git.fullurl\": \"https://h/r.git\""));
    assert!(attrs("oci-layout://layout@sha256:").contains("{}"));
    assert!(attrs("local://context").contains(r#"[\"*.log\",\"!a.log\"]"#));
    assert!(
        ops.iter()
            .any(|op| matches!(&op.op, Some(Kind::Merge(merge)) if merge.inputs.len() == 2))
    );
    let source = definition.source.as_ref().unwrap();
    assert_eq!(source.infos[0].data, dockerfile.as_bytes());
    let lines: Vec<i32> = source
        .locations
        .values()
        .map(|it| it.locations[0].ranges[0].start.as_ref().unwrap().line)
        .collect();
    assert!(lines.contains(&2) && lines.contains(&8), "{lines:?}");
    let names = definition
        .metadata
        .values()
        .filter_map(|it| it.description.get("llb.customname"));
    assert!(names.into_iter().any(|name| name.ends_with("RUN true")));
}
