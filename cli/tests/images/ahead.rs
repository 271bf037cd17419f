//! The layer of a step is made while later steps run, and is the same as one that is made at the end.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::kit::Kit;
use crate::layout::Layout;
use crate::require_machine;

/// Writes 3 MB that gzip makes no smaller than one.
const LARGE: &str = "RUN i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo $i-$((i*i))-$((i*7919%65537)); done > /large && touch -d @1 /large\n";

fn blobs(kit: &Kit) -> Vec<PathBuf> {
    let blobs = std::fs::read_dir(kit.path("store/content/blobs/sha256"));
    let paths = blobs.into_iter().flatten().map(|it| it.unwrap().path());
    paths.collect()
}

/// A blob that is no document, and nothing of the base image.
fn has_layer(kit: &Kit, base: &[PathBuf]) -> bool {
    let is_new = |path: &PathBuf| !base.contains(path);
    let large = |path: PathBuf| path.metadata().is_ok_and(|it| it.len() > 200_000);
    blobs(kit).into_iter().filter(is_new).any(large)
}

fn layers(kit: &Kit) -> Vec<String> {
    let (manifest, _) = Layout::of_archive(&kit.path("o.tar")).image();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_layer_is_made_while_the_next_step_runs() {
    require_machine!();
    let kit = Kit::new();
    kit.must_build("FROM busybox\nRUN true\n", &["-o", "type=oci,dest=o.tar"]);
    let base = blobs(&kit);
    let dockerfile = format!("FROM busybox\n{LARGE}RUN sleep 120\n");
    let arguments = kit.build_arguments(&dockerfile, &["-o", "type=oci,dest=o.tar"]);
    let mut child = kit.command(arguments).spawn().unwrap();
    let began = Instant::now();
    while !has_layer(&kit, &base) {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before the layer was made"
        );
        assert!(began.elapsed() < Duration::from_secs(100), "no layer");
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = child.id().to_string();
    let stopped = Command::new("kill").args(["-TERM", &id]).status();
    assert!(stopped.unwrap().success());
    let output = kit.finish(child);
    assert_ne!(output.code, 0, "{output}");
    kit.store_is_whole();
}

#[test]
fn it_is_the_same_layer_as_at_the_end() {
    require_machine!();
    let dockerfile = format!("FROM busybox\n{LARGE}RUN touch -d @2 /x\n");
    let (ahead, later) = (Kit::new(), Kit::new());
    ahead.must_build(&dockerfile, &["-o", "type=oci,dest=o.tar"]);
    later.must_build(&dockerfile, &["-o", "type=cacheonly"]);
    later.must_build(&dockerfile, &["-o", "type=oci,dest=o.tar"]);
    assert_eq!(layers(&ahead), layers(&later));
    ahead.store_is_whole();
}

/// What would be merged is not made one by one before.
#[test]
fn too_many_layers_are_not_made_ahead() {
    require_machine!();
    let kit = Kit::new();
    let dockerfile = format!("FROM busybox\n{LARGE}RUN touch -d @2 /x\nRUN touch -d @3 /y\n");
    let limited = ["--max-layers=2", "-o", "type=oci,dest=o.tar"];
    kit.must_build(&dockerfile, &limited);
    let made = layers(&kit);
    assert_eq!(made.len(), 2);
    let large = |path: &PathBuf| path.metadata().is_ok_and(|it| it.len() > 200_000);
    let name = |path: &PathBuf| format!("sha256:{}", path.file_name().unwrap().to_str().unwrap());
    let unused = blobs(&kit).into_iter().filter(large);
    let unused: Vec<String> = unused.map(|it| name(&it)).collect();
    assert!(unused.iter().all(|it| made.contains(it)), "{unused:?}");
}
