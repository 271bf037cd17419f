//! The base image of the tests: `/bin/busybox` with its applets, as an OCI layout, made once a process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rbuild_engine::cache::Digest;
use serde_json::{Value, json};

/// Returns the layout's directory. It is left in the system's temporary directory, under a name of its content.
pub(super) fn layout() -> &'static Path {
    static LAYOUT: OnceLock<PathBuf> = OnceLock::new();
    LAYOUT.get_or_init(make)
}

fn make() -> PathBuf {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    // Per user: what another user made cannot be replaced, and need not be trusted.
    let user = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    let name = format!(
        "rbuild-test-base-1-{user}-{}",
        &Digest::of(&busybox).hex()[..16]
    );
    let directory = std::env::temp_dir().join(name);
    if directory.join("index.json").exists() {
        return directory;
    }
    let making = tempfile::Builder::new()
        .prefix("rbuild-test-base-")
        .tempdir()
        .unwrap();
    write_layout(making.path(), &layer(&busybox));
    let world_readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(making.path(), world_readable).unwrap();
    // Another test process may have been faster: then its directory is as good.
    if std::fs::rename(making.path(), &directory).is_ok() {
        let _renamed = making.keep();
    }
    directory
}

fn layer(busybox: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, link: Option<&str>, data: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        match link {
            Some(target) => tar.append_link(&mut header, path, target).unwrap(),
            None => tar.append_data(&mut header, path, data).unwrap(),
        }
    };
    for directory in ["bin/", "etc/", "root/"] {
        add(directory, tar::EntryType::Directory, 0o755, None, &[]);
    }
    add("tmp/", tar::EntryType::Directory, 0o1777, None, &[]);
    add("bin/busybox", tar::EntryType::Regular, 0o755, None, busybox);
    let applets = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .unwrap()
        .stdout;
    for applet in String::from_utf8(applets)
        .unwrap()
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        add(
            &format!("bin/{applet}"),
            tar::EntryType::Symlink,
            0o777,
            Some("busybox"),
            &[],
        );
    }
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
    add("etc/passwd", tar::EntryType::Regular, 0o644, None, passwd);
    add(
        "etc/group",
        tar::EntryType::Regular,
        0o644,
        None,
        b"root:x:0:\nuser:x:1000:\n",
    );
    tar.into_inner().unwrap()
}

fn write_layout(directory: &Path, layer: &[u8]) {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let blob = |media_type: &str, bytes: &[u8]| -> Value {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let layer_descriptor = blob("application/vnd.oci.image.layer.v1.tar", layer);
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [layer_descriptor["digest"]]},
        "history": [{"created_by": "busybox"}],
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()),
        "layers": [layer_descriptor],
    });
    let mut descriptor = blob(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    );
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
    std::fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
