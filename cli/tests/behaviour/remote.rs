//! What a build takes from elsewhere: files behind URLs, repositories, contexts that are no directories. Servers are
//! on loopback.

mod contexts;
mod registries;
mod repositories;
mod urls;

use std::path::Path;
use std::process::Command;

use crate::kit::{Archive, Kit, Output};

const IMAGE: [&str; 2] = ["-o", "type=oci,dest=image.tar"];

/// The files of a build that must succeed.
#[track_caller]
fn files(kit: &Kit, output: Output) -> Vec<(String, String)> {
    output.success();
    let image = Archive::read(&kit.path("image.tar"));
    image.files.into_iter().collect()
}

#[track_caller]
fn built(kit: &Kit, dockerfile: &str) -> Vec<(String, String)> {
    files(kit, kit.build(dockerfile, &IMAGE))
}

fn pairs(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, content): &(&str, &str)| ((*name).to_owned(), (*content).to_owned());
    files.iter().map(owned).collect()
}

fn sh(directory: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(directory)
        .env("HOME", directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_DATE", "2024-01-01T00:00:00Z")
        .env("GIT_COMMITTER_DATE", "2024-01-01T00:00:00Z")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(77);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    tar.into_inner().unwrap()
}
